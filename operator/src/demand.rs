//! The demand of each pool: the query reconciler reports it, the pool reconciler scales by it and shows it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::channel::mpsc::{self, UnboundedReceiver, UnboundedSender};
use kube::runtime::reflector::ObjectRef;
use sluice_crds::shuffle_query::status::{QueryPhase, ShuffleQueryStatus, StageState};
use sluice_crds::{ConditionReason, ProgressReason, WorkerPool};

/// The demand of all queries of a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolDemand {
    /// Slots that they could use now.
    pub slots: u32,
    /// Admitted queries.
    pub running: u32,
    /// Queries that wait for the pool or for their admission.
    pub queued: u32,
}

/// The demand of one query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryDemand {
    /// Whether it is admitted.
    pub admitted: bool,
    /// Slots that it could use now; `None` before it is planned.
    pub slots: Option<u32>,
}

impl QueryDemand {
    /// The demand of a query with this status; `None` where no worker would help it.
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

/// Whether a query that is not admitted waits for its pool alone.
fn waits_for_workers(reason: Option<ConditionReason>) -> bool {
    let of_pool = [
        ProgressReason::Pending,
        ProgressReason::WaitingForPool,
        ProgressReason::Queued,
    ];
    reason.is_none_or(|reason| of_pool.iter().any(|of_pool| reason == (*of_pool).into()))
}

/// Tasks that run or could run: the remaining tasks of stages that run, and of stages that only read tables.
fn slots(status: &ShuffleQueryStatus) -> Option<u32> {
    if status.stages.is_empty() {
        let over = status.tasks.done.saturating_add(status.tasks.skipped);
        let left = status.tasks.planned.saturating_sub(over);
        return (status.tasks.planned > 0).then_some(left.max(1));
    }
    let open = status.stages.iter().filter(|stage| match stage.state {
        StageState::Running => true,
        StageState::Waiting => stage.planned_reduce_tasks == 0,
        StageState::Done => false,
    });
    let left = open.map(|stage| {
        let over = stage.tasks_done.saturating_add(stage.tasks_skipped);
        stage.tasks_planned.saturating_sub(over)
    });
    Some(left.fold(0, u32::saturating_add).max(1))
}

/// Namespace and name of a pool.
type Key = (String, String);

/// The demand of every query, by pool.
#[derive(Default)]
pub struct DemandTracker {
    demands: Mutex<Demands>,
}

#[derive(Default)]
struct Demands {
    /// By the unique id of the query.
    of_pools: BTreeMap<Key, BTreeMap<String, QueryDemand>>,
    /// The pools of queries.
    pools: HashMap<String, Key>,
    listeners: Vec<UnboundedSender<ObjectRef<WorkerPool>>>,
}

impl DemandTracker {
    fn lock(&self) -> MutexGuard<'_, Demands> {
        self.demands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Yields the pools whose demand changes.
    pub fn changes(&self) -> UnboundedReceiver<ObjectRef<WorkerPool>> {
        let (listener, changes) = mpsc::unbounded();
        self.lock().listeners.push(listener);
        changes
    }

    /// Sets the demand of the query `uid` of `pool` (in `namespace`).
    pub fn set(&self, uid: &str, (namespace, pool): (&str, &str), demand: Option<QueryDemand>) {
        let mut demands = self.lock();
        let key = (namespace.to_owned(), pool.to_owned());
        let of_pool = demands.of_pools.entry(key.clone()).or_default();
        let before = match demand {
            Some(demand) => of_pool.insert(uid.to_owned(), demand),
            None => of_pool.remove(uid),
        };
        if of_pool.is_empty() {
            demands.of_pools.remove(&key);
        }
        match demand {
            Some(_) => demands.pools.insert(uid.to_owned(), key.clone()),
            None => demands.pools.remove(uid),
        };
        if before != demand {
            demands.notify(&key);
        }
    }

    /// Removes a query that is gone.
    pub fn forget(&self, uid: &str) {
        let pool = self.lock().pools.get(uid).cloned();
        if let Some((namespace, pool)) = pool {
            self.set(uid, (&namespace, &pool), None);
        }
    }

    /// The demand of a pool that runs at most `max_queries`. A query that is not planned counts as `unplanned` slots. Queries
    /// beyond the limit could not use workers.
    pub fn of(&self, (namespace, pool): (&str, &str), max_queries: u32, unplanned: u32) -> PoolDemand {
        let demands = self.lock();
        let of_pool = demands.of_pools.get(&(namespace.to_owned(), pool.to_owned()));
        let mut demand = PoolDemand::default();
        let mut all: Vec<_> = of_pool.into_iter().flat_map(BTreeMap::values).collect();
        all.sort_by_key(|demand| !demand.admitted);
        for query in all {
            let count = if query.admitted {
                &mut demand.running
            } else {
                &mut demand.queued
            };
            *count = count.saturating_add(1);
            if query.admitted || demand.running.saturating_add(demand.queued) <= max_queries {
                demand.slots = demand.slots.saturating_add(query.slots.unwrap_or(unplanned));
            }
        }
        demand
    }
}

impl Demands {
    fn notify(&mut self, (namespace, pool): &Key) {
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

    fn demand_of(status: Value) -> Option<QueryDemand> {
        QueryDemand::of(&serde_json::from_value(status).unwrap())
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
            Some(QueryDemand {
                admitted: true,
                slots,
            })
        };
        let queued = Some(QueryDemand {
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
            assert_eq!(demand_of(status.clone()), expected, "{status}");
        }
    }

    #[test]
    fn the_demand_of_a_pool_is_the_sum_of_its_queries_and_changes_are_reported() {
        let tracker = DemandTracker::default();
        let mut changes = tracker.changes();
        let pool = ("n", "p");
        let query = |admitted, slots| Some(QueryDemand { admitted, slots });
        tracker.set("a", pool, query(true, Some(5)));
        tracker.set("b", pool, query(false, None));
        tracker.set("c", pool, query(false, None));
        tracker.set("d", ("n", "other"), query(true, Some(9)));
        let demand = |slots, running, queued| PoolDemand {
            slots,
            running,
            queued,
        };
        assert_eq!(tracker.of(pool, 64, 2), demand(9, 1, 2));
        assert_eq!(
            tracker.of(pool, 2, 2),
            demand(7, 1, 2),
            "one of them is beyond the limit"
        );
        let changed = |changes: &mut UnboundedReceiver<ObjectRef<WorkerPool>>| {
            let pools = std::iter::from_fn(|| changes.next().now_or_never().flatten());
            pools.map(|pool| pool.name).collect::<Vec<_>>()
        };
        assert_eq!(changed(&mut changes), ["p", "p", "p", "other"]);
        tracker.set("a", pool, query(true, Some(5)));
        assert_eq!(changed(&mut changes), [""; 0], "nothing new");
        tracker.set("b", pool, None);
        tracker.forget("c");
        tracker.forget("nobody");
        assert_eq!(tracker.of(pool, 64, 2), demand(5, 1, 0));
        assert_eq!(changed(&mut changes), ["p", "p"]);
    }
}
