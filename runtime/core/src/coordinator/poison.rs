//! Tasks that were lost together with their workers. docs/decisions/0006-poison-tasks.md has the rule and its reasons.

use std::collections::{BTreeMap, BTreeSet};

use super::Coordinator;
use super::attempts::TaskRun;
use super::event::{Outcome, QueryFailure};
use super::outcome::{QueryState, shorten};
use crate::ids::{AttemptId, TaskId, WorkerId};
use crate::time::Instant;
use sluice_crds::ErrorReason;

/// How many workers may be lost while they run attempts of one task. The last loss ends the query.
pub const MAX_WORKERS_LOST_WITH_TASK: usize = 2;

/// A worker that was lost unannounced while it ran an attempt of a task.
#[derive(Debug, Clone)]
struct Loss {
    worker: WorkerId,
    attempt: AttemptId,
    at: Instant,
    /// Whether a later start of the worker has joined, which proves that this one has ended.
    died: bool,
    message: String,
}

/// The losses of each task that has not won since.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    losses: BTreeMap<TaskId, Vec<Loss>>,
}

/// How a task may run.
///
/// ```text
/// Clear -> Isolated -> Blocked -> (the query fails)
///   ^_________|_________|        (it won, or the worker came back as it was)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PoisonState {
    /// As any other.
    Clear,
    /// It was lost with a worker: it runs beside no other such task.
    Isolated,
    /// It was lost with as many workers as allowed. It does not run.
    Blocked {
        /// When the query stops waiting for the lost workers to return.
        until: Instant,
    },
}

/// Where a task may start.
pub(super) enum Start {
    /// At any worker.
    Anywhere,
    /// At any but these: other tasks that were lost with a worker run there.
    AwayFrom(BTreeSet<String>),
    /// Nowhere yet.
    No,
}

impl Suspects {
    /// Whether every task that was lost with a worker has won since.
    pub(super) fn is_empty(&self) -> bool {
        self.losses.is_empty()
    }

    /// Tasks that are isolated or blocked.
    fn tasks(&self) -> impl Iterator<Item = TaskId> {
        self.losses.keys().copied()
    }

    pub(super) fn contains(&self, task: TaskId) -> bool {
        self.losses.contains_key(&task)
    }

    /// How many workers were lost with tasks that have not won since.
    fn lost_workers(&self) -> usize {
        let workers = self.losses.values().flatten().map(|loss| &loss.worker);
        workers.collect::<BTreeSet<_>>().len()
    }

    /// The task has won, so its losses had other reasons.
    pub(super) fn clear(&mut self, task: TaskId) {
        self.losses.remove(&task);
    }

    /// A worker has joined. If it is the start that was lost, the task has not killed it. If it is a later start, the lost one
    /// has died.
    pub(super) fn on_joined(&mut self, worker: &WorkerId) {
        for losses in self.losses.values_mut() {
            losses.retain(|loss| loss.worker != *worker);
            for loss in losses.iter_mut().filter(|loss| loss.worker.name == worker.name) {
                loss.died = true;
            }
        }
        self.losses.retain(|_, losses| !losses.is_empty());
    }
}

impl Coordinator {
    /// Records the attempts whose ends a lost worker has not reported, cancelled ones too. Those do not count whose task has won
    /// by another attempt: it was rather the worker that was slow.
    pub(super) fn suspect(&mut self, worker: &WorkerId, attempts: &BTreeSet<AttemptId>, message: &str) {
        for attempt in attempts {
            let run = self.stages.task(attempt.task_id());
            if run.is_some_and(|run| run.winner().or(run.unneeded_winner()).is_some()) {
                continue;
            }
            let losses = self.suspects.losses.entry(attempt.task_id()).or_default();
            if losses.iter().all(|loss| loss.worker != *worker) {
                losses.push(Loss {
                    worker: worker.clone(),
                    attempt: *attempt,
                    at: self.now,
                    died: false,
                    message: message.to_owned(),
                });
            }
        }
    }

