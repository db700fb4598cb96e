//! What one seed means: a query, workers, and faults.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::defects::Defect;
use super::joins::{joined_graph, random_policy};
use super::limit::limited_graph;
use super::live;
use super::model::random_graph;
use crate::coordinator::Policy;
use crate::ids::{CoordinatorEpoch, TaskId};
use crate::joins::JoinPolicy;
use crate::layout::AdaptivePolicy;
use crate::locality::LocalityPolicy;
use crate::plan::{ExchangeKind, StageGraph};
use sluice_crds::shuffle_query::ShuffleRetention;

/// When faults end, in milliseconds.
pub const FAULTS_END: u64 = 6_000;
/// When every query must have ended, in milliseconds.
const TIME_LIMIT: u64 = 120_000;
/// The longest delay of a message, in milliseconds.
pub const SLOWEST: u64 = 1_500;
/// How much later a repeated report comes at most, in milliseconds.
pub const LATEST_REPEAT: u64 = 4_000;
/// How long a sink takes to commit, in milliseconds.
pub const SINK_ANSWER: u64 = 20;

/// A fault of one worker.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// The process dies and comes back after a while, with nothing.
    Crash { back_after: u64 },
    /// The process freezes for a while and then goes on.
    Freeze { span: u64 },
    /// The session breaks.
    Disconnect,
    /// The worker takes no new attempts until it is started again.
    Drain,
    /// The worker is gone for good: dead, or frozen with its connections open.
    Vanish { frozen: bool },
}

/// What kind of faults a seed is drawn for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// Any that the query should survive.
    Any,
    /// As any, with a deadline that many queries miss.
    Deadline,
    /// As any, until every worker vanishes.
    Abandoned,
    /// A slow client that reads many root tasks, of workers that freeze and crash meanwhile.
    Client,
    /// As any, with a task that kills its worker whenever it runs.
    Poison,
    /// As any, of queries with a limit.
    Limit,
    /// As any, of joins that may be done in another way than planned.
    Join,
    /// As any, with a slow worker and duplicates of what it runs.
    Slow,
    /// As any, of coordinators that are lost.
    Recovery,
}

impl Scenario {
    pub const ALL: [Self; 9] = [
        Self::Deadline,
        Self::Abandoned,
        Self::Client,
        Self::Poison,
        Self::Limit,
        Self::Join,
        Self::Slow,
        Self::Recovery,
        Self::Any,
    ];

    /// The prefix of its seeds.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Any => "",
            Self::Deadline => "deadline-",
            Self::Abandoned => "abandoned-",
            Self::Client => "client-",
            Self::Poison => "poison-",
            Self::Limit => "limit-",
            Self::Join => "join-",
            Self::Slow => "slow-",
            Self::Recovery => "recovery-",
        }
    }
}

#[derive(Debug)]
pub struct Plan {
    pub graph: StageGraph,
    pub policy: Policy,
    /// Slots by worker.
    pub slots: Vec<u32>,
    pub faults: Vec<(u64, usize, Fault)>,
    /// When the coordinator is lost, ascending.
    pub coordinator_losses: Vec<u64>,
    /// Probability that a session message is lost.
    pub session_loss: f64,
    /// Probability that a fetch, or its answer, is lost.
    pub fetch_loss: f64,
    /// Probability that a message is slow.
    pub slow: f64,
    /// Probability that an attempt fails.
    pub failure: f64,
    /// Probability that an attempt hangs from a step on.
    pub hang: f64,
    /// Probability that a report is repeated, even into the next session.
    pub repeat: f64,
    /// A task that kills its worker.
    pub poison: Option<TaskId>,
    pub cancel_at: Option<u64>,
    pub sink_fails: bool,
    /// The longest that the client takes for one chunk, in milliseconds.
    pub client_pause: u64,
    /// A worker whose work takes so many times as long.
    pub slow_worker: Option<(usize, u64)>,
    /// When the last worker has vanished.
    pub abandoned_at: Option<u64>,
    pub defect: Defect,
}

impl Plan {
    pub fn new(seed: u64, scenario: Scenario) -> (Self, SmallRng) {
        let (mut plan, mut rng) = Self::any(seed);
        match scenario {
            Scenario::Any => {}
            Scenario::Deadline => {
                plan.policy.deadline = Some(Duration::from_millis(rng.random_range(50..5_000)));
            }
            Scenario::Abandoned => plan.abandon(&mut rng),
            Scenario::Client => plan.slow_client(&mut rng),
            Scenario::Poison => plan.poison(&mut rng),
            Scenario::Limit => plan.graph = limited_graph(&mut rng),
            Scenario::Join => {
                plan.graph = joined_graph(&mut rng);
                plan.policy.joins = Some(random_policy(&mut rng));
            }
            Scenario::Slow => plan.slow_worker(&mut rng),
            Scenario::Recovery => plan.lose_coordinators(&mut rng),
        }
        (plan, rng)
    }

