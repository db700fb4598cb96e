//! Tables, sessions over them, and the comparison of a query's rows with those of plain DataFusion.

use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::error::Result;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use tempfile::TempDir;

use super::super::cut::order::SharedMerge;
use super::super::{
    JoinOrderPolicy, PlannedQuery, RuntimeFilterPolicy, SplitTarget, explain, plan, session_options,
    session_state,
};
use super::data;
use super::stage_runner::{Reads, may_broadcast, run, run_with, typed};

/// The test tables, a plain session over them, and sessions of ours.
pub(super) struct Bench {
    dir: TempDir,
    plain: SessionContext,
}

/// Options of one of our sessions.
pub(super) type Options<'a> = &'a [(&'a str, &'a str)];

impl Bench {
    pub(super) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        data::write(dir.path());
        let plain = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(3));
        register(&plain, dir.path()).await;
        Self { dir, plain }
    }

    pub(super) async fn session(&self, partitions: usize, options: Options<'_>) -> SessionContext {
        session_over(self.dir.path(), partitions, options).await
    }

    /// A session over the tables with this configuration.
    pub(super) async fn session_of(&self, config: SessionConfig) -> SessionContext {
        let session = SessionContext::new_with_state(session_state(config, Arc::new(RuntimeEnv::default())));
        register(&session, self.dir.path()).await;
        session
    }

    /// Plain DataFusion over the tables.
    pub(super) fn plain(&self) -> &SessionContext {
        &self.plain
    }

    /// The folder of all tables.
    pub(super) fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// The folder of a table.
    pub(super) fn table(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// Runs `sql` on plain DataFusion and cut into stages, and compares the rows.
    pub(super) async fn same(&self, sql: &str, partitions: usize, options: Options<'_>) -> PlannedQuery {
        let ours = self.session(partitions, options).await;
        same_rows(&self.plain, &ours, sql)
            .await
            .unwrap_or_else(|difference| panic!("{difference}"))
    }

    /// Compares every query with each of the partition counts under each of the options; tells all differences.
    pub(super) async fn same_all(&self, queries: &[String], partitions: &[usize], options: &[Options<'_>]) {
        let mut differences = Vec::new();
        for options in options {
            for partitions in partitions {
                let ours = session_sharing(self.dir.path(), *partitions, options, 0).await;
                for sql in queries {
                    if let Err(difference) = same_rows(&self.plain, &ours, sql).await {
                        differences.push(format!("{partitions} partitions, {options:?}: {difference}"));
                    }
                }
            }
        }
        assert!(
            differences.is_empty(),
            "{} differences\n{}",
            differences.len(),
            differences.join("\n")
        );
    }

    /// The rows of `sql`, cut into stages.
    pub(super) async fn rows(&self, sql: &str, partitions: usize) -> Vec<Vec<String>> {
        self.try_rows(sql, partitions).await.unwrap()
    }

    /// The rows of `sql`, cut into stages, or why there are none.
    pub(super) async fn try_rows(&self, sql: &str, partitions: usize) -> Result<Vec<Vec<String>>> {
        self.rows_with(sql, partitions, &[]).await
    }

    /// As [`Self::try_rows`], under these options.
    pub(super) async fn rows_with(
        &self,
        sql: &str,
        partitions: usize,
        options: Options<'_>,
    ) -> Result<Vec<Vec<String>>> {
        let ours = self.session(partitions, options).await;
        let planned = plan(&ours.state(), sql).await.map_err(typed)?;
        Ok(texts(&run(&planned, &ours.runtime_env()).await?))
    }
}

/// A session of ours over the tables in the folders of `dir`, splitting even the smallest file.
pub(super) async fn session_over(dir: &Path, partitions: usize, options: Options<'_>) -> SessionContext {
    session_sharing(dir, partitions, options, SharedMerge::default().min_bytes).await
}

/// As [`session_over`]; tasks share the merge of ordered rows from so many bytes on.
pub(super) async fn session_sharing(
    dir: &Path,
    partitions: usize,
    options: Options<'_>,
    min_bytes: u64,
) -> SessionContext {
    let target = SplitTarget {
        tasks: partitions,
        min_bytes: 1,
        max_bytes: 1 << 40,
    };
    let mut config = session_options(partitions)
        .with_extension(Arc::new(target))
        .with_extension(Arc::new(SharedMerge { min_bytes }))
        .with_extension(Arc::new(RuntimeFilterPolicy {
            enabled: true,
            min_scan_bytes: 0,
        }))
        .with_extension(Arc::new(JoinOrderPolicy {
            enabled: true,
            max_cost_ratio: 1.0,
        }));
    for (key, value) in options {
        config.options_mut().set(key, value).unwrap();
    }
    let session = SessionContext::new_with_state(session_state(config, Arc::new(RuntimeEnv::default())));
    register(&session, dir).await;
    session
}

pub(super) async fn register(session: &SessionContext, dir: &Path) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let folder = entry.unwrap();
        let table = folder.file_name().into_string().unwrap();
        let path = folder.path();
        session
            .register_parquet(table, path.to_str().unwrap(), ParquetReadOptions::default())
            .await
            .unwrap();
    }
}

