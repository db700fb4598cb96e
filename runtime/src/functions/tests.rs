//! Every function of the registry, with arguments at the edges: none panics, none allocates without bound, and none makes
//! much out of little unless it is checked for it.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array,
    IntervalMonthDayNanoArray, ListArray, PrimitiveArray, RecordBatch, StringArray, StringViewArray,
    TimestampMicrosecondArray, TimestampNanosecondArray,
};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::compute::{cast, concat};
use datafusion::arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Field, FieldRef, Int64Type, IntervalMonthDayNano,
    TimestampMicrosecondType, TimestampNanosecondType,
};
use datafusion::common::ScalarValue;
use datafusion::common::config::ConfigOptions;
use datafusion::datasource::MemTable;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::type_coercion::functions::fields_with_udf;
use datafusion::logical_expr::{ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF};
use datafusion::prelude::SessionContext;

use super::growth::{MAX_BATCH_BYTES, is_listed};
use super::{Checked, FUNCTIONS, Operation};
use crate::planner::{session_options, session_state};

/// NULL at every third row, with whatever the values are below.
fn with_nulls<T: ArrowPrimitiveType>(values: Vec<T::Native>) -> ArrayRef {
    let nulls = NullBuffer::from_iter((0..values.len()).map(|row| row % 3 != 2));
    Arc::new(PrimitiveArray::<T>::new(values.into(), Some(nulls)))
}

const NUMBERS: [i64; 12] = [
    0,
    i64::MAX,
    i64::MIN,
    1,
    -1,
    i64::MAX - 1,
    2_000_000_000,
    -2_000_000_000,
    i64::MAX / 1000,
    64,
    -65,
    3,
];

/// Arrays of every type that functions take, each with twelve rows.
fn edges() -> Vec<ArrayRef> {
    let numbers: ArrayRef = Arc::new(Int64Array::from(NUMBERS.to_vec()));
    let small: Vec<i32> = NUMBERS.iter().map(|number| (*number >> 32) as i32).collect();
    let floats = [
        0.0,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        -0.0,
        f64::MAX,
        f64::MIN,
        1e-320,
        -1.5,
        1e18,
        2.5,
        -1e9,
    ];
    let texts = [
        "",
        "a",
        "é",
        "日本語",
        "👩‍👩‍👧",
        "%_\\",
        "2024-02-30",
        "-1",
        "(((",
        "NaN",
        "'",
        "\u{0}x",
    ];
    let text = |row: usize| (row % 3 != 2).then(|| texts[row]);
    let intervals = NUMBERS.map(|number| {
        let small = (number >> 32) as i32;
        IntervalMonthDayNano::new(small, small.wrapping_neg(), number)
    });
    let decimals = NUMBERS.map(|number| i128::from(number) * 1_000_000_000_000_000_000);
    let decimals = Decimal128Array::from(decimals.to_vec()).with_precision_and_scale(38, 10);
    let list = |row: usize| (row % 4 != 3).then(|| vec![Some(NUMBERS[row]), None, Some(3)]);
    let of_text = cast(
        &(Arc::new(StringArray::from_iter((0..12).map(text))) as ArrayRef),
        &DataType::Utf8,
    );
    let of_text = of_text.unwrap();
    let lists_of_text = datafusion::common::utils::SingleRowListArrayBuilder::new(Arc::clone(&of_text));
    let lists_of_text: ArrayRef = Arc::new(lists_of_text.build_list_array());
    let lists_of_text = concat(&[lists_of_text.as_ref(); 12]).unwrap();
    vec![
        numbers,
        with_nulls::<Int64Type>(NUMBERS.to_vec()),
        Arc::new(Float64Array::from(floats.to_vec())),
        of_text,
        Arc::new(StringViewArray::from_iter((0..12).map(text))),
        with_nulls::<Date32Type>(small),
        with_nulls::<TimestampNanosecondType>(NUMBERS.to_vec()),
        with_nulls::<TimestampMicrosecondType>(NUMBERS.to_vec()),
        Arc::new(TimestampMicrosecondArray::from(NUMBERS.to_vec()).with_timezone("+05:30")),
        Arc::new(IntervalMonthDayNanoArray::from(intervals.to_vec())),
        Arc::new(decimals.unwrap()),
        Arc::new(BooleanArray::from_iter(
            (0..12).map(|row| (row % 3 != 2).then_some(row % 2 == 0)),
        )),
        Arc::new(BinaryArray::from_iter((0..12).map(text))),
        Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(
            (0..12).map(list),
        )),
        lists_of_text,
    ]
}

