//! What one session of a worker has been told of the outputs of map tasks. The coordinator tells it once where the output of a
//! map task is; every attempt at the worker that reads it takes that from here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::ids::{AttemptId, StageId, TaskId};
use crate::message::{AssignedInput, InputState, InputUpdate, ReaderRange, ReaderUpdate};

/// The outputs that a session knows, and the attempts at work that read them.
#[derive(Debug, Default)]
pub struct MapOutputTracker {
    /// The last update of each map task.
    outputs: BTreeMap<TaskId, Arc<InputUpdate>>,
    /// The attempts at work, by the stages that they read.
    readers: BTreeMap<StageId, BTreeSet<AttemptId>>,
}

impl MapOutputTracker {
    /// Begins to follow what an attempt reads. Answers with what is known of it.
    pub fn open(&mut self, reader: AttemptId, inputs: &[AssignedInput]) -> Vec<ReaderUpdate> {
        let writers = inputs.iter().flat_map(|input| &input.writers);
        let stages: BTreeSet<StageId> = writers.map(|writer| writer.stage).collect();
        for stage in &stages {
            self.readers.entry(*stage).or_default().insert(reader);
        }
        let ranges = inputs.iter().filter_map(|input| input.range.as_ref());
        let runs = ranges.flat_map(|range| &range.runs);
        let runs: BTreeMap<AttemptId, _> = runs.map(|run| (run.map_attempt, run.bytes)).collect();
        let known = stages.iter().flat_map(|stage| self.won(*stage));
        let update = |update: &Arc<InputUpdate>| ReaderUpdate {
            update: Arc::clone(update),
            range: runs.get(&update.map_attempt).copied(),
        };
        known.map(update).collect()
    }

    /// The outputs of a stage that count.
    fn won(&self, stage: StageId) -> impl Iterator<Item = &Arc<InputUpdate>> {
        let task = |task| TaskId { stage, task };
        let of_stage = self.outputs.range(task(0)..=task(u32::MAX));
        let won = |update: &&Arc<InputUpdate>| match update.state {
            InputState::Won => true,
            InputState::Superseded | InputState::Lost => false,
        };
        of_stage.map(|(_, update)| update).filter(won)
    }

    /// Takes an update from the coordinator. Answers with what the attempts at work are told that read the stage.
    /// `ranges` say where the ranges of those lie in it.
    pub fn update(&mut self, update: InputUpdate, ranges: &[ReaderRange]) -> Vec<(AttemptId, ReaderUpdate)> {
        let task = update.map_attempt.task_id();
        let of_run = ranges
            .iter()
            .filter(|range| range.run.map_attempt == update.map_attempt);
        let ranges: BTreeMap<AttemptId, _> = of_run.map(|range| (range.reader, range.run.bytes)).collect();
        let update = Arc::new(update);
        self.outputs.insert(task, Arc::clone(&update));
        let readers = self.readers.get(&task.stage).into_iter().flatten();
        let told = |reader: &AttemptId| {
            let update = ReaderUpdate {
                update: Arc::clone(&update),
                range: ranges.get(reader).copied(),
            };
            (*reader, update)
        };
        readers.map(told).collect()
    }

    /// What is known of the output of a map task.
    pub fn get(&self, task: TaskId) -> Option<&InputUpdate> {
        self.outputs.get(&task).map(Arc::as_ref)
    }

    /// How many outputs are known.
    pub fn len(&self) -> usize {
        self.outputs.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.outputs.is_empty()
    }