    /// Lets every worker vanish, and removes other causes that could end the query first.
    fn abandon(&mut self, rng: &mut SmallRng) {
        let from = rng.random_range(0..500);
        for worker in 0..self.slots.len() {
            let (at, frozen) = (from + rng.random_range(0..100), rng.random_bool(0.4));
            self.faults.push((at, worker, Fault::Vanish { frozen }));
            self.abandoned_at = self.abandoned_at.max(Some(at));
        }
        self.policy.no_workers_grace = Duration::from_millis(rng.random_range(500..4_000));
        self.policy.exclude_worker_after_failures = u32::MAX;
        self.failure = 0.0;
        self.hang = 0.0;
        self.sink_fails = false;
        self.cancel_at = None;
    }

    /// Makes a task poison, and removes other causes that could end the query first.
    fn poison(&mut self, rng: &mut SmallRng) {
        let stage = &self.graph.stages[rng.random_range(0..self.graph.stages.len())];
        // The layout may leave out any other task.
        let tasks = if stage.coalesces { 1 } else { stage.tasks };
        self.poison = Some(TaskId {
            stage: stage.id,
            task: rng.random_range(0..tasks),
        });
        self.policy.exclude_worker_after_failures = u32::MAX;
        self.failure = 0.0;
        self.cancel_at = None;
    }

    fn slow_client(&mut self, rng: &mut SmallRng) {
        self.policy.sink = false;
        self.cancel_at = None;
        self.client_pause = rng.random_range(50..800);
        // Root tasks win one after the other, and the client gives a worker up before the coordinator does.
        self.slots.fill(1);
        self.policy.worker_liveness_timeout = Duration::from_millis(4_000);
        let tasks = rng.random_range(4..=8);
        let root = self.graph.stages.last_mut();
        let own = root.and_then(|root| {
            root.tasks = tasks;
            root.inputs.last().map(|input| input.exchange)
        });
        let own = own.and_then(|own| self.graph.exchanges.get_mut(own.0 as usize));
        if let Some(exchange) = own.filter(|exchange| exchange.kind != ExchangeKind::Range) {
            exchange.partitions = tasks;
        }
        for _ in 0..3 {
            let worker = rng.random_range(0..self.slots.len());
            let fault = if rng.random_bool(0.7) {
                Fault::Freeze {
                    span: rng.random_range(2_000..6_000),
                }
            } else {
                Fault::Crash {
                    back_after: rng.random_range(50..4_000),
                }
            };
            self.faults.push((rng.random_range(300..3_000), worker, fault));
        }
    }

    /// Lets a worker take long, and others run duplicates of what it runs.
    fn slow_worker(&mut self, rng: &mut SmallRng) {
        if self.slots.len() < 2 {
            self.slots.push(2);
        }
        self.slow_worker = Some((rng.random_range(0..self.slots.len()), rng.random_range(5..40)));
        self.policy.speculation = Some(live::random_policy(rng));
    }

    /// Loses the coordinator while tasks run, perhaps several times.
    fn lose_coordinators(&mut self, rng: &mut SmallRng) {
        self.cancel_at = None;
        // Many workers come later than the shorter time.
        let wait = if rng.random_bool(0.5) { 20 } else { 400 };
        self.policy.recovery_wait = Duration::from_millis(wait);
        let count = rng.random_range(1..=3);
        let mut at = 0;
        for _ in 0..count {
            at += rng.random_range(30..700);
            self.coordinator_losses.push(at);
        }
    }

    /// Puts in a defect, and what brings it to light.
    pub fn inject(&mut self, defect: Defect) {
        self.defect = defect;
        match defect {
            Defect::KeepFiles => {
                self.policy.sink = true;
                self.sink_fails = true;
            }
            Defect::EndEarly => self.cancel_at = Some(0),
            Defect::None
            | Defect::DropSuccess
            | Defect::RepeatRow
            | Defect::LoseChunk
            | Defect::HideIndeterminacy
            | Defect::FailAttempts
            | Defect::GrantTwice
            | Defect::LongTimeouts
            | Defect::ShortTimeouts
            | Defect::FailForAnyRow
            | Defect::DeliverAgain
            | Defect::KeepForeignRows
            | Defect::ReportAllDrained
            | Defect::SkipPartition
            | Defect::ReadPartitionTwice
            | Defect::AssignTooFew
            | Defect::DropKeys
            | Defect::HalfLimit
            | Defect::KeepOutputs
            | Defect::DropFilledPartition
            | Defect::NeverSort
            | Defect::ReportNoRows
            | Defect::SkipMapTask
            | Defect::ReadPartOfWhole
            | Defect::SwapInSome
            | Defect::DropUpdate
            | Defect::RepeatUpdate
            | Defect::KeepFirstUpdate
            | Defect::NeverCancel
            | Defect::TellLoser
            | Defect::NumberAgain
            | Defect::RelabelOutputs => {}
        }
    }

