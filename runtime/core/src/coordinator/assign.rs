//! Which waiting task runs next, and where.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::attempts::{RunningAttempt, TaskRun};
use super::event::Action;
use super::outcome::QueryState;
use super::poison::Start;
use super::worker_registry::Worker;
use super::{Coordinator, MAX_ATTEMPTS_PER_TASK, stage_table};
use crate::ids::{StageId, TaskId, WorkerId};
use crate::locality::{LocalityCounts, LocalityLevel};
use crate::message::{AssignedInput, Assignment};
use crate::plan::{Determinism, ReadKind, Stage, StageInput};

impl Coordinator {
    /// Starts what can start, releases slots without work, and requests slots for the rest.
    pub(super) fn schedule(&mut self) {
        match self.state {
            QueryState::Running => {}
            QueryState::Committing { .. } | QueryState::Ended { .. } => return,
        }
        if self.recovery.is_waiting() {
            return;
        }
        let mut assigned = false;
        self.follow_demand();
        self.begin_scans_with_files();
        self.begin_preferences();
        while let Some((task, worker)) = self.next_start() {
            self.start(task, &worker, false);
            if self.has_ended() {
                return;
            }
            assigned = true;
            // What reads rows of another run starts over.
            self.follow_demand();
        }
        assigned |= self.start_duplicates();
        self.lease_slots(assigned);
    }

