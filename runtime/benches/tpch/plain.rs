//! One query on DataFusion alone, in this process.

use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::Context;
use arrow::json::LineDelimitedWriter;
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use futures::TryStreamExt;

use super::TABLES;

/// Runs the SQL file over the tables in the folders of `data`, with `partitions` partitions on as many threads, and
/// prints its rows as JSON lines.
pub(super) fn run(sql: &Path, data: &Path, partitions: u32) -> anyhow::Result<()> {
    let sql = std::fs::read_to_string(sql).with_context(|| sql.display().to_string())?;
    let threads = usize::try_from(partitions)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let session = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(threads));
        for table in TABLES {
            let folder = data.join(table);
            let folder = folder.to_str().context("the folder of the tables is not UTF-8")?;
            session
                .register_parquet(table, folder, ParquetReadOptions::default())
                .await?;
        }
        let mut batches = session.sql(&sql).await?.execute_stream().await?;
        let mut rows = LineDelimitedWriter::new(BufWriter::new(std::io::stdout()));
        while let Some(batch) = batches.try_next().await? {
            rows.write(&batch)?;
        }
        rows.finish()?;
        rows.into_inner().flush()?;
        Ok(())
    })
}
