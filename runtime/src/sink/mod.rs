//! The sink of a query: a folder of files that appears complete, or not at all.
//!
//! Attempts write into a staging folder beside the location, `.<name>.sluice-<query>/<coordinator epoch>/attempts`, so
//! that those of a superseded coordinator cannot touch its successor's files. The commit links the files of the winning
//! attempts into one folder there, writes the commit record into it, and renames that folder to the location. Readers
//! see the old content before the rename and all files of the query after it. A crash leaves nothing but the staging
//! folder, whose name readers skip.

mod committer;
mod encode;
mod error;
mod files;
mod paths;
mod rename_committer;
#[cfg(test)]
mod tests;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::execution::memory_pool::MemoryPool;
use serde::{Deserialize, Serialize};
use sluice_core::ids::{AttemptId, CoordinatorEpoch, QueryId};
use sluice_crds::shuffle_query::{FileFormat, IfExists, SinkSpec};

use crate::forbidden::forbidden_folder;
use crate::source::{InputRoots, local_path};
use committer::Committer;
use paths::{SinkPaths, hidden};
use rename_committer::RenameCommitter;

pub use error::SinkError;
pub use sluice_core::status::Committed;
pub use writer::{SinkReceipt, SinkWriter};

/// Name of the commit record within a committed folder. Readers skip names that start with an underscore.
pub const COMMIT_RECORD: &str = "_sluice_commit.json";

/// The sink of a query. The coordinator checks it before the query runs, and commits or aborts it; workers open it for
/// each attempt of a root task. All of them see the same file system. Every call blocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sink {
    /// The folder that the user named, absolute.
    location: PathBuf,
    format: FileFormat,
    if_exists: IfExists,
}

impl Sink {
    /// The sink of a spec. A relative location lies below `base`.
    ///
    /// # Errors
    ///
    /// If the location is no path of a folder that could be written.
    pub fn new(spec: &SinkSpec, base: &Path) -> Result<Self, SinkError> {
        let location = local_path(&spec.location, base)?;
        // Without the slash that may end it, and without `.` segments.
        let location: PathBuf = location.components().collect();
        if location.parent().is_none() || location.file_name().is_none() || !location.is_absolute() {
            let problem = "is no folder that can be written: name a folder below an existing one";
            return Err(SinkError::forbidden(&location, problem));
        }
        Ok(Self {
            location,
            format: spec.format,
            if_exists: spec.if_exists,
        })
    }

    /// The folder that will hold the result.
    pub fn location(&self) -> &Path {
        &self.location
    }

    /// Checks, before a query runs, that its commit could succeed: the location is free or may be replaced, can be
    /// written, and no input is above or below it. Makes the folders above the location. A successor of a coordinator
    /// asks [`Self::committed`] first.
    ///
    /// # Errors
    ///
    /// What stands in the way.
    pub fn check(&self, inputs: &InputRoots) -> Result<(), SinkError> {
        self.check_surroundings(inputs)?;
        rename_committer::check_target(&self.location, self.if_exists)
    }

    /// Checks that the location, with links of its existing part resolved, is in no system folder, in no table, and
    /// contains no table.
    fn check_surroundings(&self, inputs: &InputRoots) -> Result<(), SinkError> {
        let forbidden = |problem: String| Err(SinkError::forbidden(&self.location, &problem));
        let resolved = files::resolved(&self.location)?;
        if let Some(folder) = forbidden_folder(&resolved) {
            return forbidden(format!(
                "leads into {folder}, which is no place for results: name another folder"
            ));
        }
        if let Some(input) = inputs.within(&resolved) {
            return forbidden(format!(
                "holds the input {input}, which would be lost when it is replaced: name another folder"
            ));
        }
        match inputs.holding(&resolved) {
            Some(input) => forbidden(format!(
                "is within the input {input}, of which its files would become rows: name a folder beside it"
            )),
            None => Ok(()),
        }
    }

    /// Checks, once the columns of the result are known, that the format can hold them.
    ///
    /// # Errors
    ///
    /// The column that it cannot hold, or a name that two columns have.
    pub fn check_columns(&self, schema: &SchemaRef) -> Result<(), SinkError> {
        encode::check_columns(self.format, schema)
    }

    /// Opens the file of one attempt of a root task. Overwrites what an attempt with the same id left. Reserves
    /// buffered rows from `pool`.
    ///
    /// # Errors
    ///
    /// If the file cannot be made or the format cannot hold the columns.
    pub fn open(
        &self,
        query: &QueryId,
        epoch: CoordinatorEpoch,
        attempt: AttemptId,
        schema: &SchemaRef,
        pool: &Arc<dyn MemoryPool>,
    ) -> Result<SinkWriter, SinkError> {
        SinkWriter::open(&self.paths(query, epoch), attempt, schema, pool)
    }

    /// Publishes the files of the winning attempts, one of each root task. A second call, even by a successor, returns
    /// what the first one did. A result without rows has one file with the columns; otherwise tasks without rows have
    /// no file.
    ///
    /// # Errors
    ///
    /// If a winner's file is missing, the location was taken meanwhile, or the file system fails. Nothing of the
    /// query is visible then, and the call may be repeated.
    pub fn commit(
        &self,
        query: &QueryId,
        epoch: CoordinatorEpoch,
        winners: &[AttemptId],
    ) -> Result<Committed, SinkError> {
        self.committer(query, epoch).commit(winners)
    }

    /// What [`Self::commit`] has published, perhaps called by an earlier coordinator; `None` if nothing of this query
    /// is visible.
    ///
    /// # Errors
    ///
    /// If the file system fails.
    pub fn committed(&self, query: &QueryId) -> Result<Option<Committed>, SinkError> {
        // The record is the same for every epoch.
        let epoch = CoordinatorEpoch::default();
        self.committer(query, epoch).committed()
    }

    /// Removes everything of a query that is not visible and that this coordinator or an earlier one made. Keeps a
    /// committed result, and what an unfinished commit would have replaced.
    ///
    /// # Errors
    ///
    /// If the file system fails.
    pub fn abort(&self, query: &QueryId, epoch: CoordinatorEpoch) -> Result<(), SinkError> {
        self.committer(query, epoch).abort()
    }

    /// Removes the staging files of earlier coordinators: a successor starts over.
    ///
    /// # Errors
    ///
    /// If the file system fails.
    pub fn supersede(&self, query: &QueryId, epoch: CoordinatorEpoch) -> Result<(), SinkError> {
        self.committer(query, epoch).supersede()
    }

    fn committer(&self, query: &QueryId, epoch: CoordinatorEpoch) -> impl Committer {
        RenameCommitter(self.paths(query, epoch))
    }

    fn paths(&self, query: &QueryId, epoch: CoordinatorEpoch) -> SinkPaths {
        SinkPaths {
            query: query.clone(),
            epoch,
            location: self.location.clone(),
            staging: hidden(&self.location, query.as_str()),
            format: self.format,
            if_exists: self.if_exists,
        }
    }
}
