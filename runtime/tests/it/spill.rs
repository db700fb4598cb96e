//! Queries larger than the memory of their workers.

use std::process::Command;

use sluice::local::child_process::spawn_attached;
use sluice_core::coordinator::Outcome;
use sluice_crds::ErrorReason;
use sluice_crds::shuffle_query::AdaptiveJoins;
use tokio::process::Child;

use crate::compare::differences;
use crate::harness::{Fleet, NoRows, Tables, plain, run};
use crate::tpch;

/// Memory of each worker, bytes: well below the rows of the query.
const MEMORY: u64 = 16 << 20;
/// Copies of the 600,000 rows of lineitem: with ample memory a worker process takes some 180 MiB for them, more than it
/// may here.
const COPIES: u32 = 5;
/// What a worker process may use above its memory limit: the program itself, its threads, decoders, file and network
/// buffers, and what the allocator keeps. docs/operations.md tells it under Sizing. Bytes.
const MARGIN: u64 = 112 << 20;

/// `copies` times the rows of lineitem, all of which cross an exchange and are sorted; with a result of one row.
fn large(copies: u32) -> String {
    format!(
        "select count(*), sum(n), sum(n * l_orderkey), min(l_comment), sum(length(l_comment)) from (
            select l_orderkey, l_comment, row_number() over
                (partition by l_suppkey, copy order by l_comment, l_orderkey, l_linenumber) as n
            from generate_series(1, {copies}) as copies (copy) cross join lineitem
        ) q"
    )
}

struct Processes {
    children: Vec<Child>,
    addresses: Vec<String>,
    _folder: tempfile::TempDir,
}

async fn worker_processes(count: u32, memory: u64, spill_limit: u64) -> Processes {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (mut children, mut addresses) = (Vec::new(), Vec::new());
    for number in 0..count {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
        command.args(["worker", "--attached", "--listen", "127.0.0.1:0", "--slots", "1"]);
        command.arg("--name").arg(format!("worker-{number}"));
        command
            .arg("--memory")
            .arg(memory.to_string())
            .arg("--spill-limit")
            .arg(spill_limit.to_string());
        command
            .arg("--spill-dir")
            .arg(folder.path().join(number.to_string()));
        let (mut child, announcement) = spawn_attached(command.into()).expect("a worker process starts");
        let address = announcement.address(&mut child).await.expect("it listens");
        children.push(child);
        addresses.push(address);
    }
    Processes {
        children,
        addresses,
        _folder: folder,
    }
}

