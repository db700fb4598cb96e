//! How the files of a query become its result.

use sluice_core::ids::AttemptId;
use sluice_core::status::Committed;

use super::error::SinkError;

/// Makes the files of the winning attempts visible at once, or none of them. One committer acts for one coordinator of
/// one query. Every call blocks, and may be repeated after an error or a crash.
pub(super) trait Committer {
    /// Publishes one file of each root task. A second call answers what the first one did, also if a successor makes
    /// it.
    fn commit(&self, winners: &[AttemptId]) -> Result<Committed, SinkError>;

    /// What a commit of this query has published; `None` if nothing of the query is visible.
    fn committed(&self) -> Result<Option<Committed>, SinkError>;

    /// Removes everything of this coordinator and of earlier ones that is not visible. A committed result stays, and so
    /// does what an unfinished commit would have replaced.
    fn abort(&self) -> Result<(), SinkError>;

    /// Removes what attempts of earlier coordinators wrote: a successor starts over.
    fn supersede(&self) -> Result<(), SinkError>;
}