    /// The policy that a coordinator gets.
    pub fn coordinator_policy(&self, epoch: CoordinatorEpoch) -> Policy {
        let stretched = |span: Duration| {
            if self.defect == Defect::LongTimeouts {
                span * 100
            } else if self.defect == Defect::ShortTimeouts {
                span / 2
            } else {
                span
            }
        };
        Policy {
            coordinator_epoch: match self.defect {
                Defect::NumberAgain => CoordinatorEpoch(1),
                _ => epoch,
            },
            recovery_wait: match epoch {
                CoordinatorEpoch(1) => Duration::ZERO,
                _ => self.policy.recovery_wait,
            },
            deadline: self.policy.deadline.map(stretched),
            no_workers_grace: stretched(self.policy.no_workers_grace),
            retention: if self.defect == Defect::KeepOutputs {
                ShuffleRetention::UntilEnd
            } else {
                self.policy.retention
            },
            // Its layouts are others than those of its predecessor.
            adaptive: match self.defect {
                Defect::RelabelOutputs if epoch.0 > 1 => None,
                _ => self.policy.adaptive,
            },
            ..self.policy.clone()
        }
    }

    /// When the query must have ended at the latest, in milliseconds.
    pub fn ends_by(&self) -> u64 {
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(TIME_LIMIT);
        // A sink that was asked to commit before the deadline decides how the query ends.
        let deadline = self.policy.deadline.map(|span| millis(span) + SINK_ANSWER);
        // The last that is heard of a vanished worker is a report that was repeated late.
        let heard_last = self.abandoned_at.map(|at| at + SLOWEST + LATEST_REPEAT);
        let given_up = heard_last.map(|at| {
            at + millis(self.policy.worker_liveness_timeout) + millis(self.policy.no_workers_grace)
        });
        [deadline, given_up]
            .into_iter()
            .flatten()
            .fold(TIME_LIMIT, u64::min)
    }

    fn any(seed: u64) -> (Self, SmallRng) {
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
        let hang = one_of(&[0.0, 0.0, 0.0, 0.02]);
        let plan = Self {
            graph,
            policy: Policy {
                max_task_attempts: 4,
                retry_backoff_base: Duration::from_millis(50),
                exclude_worker_after_failures: 6,
                worker_liveness_timeout: Duration::from_millis(2_000),
                coordinator_epoch: CoordinatorEpoch(1),
                recovery_wait: Duration::ZERO,
                no_workers_grace: Duration::from_millis(12_000),
                // No attempt that works is silent for so long here; workers report no counters.
                attempt_stall_timeout: Duration::from_millis(20_000),
                deadline: None,
                reduce_fetch_window_partitions: 4,
                min_range_bytes: rng.random_range(1..100_000),
                adaptive: rng.random_bool(0.8).then(|| random_adaptive(&mut rng)),
                joins: Some(JoinPolicy::new(0)),
                speculation: None,
                locality: LocalityPolicy {
                    min_bytes: if seed.is_multiple_of(5) { u64::MAX } else { 1 },
                    max_wait: Duration::from_millis(100),
                },
                retention: match seed % 2 {
                    0 => ShuffleRetention::UntilRead,
                    _ => ShuffleRetention::UntilEnd,
                },
                sink: rng.random_bool(0.4),
            },
            slots,
            faults,
            coordinator_losses: Vec::new(),
            session_loss,
            fetch_loss,
            slow,
            failure,
            hang,
            repeat,
            poison: None,
            cancel_at: rng.random_bool(0.05).then(|| rng.random_range(0..1_500)),
            sink_fails: !calm && rng.random_bool(0.03),
            client_pause: 40,
            slow_worker: None,
            abandoned_at: None,
            defect: Defect::None,
        };
        (plan, rng)
    }

    /// Whether nothing goes wrong: such a query must succeed.
    pub fn is_calm(&self) -> bool {
        let chances = self.session_loss + self.fetch_loss + self.failure + self.hang;
        let ends_early = self.sink_fails
            || self.cancel_at.is_some()
            || self.policy.deadline.is_some()
            || self.poison.is_some();
        self.faults.is_empty() && chances == 0.0 && !ends_early
    }
}

/// Frames have up to 90,000 bytes.
fn random_adaptive(rng: &mut SmallRng) -> AdaptivePolicy {
    let bounded = rng.random_bool(0.3);
    let max_tasks = if bounded { rng.random_range(1..=4) } else { 0 };
    AdaptivePolicy {
        target_bytes: rng.random_range(1..1_500_000),
        min_tasks: if bounded {
            rng.random_range(1..=max_tasks)
        } else {
            1
        },
        max_tasks,
        max_partitions_per_task: if bounded { rng.random_range(0..=3) } else { 0 },
        // With few bytes, partitions that differ by chance are hot.
        min_task_bytes: if rng.random_bool(0.5) {
            rng.random_range(1..5_000)
        } else {
            rng.random_range(1..1_000_000)
        },
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
    // Most queries end soon, so late faults hit fewer of them.
    let latest = if rng.random_bool(0.7) { 600 } else { FAULTS_END };
    (rng.random_range(0..latest), rng.random_range(0..workers), fault)
}
