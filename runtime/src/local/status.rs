//! `--status FILE`: the status that the custom resource would have.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use sluice_core::coordinator::{Outcome, QueryFailure};
use sluice_core::termination::Termination;
use sluice_crds::shuffle_query::status::{QueryPhase, ShuffleQueryStatus};
use sluice_crds::{ErrorReason, ProgressReason};

use sluice_proto::QueryReport;

/// The least time between two writes while the query runs.
const PERIOD: Duration = Duration::from_secs(1);

/// A file that always holds a complete status of the current query, from before planning to its end.
pub struct StatusFile {
    path: PathBuf,
    /// The coordinator's last report.
    seen: Option<QueryReport>,
    written: Option<Instant>,
}

impl StatusFile {
    /// A status file at `path` for a pending query.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        let file = Self {
            path: path.to_owned(),
            seen: None,
            written: None,
        };
        file.write(&ShuffleQueryStatus {
            phase: QueryPhase::Pending,
            reason: Some(ProgressReason::Pending.into()),
            ..ShuffleQueryStatus::default()
        })?;
        Ok(file)
    }

    /// Writes the status at most once per period. A failed write is retried at the end.
    pub fn update(&mut self, seen: &QueryReport) {
        self.seen = Some(seen.clone());
        if self.written.is_none_or(|written| written.elapsed() >= PERIOD) {
            self.written = Some(Instant::now());
            if let Err(error) = self.write(&seen.status()) {
                tracing::warn!(%error, "--status");
            }
        }
    }

    /// Writes the last status.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(&mut self, seen: &QueryReport) -> anyhow::Result<()> {
        self.seen = Some(seen.clone());
        self.write(&seen.status())
    }

    /// Writes the last status of a query that ended like this, unless a coordinator has reported its end.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn fail(&mut self, end: Termination) -> anyhow::Result<()> {
        match &self.seen {
            Some(seen) if seen.snapshot.outcome.is_some() => Ok(()),
            Some(seen) => self.write(&with_end(seen.clone(), end).status()),
            None => self.write(&end.status()),
        }
    }

    fn write(&self, status: &ShuffleQueryStatus) -> anyhow::Result<()> {
        let place = || format!("--status: cannot write {}", self.path.display());
        let folder = self
            .path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        check_replaceable(&self.path).with_context(place)?;
        let mut file = tempfile::NamedTempFile::new_in(folder).with_context(place)?;
        serde_json::to_writer_pretty(&mut file, status).with_context(place)?;
        writeln!(file).with_context(place)?;
        file.persist(&self.path).with_context(place)?;
        Ok(())
    }
}

/// Checks that a file of this name may be replaced: a device, a pipe or a link may not.
fn check_replaceable(path: &Path) -> anyhow::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_symlink() => {
            anyhow::bail!("it is a link: name the file itself")
        }
        Ok(metadata) if !metadata.is_file() => {
            anyhow::bail!("it is no file, and would be replaced by one: name a file")
        }
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// The last report of a lost coordinator with this end: nothing runs any more.
fn with_end(mut seen: QueryReport, end: Termination) -> QueryReport {
    let snapshot = &mut seen.snapshot;
    snapshot.outcome = Some(if end.phase == QueryPhase::Cancelled {
        Outcome::Cancelled
    } else {
        Outcome::Failed(QueryFailure {
            reason: end.reason.unwrap_or(ErrorReason::Internal),
            message: end.message.unwrap_or_default(),
            attempt: None,
        })
    });
    let at = end
        .end_time
        .map(|time| time.0.duration_since(seen.context.start_time));
    let passed = at.and_then(|span| u64::try_from(span.as_millis()).ok());
    let ended = snapshot.started.0.saturating_add(passed.unwrap_or_default());
    snapshot.now.0 = snapshot.now.0.max(ended);
    snapshot.ended = Some(snapshot.now);
    for stage in &mut snapshot.stages {
        stage.running = 0;
    }
    seen
}

