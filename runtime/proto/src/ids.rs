//! Names of things.

use sluice_core::ids::{AttemptId, Incarnation, QueryId, StageEpoch, StageId, WorkerId};

use crate::{WireError, wire};

impl From<AttemptId> for wire::AttemptRef {
    fn from(id: AttemptId) -> Self {
        Self {
            stage: id.stage.0,
            stage_epoch: id.stage_epoch.0,
            task: id.task,
            attempt: id.attempt,
        }
    }
}

impl From<wire::AttemptRef> for AttemptId {
    fn from(wire: wire::AttemptRef) -> Self {
        Self {
            stage: StageId(wire.stage),
            stage_epoch: StageEpoch(wire.stage_epoch),
            task: wire.task,
            attempt: wire.attempt,
        }
    }
}

impl From<WorkerId> for wire::WorkerRef {
    fn from(id: WorkerId) -> Self {
        Self {
            name: id.name,
            incarnation: id.incarnation.0,
        }
    }
}

impl From<wire::WorkerRef> for WorkerId {
    fn from(wire: wire::WorkerRef) -> Self {
        Self {
            name: wire.name,
            incarnation: Incarnation(wire.incarnation),
        }
    }
}

/// Reads a query id.
pub(crate) fn query_id(text: String) -> Result<QueryId, WireError> {
    let shown = text.clone();
    QueryId::new(text).ok_or_else(|| WireError::impossible("query", shown))
}
