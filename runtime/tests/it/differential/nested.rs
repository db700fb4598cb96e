//! Structs, lists and maps.

use std::sync::{Arc, OnceLock};

use arrow::array::{
    Array, ArrayRef, Int32Array, Int32Builder, Int64Array, ListBuilder, MapBuilder, RecordBatch, StringArray,
    StringBuilder, StructArray,
};
use arrow::datatypes::{DataType, Field};
use sluice_crds::shuffle_query::FileFormat;
use tempfile::TempDir;

use super::tables::{batch_of, below, of_files, scatter, write_parquet};
use super::{READERS, check};
use crate::harness::Tables;

const ROWS: u64 = 30_000;
const FILES: u64 = 3;

/// A table `n` of nested columns, and `few` with its first rows.
fn tables() -> Tables {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        for file in 0..FILES {
            let (from, to) = (ROWS * file / FILES, ROWS * (file + 1) / FILES);
            write_parquet(folder.path(), "n", file, &rows_of(from, to));
        }
        write_parquet(folder.path(), "few", 0, &rows_of(0, 200));
        folder
    });
    let specs = ["n", "few"].map(|name| of_files(name, FileFormat::Parquet));
    Tables {
        specs: specs.to_vec(),
        base: folder.path().to_owned(),
    }
}

fn int(value: u32) -> i32 {
    i32::try_from(value).expect("it is small")
}

/// `p` a struct in a struct, `l` lists with nulls and of none, `ll` lists of lists, `ps` lists of structs, `m` maps.
fn rows_of(from: u64, to: u64) -> RecordBatch {
    let ids = || from..to;
    let (mut l, mut ll) = (
        ListBuilder::new(Int32Builder::new()),
        ListBuilder::new(ListBuilder::new(Int32Builder::new())),
    );
    let mut m = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    let (mut ends, mut items) = (vec![0_usize], Vec::new());
    for row in ids() {
        for item in 0..below(5, row, 1) {
            l.values()
                .append_option((item != 2).then_some(int(below(50, row, u64::from(item)))));
            ll.values().values().append_value(int(item));
            ll.values().append(item % 2 == 0);
            m.keys().append_value(format!("key {item}"));
            m.values()
                .append_option((item != 1).then_some(int(below(9, row, 2))));
            items.push(int(below(100, row, 3)));
        }
        l.append(!row.is_multiple_of(7));
        ll.append(!row.is_multiple_of(9));
        m.append(!row.is_multiple_of(8)).expect("as many keys as values");
        ends.push(items.len());
    }
    let texts = |salt: u64| {
        StringArray::from_iter(
            ids().map(|row| (!row.is_multiple_of(6)).then(|| format!("text {}", below(40, row, salt)))),
        )
    };
    let field = |name: &str, kind| Arc::new(Field::new(name, kind, true));
    let y: ArrayRef = Arc::new(StructArray::from(vec![(
        field("z", DataType::Utf8),
        Arc::new(texts(4)) as ArrayRef,
    )]));
    let x: ArrayRef = Arc::new(Int32Array::from_iter_values(
        ids().map(|row| int(below(30, row, 5))),
    ));
    let p = StructArray::from(vec![
        (field("x", DataType::Int32), x),
        (field("y", y.data_type().clone()), y),
    ]);
    batch_of(vec![
        (
            "id",
            Arc::new(Int64Array::from_iter(ids().map(|row| i64::try_from(row).ok()))),
        ),
        (
            "g",
            Arc::new(Int32Array::from_iter_values(
                ids().map(|row| int(below(12, row, 6))),
            )),
        ),
        ("p", Arc::new(p)),
        ("l", Arc::new(l.finish())),
        ("ll", Arc::new(ll.finish())),
        ("ps", Arc::new(lists_of_structs(&ends, items))),
        ("m", Arc::new(m.finish())),
        (
            "note",
            Arc::new(StringArray::from_iter_values(
                ids().map(|row| format!("{:016x}", scatter(row, 7)).repeat(5)),
            )),
        ),
    ])
}

fn lists_of_structs(ends: &[usize], items: Vec<i32>) -> arrow::array::ListArray {
    let a: ArrayRef = Arc::new(Int32Array::from(items));
    let items = StructArray::from(vec![(Arc::new(Field::new("a", DataType::Int32, true)), a)]);
    let offsets = arrow::buffer::OffsetBuffer::from_lengths(ends.windows(2).map(|pair| pair[1] - pair[0]));
    let field = Arc::new(Field::new("item", items.data_type().clone(), true));
    arrow::array::ListArray::new(field, offsets, Arc::new(items), None)
}

#[tokio::test(flavor = "multi_thread")]
async fn nested_types() {
    check(&tables(), &[
        ("through a shuffle", "select a.id, a.p, a.l, a.ll, a.ps, a.m from n a full join few b on a.id = b.id"),
        ("carried along", "select a.id, b.p, b.l, b.ll, b.ps, b.m from n a full join few b on a.id = b.id + 150"),
        ("sorted", "select id, p, l, m from n where id % 100 = 3 order by note"),
        ("struct fields", "select p['x'] as x, count(*), min(p['y']['z']) from n group by x"),
        ("struct as a key", "select p, count(*) from n where g = 3 group by p"),
        ("list as a key", "select l, count(*) from n where g = 4 group by l"),
        ("struct as a join key", "select count(*) from n a full join few b on a.p = b.p"),
        ("distinct lists", "select count(*) from (select distinct ll from n) q"),
        ("list functions", "select id, cardinality(l) as c, l[1] as a, array_has(l, 3) as h, array_sort(l) as s from few"),
        ("map functions", "select id, m['key 1'] as a, map_keys(m) as k, map_values(m) as v from few"),
        ("unnest a list", "select g, sum(v), count(*) from (select g, unnest(l) as v from n) q group by g"),
        ("unnest rows", "select id, unnest(l) as v from few"),
        ("unnest a struct", "select id, unnest(p) from few"),
        ("unnest lists of structs", "select g, sum(q['a']) from (select g, unnest(ps) as q from n) r group by g"),
        ("unnest twice", "select id, unnest(unnest(ll)) as v from few"),
        ("unnest in from", "select * from unnest([1, 2, 3, null]) as u (v)"),
        ("made", "select g, array_agg(named_struct('i', id, 'n', p['x']) order by id) as a from few group by g"),
        ("constructed", "select id, [g, id] as a, struct(g, note) as s, map(['k'], [g]) as m from few"),
        ("union of nested", "select id, p, l from few union all select id, p, l from n where id < 50"),
    ], READERS, &[
        ("one task merges what others have sorted", &["sorted"]),
        ("they read no exchange", &["list functions", "map functions", "unnest rows", "unnest a struct", "unnest twice", "unnest in from", "constructed", "union of nested"]),
    ]).await;
}
