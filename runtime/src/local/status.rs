//! `--status FILE`: the status object that the custom resource would carry.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use sluice_core::status::{SinkFiles, StatusContext, status};

use super::client::Seen;

/// The least time between two writes while the query runs.
const PERIOD: Duration = Duration::from_secs(1);

/// A file that always holds a whole status.
pub struct StatusFile {
    path: PathBuf,
    context: StatusContext,
    /// The folder that receives the rows.
    sink: Option<PathBuf>,
    last: Option<Instant>,
}

impl StatusFile {
    /// A status file at `path` of a query that `context` describes and whose rows go to the folder `sink`, if it
    /// has one.
    pub fn new(path: &Path, context: StatusContext, sink: Option<PathBuf>) -> Self {
        Self {
            path: path.to_owned(),
            context,
            sink,
            last: None,
        }
    }

    /// Writes the status now and then; what cannot be written now is tried again by `finish`.
    pub fn update(&mut self, seen: &Seen) {
        if self.last.is_none_or(|last| last.elapsed() >= PERIOD) {
            self.last = Some(Instant::now());
            if let Err(error) = self.write(seen) {
                tracing::warn!(%error, "--status");
            }
        }
    }

    /// Writes the last status.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(&mut self, seen: &Seen) -> anyhow::Result<()> {
        self.write(seen)
    }

    fn write(&self, seen: &Seen) -> anyhow::Result<()> {
        let place = || format!("--status: cannot write {}", self.path.display());
        let folder = self
            .path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder).with_context(place)?;
        let mut context = self.context.clone();
        let committed = seen.sink.as_ref().zip(self.sink.as_deref());
        context.sink =
            committed.map(|(committed, location)| SinkFiles::new(location.display().to_string(), committed));
        let object = status(&seen.snapshot, &context, seen.preview.clone());
        serde_json::to_writer_pretty(&mut file, &object)?;
        writeln!(file)?;
        file.persist(&self.path).with_context(place)?;
        Ok(())
    }
}