fn rotated(array: &ArrayRef, by: usize) -> ArrayRef {
    let by = by % array.len().max(1);
    let (head, tail) = (array.slice(0, by), array.slice(by, array.len() - by));
    concat(&[tail.as_ref(), head.as_ref()]).unwrap()
}

fn field(array: &ArrayRef) -> FieldRef {
    Arc::new(Field::new("a", array.data_type().clone(), true))
}

/// Arguments of all types that a function takes, coerced as the planner coerces them.
fn argument_lists(function: &ScalarUDF, arrays: &[ArrayRef]) -> Vec<Vec<ArrayRef>> {
    let mut lists: Vec<Vec<ArrayRef>> = Vec::new();
    let mut seen = BTreeSet::new();
    for arity in 0..=4_u32 {
        // Of many arguments the later ones are of fewer types.
        let kinds: Vec<usize> = match arity {
            0..=2 => (0..arrays.len()).collect(),
            3 => vec![0, 2, 3, 5, 6, 9, 13],
            _ => vec![0, 3, 13],
        };
        for number in 0..kinds.len().pow(arity) {
            let chosen = (0..arity).map(|place| kinds[number / kinds.len().pow(place) % kinds.len()]);
            let chosen: Vec<&ArrayRef> = chosen.map(|kind| &arrays[kind]).collect();
            let fields: Vec<FieldRef> = chosen.iter().map(|array| field(array)).collect();
            let Ok(coerced) = fields_with_udf(&fields, function) else {
                continue;
            };
            let types: Vec<DataType> = coerced.iter().map(|field| field.data_type().clone()).collect();
            if !seen.insert(format!("{types:?}")) || seen.len() > 60 {
                continue;
            }
            let cast = chosen.iter().zip(&types).map(|(array, to)| cast(array, to));
            if let Ok(list) = cast.collect::<Result<Vec<_>, _>>() {
                lists.push(list);
            }
        }
    }
    lists
}

/// Calls a function as a plan does. `Err` with what went wrong but an error.
fn call(function: &ScalarUDF, args: Vec<ColumnarValue>, rows: usize) -> Result<Option<ArrayRef>, String> {
    let types = args.iter().map(ColumnarValue::data_type);
    let arg_fields: Vec<FieldRef> = types
        .map(|of| Arc::new(Field::new("a", of, true)) as FieldRef)
        .collect();
    let scalars: Vec<Option<&ScalarValue>> = args
        .iter()
        .map(|value| match value {
            ColumnarValue::Scalar(scalar) => Some(scalar),
            ColumnarValue::Array(_) => None,
        })
        .collect();
    let return_field = function.return_field_from_args(ReturnFieldArgs {
        arg_fields: &arg_fields,
        scalar_arguments: &scalars,
    });
    // What the planner refuses never runs.
    let Ok(return_field) = return_field else {
        return Ok(None);
    };
    let result = function.invoke_with_args(ScalarFunctionArgs {
        args,
        arg_fields,
        number_rows: rows,
        return_field,
        config_options: Arc::new(ConfigOptions::new()),
    });
    let Ok(value) = result else { return Ok(None) };
    let is_array = matches!(value, ColumnarValue::Array(_));
    let array = value.into_array(rows).map_err(|error| error.to_string())?;
    if is_array && array.len() != rows && array.len() != 1 {
        return Err(format!("{} rows for {rows}", array.len()));
    }
    array
        .to_data()
        .validate_full()
        .map_err(|error| error.to_string())?;
    Ok(Some(array))
}

