//! Which tasks do their joins in another way than planned. docs/decisions/0009-joins.md has the rule and its reasons.

use std::collections::BTreeSet;

use super::Coordinator;
use crate::failure::Resource;
use crate::ids::{AttemptId, StageId, TaskId, WorkerId};
use crate::joins::swapped;
use crate::layout::Layout;
use crate::plan::{ReadKind, Stage, StageGraph};

/// From so many tasks on that ran out of memory with hash joins, all tasks of their stage sort.
const TASKS_THAT_SPEAK_FOR_ALL: usize = 2;

/// The tasks whose hash joins ran out of memory, by stage.
#[derive(Debug)]
pub(super) struct SortedJoins {
    stages: Vec<BTreeSet<u32>>,
}

impl SortedJoins {
    pub(super) fn new(graph: &StageGraph) -> Self {
        Self {
            stages: vec![BTreeSet::new(); graph.stages.len()],
        }
    }

    fn of(&self, stage: StageId) -> &BTreeSet<u32> {
        &self.stages[stage.0 as usize]
    }

    /// Whether the next attempt of the task sorts both sides of its joins.
    pub(super) fn sorts(&self, task: TaskId) -> bool {
        let switched = self.of(task.stage);
        switched.contains(&task.task) || switched.len() >= TASKS_THAT_SPEAK_FOR_ALL
    }

    /// How many tasks of the stage ran out of memory with hash joins.
    pub(super) fn sorted_tasks(&self, stage: StageId) -> u32 {
        u32::try_from(self.of(stage).len()).unwrap_or(u32::MAX)
    }
}

impl Coordinator {
    /// Lets the next attempt of a task sort, if the attempt ran out of memory and may have done so because of a hash join.
    /// Says whether it will.
    pub(super) fn switch_joins(&mut self, worker: &WorkerId, id: AttemptId, resource: Resource) -> bool {
        let of_memory = match resource {
            Resource::Memory => true,
            Resource::Disk | Resource::Plans => false,
        };
        let has_join = self.graph.stages[id.stage.0 as usize].has_sortable_join;
        let attempt = self.stages.running_attempt(worker, id);
        let hashed = attempt.is_some_and(|attempt| !attempt.sorts_joins);
        let switches = self.policy.joins.is_some() && of_memory && has_join && hashed;
        if switches {
            self.joins.stages[id.stage.0 as usize].insert(id.task);
        }
        switches
    }

    /// The joins of a stage with this layout whose sides change places, by what a task reads of them on average.
    pub(super) fn swapped_joins(&self, stage: &Stage, layout: &Layout) -> Vec<u32> {
        let Some(policy) = &self.policy.joins else {
            return Vec::new();
        };
        let tasks = u64::try_from(layout.tasks.len()).unwrap_or(u64::MAX).max(1);
        let bytes_of = |number: u32| {
            let Some(input) = stage.inputs.get(number as usize) else {
                return 0;
            };
            let bytes = self.layouts.bytes_of(input.exchange, &self.graph).into_iter();
            let bytes = bytes.fold(0, u64::saturating_add);
            let is_divided = match input.read {
                ReadKind::OwnPartition => !layout.reads_whole(number),
                ReadKind::OwnRange => true,
                ReadKind::AllPartitions => false,
            };
            if is_divided { bytes / tasks } else { bytes }
        };
        swapped(&stage.swappable_joins, bytes_of, policy)
    }
}