    pub(super) fn poison_state(&self, task: TaskId) -> PoisonState {
        let Some(losses) = self.suspects.losses.get(&task) else {
            return PoisonState::Clear;
        };
        if losses.len() < MAX_WORKERS_LOST_WITH_TASK {
            return PoisonState::Isolated;
        }
        let died = losses.iter().filter(|loss| loss.died).count();
        let last = losses.iter().map(|loss| loss.at).max().unwrap_or_default();
        let until = if died >= MAX_WORKERS_LOST_WITH_TASK {
            last
        } else {
            // If only the session broke, the worker is back within this time.
            last + self.policy.worker_liveness_timeout
        };
        PoisonState::Blocked { until }
    }

    /// When blocked tasks come to their poison_deadlines.
    pub(super) fn poison_deadlines(&self) -> impl Iterator<Item = Instant> {
        let states = self.suspects.tasks().map(|task| self.poison_state(task));
        states.filter_map(|state| match state {
            PoisonState::Blocked { until } => Some(until),
            PoisonState::Clear | PoisonState::Isolated => None,
        })
    }

    /// Returns a function that says where a task may start; each call may use up room for one suspect.
    pub(super) fn may_start(&self) -> impl FnMut(TaskId) -> Start {
        let hosts = self.hosts_of_suspects();
        let mut room = if self.suspects.is_empty() {
            0
        } else if self.suspects.lost_workers() >= MAX_WORKERS_LOST_WITH_TASK {
            usize::from(hosts.is_empty())
        } else {
            let usable = self.workers.usable();
            usable.filter(|worker| !hosts.contains(worker.name())).count()
        };
        move |task| match self.poison_state(task) {
            PoisonState::Clear => Start::Anywhere,
            PoisonState::Isolated if room > 0 => {
                room -= 1;
                Start::AwayFrom(hosts.clone())
            }
            PoisonState::Isolated | PoisonState::Blocked { .. } => Start::No,
        }
    }

    /// The workers that run attempts of isolated tasks.
    fn hosts_of_suspects(&self) -> BTreeSet<String> {
        if self.suspects.losses.is_empty() {
            return BTreeSet::new();
        }
        // An attempt that waits for a lost input does nothing, and the input may be what the other task makes.
        let is_suspect = |attempt: &AttemptId| {
            self.suspects.contains(attempt.task_id()) && self.inputs_done(attempt.stage)
        };
        let workers = self.workers.all();
        let hosts = workers.filter(|worker| self.slots.occupied(worker).any(is_suspect));
        hosts.map(|worker| worker.name().to_owned()).collect()
    }

    /// Fails the query for a task that must run and is blocked.
    pub(super) fn fail_poison_task(&mut self) {
        if self.state != QueryState::Running || self.poison_deadlines().all(|until| until > self.now) {
            return;
        }
        let schedulable: BTreeSet<_> = self.schedulable().collect();
        let is_due = |task: &TaskId| {
            let waits = self.stages.task(*task).is_some_and(TaskRun::is_waiting);
            match self.poison_state(*task) {
                PoisonState::Blocked { until } => {
                    until <= self.now && waits && schedulable.contains(&task.stage)
                }
                PoisonState::Clear | PoisonState::Isolated => false,
            }
        };
        let Some(task) = self.suspects.tasks().find(is_due) else {
            return;
        };
        let failure = self.poisoned(task);
        self.end(Outcome::Failed(failure));
    }

    fn poisoned(&self, task: TaskId) -> QueryFailure {
        let losses = self
            .suspects
            .losses
            .get(&task)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let described = losses
            .iter()
            .map(|loss| format!("{} ({})", loss.worker, shorten(&loss.message)));
        let label = self
            .graph
            .stages
            .get(task.stage.0 as usize)
            .map(|stage| stage.label.as_str());
        QueryFailure {
            reason: ErrorReason::PoisonTask,
            message: format!(
                "task {task} ({}) was lost together with its worker {} times, so the query ends before it takes more \
                 of them along: {}. See how those workers ended (kubectl describe pod, or their logs). Out of memory: \
                 raise the memory limit above workers.memory, give workers fewer slots, or make the values that the \
                 query builds smaller. Stopped on purpose: run the query again",
                shorten(label.unwrap_or_default()),
                losses.len(),
                described.collect::<Vec<_>>().join(", "),
            ),
            attempt: losses.last().map(|loss| loss.attempt),
        }
    }
}
