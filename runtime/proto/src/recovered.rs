//! What a worker keeps for a successor of its coordinator: layouts, and reports of successes.

use sluice_core::ids::{LayoutVersion, StageId};
use sluice_core::layout::{Layout, LayoutId, Shard, TaskLayout};
use sluice_core::message::{FinishedOutput, StageLayout};

use crate::{WireError, need, wire};

impl From<&StageLayout> for wire::StageLayout {
    fn from(layout: &StageLayout) -> Self {
        let task = |task: &TaskLayout| wire::TaskLayout {
            start: task.partitions.start,
            end: task.partitions.end,
            range: task.range.as_deref().cloned().map(Into::into),
            shard: task.shard.as_ref().map(|shard| wire::Shard {
                input: shard.input,
                map_tasks: shard.map_tasks.clone(),
            }),
        };
        Self {
            stage: layout.stage.0,
            version: layout.layout.version.0,
            fingerprint: layout.layout.fingerprint,
            tasks: layout.layout.tasks.iter().map(task).collect(),
            swapped_joins: layout.swapped_joins.clone(),
        }
    }
}

impl TryFrom<wire::StageLayout> for StageLayout {
    type Error = WireError;

    fn try_from(wire: wire::StageLayout) -> Result<Self, WireError> {
        let task = |task: wire::TaskLayout| {
            if task.start > task.end {
                return Err(WireError::impossible("stage_layout.tasks.end", task.end));
            }
            Ok(TaskLayout {
                partitions: task.start..task.end,
                range: task.range.map(TryInto::try_into).transpose()?.map(Box::new),
                shard: task.shard.map(|shard| Shard {
                    input: shard.input,
                    map_tasks: shard.map_tasks,
                }),
            })
        };
        Ok(Self {
            stage: StageId(wire.stage),
            layout: Layout {
                version: LayoutVersion(wire.version),
                fingerprint: wire.fingerprint,
                tasks: wire.tasks.into_iter().map(task).collect::<Result<_, _>>()?,
            },
            swapped_joins: wire.swapped_joins,
        })
    }
}

impl TryFrom<wire::AttemptSucceeded> for FinishedOutput {
    type Error = WireError;

    fn try_from(success: wire::AttemptSucceeded) -> Result<Self, WireError> {
        let filters = success.filters.into_iter().map(TryInto::try_into);
        Ok(Self {
            attempt: need(success.attempt, "attempt_succeeded.attempt")?.into(),
            layout: LayoutId {
                version: LayoutVersion(success.layout_version),
                fingerprint: success.layout_fingerprint,
            },
            outputs: success.outputs.into_iter().map(Into::into).collect(),
            run: success.run.map(TryInto::try_into).transpose()?,
            filters: filters.collect::<Result<_, WireError>>()?,
            metrics: success.metrics.unwrap_or_default().into(),
        })
    }
}
