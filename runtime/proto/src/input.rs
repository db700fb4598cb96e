//! What attempts read, and where it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message;
use prost::bytes::Bytes;
use sluice_core::ids::{StageId, StreamEpoch, WorkerId};
use sluice_core::limits::check_partitions;
use sluice_core::message::{
    AssignedInput, AssignedRange, InputState, InputUpdate, ReaderRange, RunBytes, Writer,
};
use sluice_core::partition_set::PartitionSet;

use crate::auth::{FetchEndpoint, FetchKey};
use crate::{WireError, need, wire};

impl From<AssignedInput> for wire::AssignedInput {
    fn from(input: AssignedInput) -> Self {
        let writers = input.writers.into_iter().map(|writer| wire::Writer {
            stage: writer.stage.0,
            tasks: writer.tasks,
            only: writer.only.map(|tasks| wire::TaskSet { tasks }),
        });
        Self {
            writers: writers.collect(),
            assigned_reduce_partitions: input.assigned_reduce_partitions,
            range: input.range.map(Into::into),
        }
    }
}

impl TryFrom<wire::AssignedInput> for AssignedInput {
    type Error = WireError;

    fn try_from(wire: wire::AssignedInput) -> Result<Self, WireError> {
        let writers = wire.writers.into_iter().map(|writer| Writer {
            stage: StageId(writer.stage),
            tasks: writer.tasks,
            only: writer.only.map(|only| only.tasks),
        });
        Ok(Self {
            writers: writers.collect(),
            assigned_reduce_partitions: wire.assigned_reduce_partitions,
            range: wire.range.map(TryInto::try_into).transpose()?,
        })
    }
}

impl From<RunBytes> for wire::RunBytes {
    fn from(run: RunBytes) -> Self {
        Self {
            map_attempt: Some(run.map_attempt.into()),
            bytes: Some(run.bytes.into()),
        }
    }
}

impl TryFrom<wire::RunBytes> for RunBytes {
    type Error = WireError;

    fn try_from(wire: wire::RunBytes) -> Result<Self, WireError> {
        Ok(Self {
            map_attempt: need(wire.map_attempt, "runs.map_attempt")?.into(),
            bytes: need(wire.bytes, "runs.bytes")?.try_into()?,
        })
    }
}

