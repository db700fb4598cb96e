//! Which waiting task runs next, and where.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::attempts::RunningAttempt;
use super::event::Action;
use super::outcome::QueryState;
use super::poison::Start;
use super::worker_registry::Worker;
use super::{Coordinator, MAX_ATTEMPTS_PER_TASK};
use crate::ids::{LayoutVersion, StageId, TaskId};
use crate::locality::{LocalityCounts, LocalityLevel};
use crate::message::{AssignedInput, Assignment, InputState, InputUpdate, Writer};
use crate::plan::{Determinism, ReadKind, Stage};

/// The layout that a stage has when each task reads what its number says.
const IDENTITY_LAYOUT: LayoutVersion = LayoutVersion(1);

impl Coordinator {
    /// Starts what can start, gives back slots without work, and asks for slots for the rest.
    pub(super) fn schedule(&mut self) {
        match self.state {
            QueryState::Running => {}
            QueryState::Committing { .. } | QueryState::Ended { .. } => return,
        }
        let mut assigned = false;
        while let Some((task, worker)) = self.next_start() {
            self.start(task, &worker);
            if self.has_ended() {
                return;
            }
            assigned = true;
        }
        self.lease_slots(assigned);
    }

    /// The most urgent task that may run now, and the worker for it.
    fn next_start(&self) -> Option<(TaskId, String)> {
        let mut may_start = self.may_start();
        for stage in self.schedulable() {
            for task in self.stages.get(stage).due(self.now) {
                match may_start(task) {
                    Start::Anywhere => return Some((task, self.best_worker(task, &BTreeSet::new())?)),
                    Start::AwayFrom(hosts) => {
                        if let Some(worker) = self.best_worker(task, &hosts) {
                            return Some((task, worker));
                        }
                    }
                    Start::No => {}
                }
            }
        }
        None
    }

    /// The nearest worker to the task's data, then the one with the most granted slots; rather not the one where the
    /// task has just failed, and none of `not_there`.
    fn best_worker(&self, task: TaskId, not_there: &BTreeSet<String>) -> Option<String> {
        let data = &self.graph.stages[task.stage.0 as usize].data;
        let failed_on = self.stages.task(task).and_then(|task| task.failed_on.as_ref());
        let offers = self
            .workers
            .usable()
            .filter(|worker| self.slots.granted(worker) > 0 && !not_there.contains(worker.name()));
        let best = offers.min_by_key(|worker| {
            let failed_here = failed_on == Some(worker.id());
            (
                failed_here,
                data.level_for(worker.location()),
                Reverse(self.slots.granted(worker)),
                self.slots.load(worker),
                worker.name(),
            )
        });
        best.map(|worker| worker.name().to_owned())
    }

    fn start(&mut self, task: TaskId, worker: &str) {
        let Some(run) = self.stages.task(task) else {
            return;
        };
        if run.attempts >= MAX_ATTEMPTS_PER_TASK {
            self.fail_for_lost_attempts(task);
            return;
        }
        if !run.past_winners.is_empty() {
            self.restart_consumers_of_other_rows(task.stage);
        }
        self.lay_out_ranges(task.stage);
        let locality = self.locality_of(task.stage, worker);
        let Some(worker) = self.workers.get(worker).map(|worker| worker.id().clone()) else {
            return;
        };
        self.starts += 1;
        let stage = self.stages.get_mut(task.stage);
        let attempt = stage.start(task.task, worker, self.starts, locality, self.now);
        self.slots.consume(&attempt.worker.name, attempt.id);
        let assignment = self.assignment(&attempt);
        self.out.push(Action::AssignAttempt {
            worker: attempt.worker.clone(),
            assignment,
        });
        self.send_inputs(&attempt);
    }

