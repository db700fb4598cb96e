use std::sync::Arc;

use arrow::array::{Array, Int64Array, RecordBatch};
use arrow::compute::concat_batches;
use datafusion::common::stats::Precision;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::{SessionConfig, SessionContext};
use sluice_crds::shuffle_query::TpchTable as TableName;

use super::{TpchScanExec, TpchTable, plan_parts, row_count};

fn context(partitions: usize) -> SessionContext {
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(partitions));
    for table in TableName::ALL {
        let provider = TpchTable::new(table, 0.01).unwrap();
        context.register_table(table.name(), Arc::new(provider)).unwrap();
    }
    context
}

async fn rows(scan: TpchScanExec) -> RecordBatch {
    let scan: Arc<dyn ExecutionPlan> = Arc::new(scan);
    let schema = scan.schema();
    let batches = collect(scan, SessionContext::new().task_ctx()).await.unwrap();
    concat_batches(&schema, &batches).unwrap()
}

#[tokio::test]
async fn parts_together_are_the_table() {
    for table in TableName::ALL {
        let whole = rows(TpchScanExec::try_new(table, 0.003, 1, None, None).unwrap()).await;
        let template = TpchScanExec::try_new(table, 0.003, 7, None, None).unwrap();
        let mut parts = Vec::new();
        for part in 0..7 {
            parts.push(rows(template.with_part(part, 7).unwrap()).await);
        }
        let together = concat_batches(&whole.schema(), &parts).unwrap();
        assert_eq!(together, whole, "{}", table.name());
        let (count, exact) = row_count(table, 0.003);
        if exact {
            assert_eq!(whole.num_rows() as u64, count, "{}", table.name());
        } else {
            let ratio = whole.num_rows() as f64 / count as f64;
            assert!((0.97..1.03).contains(&ratio), "{} {ratio}", table.name());
        }
    }
}

#[tokio::test]
async fn the_smallest_scale_factor_has_rows_in_every_table() {
    for table in TableName::ALL {
        let scan = TpchScanExec::try_new(table, super::MIN_SCALE_FACTOR, 1, None, None).unwrap();
        assert!(rows(scan).await.num_rows() > 0, "{}", table.name());
    }
}

#[tokio::test]
async fn sql_over_generated_tables() {
    let context = context(4);
    let sql = "select count(*), sum(l_extendedprice) > 0, min(l_orderkey) from lineitem \
               join orders on l_orderkey = o_orderkey";
    let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
    let count = batches[0]
        .column(0)
        .as_any()
        .downcast_ref::<Int64Array>()
        .unwrap();
    // Rows of lineitem at scale factor 0.01, as TPC-H's own generator gives them.
    assert_eq!(count.value(0), 60_175);
    let plan = context
        .sql("select l_comment, l_orderkey from lineitem limit 3")
        .await
        .unwrap();
    let batches = plan.collect().await.unwrap();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 3);
    assert_eq!(batches[0].schema().field(0).name(), "l_comment");
}

#[tokio::test]
async fn a_limit_ends_generation_early() {
    let scan = TpchScanExec::try_new(TableName::Lineitem, 100.0, 1, Some(vec![0]), Some(5)).unwrap();
    let batch = rows(scan).await;
    assert_eq!((batch.num_rows(), batch.num_columns()), (5, 1));
}

#[tokio::test]
async fn a_projection_without_columns_still_counts() {
    let scan = TpchScanExec::try_new(TableName::Orders, 0.01, 3, Some(vec![]), None).unwrap();
    let scan = scan.with_part(2, 3).unwrap();
    assert_eq!(rows(scan).await.num_rows(), 5000);
}

#[test]
fn encoding_keeps_everything() {
    let scan = TpchScanExec::try_new(TableName::Part, 0.1 + 0.2, 5, Some(vec![3, 0]), Some(9)).unwrap();
    for scan in [scan.with_part(4, 5).unwrap(), scan] {
        let decoded = TpchScanExec::decode(&scan.encode().unwrap()).unwrap();
        assert_eq!(decoded.spec(), scan.spec());
        assert_eq!(decoded.schema(), scan.schema());
    }
    assert!(TpchScanExec::decode(b"{}").is_err());
    assert!(TpchScanExec::decode(&[0xff; 9]).is_err());
}

#[test]
fn what_does_not_exist_is_refused() {
    let scan = |scale, parts, columns| TpchScanExec::try_new(TableName::Part, scale, parts, columns, None);
    assert!(scan(1.0, 1, Some(vec![8])).is_ok());
    assert!(scan(1.0, 1, Some(vec![9])).is_err());
    assert!(scan(0.0, 1, None).is_err());
    assert!(scan(f64::NAN, 1, None).is_err());
    assert!(scan(1.0, 0, None).is_err());
    assert!(scan(1.0, u32::MAX, None).is_err());
    assert!(scan(1.0, 3, None).unwrap().with_part(3, 3).is_err());
    assert!(TpchTable::new(TableName::Part, 0.0001).is_none());
}

#[test]
fn parts_grow_with_the_table() {
    assert_eq!(plan_parts(TableName::Nation, 1000.0, 64), 1);
    assert_eq!(plan_parts(TableName::Supplier, 0.1, 8), 1);
    assert_eq!(plan_parts(TableName::Lineitem, 0.1, 8), 8);
    assert_eq!(plan_parts(TableName::Lineitem, 10.0, 8), 200);
    assert_eq!(plan_parts(TableName::Lineitem, 100_000.0, 8), 1024);
}

#[tokio::test]
async fn statistics_tell_exact_counts_from_expected_ones() {
    use datafusion::physical_plan::statistics::StatisticsArgs;
    let statistics = |table, partition: Option<usize>| {
        let scan = TpchScanExec::try_new(table, 1.0, 4, None, None).unwrap();
        let arguments = StatisticsArgs::new().with_partition(partition);
        scan.statistics_from_inputs(&[], &arguments).unwrap().num_rows
    };
    assert_eq!(statistics(TableName::Orders, None), Precision::Exact(1_500_000));
    assert_eq!(
        statistics(TableName::Orders, Some(0)),
        Precision::Inexact(375_000)
    );
    assert_eq!(
        statistics(TableName::Lineitem, None),
        Precision::Inexact(6_000_000)
    );
}
