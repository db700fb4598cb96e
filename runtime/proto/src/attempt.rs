//! Assignments, and reports of attempts.

use sluice_core::failure::{AttemptFailure, BadInputKind, Resource};
use sluice_core::ids::{LayoutVersion, StreamEpoch};
use sluice_core::layout::LayoutId;
use sluice_core::limits::{TooLarge, check_partitions, check_streams};
use sluice_core::message::{AssignedInput, Assignment, MapOutputPartitionMeta};
use sluice_core::metrics::AttemptMetrics;

use crate::stream::{fetch_error_code, fetch_error_from};
use crate::{LeafSplit, WireError, need, shortened, wire};

impl wire::AssignAttempt {
    /// The message for an assignment and its task's splits.
    pub fn new(assignment: Assignment, splits: Vec<LeafSplit>) -> Self {
        let inputs = assignment.inputs.into_iter().map(Into::into);
        Self {
            attempt: Some(assignment.attempt.into()),
            stream_epoch: assignment.stream_epoch.0,
            output_partitions: assignment.output_partitions,
            inputs: inputs.collect(),
            layout_version: assignment.layout.version.0,
            layout_fingerprint: assignment.layout.fingerprint,
            recommended_reduce_fetch_window_partitions: assignment.recommended_reduce_fetch_window_partitions,
            splits: splits.into_iter().map(Into::into).collect(),
            filters: assignment.filters.iter().map(|filter| filter.id.0).collect(),
            sort_joins: assignment.sort_joins,
            swapped_joins: assignment.swapped_joins,
        }
    }
}

impl TryFrom<wire::AssignAttempt> for (Assignment, Vec<LeafSplit>) {
    type Error = WireError;

    fn try_from(wire: wire::AssignAttempt) -> Result<Self, WireError> {
        check_size(&wire)?;
        let inputs = wire.inputs.into_iter().map(AssignedInput::try_from);
        let assignment = Assignment {
            attempt: need(wire.attempt, "assign_attempt.attempt")?.into(),
            stream_epoch: StreamEpoch(wire.stream_epoch),
            output_partitions: wire.output_partitions,
            inputs: inputs.collect::<Result<_, _>>()?,
            layout: LayoutId {
                version: LayoutVersion(wire.layout_version),
                fingerprint: wire.layout_fingerprint,
            },
            recommended_reduce_fetch_window_partitions: wire.recommended_reduce_fetch_window_partitions,
            // The session knows their keys.
            filters: Vec::new(),
            sort_joins: wire.sort_joins,
            swapped_joins: wire.swapped_joins,
        };
        let splits = wire
            .splits
            .into_iter()
            .map(LeafSplit::try_from)
            .collect::<Result<_, _>>()?;
        Ok((assignment, splits))
    }
}

/// Checks that a worker has the memory for the tables of what the attempt reads and writes.
fn check_size(wire: &wire::AssignAttempt) -> Result<(), TooLarge> {
    check_partitions(wire.output_partitions)?;
    for input in &wire.inputs {
        check_partitions(u32::try_from(input.assigned_reduce_partitions.len()).unwrap_or(u32::MAX))?;
    }
    check_streams(wire.inputs.iter().map(|input| {
        let of_writer = |writer: &wire::Writer| match &writer.only {
            Some(only) => only.tasks.len() as u64,
            None => u64::from(writer.tasks),
        };
        let tasks = input.writers.iter().map(of_writer).sum();
        (tasks, input.assigned_reduce_partitions.len() as u64)
    }))
}

impl From<AttemptMetrics> for wire::AttemptMetrics {
    fn from(metrics: AttemptMetrics) -> Self {
        let AttemptMetrics {
            rows_read,
            bytes_read,
            rows_filtered,
            shuffle_rows_in,
            shuffle_bytes_in,
            rows_out,
            bytes_out,
            bytes_spilled,
            shuffle_bytes_spilled,
            backpressure_events,
            activity,
            first_chunk_ms,
            first_reduce_row_ms,
        } = metrics;
        Self {
            rows_read,
            bytes_read,
            rows_filtered,
            shuffle_rows_in,
            shuffle_bytes_in,
            rows_out,
            bytes_out,
            bytes_spilled,
            shuffle_bytes_spilled,
            backpressure_events,
            activity,
            first_chunk_ms,
            first_reduce_row_ms,
        }
    }
}

impl From<wire::AttemptMetrics> for AttemptMetrics {
    fn from(wire: wire::AttemptMetrics) -> Self {
        let wire::AttemptMetrics {
            rows_read,
            bytes_read,
            rows_filtered,
            shuffle_rows_in,
            shuffle_bytes_in,
            rows_out,
            bytes_out,
            bytes_spilled,
            shuffle_bytes_spilled,
            backpressure_events,
            activity,
            first_chunk_ms,
            first_reduce_row_ms,
        } = wire;
        Self {
            rows_read,
            bytes_read,
            rows_filtered,
            shuffle_rows_in,
            shuffle_bytes_in,
            rows_out,
            bytes_out,
            bytes_spilled,
            shuffle_bytes_spilled,
            backpressure_events,
            activity,
            first_chunk_ms,
            first_reduce_row_ms,
        }
    }
}

