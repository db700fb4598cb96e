//! Stragglers: attempts that run much longer than other tasks of their stage took, and how many duplicates of them are worth
//! their slots. `speculation/README.md` has the rules and where they come from.

mod runtimes;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use runtimes::Runtimes;

/// Of the query's slots, the part that duplicates may have at the same time.
const SLOTS_DIVISOR: u32 = 4;

/// When an attempt counts as a straggler, and what duplicates may cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpeculationPolicy {
    /// Tasks of the stage that must have won before.
    pub min_completed_samples: u32,
    /// From which part of the 95th percentile of runtimes on, in percent: 150 is one and a half times as long.
    pub p95_multiplier_percent: u32,
    /// No attempt that has run for less is a straggler.
    pub min_runtime: Duration,
    /// The time that duplicates may take in vain, in percent of what the winners of the query took.
    pub max_wasted_percent: u32,
}

/// The size of a task beside the average of its stage, in percent. Smaller ones count as average, since a part of their work
/// does not depend on their size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelativeSize(u64);

impl RelativeSize {
    /// An average task, or one of a stage of which no sizes are known.
    pub const AVERAGE: Self = Self(100);

    /// A task that reads so many of the bytes that so many tasks share.
    pub fn of(bytes: u64, total_bytes: u64, tasks: u64) -> Self {
        let percent = u128::from(bytes) * 100 * u128::from(tasks) / u128::from(total_bytes.max(1));
        Self(u64::try_from(percent).unwrap_or(u64::MAX).max(100))
    }

    /// What of an amount would be the part of an average task.
    fn reduce(self, amount: u64) -> u64 {
        let reduced = u128::from(amount) * 100 / u128::from(self.0);
        u64::try_from(reduced).unwrap_or(u64::MAX)
    }

    /// What is an amount for an average task would be for this one.
    fn enlarge(self, amount: u64) -> u64 {
        let enlarged = u128::from(amount) * u128::from(self.0) / 100;
        u64::try_from(enlarged).unwrap_or(u64::MAX)
    }

    fn enlarge_span(self, span: Duration) -> Duration {
        Duration::from_millis(self.enlarge(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// A task with one attempt at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunningTask {
    /// How long the attempt has run with all of its inputs.
    pub runtime: Duration,
    /// The size of the task.
    pub size: RelativeSize,
    /// Rows that the attempt has read so far, of tables and exchanges.
    pub rows_read: u64,
}

/// What becomes of a running task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is a straggler.
    Straggler {
        /// How long it will still take by the rate at which it reads.
        time_left: Duration,
    },
    /// It is none before its runtime is as long.
    NotBefore(Duration),
}

/// What the duplicates of a query have taken and may take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpeculationCosts {
    /// Slots of the workers that take attempts.
    pub slots: u32,
    /// Duplicates at work.
    pub running: u32,
    /// How long the winners took.
    pub won: Duration,
    /// How long duplicates ran that did not win, and those at work so far.
    pub wasted: Duration,
}

/// What is usual in a stage of which enough tasks have won.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageNorm {
    /// From when on an average task is a straggler.
    threshold: Duration,
    min_runtime: Duration,
    /// How long a duplicate of an average task takes.
    duplicate: Duration,
    /// The rows that an average task reads; 0 if they read none.
    rows_read: u64,
}

impl StageNorm {
    /// Whether a task is a straggler.
    pub fn judge(&self, task: RunningTask) -> Verdict {
        let threshold = task.size.enlarge_span(self.threshold).max(self.min_runtime);
        if task.runtime < threshold {
            return Verdict::NotBefore(threshold);
        }
        let time_left = time_left(task, task.size.enlarge(self.rows_read));
        // One that is about to end has as much time again: what is done after the last row was read is not known.
        let patience = threshold.saturating_mul(2);
        if time_left < task.size.enlarge_span(self.duplicate) && task.runtime < patience {
            return Verdict::NotBefore(patience);
        }
        Verdict::Straggler { time_left }
    }
}

impl SpeculationPolicy {
    /// What is usual in a stage; `None` before enough of its tasks have won.
    pub fn norm(&self, runtimes: &Runtimes) -> Option<StageNorm> {
        (runtimes.samples() >= self.min_completed_samples).then(|| StageNorm {
            threshold: runtimes
                .percentile(95)
                .saturating_mul(self.p95_multiplier_percent)
                / 100,
            min_runtime: self.min_runtime,
            duplicate: runtimes.percentile(50),
            rows_read: runtimes.mean_rows_read(),
        })
    }

