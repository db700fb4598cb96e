//! The 22 queries of TPC-H: their stages and tasks, and their rows at a small scale.

use std::fmt::Write;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::error::ArrowError;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::prelude::{SessionConfig, SessionContext};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use sluice_crds::shuffle_query::TpchTable as TableName;
use tempfile::TempDir;
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator, PartSuppGenerator,
    RegionGenerator, SupplierGenerator,
};
use tpchgen_arrow::{
    CustomerArrow, LineItemArrow, NationArrow, OrderArrow, PartArrow, PartSuppArrow, RegionArrow,
    SupplierArrow,
};

use super::super::{PlannedQuery, explain, plan, session_options, session_state};
use crate::source::tpch::TpchTable;

use super::harness::{register, same_rows, session_over};

const SCALE: f64 = 0.01;
const FILES: i32 = 2;

fn write(dir: &Path, table: &str, part: i32, batches: impl Iterator<Item = Result<RecordBatch, ArrowError>>) {
    let folder = dir.join(table);
    std::fs::create_dir_all(&folder).unwrap();
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(10_000))
        .build();
    let mut batches = batches.map(Result::unwrap).peekable();
    let Some(first) = batches.peek() else { return };
    let file = File::create(folder.join(format!("{part}.parquet"))).unwrap();
    let mut writer = ArrowWriter::try_new(file, first.schema(), Some(properties)).unwrap();
    for batch in batches {
        writer.write(&batch).unwrap();
    }
    writer.close().unwrap();
}

/// All tables as Parquet, the large ones in several files.
fn generate(dir: &Path) {
    for part in 1..=FILES {
        write(
            dir,
            "customer",
            part,
            CustomerArrow::new(CustomerGenerator::new(SCALE, part, FILES)),
        );
        write(
            dir,
            "lineitem",
            part,
            LineItemArrow::new(LineItemGenerator::new(SCALE, part, FILES)),
        );
        write(
            dir,
            "orders",
            part,
            OrderArrow::new(OrderGenerator::new(SCALE, part, FILES)),
        );
        write(
            dir,
            "part",
            part,
            PartArrow::new(PartGenerator::new(SCALE, part, FILES)),
        );
        write(
            dir,
            "partsupp",
            part,
            PartSuppArrow::new(PartSuppGenerator::new(SCALE, part, FILES)),
        );
        write(
            dir,
            "supplier",
            part,
            SupplierArrow::new(SupplierGenerator::new(SCALE, part, FILES)),
        );
    }
    write(
        dir,
        "nation",
        1,
        NationArrow::new(NationGenerator::new(SCALE, 1, 1)),
    );
    write(
        dir,
        "region",
        1,
        RegionArrow::new(RegionGenerator::new(SCALE, 1, 1)),
    );
}

fn generated() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    generate(dir.path());
    dir
}

pub(super) fn query(number: usize) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../manifests/tpch/q{number:02}.sql"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn summary(query: &PlannedQuery) -> String {
    let mut text = String::new();
    for stage in &query.graph.stages {
        let exchange = &query.graph.exchanges[stage.output.0 as usize];
        let inputs: Vec<String> = stage
            .inputs
            .iter()
            .map(|input| input.exchange.to_string())
            .collect();
        let reads = if inputs.is_empty() {
            String::new()
        } else {
            format!(" <- {}", inputs.join(", "))
        };
        writeln!(
            text,
            "  {} {} x{}{reads} -> {} {}({})",
            stage.id,
            stage.label,
            stage.tasks,
            exchange.id,
            exchange.kind.word(),
            exchange.partitions
        )
        .unwrap();
    }
    for note in &query.notes {
        writeln!(text, "  single task: {}: {}", note.operator, note.reason).unwrap();
    }
    text
}

#[tokio::test]
async fn stages_and_tasks_of_all_queries() {
    let dir = generated();
    let session = session_over(dir.path(), 4, &[]).await;
    let mut text = String::new();
    for number in 1..=22 {
        let planned = plan(&session.state(), &query(number)).await.unwrap();
        assert!(planned.notes.is_empty(), "q{number:02}\n{}", explain(&planned));
        // The stages that read the tables run in several tasks, and so does the work on their rows.
        let parallel = planned
            .graph
            .stages
            .iter()
            .filter(|stage| stage.tasks > 1)
            .count();
        assert!(parallel >= 1, "q{number:02}\n{}", explain(&planned));
        for (stage, tasks) in planned.graph.stages.iter().zip(&planned.stages) {
            let small = ["nation", "region"]
                .iter()
                .any(|table| stage.label.contains(&format!("scan {table}")));
            let scans = tasks.tasks.iter().any(|task| !task.splits.is_empty());
            assert!(
                !scans || small || stage.tasks > 1,
                "q{number:02}\n{}",
                explain(&planned)
            );
        }
        write!(text, "q{number:02}\n{}", summary(&planned)).unwrap();
    }
    insta::assert_snapshot!("tpch_stages", text);
}

async fn compare(partitions: usize, options: super::harness::Options<'_>) {
    let dir = generated();
    let config = SessionConfig::new().with_target_partitions(2);
    let plain = SessionContext::new_with_config_rt(config, Arc::new(RuntimeEnv::default()));
    register(&plain, dir.path()).await;
    let ours = session_over(dir.path(), partitions, options).await;
    let mut differences = Vec::new();
    for number in 1..=22 {
        differences.extend(same_rows(&plain, &ours, &query(number)).await.err());
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[tokio::test]
async fn rows_with_one_partition() {
    compare(1, &[]).await;
}

#[tokio::test]
async fn rows_with_three_partitions() {
    compare(3, &[]).await;
}

/// Where nothing is broadcast, most joins are worth a filter.
#[tokio::test]
async fn rows_with_many_runtime_filters() {
    let shuffled = &[("datafusion.optimizer.hash_join_single_partition_threshold", "0")];
    let dir = generated();
    let session = session_over(dir.path(), 3, shuffled).await;
    let mut filters = 0;
    for number in 1..=22 {
        let planned = plan(&session.state(), &query(number)).await.unwrap();
        filters += planned.graph.filters.len();
    }
    assert!(filters >= 20, "{filters}");
    compare(3, shuffled).await;
}

#[tokio::test]
async fn rows_with_thirteen_partitions_and_no_broadcast() {
    compare(
        13,
        &[
            ("datafusion.optimizer.hash_join_single_partition_threshold", "0"),
            (
                "datafusion.optimizer.hash_join_single_partition_threshold_rows",
                "0",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn rows_of_generated_tables() {
    let plain = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(2));
    let config = session_options(3);
    let ours = SessionContext::new_with_state(session_state(config, Arc::new(RuntimeEnv::default())));
    for table in TableName::ALL {
        let generated = TpchTable::new(table, SCALE).unwrap();
        plain.register_table(table.name(), Arc::new(generated)).unwrap();
        ours.register_table(table.name(), Arc::new(generated)).unwrap();
    }
    let mut differences = Vec::new();
    let mut parts = 0;
    for number in 1..=22 {
        match same_rows(&plain, &ours, &query(number)).await {
            Ok(planned) => {
                let most = planned.graph.stages.iter().map(|stage| stage.tasks).max();
                parts = parts.max(most.unwrap_or(0));
            }
            Err(difference) => differences.push(difference),
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(parts > 1, "generated tables are read in parts");
}
