use arrow::array::{
    ArrayRef, DictionaryArray, Float64Array, Int64Array, ListArray, StringArray, StringViewArray, StructArray,
};
use arrow::compute::SortOptions;
use arrow::datatypes::{Field, Int32Type, Int64Type};
use datafusion::physical_expr::PhysicalSortExpr;
use datafusion::physical_expr::expressions::col;
use sluice_core::ranges::{Bound, MAX_KEY_BYTES, divide};

use super::*;

fn keys_of(batch: &RecordBatch, options: SortOptions) -> SortKeys {
    let keys = batch.schema_ref().fields().iter().map(|field| {
        let expr = col(field.name(), batch.schema_ref()).unwrap();
        PhysicalSortExpr { expr, options }
    });
    SortKeys::new(LexOrdering::new(keys).unwrap(), batch.schema_ref()).unwrap()
}

/// Sorted as DataFusion sorts it.
fn sorted(column: &ArrayRef, options: SortOptions) -> RecordBatch {
    let column = arrow::compute::sort(column, Some(options)).unwrap();
    RecordBatch::try_from_iter([("a", column)]).unwrap()
}

#[test]
fn keys_ascend_as_rows_do_whatever_their_type() {
    let text = |n: i64| (n % 5 != 0).then(|| format!("text {}", n * 7919 % 100));
    let number = |n: i64| (n % 7 != 0).then_some(n * 7919 % 100);
    let floats = [f64::NAN, -0.0, 0.0, f64::INFINITY, f64::NEG_INFINITY, -1.5, 3.0];
    let texts: Vec<Option<String>> = (0..100).map(text).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new((0..100).map(number).collect::<Int64Array>()),
        Arc::new(
            floats
                .iter()
                .map(|n| Some(*n))
                .chain([None])
                .collect::<Float64Array>(),
        ),
        Arc::new((0..100).map(text).collect::<StringArray>()),
        Arc::new((0..100).map(text).collect::<StringViewArray>()),
        Arc::new(
            texts
                .iter()
                .map(Option::as_deref)
                .collect::<DictionaryArray<Int32Type>>(),
        ),
    ];
    for column in columns {
        for (descending, nulls_first) in [(false, false), (false, true), (true, false), (true, true)] {
            let options = SortOptions {
                descending,
                nulls_first,
            };
            let batch = sorted(&column, options);
            let keys = keys_of(&batch, options);
            let all: Vec<Vec<u8>> = (0..batch.num_rows())
                .map(|row| keys.key(&batch, row).unwrap())
                .collect();
            assert!(all.is_sorted(), "{:?} {options:?}", batch.schema());
        }
    }
}

#[test]
fn nested_keys_have_a_row_format_too() {
    let lists =
        ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(2), None]), None, Some(vec![])]);
    let inner: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
    let structs = StructArray::from(vec![(
        Arc::new(Field::new("x", inner.data_type().clone(), true)),
        inner,
    )]);
    let batch = RecordBatch::try_from_iter([
        ("a", Arc::new(lists) as ArrayRef),
        ("b", Arc::new(structs) as ArrayRef),
    ])
    .unwrap();
    let keys = keys_of(&batch, SortOptions::default());
    assert_ne!(keys.key(&batch, 0).unwrap(), keys.key(&batch, 2).unwrap());
}

#[test]
fn a_range_is_cut_out_of_a_batch() {
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values([1, 2, 2, 2, 5, 8]));
    let batch = sorted(&column, SortOptions::default());
    let keys = keys_of(&batch, SortOptions::default());
    let bound = |row, map_task| {
        let key = keys.key(&batch, row).unwrap();
        Some(Bound { key, map_task })
    };
    for (lower, upper, map_task, expected) in [
        (None, None, 0, 0..6),
        (bound(1, 0), None, 0, 1..6),
        (bound(1, 0), bound(4, 0), 3, 1..4),
        // Of equal keys the runs before the bound's come before it.
        (bound(1, 2), None, 1, 4..6),
        (None, bound(1, 2), 1, 0..4),
        (None, bound(1, 2), 2, 0..1),
        (bound(5, 1), None, 0, 6..6),
        (None, bound(0, 0), 0, 0..0),
    ] {
        let range = KeyRange { lower, upper };
        let part = keys.within(&batch, &range, map_task).unwrap();
        assert_eq!(
            part,
            batch.slice(expected.start, expected.len()),
            "{range:?} of run {map_task}"
        );
    }
    let none = batch.slice(0, 0);
    assert_eq!(keys.within(&none, &KeyRange::default(), 0).unwrap(), none);
}

#[test]
fn long_runs_have_samples_of_some_frames_only() {
    let batch = |number: i64| {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values([number, number]));
        RecordBatch::try_from_iter([("a", column)]).unwrap()
    };
    let keys = keys_of(&batch(0), SortOptions::default());
    for frames in [0_u32, 1, 256, 257, 5_000] {
        let mut sampler = RunSampler::new(keys.clone());
        for frame in 0..frames {
            sampler
                .frame(&batch(frame.into()), u64::from(frame) * 10)
                .unwrap();
        }
        sampler.frame(&batch(0).slice(0, 0), 0).unwrap();
        let run = sampler.finish(u64::from(frames) * 10);
        assert!(
            run.samples.len() <= MAX_SAMPLES && run.samples.len() * 2 >= (frames as usize).min(MAX_SAMPLES)
        );
        let offsets: Vec<u64> = run.samples.iter().map(|sample| sample.offset).collect();
        let step = offsets.get(1).copied().unwrap_or(10);
        let even = (0..).map(|index| index * step).take(offsets.len());
        assert_eq!(offsets, even.collect::<Vec<_>>(), "{frames} frames");
        assert_eq!(divide(&[&run], 3, 1).len(), 3);
    }
}

#[test]
fn long_keys_are_cut() {
    let column: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(1_000)]));
    let batch = RecordBatch::try_from_iter([("a", column)]).unwrap();
    let key = keys_of(&batch, SortOptions::default()).key(&batch, 0).unwrap();
    assert_eq!(key.len(), MAX_KEY_BYTES);
}
