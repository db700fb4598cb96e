//! What one seed means: a query, workers, and what goes wrong.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::model::random_graph;
use crate::coordinator::Policy;
use crate::plan::StageGraph;

/// When things stop going wrong, in milliseconds.
pub const FAULTS_END: u64 = 6_000;

/// Something that goes wrong with one worker.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// The process dies and comes back after a while, with nothing.
    Crash { back_after: u64 },
    /// The process stands still for a while and then goes on as if nothing had been.
    Freeze { span: u64 },
    /// The session breaks.
    Disconnect,
    /// The worker takes no new attempts until it is started again.
    Drain,
}

/// A defect put in on purpose, to show that the checks notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    None,
    /// Workers keep their successes to themselves.
    MuteSuccess,
    /// A stage writes one row of each task twice.
    RepeatRow,
    /// A reader loses the rows of one chunk.
    LoseChunk,
    /// The coordinator is not told that a second run of a stage makes other rows.
    HideIndeterminacy,
}

#[derive(Debug)]
pub struct Plan {
    pub graph: StageGraph,
    pub policy: Policy,
    /// Slots by worker.
    pub slots: Vec<u32>,
    pub faults: Vec<(u64, usize, Fault)>,
    /// Probability that a session message is lost.
    pub session_loss: f64,
    /// Probability that a fetch, or its answer, is lost.
    pub fetch_loss: f64,
    /// Probability that a message is slow.
    pub slow: f64,
    /// Probability that an attempt fails.
    pub failure: f64,
    /// Probability that a report is repeated, even into the next session.
    pub repeat: f64,
    pub cancel_at: Option<u64>,
    pub sink_fails: bool,
    pub sabotage: Sabotage,
}

impl Plan {
    pub fn new(seed: u64) -> (Self, SmallRng) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let graph = random_graph(&mut rng);
        let workers = rng.random_range(1..=4_usize);
        let slots = (0..workers).map(|_| rng.random_range(1..=3)).collect();
        let calm = rng.random_bool(0.15);
        let count = if calm { 0 } else { rng.random_range(0..=5) };
        let faults = (0..count).map(|_| random_fault(&mut rng, workers)).collect();
        let mut one_of = |chances: &[f64]| {
            let chance = chances[rng.random_range(0..chances.len())];
            if calm { 0.0 } else { chance }
        };
        let session_loss = one_of(&[0.0, 0.0, 0.002, 0.02]);
        let fetch_loss = one_of(&[0.0, 0.02, 0.15]);
        let slow = one_of(&[0.0, 0.05]);
        let failure = one_of(&[0.0, 0.0, 0.05]);
        let repeat = one_of(&[0.0, 0.3]);
        let plan = Self {
            graph,
            policy: Policy {
                max_task_attempts: 4,
                retry_backoff_base: Duration::from_millis(50),
                blacklist_after_failures: 6,
                worker_liveness_timeout: Duration::from_millis(2_000),
                no_workers_grace: Duration::from_millis(12_000),
                deadline: None,
                reduce_fetch_window_partitions: 4,
                sink: rng.random_bool(0.4),
            },
            slots,
            faults,
            session_loss,
            fetch_loss,
            slow,
            failure,
            repeat,
            cancel_at: rng.random_bool(0.05).then(|| rng.random_range(0..1_500)),
            sink_fails: !calm && rng.random_bool(0.03),
            sabotage: Sabotage::None,
        };
        (plan, rng)
    }

    /// Whether nothing goes wrong: such a query must succeed.
    pub fn is_calm(&self) -> bool {
        let chances = self.session_loss + self.fetch_loss + self.failure;
        self.faults.is_empty() && chances == 0.0 && !self.sink_fails && self.cancel_at.is_none()
    }
}

fn random_fault(rng: &mut SmallRng, workers: usize) -> (u64, usize, Fault) {
    let fault = match rng.random_range(0..8) {
        0..=2 => Fault::Crash {
            back_after: rng.random_range(50..4_000),
        },
        3..=5 => Fault::Freeze {
            span: rng.random_range(50..5_000),
        },
        6 => Fault::Disconnect,
        _ => Fault::Drain,
    };
    // Most queries are over soon: what goes wrong later hits fewer of them.
    let latest = if rng.random_bool(0.7) { 600 } else { FAULTS_END };
    (rng.random_range(0..latest), rng.random_range(0..workers), fault)
}
