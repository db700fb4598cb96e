//! The rule that a session is told of each output once, and knows what its attempts read.

use std::collections::BTreeMap;

use super::audit::Violation;
use crate::ids::{AttemptId, TaskId};
use crate::message::{Assignment, InputState, InputUpdate, Writer};

/// What sessions were told of outputs.
#[derive(Debug, Default)]
pub struct ToldOutputs {
    /// By worker and map task.
    told: BTreeMap<String, BTreeMap<TaskId, (AttemptId, InputState)>>,
    /// The attempt of each task that succeeded last: if any of them counts, it is this one.
    last: BTreeMap<TaskId, AttemptId>,
}

impl ToldOutputs {
    pub fn on_succeeded(&mut self, attempt: AttemptId) {
        self.last.insert(attempt.task_id(), attempt);
    }

    pub fn on_session_ended(&mut self, worker: &str) {
        self.told.remove(worker);
    }

    /// Checks that the worker did not know it.
    pub fn on_update(&mut self, worker: &str, update: &InputUpdate) -> Result<(), Violation> {
        let of_worker = self.told.entry(worker.to_owned()).or_default();
        let told = (update.map_attempt, update.state);
        if of_worker.insert(update.map_attempt.task_id(), told) == Some(told) {
            return Err(format!("{worker} was told of {} twice", update.map_attempt));
        }
        Ok(())
    }

    /// Checks that the worker knows where all is that the attempt reads.
    pub fn on_assigned(&self, worker: &str, assignment: &Assignment) -> Result<(), Violation> {
        let of_worker = self.told.get(worker);
        let writers = assignment.inputs.iter().flat_map(|input| &input.writers);
        for task in writers.flat_map(Writer::map_tasks) {
            let told = of_worker.and_then(|told| told.get(&task));
            let counts = self.last.get(&task).map(|attempt| (*attempt, InputState::Won));
            if told != counts.as_ref() {
                return Err(format!(
                    "{worker} got {} without knowing of {task}: {told:?} instead of {counts:?}",
                    assignment.attempt
                ));
            }
        }
        Ok(())
    }
}
