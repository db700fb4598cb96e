//! What one session knows of the outputs of map tasks, within the worker's budget for plans.

use sluice_core::ids::AttemptId;
use sluice_core::limits::MAX_MAP_OUTPUTS_PER_SESSION;
use sluice_core::map_output_tracker::MapOutputTracker;
use sluice_core::message::{Assignment, InputUpdate, ReaderRange, ReaderUpdate};
use sluice_core::partition_set::PartitionSet;
use tokio::sync::mpsc;
use tonic::Status;

use super::stages::FragmentBudget;

/// The outputs that a session was told of. Where there is no room for the partitions that hold bytes, readers fetch all
/// partitions.
pub(super) struct SessionOutputs {
    tracker: MapOutputTracker,
    bytes: u64,
    budget: FragmentBudget,
}

impl SessionOutputs {
    pub(super) fn new(budget: &FragmentBudget) -> Self {
        Self {
            tracker: MapOutputTracker::default(),
            bytes: 0,
            budget: budget.clone(),
        }
    }

    /// Tells a new attempt what is known of its inputs.
    pub(super) fn open(&mut self, assignment: &Assignment, reader: &mpsc::UnboundedSender<ReaderUpdate>) {
        for update in self.tracker.open(assignment.attempt, &assignment.inputs) {
            let _ = reader.send(update);
        }
    }

    /// Takes an update over. Answers with what attempts at work are told.
    ///
    /// # Errors
    /// There are more outputs than a query has.
    pub(super) fn update(
        &mut self,
        mut update: InputUpdate,
        ranges: &[ReaderRange],
    ) -> Result<Vec<(AttemptId, ReaderUpdate)>, Status> {
        let before = self.tracker.get(update.map_attempt.task_id());
        if before.is_none() && self.tracker.len() >= MAX_MAP_OUTPUTS_PER_SESSION {
            return Err(Status::resource_exhausted(format!(
                "the session has named more than {MAX_MAP_OUTPUTS_PER_SESSION} map tasks"
            )));
        }
        let freed = before.map_or(0, size_of_filled);
        self.release(freed);
        let bytes = size_of_filled(&update);
        if self.budget.reserve(bytes).is_ok() {
            self.bytes += bytes;
        } else {
            update.filled_partitions = None;
        }
        Ok(self.tracker.update(update, ranges))
    }

    fn release(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.budget.release(bytes);
    }

    /// Forgets an attempt that has ended.
    pub(super) fn close(&mut self, attempt: AttemptId) {
        self.tracker.close(attempt);
    }
}

impl Drop for SessionOutputs {
    fn drop(&mut self) {
        self.budget.release(self.bytes);
    }
}

fn size_of_filled(update: &InputUpdate) -> u64 {
    update.filled_partitions.as_ref().map_or(0, PartitionSet::size)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sluice_core::ids::{Incarnation, StageEpoch, StageId, StreamEpoch, WorkerId};
    use sluice_core::message::{AssignedInput, InputState, Writer};

    use super::*;
    use sluice_core::layout::LayoutId;

    fn update(task: u32, filled: Option<&[u32]>) -> InputUpdate {
        let filled = filled.map(|filled| PartitionSet::new(512, filled.iter().copied()));
        InputUpdate {
            map_attempt: AttemptId {
                stage: StageId(0),
                stage_epoch: StageEpoch(0),
                task,
                attempt: 0,
            },
            stream_epoch: StreamEpoch(1),
            worker: Arc::new(WorkerId {
                name: "w".to_owned(),
                incarnation: Incarnation(1),
            }),
            state: InputState::Won,
            filled_partitions: filled,
        }
    }

    fn reader() -> Assignment {
        Assignment {
            attempt: AttemptId {
                stage: StageId(1),
                ..AttemptId::default()
            },
            stream_epoch: StreamEpoch(1),
            output_partitions: 1,
            inputs: vec![AssignedInput {
                writers: vec![Writer {
                    stage: StageId(0),
                    tasks: 3,
                    only: None,
                }],
                assigned_reduce_partitions: vec![0],
                range: None,
            }],
            layout: LayoutId::default(),
            recommended_reduce_fetch_window_partitions: 4,
            filters: Vec::new(),
            sort_joins: false,
            swapped_joins: Vec::new(),
        }
    }

    #[test]
    fn partitions_that_hold_bytes_take_room_in_the_budget_and_are_left_out_without_it() {
        // Each set takes two bytes.
        let budget = FragmentBudget::new(5);
        let mut outputs = SessionOutputs::new(&budget);
        for task in 0..3 {
            outputs.update(update(task, Some(&[7])), &[]).expect("a few");
            outputs
                .update(update(task, Some(&[9])), &[])
                .expect("it replaces it");
        }
        let (sender, mut receiver) = mpsc::unbounded_channel();
        outputs.open(&reader(), &sender);
        let mut filled = || {
            let told = receiver.try_recv().expect("it is told");
            told.update
                .filled_partitions
                .as_ref()
                .map(|filled| filled.contains(9))
        };
        assert_eq!([filled(), filled(), filled()], [Some(true), Some(true), None]);
        let told = outputs.update(update(1, None), &[]).expect("a few");
        assert_eq!(told.len(), 1, "the reader is at work");
        outputs.close(reader().attempt);
        let told = outputs.update(update(1, Some(&[9])), &[]).expect("a few");
        assert_eq!(told, []);
        drop(outputs);
        assert!(budget.reserve(5).is_ok(), "all of it came back");
    }
}
