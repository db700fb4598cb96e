//! One stage's tasks, and which stages may run and must run.

use std::collections::BTreeSet;
use std::mem;

use super::Coordinator;
use super::attempts::{TaskRun, TaskState};
use crate::ids::{StageEpoch, StageId, TaskId};
use crate::locality::LocalityCounts;
use crate::message::MapOutputPartitionMeta;
use crate::ranges::KeyRange;
use crate::time::Instant;

/// The tasks of one stage. Every change of a task's state goes through [`StageRun::set`].
#[derive(Debug)]
pub(super) struct StageRun {
    pub(super) epoch: StageEpoch,
    /// Whether an attempt was assigned in this epoch.
    pub(super) begun: bool,
    pub(super) tasks: Vec<TaskRun>,
    /// Waiting tasks with the end of their backoff.
    pub(super) waiting: BTreeSet<(Instant, u32)>,
    pub(super) running: BTreeSet<u32>,
    pub(super) won: u32,
    pub(super) attempts: u32,
    pub(super) failed_attempts: u32,
    pub(super) lost_attempts: u32,
    pub(super) cancelled_attempts: u32,
    pub(super) locality: LocalityCounts,
    /// Bytes of each partition of its exchange, as the first winner of each task in this epoch wrote them. A task that
    /// runs again writes the same rows, or its readers start over.
    pub(super) partition_bytes: Vec<u64>,
    /// Which rows each task takes of the range exchange that the stage reads; decided before the first assignment of an
    /// epoch, and kept when runs are written again. Empty if it reads none.
    pub(super) ranges: Vec<KeyRange>,
    /// The bytes of runs that each of them takes.
    pub(super) range_bytes: Vec<u64>,
    /// When an attempt first read bytes of an exchange.
    pub(super) first_chunk: Option<Instant>,
    /// When an attempt that reads exchanges first put out a row.
    pub(super) first_reduce_row: Option<Instant>,
    pub(super) started: Option<Instant>,
    pub(super) ended: Option<Instant>,
}

impl StageRun {
    pub(super) fn new(tasks: u32) -> Self {
        Self {
            epoch: StageEpoch::default(),
            begun: false,
            tasks: (0..tasks).map(|_| TaskRun::new()).collect(),
            waiting: (0..tasks).map(|task| (Instant::default(), task)).collect(),
            running: BTreeSet::new(),
            won: 0,
            attempts: 0,
            failed_attempts: 0,
            lost_attempts: 0,
            cancelled_attempts: 0,
            locality: LocalityCounts::default(),
            partition_bytes: Vec::new(),
            ranges: Vec::new(),
            range_bytes: Vec::new(),
            first_chunk: None,
            first_reduce_row: None,
            started: None,
            ended: None,
        }
    }

    /// Whether every task has a winner whose output can be read.
    pub(super) fn is_done(&self) -> bool {
        self.won as usize == self.tasks.len()
    }

    /// Moves a task to another state and answers with the one it left.
    pub(super) fn set(&mut self, task: u32, state: TaskState, now: Instant) -> TaskState {
        match &state {
            TaskState::Waiting { not_before } => {
                self.waiting.insert((*not_before, task));
            }
            TaskState::Running(_) => {
                self.running.insert(task);
            }
            TaskState::Won(_) => self.won += 1,
        }
        let left = mem::replace(&mut self.tasks[task as usize].state, state);
        match &left {
            TaskState::Waiting { not_before } => {
                let stays = matches!(&self.tasks[task as usize].state, TaskState::Waiting { not_before: until } if until == not_before);
                if !stays {
                    self.waiting.remove(&(*not_before, task));
                }
            }
            TaskState::Running(_) => {
                if self.tasks[task as usize].running().is_none() {
                    self.running.remove(&task);
                }
            }
            TaskState::Won(_) => self.won -= 1,
        }
        self.ended = if self.is_done() {
            self.ended.or(Some(now))
        } else {
            None
        };
        left
    }

    /// Notes what the first winner of a task wrote to the exchange's partitions.
    pub(super) fn count_partitions(&mut self, partitions: u32, outputs: &[MapOutputPartitionMeta]) {
        self.partition_bytes.resize(partitions as usize, 0);
        for output in outputs {
            if let Some(bytes) = self.partition_bytes.get_mut(output.partition as usize) {
                *bytes = bytes.saturating_add(output.bytes);
            }
        }
    }

    /// Moves a task back to waiting, runnable from `not_before` on.
    pub(super) fn requeue(&mut self, task: u32, not_before: Instant, now: Instant) -> TaskState {
        self.set(task, TaskState::Waiting { not_before }, now)
    }
}

impl Coordinator {
    pub(super) fn stage(&self, id: StageId) -> &StageRun {
        &self.stages[id.0 as usize]
    }

    pub(super) fn stage_mut(&mut self, id: StageId) -> &mut StageRun {
        &mut self.stages[id.0 as usize]
    }

    /// A task named by a message from outside, if it exists.
    pub(super) fn task(&self, id: TaskId) -> Option<&TaskRun> {
        self.stages.get(id.stage.0 as usize)?.tasks.get(id.task as usize)
    }

    pub(super) fn task_mut(&mut self, id: TaskId) -> Option<&mut TaskRun> {
        self.stages
            .get_mut(id.stage.0 as usize)?
            .tasks
            .get_mut(id.task as usize)
    }

    /// Whether all inputs of the stage can be read: `reduce_schedulable`.
    pub(super) fn inputs_done(&self, stage: StageId) -> bool {
        let mut inputs = self.topology.inputs[stage.0 as usize].iter();
        inputs.all(|input| self.stage(*input).is_done())
    }

    /// Per stage, whether somebody still needs its output: the client or the sink, or a reading stage that is itself
    /// needed and has a task without a winner.
    pub(super) fn demanded(&self) -> Vec<bool> {
        let mut demanded = vec![false; self.stages.len()];
        for stage in (0..self.stages.len()).rev() {
            let mut consumers = self.topology.consumers[stage].iter();
            demanded[stage] = consumers.len() == 0
                || consumers.any(|c| demanded[c.0 as usize] && !self.stage(*c).is_done());
        }
        demanded
    }

    /// The stages that may and must run now, most urgent first.
    pub(super) fn schedulable(&self) -> impl Iterator<Item = StageId> {
        let demanded = self.demanded();
        let stages = self.topology.urgency.iter().copied();
        stages.filter(move |stage| demanded[stage.0 as usize] && self.inputs_done(*stage))
    }
}
