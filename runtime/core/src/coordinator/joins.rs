//! Which tasks do their joins in another way than planned. docs/decisions/0009-joins.md has the rule and its reasons.

use std::collections::BTreeSet;

use super::Coordinator;
use crate::failure::Resource;
use crate::ids::{AttemptId, StageId, TaskId, WorkerId};
use crate::plan::StageGraph;
use sluice_crds::shuffle_query::AdaptiveJoins;

/// From so many tasks on that ran out of memory with hash joins, all tasks of their stage sort.
const TASKS_THAT_SPEAK_FOR_ALL: usize = 2;

/// The tasks whose hash joins ran out of memory, by stage.
#[derive(Debug)]
pub(super) struct JoinSwitches {
    stages: Vec<BTreeSet<u32>>,
}

impl JoinSwitches {
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
    pub(super) fn switches(&self, stage: StageId) -> u32 {
        u32::try_from(self.of(stage).len()).unwrap_or(u32::MAX)
    }
}

impl Coordinator {
    /// Lets the next attempt of a task sort, if the attempt ran out of memory and may have done so because of a hash join.
    /// Says whether it will.
    pub(super) fn switch_joins(&mut self, worker: &WorkerId, id: AttemptId, resource: Resource) -> bool {
        let wanted = match self.policy.joins {
            AdaptiveJoins::Auto => true,
            AdaptiveJoins::Off => false,
        };
        let of_memory = match resource {
            Resource::Memory => true,
            Resource::Disk | Resource::Plans => false,
        };
        let has_join = self.graph.stages[id.stage.0 as usize].has_sortable_join;
        let attempt = self.stages.running_attempt(worker, id);
        let hashed = attempt.is_some_and(|attempt| !attempt.sorts_joins);
        let switches = wanted && of_memory && has_join && hashed;
        if switches {
            self.joins.stages[id.stage.0 as usize].insert(id.task);
        }
        switches
    }
}
