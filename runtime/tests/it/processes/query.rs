//! Queries as YAML, and the rows that plain DataFusion has for them.

use std::path::Path;

use arrow::array::RecordBatch;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use sluice::query::load;
use sluice::source::{InputManifest, register_tables};

/// A query over these tables (YAML list items), with more lines of its spec.
pub(super) fn query(sql: &str, tables: &[&str], more: &[&str]) -> String {
    let mut yaml = String::from(
        "apiVersion: sluice.dev/v1alpha1\nkind: ShuffleQuery\nmetadata:\n  name: test\nspec:\n  sql: |\n",
    );
    for line in sql.lines() {
        yaml.push_str(&format!("    {line}\n"));
    }
    if !tables.is_empty() {
        yaml.push_str("  tables:\n");
    }
    for table in tables {
        yaml.push_str(&format!("  - {table}\n"));
    }
    for line in more {
        yaml.push_str(&format!("  {line}\n"));
    }
    yaml
}

/// A generated TPC-H table as a list item.
pub(super) fn tpch(name: &str, scale_factor: f64) -> String {
    format!("{{name: {name}, tpch: {{scaleFactor: {scale_factor}}}}}")
}

/// Row counts per part: most of the table moves between workers, and the few result rows are exact.
pub(super) const BY_PART: &str = "\
select lines, count(*) as parts, sum(quantity) as quantity, max(comment) as comment
from (select l_partkey, count(*) as lines, sum(l_quantity) as quantity, max(l_comment) as comment
      from lineitem group by l_partkey) as parts
group by lines order by lines";

/// No worker counts as lost because the machine is busy or the test freezes it.
pub(super) const PATIENT: &str = "retry: {workerLivenessTimeout: 10m}";

/// [`BY_PART`] over generated rows, in six partitions of a task each, with more lines of its spec. Slow attempts get no duplicates:
/// the tests count attempts, and freeze workers to hold a query in a state.
pub(super) fn by_part(scale_factor: f64, more: &[&str]) -> String {
    let shuffle = "shuffle: {partitions: 6, adaptive: {mode: Off}, speculation: {mode: Off}}";
    let more = [&[shuffle], more].concat();
    query(BY_PART, &[&tpch("lineitem", scale_factor)], &more)
}

/// The rows of a query file on plain DataFusion.
pub(super) async fn plain(file: &Path) -> Vec<RecordBatch> {
    let loaded = load(file).expect("the query is valid");
    let spec = &loaded.query.spec;
    let manifest = InputManifest::list(&spec.tables, &loaded.base)
        .await
        .expect("the tables are there");
    let runtime = RuntimeEnvBuilder::new()
        .with_object_store_registry(manifest.stores())
        .build_arc()
        .expect("a runtime can be made");
    let context = SessionContext::new_with_config_rt(SessionConfig::new().with_target_partitions(2), runtime);
    register_tables(&context, &spec.tables, &manifest)
        .await
        .expect("the tables can be read");
    let frame = context
        .sql(spec.sql.as_deref().expect("the query has a text"))
        .await
        .expect("the query can be planned");
    frame.collect().await.expect("the query runs")
}

/// Rows as CSV with a header line, as `--output csv` prints them.
pub(super) fn csv(batches: &[RecordBatch]) -> String {
    let mut writer = arrow::csv::WriterBuilder::new()
        .with_header(true)
        .build(Vec::new());
    for batch in batches {
        writer.write(batch).expect("rows can be written");
    }
    String::from_utf8(writer.into_inner()).expect("CSV is text")
}

/// The rows of a query file on plain DataFusion as CSV; for tests without a runtime of their own.
pub(super) fn plain_csv(file: &Path) -> String {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    csv(&runtime.block_on(plain(file)))
}

/// The lines below the header, sorted: the rows as a multiset.
pub(super) fn sorted_rows(csv: &str) -> Vec<&str> {
    let mut lines: Vec<_> = csv.lines().skip(1).collect();
    lines.sort_unstable();
    lines
}
