//! What a query loses with a worker, computed before the worker is killed from what only this worker has.

use std::time::Duration;

use sluice_core::coordinator::Outcome;
use sluice_core::snapshot::QuerySnapshot;
use sluice_proto::wire;

use super::program::{Folder, Worker};
use super::watched::{Over, Watched};
use super::wire_noise::{Output, incarnation, output_at};

/// How often a test may miss its moment: snapshots come every 100 ms, and a worker may be frozen too late. On a busy
/// machine more than half are missed.
const MISSES: u32 = 24;

/// The time between two snapshots, at most, on a busy machine.
const SNAPSHOTS: Duration = Duration::from_millis(300);

/// What a worker has of one stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Held {
    /// Tasks that it has won.
    pub(super) won: u32,
    /// Attempts that run there.
    pub(super) running: u32,
    /// Attempts that run elsewhere. Those that have read rows of a lost output are lost too.
    pub(super) running_elsewhere: u32,
}

/// The state once nothing changes any more.
async fn settled(query: &Watched) -> QuerySnapshot {
    let mut before = query.now();
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = query.now();
        if now.stages == before.stages || now.outcome.is_some() {
            return now;
        }
        before = now;
    }
}

/// What the frozen worker has, by stage: all that the others do not have. They soon stop, because they wait for its
/// outputs or its attempt. `None` if the query ended, or the worker counted as lost, before that was known.
async fn held_by_frozen(query: &Watched, others: &[Worker]) -> Option<Vec<Held>> {
    let mut starts = Vec::new();
    for worker in others {
        starts.push(incarnation(&worker.address).await);
    }
    let workers = others.len() + 1;
    loop {
        let before = settled(query).await;
        if before.outcome.is_some() || before.workers as usize != workers {
            return None;
        }
        let mut held = Vec::new();
        let mut at_others = 0;
        for (stage, seen) in (0..).zip(&before.stages) {
            let (mut won, mut running) = (0, 0);
            for task in 0..seen.tasks {
                for attempt in 0..=seen.lost_attempts + seen.cancelled_attempts {
                    let attempt = wire::AttemptRef {
                        stage,
                        stage_epoch: 0,
                        task,
                        attempt,
                    };
                    for (worker, start) in others.iter().zip(&starts) {
                        match output_at(&worker.address, *start, &query.id, attempt).await {
                            Output::None => {}
                            Output::Begun => running += 1,
                            Output::Finished => won += 1,
                        }
                    }
                }
            }
            at_others += won + running;
            held.push(Held {
                won: seen.done.saturating_sub(won),
                running: seen.running.saturating_sub(running),
                running_elsewhere: running,
            });
        }
        // Each worker has one slot. An attempt that has not opened its output yet is not visible anywhere.
        let running: u32 = held.iter().map(|held| held.running).sum();
        if at_others == 0 {
            // The query has ended and they have dropped it; its last snapshot waits for the frozen worker.
            return None;
        }
        // If the query went on while the others were asked, the next snapshot shows it.
        tokio::time::sleep(SNAPSHOTS).await;
        if running <= 1 && query.now().stages == before.stages {
            return Some(held);
        }
    }
}

/// A query that was seen in a state, in a folder of its own. Tries again with a new query if the state was missed.
pub(super) async fn seen_in(
    workers: &[Worker],
    yaml: impl Fn(&Folder) -> String,
    what: &str,
    is_so: impl Fn(&QuerySnapshot) -> bool,
) -> (Folder, Watched) {
    for _ in 0..MISSES {
        let folder = Folder::new();
        let mut query = Watched::start(&folder, &yaml(&folder), workers).await;
        if is_so(&query.until_or_end(what, &is_so).await) {
            return (folder, query);
        }
        assert_eq!(query.end().await.outcome, Outcome::Succeeded);
    }
    panic!("missed {MISSES} times: {what}");
}

/// A query in a state, the worker at index 0 frozen in it, and what that worker has.
pub(super) async fn frozen_in(
    workers: &[Worker],
    yaml: impl Fn(&Folder) -> String,
    what: &str,
    is_so: impl Fn(&QuerySnapshot) -> bool,
) -> (Folder, Watched, Vec<Held>) {
    for _ in 0..MISSES {
        let (folder, query) = seen_in(workers, &yaml, what, &is_so).await;
        workers[0].freeze();
        match held_by_frozen(&query, &workers[1..]).await {
            // The frozen attempt blocks the query, however long the caller takes.
            Some(held) if is_so(&query.now()) && held.iter().any(|held| held.running > 0) => {
                return (folder, query, held);
            }
            Some(_) | None => workers[0].thaw(),
        }
        assert_eq!(query.end().await.outcome, Outcome::Succeeded);
    }
    panic!("missed {MISSES} times: {what}");
}

/// A query in a state with all workers frozen, which worker 0 runs alone: it has everything of the query.
pub(super) async fn alone_in(
    workers: &[Worker],
    yaml: &str,
    what: &str,
    is_so: impl Fn(&QuerySnapshot) -> bool,
) -> (Folder, Watched, Vec<Held>) {
    let thaw_all = || workers.iter().for_each(Worker::thaw);
    for _ in 0..MISSES {
        let folder = Folder::new();
        workers[1..].iter().for_each(Worker::freeze);
        let mut query = Watched::start(&folder, yaml, workers).await;
        if is_so(&query.until_or_end(what, &is_so).await) {
            workers[0].freeze();
            let seen = settled(&query).await;
            if is_so(&seen) && seen.outcome.is_none() && seen.workers == 1 {
                let stages = seen.stages.iter();
                let held = stages.map(|stage| Held {
                    won: stage.done,
                    running: stage.running,
                    running_elsewhere: 0,
                });
                return (folder, query, held.collect());
            }
        }
        thaw_all();
        assert_eq!(query.end().await.outcome, Outcome::Succeeded);
    }
    panic!("missed {MISSES} times: {what}");
}

impl Over {
    /// Asserts that the query succeeded and that exactly what a worker had ran again: what it had won, what ran there,
    /// and of what ran elsewhere and reads other attempts at most each once.
    pub(super) fn assert_ran_again(&self, held: &[Held]) {
        self.assert_no_failures();
        assert!(
            held.iter().any(|held| held.won + held.running > 0),
            "the worker had nothing: {held:#?}"
        );
        assert_eq!(held.len(), self.last.stages.len());
        let mut inputs_lost = false;
        for (stage, held) in self.last.stages.iter().zip(held) {
            let told = format!("{held:#?} of {stage:#?}");
            let own = held.won + held.running;
            let readers = if inputs_lost { held.running_elsewhere } else { 0 };
            assert!(stage.lost_attempts >= own, "{told}");
            assert!(
                stage.lost_attempts + stage.cancelled_attempts <= own + readers,
                "{told}"
            );
            let again = stage.lost_attempts + stage.cancelled_attempts;
            assert_eq!(stage.attempts, stage.tasks + again, "{told}");
            inputs_lost |= held.won > 0;
        }
    }
}
