//! Gives what filters know of keys to the scan below them.

use std::sync::Arc;

use datafusion::config::ConfigOptions;
use datafusion::datasource::physical_plan::{
    FileScanConfig, FileScanConfigBuilder, FileSource, ParquetSource,
};
use datafusion::datasource::source::{DataSource, DataSourceExec};
use datafusion::error::Result;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::utils::{conjunction, split_conjunction};
use datafusion::physical_plan::ExecutionPlan;

use super::lookup::AdmittedExpr;
use crate::planner::scan::file_config;
use crate::source::CheckedScan;

/// The same scan, which leaves out files, row groups and pages in which no row meets all of these conditions; where one is an
/// [`AdmittedExpr`], it decodes the other columns of the rows that it admits, and of no others. Scans of other formats stay as they are.
pub(super) fn with_conditions(
    scan: &Arc<dyn ExecutionPlan>,
    conditions: Vec<Arc<dyn PhysicalExpr>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    // A scan of a sample stays too: which rows it chooses must not depend on filters.
    let checked = scan.downcast_ref::<CheckedScan>();
    let parts = checked.and_then(|checked| Some((checked, file_config(checked.scan())?)));
    let Some((checked, config)) = parts.filter(|_| !conditions.is_empty()) else {
        return Ok(Arc::clone(scan));
    };
    let pushed = config.try_pushdown_filters(conditions, &ConfigOptions::default())?;
    let pushed = pushed.updated_node.as_deref();
    let Some(pushed) = pushed.and_then(<dyn DataSource>::downcast_ref::<FileScanConfig>) else {
        return Ok(Arc::clone(scan));
    };
    let source = DataSourceExec::from_data_source(keys_first(pushed));
    Ok(Arc::new(checked.with_scan(source)))
}

/// The scan that tests keys before its other predicates, and both before it decodes what else it reads; the same scan if it tests none.
/// Operators above test the predicates again, as they were planned without that.
fn keys_first(config: &FileScanConfig) -> FileScanConfig {
    let source = config.file_source().downcast_ref::<ParquetSource>();
    let parts = source.and_then(|source| Some((source, source.filter()?)));
    let Some((source, predicate)) = parts else {
        return config.clone();
    };
    let predicates = split_conjunction(&predicate).into_iter().cloned();
    let (keys, others): (Vec<_>, Vec<_>) = predicates.partition(|predicate| predicate.is::<AdmittedExpr>());
    if keys.is_empty() {
        return config.clone();
    }
    let source = source.with_predicate(conjunction(keys.into_iter().chain(others)));
    FileScanConfigBuilder::from(config.clone())
        .with_source(Arc::new(source.with_pushdown_filters(true)))
        .build()
}