fn functions() -> Vec<Arc<ScalarUDF>> {
    let mut functions: Vec<_> = FUNCTIONS.scalar_functions().values().cloned().collect();
    functions.sort_by(|one, other| one.name().cmp(other.name()));
    functions.dedup_by(|one, other| one.name() == other.name());
    functions
}

fn checked(function: &Arc<ScalarUDF>) -> ScalarUDF {
    let operation = Operation::Function(Arc::clone(function));
    ScalarUDF::from(Checked::new(operation, format!("{}(…)", function.name())))
}

/// The most memory that this process has had, bytes.
fn most_memory() -> u128 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    let kib: u128 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

#[test]
fn no_function_panics_or_allocates_without_bound() {
    let before = most_memory();
    let arrays = edges();
    let (mut wrong, mut called) = (Vec::new(), 0);
    let mut uncalled = Vec::new();
    for function in functions() {
        let (checked, already) = (checked(&function), called);
        for list in argument_lists(&function, &arrays) {
            let mut try_call = |args: Vec<ColumnarValue>, rows| {
                called += 1;
                if let Err(what) = call(&checked, args, rows) {
                    wrong.push(format!("{}: {what}", function.name()));
                }
            };
            for turn in [1, 5, 6] {
                let arrays = list
                    .iter()
                    .enumerate()
                    .map(|(place, array)| rotated(array, place * turn));
                try_call(arrays.map(ColumnarValue::Array).collect(), 12);
            }
            for row in 0..12 {
                // All constants, and all but the first.
                let scalar = |place: usize| {
                    let array = rotated(&list[place], place * 5);
                    ColumnarValue::Scalar(ScalarValue::try_from_array(&array, row).unwrap())
                };
                try_call((0..list.len()).map(scalar).collect(), 12);
                if let Some(first) = list.first() {
                    let first = ColumnarValue::Array(Arc::clone(first));
                    let rest = (1..list.len()).map(scalar);
                    try_call(std::iter::once(first).chain(rest).collect(), 12);
                }
            }
            let none = list.iter().map(|array| ColumnarValue::Array(array.slice(0, 0)));
            try_call(none.collect(), 0);
        }
        if called == already {
            uncalled.push(function.name().to_owned());
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("{called} calls; not called: {uncalled:?}");
    assert!(called > 20_000, "{called} calls");
    assert!(uncalled.len() < 20, "not called: {uncalled:?}");
    // Tests beside this one allocate too.
    let grown = most_memory() - before;
    assert!(grown < 12 * MAX_BATCH_BYTES, "{grown} bytes");
}

#[test]
fn a_function_that_makes_much_out_of_little_is_listed() {
    let repeat = |text: &str, count: usize| Arc::new(StringArray::from(vec![text.repeat(count)])) as ArrayRef;
    let list = ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), Some(2)])]);
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![30_000])),
        Arc::new(Int64Array::from(vec![1])),
        repeat("a", 300),
        repeat("a", 1),
        repeat("b", 300),
        repeat("()", 100),
        repeat("g", 1),
        Arc::new(list),
        Arc::new(Date32Array::from(vec![0])),
        Arc::new(Date32Array::from(vec![300_000])),
        Arc::new(TimestampNanosecondArray::from(vec![0])),
        Arc::new(TimestampNanosecondArray::from(vec![1_000_000_000])),
        Arc::new(IntervalMonthDayNanoArray::from(vec![IntervalMonthDayNano::new(
            0, 1, 0,
        )])),
        Arc::new(IntervalMonthDayNanoArray::from(vec![IntervalMonthDayNano::new(
            0, 0, 1000,
        )])),
    ];
    let (mut unlisted, mut growing) = (BTreeSet::new(), BTreeSet::new());
    for function in functions() {
        for arity in 1..=4_u32 {
            let kinds: Vec<usize> = if arity == 4 {
                vec![2, 3, 4, 6]
            } else {
                (0..arrays.len()).collect()
            };
            for number in 0..kinds.len().pow(arity) {
                let chosen = (0..arity).map(|place| kinds[number / kinds.len().pow(place) % kinds.len()]);
                let chosen: Vec<&ArrayRef> = chosen.map(|kind| &arrays[kind]).collect();
                let fields: Vec<FieldRef> = chosen.iter().map(|array| field(array)).collect();
                let Ok(coerced) = fields_with_udf(&fields, function.as_ref()) else {
                    continue;
                };
                let args = chosen
                    .iter()
                    .zip(&coerced)
                    .map(|(array, to)| cast(array, to.data_type()));
                let Ok(args) = args.collect::<Result<Vec<_>, _>>() else {
                    continue;
                };
                let args = args.into_iter().map(ColumnarValue::Array).collect();
                let Ok(Some(made)) = call(&checked(&function), args, 1) else {
                    continue;
                };
                if made.to_data().get_slice_memory_size().unwrap_or(0) > 20_000 {
                    growing.insert(function.name().to_owned());
                    if !is_listed(function.name()) {
                        unlisted.insert(function.name().to_owned());
                    }
                }
            }
        }
    }
    assert!(unlisted.is_empty(), "{unlisted:?}");
    for name in [
        "repeat",
        "array_repeat",
        "range",
        "generate_series",
        "replace",
        "regexp_replace",
        "lpad",
    ] {
        assert!(growing.contains(name), "{name} was not seen to grow: {growing:?}");
    }
}

