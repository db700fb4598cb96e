//! The rules of attempts at work: a task has one, or a duplicate of it elsewhere, and after a success it has none.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;

use super::audit::Violation;
use crate::ids::{AttemptId, TaskId};
use crate::speculation::SpeculationPolicy;

/// Soon, so that attempts of a few milliseconds get duplicates, and often in vain.
pub fn random_policy(rng: &mut SmallRng) -> SpeculationPolicy {
    SpeculationPolicy {
        min_completed_samples: rng.random_range(0..=2),
        p95_multiplier_percent: rng.random_range(100..=200),
        min_runtime: Duration::from_millis(rng.random_range(0..100)),
        max_wasted_percent: rng.random_range(0..1_000),
    }
}

/// Attempts that were assigned and have neither ended, nor been cancelled or lost.
#[derive(Debug, Default)]
pub struct LiveAttempts {
    /// Whether a task may have two.
    speculates: bool,
    /// By task, each with its worker.
    live: BTreeMap<TaskId, BTreeMap<AttemptId, String>>,
    /// The attempt whose success was heard last.
    succeeded: Option<AttemptId>,
}

impl LiveAttempts {
    pub fn of(speculates: bool) -> Self {
        Self {
            speculates,
            ..Self::default()
        }
    }

    /// Checks that an attempt may start at a worker.
    pub fn assign(&mut self, attempt: AttemptId, worker: &str) -> Result<(), Violation> {
        let of_task = self.live.entry(attempt.task_id()).or_default();
        let most = if self.speculates { 2 } else { 1 };
        if of_task.len() >= most {
            let live = of_task.keys();
            return Err(format!("{attempt} was assigned while {live:?} is at work"));
        }
        if of_task.values().any(|host| host == worker) {
            return Err(format!("{attempt} was assigned to {worker}, where its task runs"));
        }
        of_task.insert(attempt, worker.to_owned());
        Ok(())
    }

    /// An attempt has ended; false if it was not at work.
    pub fn end(&mut self, attempt: AttemptId) -> bool {
        let of_task = self.live.get_mut(&attempt.task_id());
        of_task.is_some_and(|of_task| of_task.remove(&attempt).is_some())
    }

    /// An attempt has succeeded; false if it was not at work.
    pub fn succeed(&mut self, attempt: AttemptId) -> bool {
        let was_live = self.end(attempt);
        if was_live {
            self.succeeded = Some(attempt);
        }
        was_live
    }

    /// A worker is lost with its attempts.
    pub fn lose(&mut self, worker: &str) {
        let tasks = self.live.values_mut();
        tasks.for_each(|of_task| of_task.retain(|_, host| host != worker));
    }

    /// Checks that a success has ended all attempts of its task.
    pub fn on_handled(&mut self) -> Result<(), Violation> {
        let Some(winner) = self.succeeded.take() else {
            return Ok(());
        };
        let beside = self.live.get(&winner.task_id()).into_iter().flatten().next();
        match beside {
            Some((attempt, _)) => Err(format!("{attempt} is at work though {winner} has succeeded")),
            None => Ok(()),
        }
    }
}
