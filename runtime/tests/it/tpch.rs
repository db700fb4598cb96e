//! The 22 TPC-H queries: plain DataFusion and three workers give the same rows.

use std::path::{Path, PathBuf};

use sluice::source::generate::generate_tpch;
use sluice_crds::shuffle_query::{FileFormat, TableSpec, TpchTable};
use tokio::sync::OnceCell;

use crate::harness::{AMPLE_MEMORY, Case, Division, Fleet, Ran, Tables, compare, kept_folder};

/// The scale of the tables.
pub const SCALE: f64 = 0.1;

/// The TPC-H tables as Parquet, several files a table; written once and kept for the next run of the tests.
pub async fn tables() -> Tables {
    static WRITTEN: OnceCell<PathBuf> = OnceCell::const_new();
    let folder = WRITTEN.get_or_init(|| async {
        let folder = kept_folder("tpch").join(format!("scale-{SCALE}"));
        // It gets this name by a rename once complete.
        if !folder.exists() {
            let making = tempfile::tempdir_in(kept_folder("tpch")).expect("the target folder can be written");
            let data = making.path().join("data");
            generate_tpch(SCALE, &data, |_| {})
                .await
                .expect("tables are written");
            if let Err(error) = std::fs::rename(&data, &folder) {
                assert!(
                    folder.exists(),
                    "another run of the tests is no reason for {error}"
                );
            }
        }
        folder
    });
    let base = folder.await.clone();
    let specs = TpchTable::ALL.into_iter().map(|table| TableSpec {
        name: table.name().to_owned(),
        location: Some(table.name().to_owned()),
        format: Some(FileFormat::Parquet),
        ..TableSpec::default()
    });
    Tables {
        specs: specs.collect(),
        base,
    }
}

/// The 22 queries.
pub fn queries() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/tpch");
    let read = |number: u32| {
        let name = format!("q{number:02}");
        let file = folder.join(format!("{name}.sql"));
        let sql = std::fs::read_to_string(&file);
        let sql = sql.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        Case {
            name,
            sql,
            plain: None,
        }
    };
    (1..=22).map(read).collect()
}

async fn three_workers(tables: &Tables, memory_bytes: u64, divisions: &[Division]) -> Vec<Ran> {
    let fleet = Fleet::start(3, 1, memory_bytes).await;
    let ran = compare(&fleet, tables, &queries(), divisions).await;
    fleet.stop().await;
    ran
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_for_each_slot() {
    three_workers(
        &tables().await,
        AMPLE_MEMORY,
        &[Division::Default(None), Division::Planned(3)],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_partition_and_thirteen() {
    let divisions = [
        Division::Planned(1),
        Division::Planned(13),
        Division::Coalesced(13),
    ];
    let ran = three_workers(&tables().await, AMPLE_MEMORY, &divisions).await;
    let coalesced = ran.iter().skip(2).step_by(divisions.len());
    let coalesced = coalesced.filter(|ran| ran.coalesced_stages() > 0).count();
    assert!(coalesced >= 15, "{coalesced} of 22 queries coalesced partitions");
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_tables_with_and_without_runtime_filters() {
    let divisions = [Division::Default(None), Division::AsWritten];
    let ran = three_workers(&Tables::generated_tpch(0.02), AMPLE_MEMORY, &divisions).await;
    let filtered = |ran: &&Ran| ran.rows_filtered() > 0;
    let with = ran.iter().step_by(divisions.len()).filter(filtered).count();
    assert!(with >= MANY_FILTERED, "{with} of 22 queries left rows out");
    let without = ran.iter().skip(1).step_by(divisions.len()).filter(filtered);
    assert_eq!(without.count(), 0);
}

/// Queries of which a scan leaves rows out, at least.
const MANY_FILTERED: usize = 4;

/// Memory of each worker, bytes. It is little for the rows that the largest queries move. A hash join of [`MANY_PARTITIONS`] that
/// does not find room beside others is sorted, so that the timing of attempts does not matter.
const LITTLE_MEMORY: u64 = 4 << 20;
/// Small builds: a partition of each.
const MANY_PARTITIONS: u32 = 29;
/// Queries that move more than that, at least.
const SPILLING_QUERIES: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn little_memory() {
    let ran = three_workers(
        &tables().await,
        LITTLE_MEMORY,
        &[Division::Default(Some(MANY_PARTITIONS))],
    )
    .await;
    let spilled = ran.iter().filter(|ran| ran.bytes_spilled() > 0).count();
    assert!(
        spilled >= SPILLING_QUERIES,
        "{spilled} of {} queries spilled",
        ran.len()
    );
}

/// No order is so cheap. What joins them has nothing to do, and the other side need not be read to its end.
#[tokio::test(flavor = "multi_thread")]
async fn joins_with_an_empty_side_skip_tasks() {
    let sql = "select l_suppkey, count(*) from lineitem join orders on l_orderkey = o_orderkey
               where o_totalprice < 0 group by l_suppkey";
    let outer = "select l_suppkey, count(o_orderkey) from lineitem left join
               (select * from orders where o_totalprice < 0) o on l_orderkey = o_orderkey group by l_suppkey";
    let fleet = Fleet::start(2, 1, AMPLE_MEMORY).await;
    let cases = Case::all(&[("inner", sql), ("outer", outer)]);
    let divisions = [Division::Default(Some(4)), Division::Planned(4)];
    let ran = compare(&fleet, &tables().await, &cases, &divisions).await;
    let skipped: Vec<bool> = ran.iter().map(|ran| ran.skipped() > 0).collect();
    assert_eq!(skipped, [true, false, false, false]);
    fleet.stop().await;
}