    /// How many more duplicates may start.
    pub fn room(&self, costs: &SpeculationCosts) -> u32 {
        let most_wasted = costs.won.saturating_mul(self.max_wasted_percent) / 100;
        if costs.wasted > most_wasted {
            return 0;
        }
        (costs.slots / SLOTS_DIVISOR).max(1).saturating_sub(costs.running)
    }
}

/// How long a task will still take if it goes on reading as it did. One that reads nothing, or of which nothing is known, has
/// everything before it.
fn time_left(task: RunningTask, rows: u64) -> Duration {
    if task.rows_read == 0 || rows == 0 {
        return Duration::MAX;
    }
    let rows_left = rows.saturating_sub(task.rows_read);
    let millis = task.runtime.as_millis() * u128::from(rows_left) / u128::from(task.rows_read);
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: SpeculationPolicy = SpeculationPolicy {
        min_completed_samples: 5,
        p95_multiplier_percent: 150,
        min_runtime: Duration::from_millis(250),
        max_wasted_percent: 10,
    };

    /// `samples` tasks of a second and 1,000 rows each.
    fn runtimes(samples: u32, millis: u64) -> Runtimes {
        let mut runtimes = Runtimes::default();
        for _ in 0..samples {
            runtimes.record(Duration::from_millis(millis), RelativeSize::AVERAGE, 1_000);
        }
        runtimes
    }

    fn task(millis: u64, rows_read: u64) -> RunningTask {
        RunningTask {
            runtime: Duration::from_millis(millis),
            size: RelativeSize::AVERAGE,
            rows_read,
        }
    }

    const fn straggler(left: u64) -> Option<Verdict> {
        let time_left = Duration::from_millis(left);
        Some(Verdict::Straggler { time_left })
    }

    const fn not_before(millis: u64) -> Option<Verdict> {
        Some(Verdict::NotBefore(Duration::from_millis(millis)))
    }

    #[test]
    fn a_straggler_has_run_longer_than_the_others_took() {
        let never = Some(Verdict::Straggler {
            time_left: Duration::MAX,
        });
        // 31 is the upper end of a bucket of its own, and so is 1,023.
        for (samples, took, runs, read, expected) in [
            (4, 1_023, 99_999, 0, None),
            (5, 1_023, 0, 0, not_before(1_534)),
            (5, 1_023, 1_533, 0, not_before(1_534)),
            (5, 1_023, 1_534, 0, never),
            (5, 1_023, 1_600, 500, straggler(1_600)),
            // It ends before a duplicate would.
            (5, 1_023, 1_600, 700, not_before(3_068)),
            (5, 1_023, 1_600, 1_200, not_before(3_068)),
            (5, 1_023, 3_068, 1_200, straggler(0)),
            // Short tasks have no stragglers.
            (5, 31, 249, 0, not_before(250)),
            (5, 31, 250, 0, never),
        ] {
            let norm = POLICY.norm(&runtimes(samples, took));
            let verdict = norm.map(|norm| norm.judge(task(runs, read)));
            assert_eq!(verdict, expected, "{samples} x {took}: {runs} ms, {read} rows");
        }
    }

    #[test]
    fn a_larger_task_may_take_longer_and_a_smaller_one_may_not_take_less() {
        let large = RunningTask {
            size: RelativeSize::of(400, 700, 7),
            ..task(2_000, 0)
        };
        let norm = POLICY.norm(&runtimes(5, 1_023));
        assert_eq!(norm.map(|norm| norm.judge(large)), not_before(6_136));
        assert_eq!(RelativeSize::of(1, 700, 7), RelativeSize::AVERAGE);
        assert_eq!(RelativeSize::of(0, 0, 7), RelativeSize::AVERAGE);
    }

    #[test]
    fn duplicates_take_a_part_of_the_slots_and_waste_a_part_of_the_time() {
        let costs = |slots, running, won, wasted| SpeculationCosts {
            slots,
            running,
            won: Duration::from_secs(won),
            wasted: Duration::from_secs(wasted),
        };
        for (costs, room) in [
            (costs(16, 0, 10, 0), 4),
            (costs(16, 3, 10, 1), 1),
            (costs(16, 4, 10, 1), 0),
            (costs(16, 0, 10, 2), 0),
            (costs(2, 0, 10, 0), 1),
            (costs(2, 1, 10, 0), 0),
            (costs(0, 0, 0, 0), 1),
        ] {
            assert_eq!(POLICY.room(&costs), room, "{costs:?}");
        }
    }
}
