//! TPC-H tables without files: rows are generated while they are read, in parts that are independent of each
//! other, so that every sample, benchmark and cluster test runs with no data to mount.

mod rows;
mod scan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use sluice_crds::shuffle_query::TpchTable as TableName;

pub use rows::{MIN_SCALE_FACTOR, batches, plan_parts, row_count, schema};
pub use scan::TpchScanExec;

/// One TPC-H table of one scale factor, as DataFusion sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TpchTable {
    table: TableName,
    scale_factor: f64,
}

impl TpchTable {
    /// The table at a scale factor of at least [`MIN_SCALE_FACTOR`]; `None` below it, or if it is no number.
    pub fn new(table: TableName, scale_factor: f64) -> Option<Self> {
        rows::is_scale_factor(scale_factor).then_some(Self { table, scale_factor })
    }

    /// Bytes of its rows in memory, about.
    pub fn bytes(&self) -> u64 {
        let (rows, _) = row_count(self.table, self.scale_factor);
        rows.saturating_mul(scan::row_bytes(self.table, &schema(self.table)) as u64)
    }
}

#[async_trait]
impl TableProvider for TpchTable {
    fn schema(&self) -> SchemaRef {
        schema(self.table)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let parts = plan_parts(self.table, self.scale_factor, state.config().target_partitions());
        let scan = TpchScanExec::try_new(self.table, self.scale_factor, parts, projection.cloned(), limit)?;
        Ok(Arc::new(scan))
    }
}