impl From<AssignedRange> for wire::AssignedRange {
    fn from(range: AssignedRange) -> Self {
        Self {
            keys: Some(range.keys.into()),
            runs: range.runs.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<wire::AssignedRange> for AssignedRange {
    type Error = WireError;

    fn try_from(wire: wire::AssignedRange) -> Result<Self, WireError> {
        let runs = wire.runs.into_iter().map(RunBytes::try_from);
        Ok(Self {
            keys: need(wire.keys, "range.keys")?.try_into()?,
            runs: runs.collect::<Result<_, _>>()?,
        })
    }
}

/// Updates about outputs, and where the workers that serve them do so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MapOutputs {
    /// Every worker that an update names.
    pub endpoints: BTreeMap<Arc<WorkerId>, FetchEndpoint>,
    /// The updates, in order.
    pub updates: Vec<InputUpdate>,
}

impl MapOutputs {
    /// The bytes that [`wire::UpdateInputs`] carries.
    pub fn encode(self) -> Bytes {
        wire::MapOutputs::from(self).encode_to_vec().into()
    }

    /// Reads them.
    ///
    /// # Errors
    /// They cannot be decoded, or say what cannot be.
    pub fn decode(bytes: Bytes) -> Result<Self, WireError> {
        let decoded = wire::MapOutputs::decode(bytes);
        decoded
            .map_err(|error| WireError::impossible("update_inputs.outputs", error))?
            .try_into()
    }
}

impl From<MapOutputs> for wire::MapOutputs {
    fn from(outputs: MapOutputs) -> Self {
        let numbers = outputs.endpoints.keys().map(Arc::clone).zip(0..);
        let numbers: BTreeMap<Arc<WorkerId>, u32> = numbers.collect();
        let workers = outputs
            .endpoints
            .into_iter()
            .map(|(worker, endpoint)| wire::WorkerEndpoint {
                worker: Some(WorkerId::clone(&worker).into()),
                address: endpoint.address,
                fetch_key: FetchKey::to_wire(endpoint.key.as_ref()),
            });
        let updates = outputs.updates.into_iter().map(|update| {
            // Without an endpoint it is a worker that the receiver refuses.
            let worker = numbers.get(&update.worker).copied();
            input_update(update, worker.unwrap_or(u32::MAX))
        });
        Self {
            workers: workers.collect(),
            updates: updates.collect(),
        }
    }
}

fn input_update(update: InputUpdate, worker: u32) -> wire::InputUpdate {
    let state = match update.state {
        InputState::Won => wire::InputState::Won,
        InputState::Superseded => wire::InputState::Superseded,
        InputState::Lost => wire::InputState::Lost,
    };
    wire::InputUpdate {
        map_attempt: Some(update.map_attempt.into()),
        stream_epoch: update.stream_epoch.0,
        worker,
        state: state.into(),
        filled_partitions: update.filled_partitions.map(|filled| filled.to_bytes()),
    }
}

impl TryFrom<wire::MapOutputs> for MapOutputs {
    type Error = WireError;

    fn try_from(wire: wire::MapOutputs) -> Result<Self, WireError> {
        let mut workers: Vec<Arc<WorkerId>> = Vec::with_capacity(wire.workers.len());
        let mut endpoints = BTreeMap::new();
        for served in wire.workers {
            let worker: WorkerId = need(served.worker, "workers.worker")?.into();
            let worker = Arc::new(worker);
            let endpoint = FetchEndpoint {
                address: served.address,
                key: FetchKey::from_wire(&served.fetch_key, "workers.fetch_key")?,
            };
            workers.push(Arc::clone(&worker));
            endpoints.insert(worker, endpoint);
        }
        let updates = wire.updates.into_iter();
        let updates = updates.map(|update| update_of(update, &workers));
        Ok(Self {
            updates: updates.collect::<Result<_, _>>()?,
            endpoints,
        })
    }
}

fn update_of(wire: wire::InputUpdate, workers: &[Arc<WorkerId>]) -> Result<InputUpdate, WireError> {
    let state = match wire::InputState::try_from(wire.state) {
        Ok(wire::InputState::Won) => InputState::Won,
        Ok(wire::InputState::Superseded) => InputState::Superseded,
        Ok(wire::InputState::Lost) => InputState::Lost,
        Ok(wire::InputState::Unspecified) | Err(_) => {
            return Err(WireError::impossible("updates.state", wire.state));
        }
    };
    let number = usize::try_from(wire.worker).ok();
    let worker = number.and_then(|number| workers.get(number));
    Ok(InputUpdate {
        map_attempt: need(wire.map_attempt, "updates.map_attempt")?.into(),
        stream_epoch: StreamEpoch(wire.stream_epoch),
        worker: worker
            .map(Arc::clone)
            .ok_or_else(|| WireError::impossible("updates.worker", wire.worker))?,
        state,
        filled_partitions: wire.filled_partitions.map(|bytes| filled(&bytes)).transpose()?,
    })
}

/// Refuses more partitions than an exchange has.
fn filled(bytes: &[u8]) -> Result<PartitionSet, WireError> {
    let partitions = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    check_partitions(partitions.saturating_sub(1).saturating_mul(u8::BITS))?;
    Ok(PartitionSet::from_bytes(bytes))
}

impl From<ReaderRange> for wire::ReaderRange {
    fn from(range: ReaderRange) -> Self {
        Self {
            reader: Some(range.reader.into()),
            run: Some(range.run.into()),
        }
    }
}

impl TryFrom<wire::ReaderRange> for ReaderRange {
    type Error = WireError;

    fn try_from(wire: wire::ReaderRange) -> Result<Self, WireError> {
        Ok(Self {
            reader: need(wire.reader, "ranges.reader")?.into(),
            run: need(wire.run, "ranges.run")?.try_into()?,
        })
    }
}
