//! Reports of a coordinator about its query.

use sluice_core::snapshot::QuerySnapshot;
use sluice_core::status::{StatusContext, status};
use sluice_crds::shuffle_query::status::{ResultPreview, ShuffleQueryStatus};

use crate::{WireError, wire};

/// A query at one moment, with all that its status is computed from.
#[derive(Debug, Clone)]
pub struct QueryReport {
    /// The state.
    pub snapshot: QuerySnapshot,
    /// What the status needs beside the snapshot.
    pub context: StatusContext,
    /// The first rows, if the result goes to a client.
    pub preview: Option<ResultPreview>,
}

impl QueryReport {
    /// The query's status, as far as the coordinator knows it.
    pub fn status(&self) -> ShuffleQueryStatus {
        status(&self.snapshot, &self.context, self.preview.clone())
    }
}

impl TryFrom<&QueryReport> for wire::QueryStatus {
    type Error = serde_json::Error;

    /// # Errors
    /// A part that has no JSON form.
    fn try_from(report: &QueryReport) -> Result<Self, Self::Error> {
        Ok(Self {
            snapshot_json: serde_json::to_string(&report.snapshot)?,
            preview_json: report.preview.as_ref().map(serde_json::to_string).transpose()?,
            context_json: serde_json::to_string(&report.context)?,
        })
    }
}

impl TryFrom<wire::QueryStatus> for QueryReport {
    type Error = WireError;

    fn try_from(wire: wire::QueryStatus) -> Result<Self, WireError> {
        fn read<T: serde::de::DeserializeOwned>(text: &str, field: &'static str) -> Result<T, WireError> {
            serde_json::from_str(text).map_err(|error| WireError::impossible(field, error))
        }
        let preview = wire.preview_json.as_deref();
        Ok(Self {
            snapshot: read(&wire.snapshot_json, "snapshot_json")?,
            context: read(&wire.context_json, "context_json")?,
            preview: preview.map(|text| read(text, "preview_json")).transpose()?,
        })
    }
}