/// The queries of every aggregate and window function over columns at the edges.
fn queries() -> Vec<String> {
    let columns = 15;
    let mut queries = Vec::new();
    let mut names: BTreeSet<_> = FUNCTIONS
        .aggregate_functions()
        .values()
        .map(|of| of.name().to_owned())
        .collect();
    names.extend(
        FUNCTIONS
            .window_functions()
            .values()
            .map(|of| of.name().to_owned()),
    );
    let window = "OVER (ORDER BY c0 ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)";
    for name in names {
        queries.push(format!("SELECT {name}() {window} FROM t"));
        for column in 0..columns {
            queries.push(format!(
                "SELECT {name}(c{column}), {name}(DISTINCT c{column}) FROM t"
            ));
            queries.push(format!("SELECT c11, {name}(c{column}) FROM t GROUP BY c11"));
            queries.push(format!("SELECT {name}(c{column}) {window} FROM t"));
            for second in [
                "c0",
                "c3",
                "9223372036854775807",
                "-9223372036854775807",
                "0",
                "0.5",
            ] {
                queries.push(format!("SELECT {name}(c{column}, {second}) FROM t"));
                queries.push(format!("SELECT {name}(c{column}, {second}) {window} FROM t"));
            }
        }
    }
    queries
}

#[tokio::test(flavor = "multi_thread")]
async fn no_aggregate_or_window_function_panics() {
    let columns = edges().into_iter().enumerate();
    let batch = RecordBatch::try_from_iter_with_nullable(
        columns.map(|(number, column)| (format!("c{number}"), column, true)),
    );
    let batch = batch.unwrap();
    let state = session_state(session_options(1), Arc::new(RuntimeEnv::default()));
    let session = SessionContext::new_with_state(state);
    let table = MemTable::try_new(batch.schema(), vec![vec![batch]]).unwrap();
    session.register_table("t", Arc::new(table)).unwrap();
    let (mut panicked, mut answered) = (Vec::new(), 0);
    for query in queries() {
        let (session, sql) = (session.clone(), query.clone());
        let ran = tokio::spawn(async move {
            let frame = session.sql(&sql).await?;
            frame.collect().await
        });
        match ran.await {
            Ok(Ok(_)) => answered += 1,
            Ok(Err(_)) => {}
            Err(error) => panicked.push(format!("{query}: {error}")),
        }
    }
    println!("{answered} queries have rows");
    assert!(panicked.is_empty(), "{}", panicked.join("\n"));
    assert!(answered > 500, "{answered}");
}
