//! Which attempts get a duplicate, and where. `../speculation/README.md` has the rules and their reasons.

use std::collections::BTreeSet;
use std::time::Duration;

use super::attempts::{RunningAttempt, TaskRun};
use super::outcome::QueryState;
use super::spread::Runnable;
use super::stage_table::StageRun;
use super::worker_registry::Worker;
use super::{Coordinator, MAX_ATTEMPTS_PER_TASK};
use crate::ids::{AttemptId, StageId, TaskId, WorkerId};
use crate::metrics::AttemptMetrics;
use crate::speculation::{RunningTask, SpeculationCosts, SpeculationPolicy, Verdict};
use crate::time::Instant;

/// How long after a start or an end of an attempt stragglers are searched, as `spark.speculation.interval` is.
const CHECK_PERIOD: Duration = Duration::from_millis(100);
/// Most duplicates of one task: those that fail, or give up their slots, do not start for ever.
const MAX_DUPLICATES_PER_TASK: u32 = 3;
/// Most duplicates for which slots are requested at the same time.
const MAX_REQUESTED: usize = 64;

/// The attempts that should have a duplicate, as of the last search.
#[derive(Debug, Default)]
pub(super) struct Stragglers {
    /// The one first that will take longest.
    attempts: Vec<AttemptId>,
    /// When to search next, if anything is known that could become a straggler.
    due: Option<Instant>,
}

impl Stragglers {
    /// Attempts have begun or ended, so there may be other stragglers.
    pub(super) fn recheck(&mut self, now: Instant) {
        let at = now + CHECK_PERIOD;
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }
}

/// A straggler and where its duplicate may not run.
struct Duplicate {
    task: TaskId,
    away_from: BTreeSet<String>,
}

impl Coordinator {
    /// Records how long a task has taken that wins.
    pub(super) fn record_runtime(&mut self, task: TaskId, since: Instant, metrics: &AttemptMetrics) {
        if self.policy.speculation.is_none() {
            return;
        }
        let (runtime, size) = (self.now.since(since), self.layouts.relative_size(task));
        let stage = self.stages.get_mut(task.stage);
        stage.record_runtime(runtime, size, rows_read(metrics));
    }

    /// When attempts may become stragglers.
    pub(super) fn next_straggler_check(&self) -> Option<Instant> {
        self.stragglers.due.filter(|_| self.policy.speculation.is_some())
    }

    /// Searches for stragglers, if it is time to.
    pub(super) fn find_stragglers(&mut self) {
        let is_due = self.next_straggler_check().is_some_and(|due| due <= self.now);
        let policy = self.policy.speculation.clone().filter(|_| is_due);
        let Some(policy) = policy.filter(|_| self.state == QueryState::Running) else {
            return;
        };
        self.stragglers = Stragglers::default();
        self.restart_clocks_of_waiting_readers();
        // The next start or end of an attempt leads to another search.
        let room = policy.room(&self.speculation_costs());
        if room == 0 || self.has_due_tasks() {
            return;
        }
        let mut found: Vec<(Duration, AttemptId)> = Vec::new();
        let mut next: Option<Instant> = None;
        for (attempt, verdict) in self.judge_running(&policy) {
            match verdict {
                Verdict::Straggler { time_left } => found.push((time_left, attempt.id)),
                Verdict::NotBefore(runtime) => {
                    let at = attempt.clock + runtime;
                    next = Some(next.map_or(at, |next| next.min(at)));
                }
            }
        }
        found.sort_by_key(|(time_left, attempt)| (std::cmp::Reverse(*time_left), *attempt));
        found.truncate(room as usize);
        self.stragglers.attempts = found.into_iter().map(|(_, attempt)| attempt).collect();
        self.stragglers.due = self.stragglers.due.into_iter().chain(next).min();
    }

    /// Readers that wait until an input was made again do not count as slow for that.
    fn restart_clocks_of_waiting_readers(&mut self) {
        let running = self.stages.iter().filter(|stage| stage.is_running());
        let waiting = running.map(StageRun::id).filter(|id| !self.inputs_done(*id));
        for id in waiting.collect::<Vec<StageId>>() {
            self.stages.get_mut(id).restart_clocks(self.now);
            self.stragglers.recheck(self.now);
        }
    }

    /// What is thought of each attempt that may have a duplicate.
    fn judge_running(&self, policy: &SpeculationPolicy) -> Vec<(&RunningAttempt, Verdict)> {
        let mut verdicts = Vec::new();
        let stages = self.stages.iter();
        for stage in stages.filter(|stage| stage.is_running() && self.inputs_done(stage.id())) {
            let Some(norm) = policy.norm(stage.runtimes()) else {
                continue;
            };
            let open = stage
                .sole_attempts()
                .filter(|(run, attempt)| self.may_be_duplicated(run, attempt));
            verdicts.extend(open.map(|(_, attempt)| {
                let task = RunningTask {
                    runtime: self.now.since(attempt.clock),
                    size: self.layouts.relative_size(attempt.id.task_id()),
                    rows_read: rows_read(&attempt.metrics),
                };
                (attempt, norm.judge(task))
            }));
        }
        verdicts
    }

    /// Tasks that were lost with their worker run at one worker at a time.
    fn may_be_duplicated(&self, run: &TaskRun, attempt: &RunningAttempt) -> bool {
        run.duplicates() < MAX_DUPLICATES_PER_TASK
            && run.attempts < MAX_ATTEMPTS_PER_TASK / 2
            && !self.suspects.contains(attempt.id.task_id())
    }

