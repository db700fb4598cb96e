//! What the queries of a pool want of it: the queries' reconciler says, and the pools' scales by it and shows it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::channel::mpsc::{self, UnboundedReceiver, UnboundedSender};
use kube::runtime::reflector::ObjectRef;
use sluice_crds::shuffle_query::status::{QueryPhase, ShuffleQueryStatus, StageState};
use sluice_crds::{ConditionReason, ProgressReason, WorkerPool};

/// What all queries of a pool want together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Slots that they could use now.
    pub slots: u32,
    /// Queries with a place.
    pub running: u32,
    /// Queries that wait for the pool, or for a place in it.
    pub queued: u32,
}

/// What one query wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Whether it has its place.
    pub admitted: bool,
    /// Slots that it could use now; `None` before it is planned.
    pub slots: Option<u32>,
}

impl Wish {
    /// What a query wants that stands like this; `None` where no worker would help it.
    pub fn of(status: &ShuffleQueryStatus) -> Option<Self> {
        match status.phase {
            QueryPhase::Succeeded | QueryPhase::Failed | QueryPhase::Cancelled | QueryPhase::Suspended => {
                return None;
            }
            QueryPhase::Pending | QueryPhase::Running => {}
        }
        let admitted = status.admitted_time.is_some();
        if !admitted && !waits_for_workers(status.reason) {
            return None;
        }
        Some(Self {
            admitted,
            slots: slots(status),
        })
    }
}

/// Whether a query without a place waits for its pool alone.
fn waits_for_workers(reason: Option<ConditionReason>) -> bool {
    let of_pool = [
        ProgressReason::Pending,
        ProgressReason::WaitingForPool,
        ProgressReason::Queued,
    ];
    reason.is_none_or(|reason| of_pool.iter().any(|of_pool| reason == (*of_pool).into()))
}

/// Tasks that run or could run: those that are left of stages that have begun, and of those that only read tables.
fn slots(status: &ShuffleQueryStatus) -> Option<u32> {
    if status.stages.is_empty() {
        let left = status.tasks.planned.saturating_sub(status.tasks.done);
        return (status.tasks.planned > 0).then_some(left.max(1));
    }
    let open = status.stages.iter().filter(|stage| match stage.state {
        StageState::Running => true,
        StageState::Waiting => stage.planned_reduce_tasks == 0,
        StageState::Done => false,
    });
    let left = open.map(|stage| stage.tasks_planned.saturating_sub(stage.tasks_done));
    Some(left.fold(0, u32::saturating_add).max(1))
}

/// Namespace and name of a pool.
type Key = (String, String);

/// What every query wants, by pool.
#[derive(Default)]
pub struct Board {
    wishes: Mutex<Wishes>,
}

#[derive(Default)]
struct Wishes {
    /// By the unique id of the query.
    of_pools: BTreeMap<Key, BTreeMap<String, Wish>>,
    /// The pools of queries.
    pools: HashMap<String, Key>,
    listeners: Vec<UnboundedSender<ObjectRef<WorkerPool>>>,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pools of which other things are wanted than before.
    pub fn changes(&self) -> UnboundedReceiver<ObjectRef<WorkerPool>> {
        let (listener, changes) = mpsc::unbounded();
        self.lock().listeners.push(listener);
        changes
    }

    /// The query `uid` of `pool` (in `namespace`) wants this now.
    pub fn set(&self, uid: &str, (namespace, pool): (&str, &str), wish: Option<Wish>) {
        let mut wishes = self.lock();
        let key = (namespace.to_owned(), pool.to_owned());
        let of_pool = wishes.of_pools.entry(key.clone()).or_default();
        let before = match wish {
            Some(wish) => of_pool.insert(uid.to_owned(), wish),
            None => of_pool.remove(uid),
        };
        if of_pool.is_empty() {
            wishes.of_pools.remove(&key);
        }
        match wish {
            Some(_) => wishes.pools.insert(uid.to_owned(), key.clone()),
            None => wishes.pools.remove(uid),
        };
        if before != wish {
            wishes.tell(&key);
        }
    }

    /// The query is gone.
    pub fn forget(&self, uid: &str) {
        let pool = self.lock().pools.get(uid).cloned();
        if let Some((namespace, pool)) = pool {
            self.set(uid, (&namespace, &pool), None);
        }
    }