    /// How an attempt of `stage` on `worker` counts.
    fn locality_of(&self, stage: StageId, worker: &str) -> LocalityCounts {
        let data = &self.graph.stages[stage.0 as usize].data;
        let mut counts = LocalityCounts::default();
        let chosen = self
            .workers
            .get(worker)
            .filter(|worker| worker.location().is_known());
        let Some(chosen) = chosen.filter(|_| !data.is_anywhere()) else {
            return counts;
        };
        let is_near = |worker: &Worker| data.level_for(worker.location()) < LocalityLevel::Elsewhere;
        match data.level_for(chosen.location()) {
            LocalityLevel::Node => counts.node = 1,
            LocalityLevel::Zone => counts.zone = 1,
            LocalityLevel::Elsewhere => {
                if self.workers.usable().any(is_near) {
                    counts.near_workers_busy = 1;
                } else {
                    counts.no_worker_near = 1;
                }
            }
        }
        counts
    }

    fn assignment(&self, attempt: &RunningAttempt) -> Assignment {
        let stage = &self.graph.stages[attempt.id.stage.0 as usize];
        Assignment {
            attempt: attempt.id,
            stream_epoch: attempt.stream_epoch,
            output_partitions: self.graph.exchanges[stage.output.0 as usize].partitions,
            inputs: self.assigned_inputs(stage, attempt.id.task),
            layout_version: IDENTITY_LAYOUT,
            layout_fingerprint: self.layout_fingerprint(stage),
            recommended_reduce_fetch_window_partitions: self.policy.reduce_fetch_window_partitions,
        }
    }

    fn assigned_inputs(&self, stage: &Stage, task: u32) -> Vec<AssignedInput> {
        let input = |input: &crate::plan::StageInput| {
            let exchange = &self.graph.exchanges[input.exchange.0 as usize];
            let writer = |stage: &StageId| Writer {
                stage: *stage,
                tasks: self.graph.stages[stage.0 as usize].tasks,
            };
            AssignedInput {
                writers: exchange.writers.iter().map(writer).collect(),
                assigned_reduce_partitions: match input.read {
                    ReadKind::OwnPartition => vec![task],
                    ReadKind::AllPartitions | ReadKind::OwnRange => (0..exchange.partitions).collect(),
                },
                range: match input.read {
                    ReadKind::OwnRange => self.range_of(stage.id, task).cloned(),
                    ReadKind::OwnPartition | ReadKind::AllPartitions => None,
                },
            }
        };
        stage.inputs.iter().map(input).collect()
    }

    /// A hash of everything that the layout of a stage depends on (FNV-1a, 64 bits).
    fn layout_fingerprint(&self, stage: &Stage) -> u64 {
        const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
        const PRIME: u64 = 0x0100_0000_01b3;
        let inputs = stage.inputs.iter().flat_map(|input| {
            let own = match input.read {
                ReadKind::AllPartitions => 0,
                ReadKind::OwnPartition => 1,
                ReadKind::OwnRange => 2,
            };
            let partitions = self.graph.exchanges[input.exchange.0 as usize].partitions;
            [input.exchange.0, own, partitions]
        });
        let words = [IDENTITY_LAYOUT.0, stage.id.0, stage.tasks]
            .into_iter()
            .chain(inputs);
        let ranges = self.stages.get(stage.id).ranges.iter();
        let bounds = ranges.filter_map(|range| range.upper.as_ref()).flat_map(|bound| {
            let key = bound.key.iter().copied();
            key.chain(bound.map_task.to_le_bytes())
        });
        let bytes = words.flat_map(u32::to_le_bytes).chain(bounds);
        bytes.fold(OFFSET_BASIS, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(PRIME)
        })
    }

    /// Tells a new attempt where all its inputs are.
    fn send_inputs(&mut self, attempt: &RunningAttempt) {
        let winners = self
            .stages
            .winners(&self.topology.inputs[attempt.id.stage.0 as usize]);
        let update = |winner| self.update_for(attempt.id, winner, InputState::Won);
        let updates: Vec<InputUpdate> = winners.map(update).collect();
        if !updates.is_empty() {
            self.out.push(Action::UpdateInputs {
                worker: attempt.worker.clone(),
                attempt: attempt.id,
                updates,
            });
        }
    }

    /// An indeterminate stage runs a task again whose rows may have been read: its readers must not mix them with
    /// other rows.
    fn restart_consumers_of_other_rows(&mut self, stage: StageId) {
        match self.graph.stages[stage.0 as usize].determinism {
            Determinism::Determinate | Determinism::Unordered => {}
            Determinism::Indeterminate => self.restart_consumers(stage),
        }
    }
}