impl From<MapOutputPartitionMeta> for wire::MapOutputPartitionMeta {
    fn from(meta: MapOutputPartitionMeta) -> Self {
        let MapOutputPartitionMeta {
            partition,
            bytes,
            rows,
        } = meta;
        Self {
            partition,
            bytes,
            rows,
        }
    }
}

impl From<wire::MapOutputPartitionMeta> for MapOutputPartitionMeta {
    fn from(wire: wire::MapOutputPartitionMeta) -> Self {
        let wire::MapOutputPartitionMeta {
            partition,
            bytes,
            rows,
        } = wire;
        Self {
            partition,
            bytes,
            rows,
        }
    }
}

impl wire::ResourcesShort {
    fn new(resource: Resource, message: String) -> Self {
        let resource = match resource {
            Resource::Memory => wire::Resource::Memory,
            Resource::Disk => wire::Resource::Disk,
            Resource::Plans => wire::Resource::Plans,
        };
        Self {
            resource: resource.into(),
            message: shortened(message),
        }
    }

    fn known_resource(&self) -> Result<Resource, WireError> {
        match wire::Resource::try_from(self.resource) {
            Ok(wire::Resource::Memory) => Ok(Resource::Memory),
            Ok(wire::Resource::Disk) => Ok(Resource::Disk),
            Ok(wire::Resource::Plans) => Ok(Resource::Plans),
            Ok(wire::Resource::Unspecified) | Err(_) => {
                Err(WireError::impossible("resources_short.resource", self.resource))
            }
        }
    }
}

impl From<AttemptFailure> for wire::attempt_failed::Failure {
    fn from(failure: AttemptFailure) -> Self {
        match failure {
            AttemptFailure::FetchFailed { map_attempt, error } => Self::FetchFailed(wire::FetchFailed {
                map_attempt: Some(map_attempt.into()),
                error: fetch_error_code(error).into(),
            }),
            AttemptFailure::BadInput { kind, message } => {
                let kind = match kind {
                    BadInputKind::InputChanged => wire::BadInputKind::InputChanged,
                    BadInputKind::InputCorrupt => wire::BadInputKind::InputCorrupt,
                    BadInputKind::InvalidValue => wire::BadInputKind::InvalidValue,
                    BadInputKind::ForbiddenPath => wire::BadInputKind::ForbiddenPath,
                    BadInputKind::UnsupportedPlan => wire::BadInputKind::UnsupportedPlan,
                };
                Self::BadInput(wire::BadInput {
                    kind: kind.into(),
                    message: shortened(message),
                })
            }
            AttemptFailure::ResourcesExhausted { resource, message } => {
                Self::ResourcesExhausted(wire::ResourcesShort::new(resource, message))
            }
            AttemptFailure::ResourcesContended { resource, message } => {
                Self::ResourcesContended(wire::ResourcesShort::new(resource, message))
            }
            AttemptFailure::SinkFailed { message } => Self::SinkFailed(shortened(message)),
            AttemptFailure::Refused { message } => Self::Refused(shortened(message)),
            AttemptFailure::Cancelled => Self::Cancelled(wire::Cancelled {}),
            AttemptFailure::Failed { message } => Self::Failed(shortened(message)),
        }
    }
}

impl TryFrom<wire::attempt_failed::Failure> for AttemptFailure {
    type Error = WireError;

    fn try_from(wire: wire::attempt_failed::Failure) -> Result<Self, WireError> {
        use wire::attempt_failed::Failure as Wire;
        Ok(match wire {
            Wire::FetchFailed(failed) => Self::FetchFailed {
                map_attempt: need(failed.map_attempt, "fetch_failed.map_attempt")?.into(),
                error: fetch_error_from(failed.error)?,
            },
            Wire::BadInput(bad) => {
                let kind = match wire::BadInputKind::try_from(bad.kind) {
                    Ok(wire::BadInputKind::InputChanged) => BadInputKind::InputChanged,
                    Ok(wire::BadInputKind::InputCorrupt) => BadInputKind::InputCorrupt,
                    Ok(wire::BadInputKind::InvalidValue) => BadInputKind::InvalidValue,
                    Ok(wire::BadInputKind::ForbiddenPath) => BadInputKind::ForbiddenPath,
                    Ok(wire::BadInputKind::UnsupportedPlan) => BadInputKind::UnsupportedPlan,
                    Ok(wire::BadInputKind::Unspecified) | Err(_) => {
                        return Err(WireError::impossible("bad_input.kind", bad.kind));
                    }
                };
                Self::BadInput {
                    kind,
                    message: shortened(bad.message),
                }
            }
            Wire::ResourcesExhausted(short) => Self::ResourcesExhausted {
                resource: short.known_resource()?,
                message: shortened(short.message),
            },
            Wire::ResourcesContended(short) => Self::ResourcesContended {
                resource: short.known_resource()?,
                message: shortened(short.message),
            },
            Wire::SinkFailed(message) => Self::SinkFailed {
                message: shortened(message),
            },
            Wire::Refused(message) => Self::Refused {
                message: shortened(message),
            },
            Wire::Cancelled(_) => Self::Cancelled,
            Wire::Failed(message) => Self::Failed {
                message: shortened(message),
            },
        })
    }
}