    /// What is wanted of a pool with `places` for queries; a query that is not planned counts for `unplanned` slots. Queries
    /// beyond the places could not use workers.
    pub fn of(&self, (namespace, pool): (&str, &str), places: u32, unplanned: u32) -> Demand {
        let wishes = self.lock();
        let of_pool = wishes.of_pools.get(&(namespace.to_owned(), pool.to_owned()));
        let mut demand = Demand::default();
        let mut all: Vec<_> = of_pool.into_iter().flat_map(BTreeMap::values).collect();
        all.sort_by_key(|wish| !wish.admitted);
        for wish in all {
            let count = if wish.admitted {
                &mut demand.running
            } else {
                &mut demand.queued
            };
            *count = count.saturating_add(1);
            if wish.admitted || demand.running.saturating_add(demand.queued) <= places {
                demand.slots = demand.slots.saturating_add(wish.slots.unwrap_or(unplanned));
            }
        }
        demand
    }
}

impl Wishes {
    fn tell(&mut self, (namespace, pool): &Key) {
        let pool = ObjectRef::new(pool).within(namespace);
        self.listeners
            .retain(|listener| listener.unbounded_send(pool.clone()).is_ok());
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};
    use serde_json::{Value, json};

    use super::*;

    fn wish(status: Value) -> Option<Wish> {
        Wish::of(&serde_json::from_value(status).unwrap())
    }

    #[test]
    fn a_query_wants_slots_for_what_could_run_now() {
        let at = "2030-01-01T00:00:00Z";
        let stage = |id: u32, state: &str, planned: u32, done: u32, reduces: u32| {
            json!({"id": id, "label": "", "state": state, "tasksPlanned": planned, "tasksDone": done,
                   "plannedReduceTasks": reduces})
        };
        let stages = |stages: Value| json!({"phase": "Running", "admittedTime": at, "stages": stages});
        let admitted = |slots| {
            Some(Wish {
                admitted: true,
                slots,
            })
        };
        let queued = Some(Wish {
            admitted: false,
            slots: None,
        });
        for (status, expected) in [
            (json!({}), queued),
            (json!({"reason": "WaitingForPool"}), queued),
            (json!({"reason": "Queued"}), queued),
            // Workers would not help.
            (json!({"reason": "SqlNotFound"}), None),
            (json!({"reason": "NamespaceQuotaReached"}), None),
            (json!({"phase": "Suspended"}), None),
            (json!({"phase": "Succeeded", "admittedTime": at}), None),
            (
                json!({"reason": "CoordinatorStarting", "admittedTime": at}),
                admitted(None),
            ),
            (
                json!({"phase": "Running", "admittedTime": at, "tasks": {"planned": 9, "done": 2}}),
                admitted(Some(7)),
            ),
            // A scan that waits for a worker counts, a reduce behind it does not.
            (
                stages(json!([
                    stage(0, "Waiting", 6, 0, 0),
                    stage(1, "Waiting", 4, 0, 4)
                ])),
                admitted(Some(6)),
            ),
            (
                stages(json!([stage(0, "Done", 6, 6, 0), stage(1, "Running", 4, 1, 4)])),
                admitted(Some(3)),
            ),
            // Its end is being written.
            (stages(json!([stage(0, "Done", 6, 6, 0)])), admitted(Some(1))),
        ] {
            assert_eq!(wish(status.clone()), expected, "{status}");
        }
    }

    #[test]
    fn a_pool_is_told_what_its_queries_want_together_and_when_that_changes() {
        let board = Board::default();
        let mut changes = board.changes();
        let pool = ("n", "p");
        let wish = |admitted, slots| Some(Wish { admitted, slots });
        board.set("a", pool, wish(true, Some(5)));
        board.set("b", pool, wish(false, None));
        board.set("c", pool, wish(false, None));
        board.set("d", ("n", "other"), wish(true, Some(9)));
        let demand = |slots, running, queued| Demand {
            slots,
            running,
            queued,
        };
        assert_eq!(board.of(pool, 64, 2), demand(9, 1, 2));
        assert_eq!(board.of(pool, 2, 2), demand(7, 1, 2), "one of them has no place");
        let told = |changes: &mut UnboundedReceiver<ObjectRef<WorkerPool>>| {
            let told = std::iter::from_fn(|| changes.next().now_or_never().flatten());
            told.map(|pool| pool.name).collect::<Vec<_>>()
        };
        assert_eq!(told(&mut changes), ["p", "p", "p", "other"]);
        board.set("a", pool, wish(true, Some(5)));
        assert_eq!(told(&mut changes), [""; 0], "nothing new");
        board.set("b", pool, None);
        board.forget("c");
        board.forget("nobody");
        assert_eq!(board.of(pool, 64, 2), demand(5, 1, 0));
        assert_eq!(told(&mut changes), ["p", "p"]);
    }
}