/// Compares the rows of `sql` on both sessions: in order where the query orders, else as multisets. The error
/// tells the difference.
pub(super) async fn same_rows(
    plain: &SessionContext,
    ours: &SessionContext,
    sql: &str,
) -> std::result::Result<PlannedQuery, String> {
    let failed = |what: &str, error: &dyn std::fmt::Display| format!("{sql}\n{what}: {error}");
    let expected = plain.sql(sql).await.map_err(|error| failed("plain", &error))?;
    let expected = expected
        .collect()
        .await
        .map_err(|error| failed("plain", &error))?;
    let planned = plan(&ours.state(), sql)
        .await
        .map_err(|error| failed("plan", &error))?;
    let mut expected = texts(&expected);
    // A zero has no sign here.
    for cell in expected.iter_mut().flatten().filter(|cell| *cell == "-0.0") {
        "0.0".clone_into(cell);
    }
    if !planned.graph.ordered {
        expected.sort();
    }
    let broadcast = may_broadcast(&planned.graph).then_some(Reads::Broadcast);
    for reads in [Some(Reads::Partitions), broadcast].into_iter().flatten() {
        let got = run_with(&planned, &ours.runtime_env(), reads).await;
        let got = got.map_err(|error| format!("{}\n{}", failed("run", &error), explain(&planned)))?;
        let mut got = texts(&got);
        if !planned.graph.ordered {
            got.sort();
        }
        if let Some(difference) = difference(&expected, &got) {
            return Err(format!("{sql}\n{reads:?}: {difference}\n{}", explain(&planned)));
        }
    }
    Ok(planned)
}

/// Tells how rows differ.
fn difference(expected: &[Vec<String>], got: &[Vec<String>]) -> Option<String> {
    if expected == got {
        return None;
    }
    let missing: Vec<_> = expected.iter().filter(|row| !got.contains(row)).take(5).collect();
    let extra: Vec<_> = got.iter().filter(|row| !expected.contains(row)).take(5).collect();
    Some(format!(
        "expected {} rows, got {}; missing {missing:?}, not expected {extra:?}",
        expected.len(),
        got.len(),
    ))
}

/// Every cell as text.
pub(super) fn texts(batches: &[RecordBatch]) -> Vec<Vec<String>> {
    let options = FormatOptions::new().with_null("null");
    let mut rows = Vec::new();
    for batch in batches {
        let columns: Vec<_> = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).unwrap())
            .collect();
        for row in 0..batch.num_rows() {
            rows.push(
                columns
                    .iter()
                    .map(|column| column.value(row).to_string())
                    .collect(),
            );
        }
    }
    rows
}