#[cfg(test)]
mod tests {
    use sluice_core::snapshot::{JoinSwitches, QuerySnapshot, SpeculationCounts, StageSnapshot, StageState};
    use sluice_core::status::StatusContext;
    use sluice_core::time::Instant as QueryTime;

    use super::*;

    fn read(path: &Path) -> ShuffleQueryStatus {
        let text = std::fs::read_to_string(path).expect("it was written");
        serde_json::from_str(&text).expect("it is a status")
    }

    fn end(reason: ErrorReason, message: &str) -> Termination {
        Termination::refused(reason, message.to_owned(), jiff::Timestamp::now())
    }

    fn running() -> QueryReport {
        let stage = StageSnapshot {
            filters: None,
            join_switches: JoinSwitches::default(),
            speculation: SpeculationCounts::default(),
            id: sluice_core::ids::StageId(0),
            label: "scan".to_owned(),
            output: "hash".to_owned(),
            state: StageState::Running,
            tasks: 2,
            running: 1,
            done: 1,
            skipped: 0,
            failed_attempts: 0,
            lost_attempts: 0,
            cancelled_attempts: 0,
            attempts: 2,
            locality: Default::default(),
            metrics: Default::default(),
            reduce: None,
            started: Some(QueryTime(10)),
            ended: None,
        };
        let snapshot = QuerySnapshot {
            now: QueryTime(20),
            outcome: None,
            ended: None,
            stages: vec![stage],
            ..QuerySnapshot::committed_before()
        };
        QueryReport {
            snapshot,
            context: StatusContext {
                start_time: jiff::Timestamp::now(),
                result_stages: Vec::new(),
                sink: None,
            },
            preview: None,
        }
    }

    #[test]
    fn no_word_of_an_earlier_query_is_left() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let path = folder.path().join("status.json");
        std::fs::write(&path, "{\"phase\": \"Succeeded\"}").expect("it can be written");
        let mut file = StatusFile::create(&path).expect("it can be written");
        assert_eq!(read(&path).phase, QueryPhase::Pending);
        file.fail(end(ErrorReason::InvalidSql, "no SQL"))
            .expect("it can be written");
        let status = read(&path);
        assert_eq!(status.phase, QueryPhase::Failed);
        assert_eq!(status.reason, Some(ErrorReason::InvalidSql.into()));
        assert_eq!(status.error.expect("it failed").message, "no SQL");
        assert!(status.end_time.is_some());
    }

    #[test]
    fn only_a_file_is_replaced() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .expect("a pipe can be made");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path().join("target"), &link).expect("a link can be made");
        for (path, problem) in [(&pipe, "it is no file"), (&link, "it is a link")] {
            let error = StatusFile::create(path).err().expect("it is refused");
            assert!(format!("{error:#}").contains(problem), "{error:#}");
            assert!(!std::fs::symlink_metadata(path).expect("it is there").is_file());
        }
        let names = std::fs::read_dir(folder.path()).expect("a folder").count();
        assert_eq!(names, 2, "nothing was written");
    }

    #[test]
    fn a_lost_coordinator_leaves_nothing_running_and_an_end_stays_the_end() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let path = folder.path().join("status.json");
        let mut file = StatusFile::create(&path).expect("it can be written");
        file.update(&running());
        assert_eq!(read(&path).phase, QueryPhase::Running);
        let gone = end(ErrorReason::Internal, "gone");
        file.fail(gone.clone()).expect("it can be written");
        let status = read(&path);
        assert_eq!(
            (status.phase, status.tasks.running, status.tasks.done),
            (QueryPhase::Failed, 0, 1)
        );
        let error = status.error.expect("it failed");
        assert_eq!(
            (error.reason, error.message.as_str()),
            (ErrorReason::Internal, "gone")
        );
        assert!(status.end_time.is_some());

        let mut succeeded = running();
        succeeded.snapshot.outcome = Some(Outcome::Succeeded);
        file.finish(&succeeded).expect("it can be written");
        file.fail(gone).expect("nothing is written");
        assert_eq!(read(&path).phase, QueryPhase::Succeeded);
    }
}