    /// Forgets an attempt that has ended.
    pub fn close(&mut self, reader: AttemptId) {
        self.readers.retain(|_, readers| {
            readers.remove(&reader);
            !readers.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Incarnation, StageEpoch, StreamEpoch, WorkerId};
    use crate::message::{AssignedRange, RunBytes, Writer};
    use crate::ranges::{ByteRange, KeyRange};

    fn attempt(stage: u32, task: u32, attempt: u32) -> AttemptId {
        AttemptId {
            stage: StageId(stage),
            stage_epoch: StageEpoch(0),
            task,
            attempt,
        }
    }

    fn update(map_attempt: AttemptId, state: InputState) -> InputUpdate {
        InputUpdate {
            map_attempt,
            stream_epoch: StreamEpoch(u64::from(map_attempt.attempt) + 1),
            worker: Arc::new(WorkerId {
                name: "w".to_owned(),
                incarnation: Incarnation(1),
            }),
            state,
            filled_partitions: None,
        }
    }

    fn inputs(stages: &[u32], runs: &[(AttemptId, u64)]) -> Vec<AssignedInput> {
        let run = |(map_attempt, end): &(AttemptId, u64)| RunBytes {
            map_attempt: *map_attempt,
            bytes: ByteRange { start: 0, end: *end },
        };
        let input = |stage: &u32| AssignedInput {
            writers: vec![Writer {
                stage: StageId(*stage),
                tasks: 9,
                only: None,
            }],
            assigned_reduce_partitions: vec![0],
            range: (!runs.is_empty()).then(|| AssignedRange {
                keys: KeyRange::default(),
                runs: runs.iter().map(run).collect(),
            }),
        };
        stages.iter().map(input).collect()
    }

    fn attempts(told: &[ReaderUpdate]) -> Vec<AttemptId> {
        told.iter().map(|told| told.update.map_attempt).collect()
    }

    #[test]
    fn an_attempt_begins_with_what_counts_of_the_stages_that_it_reads() {
        let mut tracker = MapOutputTracker::default();
        for (id, state) in [
            (attempt(0, 0, 0), InputState::Won),
            (attempt(0, 1, 0), InputState::Won),
            (attempt(0, 1, 0), InputState::Lost),
            (attempt(0, 2, 0), InputState::Lost),
            (attempt(0, 2, 1), InputState::Won),
            (attempt(1, 0, 0), InputState::Won),
            (attempt(2, 0, 0), InputState::Won),
        ] {
            assert_eq!(tracker.update(update(id, state), &[]), [], "nobody reads");
        }
        assert_eq!(tracker.len(), 5);
        let told = tracker.open(attempt(3, 0, 0), &inputs(&[2, 0, 0], &[]));
        let known = [attempt(0, 0, 0), attempt(0, 2, 1), attempt(2, 0, 0)];
        assert_eq!(attempts(&told), known);
        let again = tracker.open(attempt(3, 1, 0), &inputs(&[2, 0], &[]));
        assert!(
            told.iter()
                .zip(&again)
                .all(|(one, other)| Arc::ptr_eq(&one.update, &other.update)),
            "they share what is known"
        );
    }

    #[test]
    fn an_update_goes_to_the_attempts_at_work_that_read_the_stage() {
        let mut tracker = MapOutputTracker::default();
        let (one, both, other) = (attempt(3, 0, 0), attempt(4, 0, 0), attempt(5, 0, 0));
        tracker.open(one, &inputs(&[0], &[]));
        tracker.open(both, &inputs(&[0, 1], &[]));
        tracker.open(other, &inputs(&[1], &[]));
        let mut readers = |stage| {
            let told = tracker.update(update(attempt(stage, 0, 0), InputState::Won), &[]);
            told.into_iter().map(|(reader, _)| reader).collect::<Vec<_>>()
        };
        assert_eq!(readers(0), [one, both]);
        assert_eq!(readers(1), [both, other]);
        tracker.close(both);
        let told = tracker.update(update(attempt(0, 0, 0), InputState::Lost), &[]);
        assert_eq!(told.len(), 1);
        assert_eq!(
            (told[0].0, told[0].1.update.state),
            (one, InputState::Lost),
            "it is told that it counts no more"
        );
    }

    #[test]
    fn ranges_are_those_of_the_reader_and_of_the_attempt_that_counts() {
        let mut tracker = MapOutputTracker::default();
        let (first, second) = (attempt(0, 0, 0), attempt(0, 0, 1));
        tracker.update(update(first, InputState::Won), &[]);
        let (reader, whole) = (attempt(1, 0, 0), attempt(1, 1, 0));
        let range = |end| Some(ByteRange { start: 0, end });
        let told = tracker.open(reader, &inputs(&[0], &[(first, 5), (second, 7)]));
        assert_eq!(told[0].range, range(5));
        tracker.open(whole, &inputs(&[0], &[]));
        let run = |map_attempt, end| RunBytes {
            map_attempt,
            bytes: ByteRange { start: 0, end },
        };
        let ranges = [run(second, 6), run(attempt(0, 1, 0), 9)].map(|run| ReaderRange { reader, run });
        let told = tracker.update(update(second, InputState::Won), &ranges);
        let told: Vec<_> = told
            .into_iter()
            .map(|(reader, update)| (reader, update.range))
            .collect();
        assert_eq!(told, [(reader, range(6)), (whole, None)]);
        let next = tracker.open(attempt(1, 0, 1), &inputs(&[0], &[(second, 8)]));
        assert_eq!(next[0].range, range(8), "another reader has its own");
    }
}