/// The most resident memory that a process has had, bytes.
fn peak_memory(child: &Child) -> u64 {
    let id = child.id().expect("the process runs");
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("the process runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = peak.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kibibytes.expect("the kernel tells the peak") * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn resident_memory_stays_within_the_limit_and_a_margin() {
    let tables = tpch::tables().await;
    let sql = large(COPIES);
    let expected = plain(&tables, &sql).await.expect("plain DataFusion has rows");
    let processes = worker_processes(2, MEMORY, 16 << 30).await;
    let fleet = Fleet::of_others(processes.addresses.clone(), 2);
    let ran = run(&fleet, &tables.query(&sql, Some(8)))
        .await
        .unwrap_or_else(|no_rows| panic!("{no_rows}"));
    assert_eq!(
        differences(&expected.rows, &expected.order, &ran.rows, ran.ordered),
        None
    );
    let moved: u64 = ran
        .snapshot
        .stages
        .iter()
        .map(|stage| stage.metrics.bytes_out)
        .sum();
    let spilled = ran.bytes_spilled();
    assert!(spilled > 0, "nothing was spilled of {moved} bytes");
    for child in &processes.children {
        let peak = peak_memory(child);
        assert!(
            peak <= MEMORY + MARGIN,
            "{} MiB resident; {} MiB spilled",
            peak >> 20,
            spilled >> 20
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_result_is_complete() {
    let tables = tpch::tables().await;
    let sql = "select l_orderkey, l_linenumber, l_comment from lineitem order by l_comment, l_orderkey, l_linenumber";
    let expected = plain(&tables, sql).await.expect("plain DataFusion has rows");
    let fleet = Fleet::start(2, 1, MEMORY).await;
    let ran = run(&fleet, &tables.query(sql, None))
        .await
        .unwrap_or_else(|no_rows| panic!("{no_rows}"));
    assert_eq!(
        differences(&expected.rows, &expected.order, &ran.rows, ran.ordered),
        None
    );
    assert!(ran.bytes_spilled() > 0, "nothing was spilled");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn spill_space_that_runs_out_fails_the_query_and_names_the_knob() {
    let tables = tpch::tables().await;
    let processes = worker_processes(2, MEMORY, 2 << 20).await;
    let fleet = Fleet::of_others(processes.addresses.clone(), 2);
    let ended = run(&fleet, &tables.query(&large(1), Some(4))).await;
    let Err(NoRows::Ended {
        outcome: Outcome::Failed(failure),
        ..
    }) = ended
    else {
        panic!("the query did not fail")
    };
    assert!(
        matches!(failure.reason, ErrorReason::ResourcesExhausted),
        "{failure:?}"
    );
    assert!(
        failure.message.contains("spill"),
        "the message names no knob: {}",
        failure.message
    );

    // The workers still work.
    let tables = Tables::generated_tpch(0.01);
    let again = run(&fleet, &tables.query("select count(*) from nation", None)).await;
    assert!(again.is_ok());
}

/// Both sides of a join, far larger than the memory of its tasks.
const LARGE_JOIN: &str = "select count(*) as pairs, sum(a.l_quantity + b.l_tax) as total, max(a.l_comment || b.l_comment || b.l_shipinstruct || b.l_shipmode || a.l_shipinstruct || a.l_shipmode) as text \
                          from lineitem a join lineitem b on a.l_orderkey = b.l_orderkey and a.l_linenumber = b.l_linenumber";

#[tokio::test(flavor = "multi_thread")]
async fn a_join_whose_build_side_does_not_fit_sorts_and_completes() {
    let tables = tpch::tables().await;
    let expected = plain(&tables, LARGE_JOIN)
        .await
        .expect("plain DataFusion has rows");
    let fleet = Fleet::start(2, 1, 3 * MEMORY).await;
    let ran = run(&fleet, &tables.query(LARGE_JOIN, Some(2)))
        .await
        .unwrap_or_else(|no_rows| panic!("{no_rows}"));
    assert!(ran.explained.contains("SortMergeJoin"), "{}", ran.explained);
    assert_eq!(
        differences(&expected.rows, &expected.order, &ran.rows, ran.ordered),
        None
    );
    assert!(ran.bytes_spilled() > 0, "nothing was spilled");
    fleet.stop().await;
}

/// A planner that knows nothing of the workers' memory hashes whatever it has to join.
#[tokio::test(flavor = "multi_thread")]
async fn a_hash_join_that_runs_out_of_memory_is_sorted_and_completes() {
    let tables = tpch::tables().await;
    let expected = plain(&tables, LARGE_JOIN)
        .await
        .expect("plain DataFusion has rows");
    let fleet = Fleet::start(2, 1, 2 * MEMORY).await.of_unknown_memory();
    let ran = run(&fleet, &tables.query(LARGE_JOIN, Some(2)))
        .await
        .unwrap_or_else(|no_rows| panic!("{no_rows}"));
    assert!(!ran.explained.contains("SortMergeJoin"), "{}", ran.explained);
    assert_eq!(
        differences(&expected.rows, &expected.order, &ran.rows, ran.ordered),
        None
    );
    assert!(ran.sorted_tasks() > 0, "it had room for a hash table");
    assert!(ran.bytes_spilled() > 0, "nothing was spilled");

    let mut as_planned = tables.query(LARGE_JOIN, Some(2));
    as_planned.query.spec.shuffle.adaptive.joins = AdaptiveJoins::Off;
    let Err(NoRows::Ended {
        outcome: Outcome::Failed(failure),
        ..
    }) = run(&fleet, &as_planned).await
    else {
        panic!("the query did not fail")
    };
    assert_eq!(failure.reason, ErrorReason::ResourcesExhausted, "{failure:?}");
    assert!(failure.message.contains("HashJoin"), "{}", failure.message);
    fleet.stop().await;
}
