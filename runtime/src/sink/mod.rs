//! Where a query's rows go: a folder of files that appears whole, or not at all.
//!
//! Attempts write into a staging folder beside the location, `.<name>.sluice-<query>`. The commit links the files of
//! the winning attempts into one folder there, writes the commit record into it, and renames that folder to the
//! location. Until the rename a reader sees what was there before, after it all files of the query; a crash anywhere
//! leaves nothing but the staging folder, whose name readers skip.

mod commit;
mod encode;
mod error;
mod files;
#[cfg(test)]
mod tests;
mod writer;

use std::fs;
use std::path::{Path, PathBuf};

use arrow::datatypes::SchemaRef;
use sluice_core::ids::{AttemptId, QueryId};
use sluice_crds::shuffle_query::{FileFormat, IfExists, SinkSpec};

use crate::source::resolve_location;
use commit::Environment;

pub use commit::Committed;
pub use error::SinkError;
pub use writer::{SinkWriter, Written};

/// Name of the commit record within a committed folder. Readers skip names that start with an underscore.
pub const COMMIT_RECORD: &str = "_sluice_commit.json";

/// The sink of one query. The coordinator checks it before the query runs, commits or aborts it; the workers open it
/// for each attempt of a root task. All of them see the same file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sink {
    query: QueryId,
    /// The folder that the user named, absolute.
    location: PathBuf,
    /// The hidden folder beside it.
    staging: PathBuf,
    format: FileFormat,
    if_exists: IfExists,
}

impl Sink {
    /// The sink of a query. A relative location lies below `base`.
    ///
    /// # Errors
    ///
    /// If the location is no path of a folder that could be written.
    pub fn new(spec: &SinkSpec, query: &QueryId, base: &Path) -> Result<Self, SinkError> {
        let location = resolve_location(&spec.location, base)?;
        // Without the slash that may end it, and without `.` segments.
        let location: PathBuf = location.components().collect();
        let (Some(parent), Some(name), true) =
            (location.parent(), location.file_name(), location.is_absolute())
        else {
            let problem = "is no folder that can be written: name a folder below an existing one";
            return Err(SinkError::forbidden(&location, problem));
        };
        let name = name.to_string_lossy();
        let staging = parent.join(format!(".{name}.sluice-{query}"));
        Ok(Self {
            query: query.clone(),
            staging,
            location,
            format: spec.format,
            if_exists: spec.if_exists,
        })
    }

    /// The folder that will hold the result.
    pub fn location(&self) -> &Path {
        &self.location
    }

    /// Checks, before the query runs, what the commit would otherwise find out after it: that the location is free or
    /// may be replaced, that it can be written, and that no input (`inputs`: the declared locations with links
    /// resolved) would go with what is replaced. Folders above the location are made.
    ///
    /// # Errors
    ///
    /// What stands in the way.
    pub async fn check(&self, inputs: &[PathBuf]) -> Result<(), SinkError> {
        let inputs = inputs.to_vec();
        self.blocking(move |sink| sink.check_now(&inputs)).await
    }

    /// Checks, once the columns of the result are known, that the format can hold them.
    ///
    /// # Errors
    ///
    /// The column that it cannot hold, or a name that two columns have.
    pub fn check_columns(&self, schema: &SchemaRef) -> Result<(), SinkError> {
        encode::check_columns(self.format, schema)
    }

    fn check_now(&self, inputs: &[PathBuf]) -> Result<(), SinkError> {
        if self.committed_now()?.is_some() {
            return Ok(());
        }
        match fs::symlink_metadata(&self.location) {
            Ok(_) if self.if_exists == IfExists::Fail => return Err(SinkError::exists(&self.location)),
            Ok(metadata) if metadata.is_symlink() => {
                let problem =
                    "is a link, which cannot be replaced as a whole: name the folder that it leads to";
                return Err(SinkError::forbidden(&self.location, problem));
            }
            Ok(metadata) if !metadata.is_dir() => {
                let problem = "is a file: name a folder";
                return Err(SinkError::forbidden(&self.location, problem));
            }
            Ok(_) => {
                let resolved = files::at(&self.location, "resolve", self.location.canonicalize())?;
                if let Some(input) = inputs.iter().find(|input| input.starts_with(&resolved)) {
                    let problem = format!(
                        "holds the input {}, which would be lost when it is replaced: name another folder",
                        input.display()
                    );
                    return Err(SinkError::forbidden(&self.location, &problem));
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(SinkError::io(&self.location, "look at", &error)),
        }
        files::at(&self.staging, "create", fs::create_dir_all(&self.staging))
    }

    /// Opens the file of one attempt of a root task. What an attempt of the same number left is overwritten.
    ///
    /// # Errors
    ///
    /// If the file cannot be made or the format cannot hold the columns.
    pub async fn open(&self, attempt: AttemptId, schema: SchemaRef) -> Result<SinkWriter, SinkError> {
        self.blocking(move |sink| SinkWriter::open(sink, attempt, &schema))
            .await
    }

    /// Publishes the files of the winning attempts, one of each root task, by one rename. A second call, also by a
    /// successor that does not know of the first, answers what the first did. A result without rows has one file,
    /// which has the columns; otherwise tasks without rows leave no file.
    ///
    /// # Errors
    ///
    /// If a winner's file is missing, the location was taken meanwhile, or the file system fails. Nothing of the
    /// query is visible then, and the call may be repeated.
    pub async fn commit(&self, winners: &[AttemptId]) -> Result<Committed, SinkError> {
        let winners = winners.to_vec();
        self.blocking(move |sink| {
            let mut environment = Environment {
                reached: &mut |step| {
                    tracing::debug!(query = %sink.query, ?step, "sink commit");
                    Ok(())
                },
                exchange: true,
            };
            commit::commit(sink, &winners, &mut environment)
        })
        .await
    }

    /// What an earlier call of [`Self::commit`] published, perhaps by a predecessor; `None` if nothing of this query
    /// is visible.
    ///
    /// # Errors
    ///
    /// If the file system fails.
    pub async fn committed(&self) -> Result<Option<Committed>, SinkError> {
        self.blocking(Self::committed_now).await
    }

    /// Removes everything that is not visible. A committed result stays, and so does what a commit that did not finish
    /// would have replaced.
    ///
    /// # Errors
    ///
    /// If the file system fails.
    pub async fn abort(&self) -> Result<(), SinkError> {
        self.blocking(commit::abort).await
    }

    fn committed_now(&self) -> Result<Option<Committed>, SinkError> {
        commit::read_record(self)
    }

    /// The folder of one attempt.
    fn attempt_folder(&self, attempt: AttemptId) -> PathBuf {
        self.staging.join("attempts").join(attempt.to_string())
    }

    /// File operations block: they run on the threads for that.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, SinkError> + Send + 'static,
    ) -> Result<T, SinkError> {
        let sink = self.clone();
        tokio::task::spawn_blocking(move || work(&sink))
            .await
            .unwrap_or_else(|error| {
                Err(SinkError::io(
                    &self.location,
                    "write",
                    &std::io::Error::other(error),
                ))
            })
    }
}