    fn speculation_costs(&self) -> SpeculationCosts {
        let slots = self.workers.usable().map(Worker::slots);
        let mut costs = SpeculationCosts {
            slots: slots.fold(0, u32::saturating_add),
            ..SpeculationCosts::default()
        };
        for stage in self.stages.iter() {
            let wasted = Duration::from_millis(stage.counts().speculation.wasted_ms);
            costs.wasted = costs.wasted.saturating_add(wasted);
            costs.won = costs.won.saturating_add(stage.runtimes().total());
        }
        for attempt in self
            .stages
            .running_attempts()
            .filter(|attempt| attempt.speculative)
        {
            costs.running += 1;
            costs.wasted = costs.wasted.saturating_add(self.now.since(attempt.assigned));
        }
        costs
    }

    /// Whether a task that has no attempt could start if it had a slot.
    fn has_due_tasks(&self) -> bool {
        let mut stages = self.schedulable();
        stages.any(|stage| self.stages.get(stage).due(self.now).next().is_some())
    }

    /// The stragglers that have no duplicate yet, if no slot is needed for anything else.
    fn duplicates(&self) -> Vec<Duplicate> {
        let attempt_of = |id: &AttemptId| {
            let attempt = self.stages.task(id.task_id())?.sole_attempt()?;
            (attempt.id == *id && self.inputs_done(id.stage)).then_some(attempt)
        };
        let attempts: Vec<_> = self.stragglers.attempts.iter().filter_map(attempt_of).collect();
        if attempts.is_empty() || self.has_due_tasks() {
            return Vec::new();
        }
        let slow = self.slow_workers(&attempts);
        let is_elsewhere = |worker: &Worker| !slow.contains(worker.name());
        let others = self.workers.usable().any(is_elsewhere);
        let duplicate = |attempt: &&RunningAttempt| Duplicate {
            task: attempt.id.task_id(),
            away_from: match others {
                true => slow.clone(),
                false => BTreeSet::from([attempt.worker.name.clone()]),
            },
        };
        attempts.iter().take(MAX_REQUESTED).map(duplicate).collect()
    }

    /// The workers that run stragglers, and all workers of their nodes.
    fn slow_workers(&self, stragglers: &[&RunningAttempt]) -> BTreeSet<String> {
        let names: BTreeSet<&str> = stragglers
            .iter()
            .map(|attempt| attempt.worker.name.as_str())
            .collect();
        let hosts = names.iter().filter_map(|name| self.workers.get(name));
        let nodes: BTreeSet<&str> = hosts
            .filter_map(|worker| worker.location().node.as_deref())
            .collect();
        let is_slow = |worker: &&Worker| {
            let node = worker.location().node.as_deref();
            names.contains(worker.name()) || node.is_some_and(|node| nodes.contains(node))
        };
        let slow = self.workers.all().filter(is_slow);
        slow.map(|worker| worker.name().to_owned()).collect()
    }

    /// Starts the duplicates that granted slots can run; says whether there were any. One that ends in vain has no successor before
    /// the next search.
    pub(super) fn start_duplicates(&mut self) -> bool {
        let mut started = false;
        while let Some((task, worker)) = self.next_duplicate() {
            self.stragglers
                .attempts
                .retain(|straggler| straggler.task_id() != task);
            self.start(task, &worker, true);
            started = true;
        }
        started
    }

    /// The next duplicate that a granted slot can run, and the worker for it.
    fn next_duplicate(&self) -> Option<(TaskId, String)> {
        self.slots.with_grants().next()?;
        let duplicates = self.duplicates().into_iter();
        let mut placed = duplicates.filter_map(|duplicate| {
            let worker = self.best_worker(duplicate.task, &duplicate.away_from)?;
            Some((duplicate.task, worker))
        });
        placed.next()
    }

    /// The duplicates that could start now, given slots.
    pub(super) fn runnable_duplicates(&self) -> Vec<Runnable> {
        let runnable = self.duplicates().into_iter().map(|duplicate| Runnable {
            stage: duplicate.task.stage,
            count: 1,
            away_from: Some(duplicate.away_from),
            failed_on: None,
            preferred: None,
        });
        runnable.collect()
    }

    /// Lets the youngest duplicate give up its slot, when other tasks have waited for one for too long.
    pub(super) fn free_slot_of_duplicate(&mut self) {
        if !self.slots.has_starved(self.now) {
            return;
        }
        let running = self.stages.running_attempts();
        let duplicates = running.filter(|attempt| self.stages.is_duplicate(attempt.id));
        let at_usable = duplicates.filter(|attempt| {
            let worker = self.workers.get(&attempt.worker.name);
            worker.is_some_and(|worker| self.workers.is_usable(worker))
        });
        if let Some(youngest) = at_usable.max_by_key(|attempt| attempt.start) {
            let (worker, attempt) = (WorkerId::clone(&youngest.worker), youngest.id);
            self.cancel_attempt(worker, attempt);
            self.slots.restart_starvation(self.now);
        }
    }
}

/// Rows that an attempt has read, of tables and exchanges.
fn rows_read(metrics: &AttemptMetrics) -> u64 {
    metrics.rows_read.saturating_add(metrics.shuffle_rows_in)
}