    /// The most urgent task that may run now, and the worker for it.
    fn next_start(&self) -> Option<(TaskId, String)> {
        self.slots.with_grants().next()?;
        let mut may_start = self.may_start();
        for stage in self.schedulable() {
            for task in self.due(stage) {
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

    /// The tasks of a stage that wait for a slot only: first those that prefer a worker with granted slots, then those that
    /// prefer none, then all. A granted slot is better used by a task that prefers another worker than not at all.
    fn due(&self, stage: StageId) -> impl Iterator<Item = TaskId> {
        let stage = self.stages.get(stage);
        let preferring = stage.has_preferences().then(|| {
            let granted = self.slots.with_grants().filter_map(|name| self.workers.get(name));
            let usable = granted.filter(|worker| self.workers.is_usable(worker));
            let at_theirs = usable.flat_map(|worker| stage.due_at(worker.id(), self.now));
            at_theirs.chain(stage.due_anywhere(self.now))
        });
        preferring.into_iter().flatten().chain(stage.due(self.now))
    }

    /// The worker with the best locality for the task, then the one with the most granted slots. The one where the task has just
    /// failed comes last; those of `not_there` are left out.
    pub(super) fn best_worker(&self, task: TaskId, not_there: &BTreeSet<String>) -> Option<String> {
        let data = &self.graph.stages[task.stage.0 as usize].data;
        let failed_on = self.stages.task(task).and_then(TaskRun::failed_on);
        let granted = self.slots.with_grants().filter_map(|name| self.workers.get(name));
        let offers =
            granted.filter(|worker| self.workers.is_usable(worker) && !not_there.contains(worker.name()));
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

    /// Starts an attempt of a task, or a duplicate of the one at work.
    pub(super) fn start(&mut self, task: TaskId, worker: &str, speculative: bool) {
        let Some(run) = self.stages.task(task) else {
            return;
        };
        if run.attempts >= MAX_ATTEMPTS_PER_TASK {
            self.fail_for_lost_attempts(task);
            return;
        }
        // If its rows are others than those before, its readers have started over for the first attempt.
        if run.has_won_before() && !speculative {
            self.restart_consumers_of_other_rows(task.stage);
        }
        self.finalize_layout(task.stage);
        self.filters.decide(task.stage);
        // A duplicate runs away from its straggler, whatever is near: that says nothing of the pool.
        let locality = match speculative {
            true => LocalityCounts::default(),
            false => self.locality_of(task, worker),
        };
        let Some(worker) = self.workers.get(worker).map(Worker::shared_id) else {
            return;
        };
        self.starts += 1;
        let how = stage_table::Start {
            number: self.starts,
            sorts_joins: self.joins.sorts(task),
            speculative,
        };
        self.stragglers.recheck(self.now);
        let stage = self.stages.get_mut(task.stage);
        let attempt = stage.start(task.task, worker, how, locality, self.now);
        self.slots.consume(&attempt.worker.name, attempt.id);
        self.subscribe(&attempt.worker, task.stage);
        self.define_layout(&attempt.worker, task.stage);
        let assignment = self.assignment(&attempt);
        self.out.push(Action::AssignAttempt {
            worker: WorkerId::clone(&attempt.worker),
            assignment,
        });
    }

    /// How an attempt of a task on `worker` counts towards the locality of its stage.
    fn locality_of(&self, task: TaskId, worker: &str) -> LocalityCounts {
        let data = &self.graph.stages[task.stage.0 as usize].data;
        let mut counts = LocalityCounts::default();
        let Some(chosen) = self.workers.get(worker) else {
            return counts;
        };
        let is_declared = !data.is_anywhere() && chosen.location().is_known();
        if !is_declared && self.graph.stages[task.stage.0 as usize].inputs.is_empty() {
            counts.same_files = (self.preference(task, chosen) == Some(LocalityLevel::Worker)).into();
            return counts;
        }
        let level = match is_declared {
            true => Some(data.level_for(chosen.location())),
            false => self.preference(task, chosen),
        };
        let is_near = |worker: &Worker| data.level_for(worker.location()) < LocalityLevel::Elsewhere;
        match level {
            None => {}
            Some(LocalityLevel::Worker) => counts.worker = 1,
            Some(LocalityLevel::Node) => counts.node = 1,
            Some(LocalityLevel::Zone) => counts.zone = 1,
            Some(LocalityLevel::Elsewhere) => {
                let near_is_usable = match is_declared {
                    true => self.workers.usable().any(is_near),
                    false => self.prefers_usable_worker(task),
                };
                if near_is_usable {
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
            inputs: self.assigned_inputs(stage, attempt.id.task_id()),
            layout: self.layouts.id(stage.id).unwrap_or_default(),
            recommended_reduce_fetch_window_partitions: self.policy.reduce_fetch_window_partitions,
            filters: self.filters.assigned(stage.id),
            sort_joins: attempt.sorts_joins,
            swapped_joins: match attempt.sorts_joins {
                true => Vec::new(),
                false => self.layouts.swapped_joins(stage.id).to_vec(),
            },
        }
    }

    fn assigned_inputs(&self, stage: &Stage, task: TaskId) -> Vec<AssignedInput> {
        let layout = self.layouts.get(stage.id);
        let own = layout.and_then(|layout| layout.tasks.get(task.task as usize));
        let input = |(number, input): (u32, &StageInput)| {
            let exchange = &self.graph.exchanges[input.exchange.0 as usize];
            AssignedInput {
                writers: self.writers_for(task, number, input.exchange),
                assigned_reduce_partitions: match input.read {
                    ReadKind::OwnPartition => {
                        own.into_iter().flat_map(|own| own.partitions.clone()).collect()
                    }
                    ReadKind::AllPartitions | ReadKind::OwnRange => (0..exchange.partitions).collect(),
                },
                range: match input.read {
                    ReadKind::OwnRange => self.assigned_range(task, input.exchange),
                    ReadKind::OwnPartition | ReadKind::AllPartitions => None,
                },
            }
        };
        (0..).zip(&stage.inputs).map(input).collect()
    }

    /// A task of an indeterminate stage runs again and makes other rows. Readers that may have rows of its old attempt start
    /// over.
    fn restart_consumers_of_other_rows(&mut self, stage: StageId) {
        match self.graph.stages[stage.0 as usize].determinism {
            Determinism::Determinate | Determinism::Unordered => {}
            Determinism::Indeterminate => self.restart_consumers(stage),
        }
    }
}
