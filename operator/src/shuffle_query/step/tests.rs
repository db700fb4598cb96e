//! A table of situations and what is done about each.

use std::sync::Arc;

use serde_json::{Value, json};
use sluice_core::termination::Termination;
use sluice_crds::shuffle_query::status::QueryError;
use sluice_crds::{ConditionReason, ShuffleQuery, Time};

use super::super::pods::{PodEnd, Wait};
use super::super::status::compose;
use super::*;
use crate::progress::Unreachable;

mod rest_and_end;
mod successors;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

/// A query that was submitted at second 0.
fn query(spec: Value) -> ShuffleQuery {
    let mut all = json!({"sql": "select 1", "workerPoolRef": {"name": "p"}});
    let Value::Object(spec) = spec else {
        panic!("{spec} is no object");
    };
    for (key, value) in spec {
        all[key] = value;
    }
    if all.get("workers").is_some() {
        all.as_object_mut().unwrap().remove("workerPoolRef");
    }
    let object = json!({
        "apiVersion": "sluice.dev/v1alpha1", "kind": "ShuffleQuery",
        "metadata": {"name": "q", "namespace": "n", "uid": "u", "generation": 1,
                     "creationTimestamp": at(0).to_string()},
        "spec": all,
    });
    serde_json::from_value(object).unwrap()
}

/// A world around a query that moves from step to step as the cluster would move it.
#[derive(Clone)]
struct World {
    seen: Observed,
    now: Timestamp,
}

const READY: PoolSeen = PoolSeen::Found {
    ready: 2,
    compatible: 2,
    needed: 1,
    why: String::new(),
};

impl World {
    fn new(spec: Value) -> Self {
        Self {
            seen: Observed {
                query: Arc::new(query(spec)),
                problems: Vec::new(),
                pool: READY,
                place: Place::Free,
                sql: SqlSeen::There,
                pods: Vec::new(),
                report: None,
                unreachable: None,
                quota: None,
                deadline_seconds: None,
                ttl_seconds: None,
                input: false,
            },
            now: at(1),
        }
        .with_times()
    }

    /// No pool sets other times.
    fn with_times(mut self) -> Self {
        let spec = &self.seen.query.spec;
        self.seen.deadline_seconds = spec.deadline_seconds;
        self.seen.ttl_seconds = spec.ttl_seconds_after_finished;
        self
    }

    fn edit(&mut self, spec: Value) {
        let edited = query(spec).spec;
        let mut query = ShuffleQuery::clone(&self.seen.query);
        query.spec = edited;
        self.seen.query = Arc::new(query);
        *self = self.clone().with_times();
    }

    /// Writes what binds until something is to be done; writes that, too, as if nothing was refused.
    fn settle(&mut self) -> (Vec<Action>, Lifecycle, Duration) {
        for _ in 0..8 {
            let (life, done) = match step(&self.seen, self.now) {
                Step::Commit(life) => (life, None),
                Step::Act { actions, life, again } => (life, Some((actions, again))),
            };
            let mut query = ShuffleQuery::clone(&self.seen.query);
            if !Lifecycle::of(&query).phase.is_terminal() {
                query.status = Some(compose(&query, &life, self.seen.report.as_deref(), self.now));
            }
            self.seen.query = Arc::new(query);
            if let Some((actions, again)) = done {
                let life = Lifecycle::of(&self.seen.query);
                return (actions, life, again);
            }
        }
        panic!("it does not settle");
    }

    fn pod(&mut self, epoch: u64, state: PodState) {
        self.seen.pods.retain(|pod| pod.epoch != epoch);
        self.seen.pods.push(CoordinatorPod {
            name: format!("q-c{epoch}"),
            epoch,
            memory_factor: 1,
            leaving: false,
            state,
        });
    }

    fn report(&mut self, phase: QueryPhase, error: Option<ErrorReason>) {
        let reason = match error {
            Some(reason) => reason.into(),
            None => ConditionReason::from(ProgressReason::Running),
        };
        self.seen.report = Some(Arc::new(ShuffleQueryStatus {
            phase,
            reason: Some(reason),
            error: error.map(|reason| QueryError {
                reason,
                message: "as reported".to_owned(),
                stage: None,
                task: None,
            }),
            end_time: phase.is_terminal().then_some(Time(self.now)),
            ..ShuffleQueryStatus::default()
        }));
    }

    /// Admitted, its coordinator at work.
    fn running(spec: Value) -> Self {
        let mut world = Self::new(spec);
        world.settle();
        world.pod(1, PodState::Running("10.0.0.1".to_owned()));
        world.report(QueryPhase::Running, None);
        let (_, life, _) = world.settle();
        assert_eq!(life.phase, QueryPhase::Running);
        world
    }
}

fn said(phase: QueryPhase, reason: Option<ErrorReason>) -> PodState {
    let mut words = Termination::refused(ErrorReason::Internal, "as said".to_owned(), at(5));
    (words.phase, words.reason) = (phase, reason);
    PodState::Ended(PodEnd::Said(Box::new(words)))
}

fn launches(epoch: u64, memory_factor: u32) -> Vec<Action> {
    vec![
        Action::Unfollow,
        Action::CreateInput,
        Action::CreateToken { epoch },
        Action::CreatePod { epoch, memory_factor },
    ]
}

fn delete(name: &str) -> Action {
    Action::DeletePod {
        name: name.to_owned(),
    }
}

#[test]
fn a_place_is_written_with_the_epoch_before_anything_is_created() {
    let mut world = World::new(json!({}));
    let Step::Commit(life) = step(&world.seen, world.now) else {
        panic!("it acts first");
    };
    assert_eq!((life.epoch, life.admitted), (1, Some(at(1))));
    let (actions, life, _) = world.settle();
    assert_eq!(actions, launches(1, 1));
    assert_eq!(life.reason, ProgressReason::CoordinatorStarting.into());
    assert_eq!(life.coordinator, Coordinator::Starting);
}

/// A pool of whose workers so many are ready and compatible, for queries that need three.
fn found(ready: u32, compatible: u32, why: &str) -> PoolSeen {
    PoolSeen::Found {
        ready,
        compatible,
        needed: 3,
        why: why.to_owned(),
    }
}

#[test]
fn what_a_query_waits_for_is_said() {
    let short = found(1, 1, "no node has room");
    let rolled = found(3, 1, "1 of 3 workers are ready");
    let waits = Place::Waiting {
        ahead: 2,
        running: 64,
    };
    let missing = SqlSeen::Missing("ConfigMap c does not exist".to_owned());
    let there = SqlSeen::There;
    let rows = [
        (
            PoolSeen::Absent,
            Place::Free,
            &there,
            ProgressReason::PoolNotFound,
            "create a WorkerPool p in this",
        ),
        (
            PoolSeen::Leaving,
            Place::Free,
            &there,
            ProgressReason::WaitingForPool,
            "pool p is being deleted",
        ),
        (
            short,
            Place::Free,
            &there,
            ProgressReason::WaitingForPool,
            "1 workers are ready of 3 that a query needs: no node",
        ),
        (
            rolled,
            Place::Free,
            &there,
            ProgressReason::WaitingForPool,
            "pool p is being rolled: 1 workers of its image are ready of 3 that a query needs: 1 of 3",
        ),
        (
            READY,
            waits,
            &there,
            ProgressReason::Queued,
            "64 queries run in pool p, and 2 wait before",
        ),
        (
            READY,
            Place::Free,
            &missing,
            ProgressReason::SqlNotFound,
            "ConfigMap c does not exist",
        ),
    ];
    for (pool, place, sql, reason, message) in rows {
        let mut world = World::new(json!({}));
        (world.seen.pool, world.seen.place, world.seen.sql) = (pool, place, sql.clone());
        let (actions, life, _) = world.settle();
        assert_eq!(actions, [], "{reason:?}");
        assert_eq!((life.phase, life.reason), (QueryPhase::Pending, reason.into()));
        assert!(life.message.starts_with(message), "{}", life.message);
        assert_eq!((life.epoch, life.admitted), (0, None));
    }
}

#[test]
fn inline_workers_are_created_and_freed_again() {
    let mut world = World::new(json!({"workers": {"replicas": 1}}));
    world.seen.pool = PoolSeen::Absent;
    let (actions, life, _) = world.settle();
    assert_eq!(actions, [Action::CreatePool]);
    assert_eq!(life.pool.as_deref(), Some("q-workers"));
    world.seen.pool = PoolSeen::Taken;
    assert_eq!(world.settle().1.reason, ProgressReason::NameTaken.into());
    world.seen.pool = READY;
    assert_eq!(world.settle().0, launches(1, 1));
    world.pod(1, said(QueryPhase::Succeeded, None));
    let (actions, life, _) = world.settle();
    assert_eq!(life.phase, QueryPhase::Succeeded);
    assert_eq!(actions, [Action::Unfollow, delete("q-c1"), Action::DeletePool]);
}

#[test]
fn a_bad_spec_fails_at_once() {
    let mut world = World::new(json!({}));
    world.seen.problems = vec!["spec.sql is blank".to_owned()];
    let (_, life, _) = world.settle();
    assert_eq!(
        (life.phase, life.reason),
        (QueryPhase::Failed, ErrorReason::InvalidSpec.into())
    );
    assert_eq!(life.message, "spec.sql is blank");
}

#[test]
fn why_a_pod_waits_is_said() {
    let mut world = World::new(json!({}));
    world.settle();
    for reason in [
        ProgressReason::ImagePullFailed,
        ProgressReason::Tainted,
        ProgressReason::Unschedulable,
    ] {
        world.pod(
            1,
            PodState::Waiting(Wait {
                reason,
                message: "so it says".to_owned(),
            }),
        );
        let (actions, life, _) = world.settle();
        assert_eq!(actions, []);
        assert_eq!(
            (life.reason, life.message.as_str()),
            (reason.into(), "so it says")
        );
    }
}

#[test]
fn a_coordinator_is_followed_as_soon_as_it_has_an_address() {
    let mut world = World::new(json!({}));
    world.settle();
    let follow = Action::Follow {
        epoch: 1,
        address: "10.0.0.1".to_owned(),
    };
    world.pod(1, PodState::Running("10.0.0.1".to_owned()));
    let (actions, life, _) = world.settle();
    assert_eq!(
        (actions, life.coordinator),
        (vec![follow.clone()], Coordinator::Starting)
    );
    // It serves when it has something to tell; an operator that has just started has not heard of it.
    world.report(QueryPhase::Pending, None);
    let (actions, life, _) = world.settle();
    assert_eq!(
        (actions, life.coordinator),
        (vec![follow.clone()], Coordinator::Serving)
    );
    world.seen.report = None;
    let (actions, life, _) = world.settle();
    assert_eq!((actions, life.coordinator), (vec![follow], Coordinator::Serving));
}

#[test]
fn a_coordinator_out_of_reach_says_so_in_every_phase() {
    let unreachable = Unreachable {
        address: "10.0.0.1".to_owned(),
        since: at(3),
        error: "connection timed out".to_owned(),
    };
    let mut starting = World::new(json!({}));
    starting.settle();
    starting.pod(1, PodState::Running("10.0.0.1".to_owned()));
    for (mut world, phase) in [
        (starting, QueryPhase::Pending),
        (World::running(json!({})), QueryPhase::Running),
    ] {
        world.seen.unreachable = Some(unreachable.clone());
        let (_, life, _) = world.settle();
        assert_eq!(
            (life.phase, life.reason, life.coordinator),
            (
                phase,
                ProgressReason::CoordinatorUnreachable.into(),
                Coordinator::Starting
            )
        );
        let message = "the operator has not reached the coordinator at 10.0.0.1 port 7401 since 13:46:43 UTC (connection timed \
                       out)";
        assert!(life.message.starts_with(message), "{}", life.message);
        world.seen.unreachable = None;
        world.report(QueryPhase::Running, None);
        let (_, life, _) = world.settle();
        assert_eq!(
            (life.reason, life.coordinator),
            (ProgressReason::Running.into(), Coordinator::Serving)
        );
    }
}

#[test]
fn a_query_beyond_the_quota_of_its_namespace_waits_and_starts_no_workers() {
    for spec in [json!({}), json!({"workers": {"replicas": 1}})] {
        let mut world = World::new(spec);
        if world.seen.query.spec.workers.is_some() {
            world.seen.pool = PoolSeen::Absent;
        }
        world.seen.quota = Some("2 queries run in this namespace".to_owned());
        let (actions, life, again) = world.settle();
        assert_eq!(actions, []);
        assert_eq!(
            (life.phase, life.reason, life.message.as_str()),
            (
                QueryPhase::Pending,
                ProgressReason::NamespaceQuotaReached.into(),
                "2 queries run in this namespace"
            )
        );
        assert_eq!((life.admitted, again), (None, POLL));
    }
}

#[test]
fn a_place_in_the_queue_is_told_anew_the_sooner_the_nearer_it_is() {
    let mut before = Duration::ZERO;
    for ahead in [0, 5, 150, 1_000, 100_000] {
        let mut world = World::new(json!({}));
        world.seen.place = Place::Waiting { ahead, running: 1 };
        let (_, _, again) = world.settle();
        assert!(
            again >= before && (POLL..=IDLE).contains(&again),
            "{ahead}: {again:?}"
        );
        before = again;
    }
    assert_eq!(before, IDLE);
}

#[test]
fn what_a_coordinator_needed_goes_once_none_may_run() {
    let mut world = World::running(json!({}));
    world.seen.input = true;
    world.report(QueryPhase::Succeeded, None);
    let (actions, life, _) = world.settle();
    assert_eq!(life.phase, QueryPhase::Succeeded);
    assert!(
        !actions.contains(&Action::DeleteInput),
        "its coordinator may tell its end"
    );
    world.pod(1, said(QueryPhase::Succeeded, None));
    let (actions, ..) = world.settle();
    assert!(actions.contains(&Action::DeleteInput), "{actions:?}");
    world.seen.input = false;
    let (actions, ..) = world.settle();
    assert!(!actions.contains(&Action::DeleteInput), "{actions:?}");
}

#[test]
fn a_query_that_runs_without_workers_says_why() {
    let mut world = World::running(json!({}));
    let mut report = ShuffleQueryStatus::clone(world.seen.report.as_ref().unwrap());
    let waits = json!({"type": "WorkersReady", "status": "False", "reason": "WaitingForWorkers", "message": "",
                       "lastTransitionTime": at(7).to_string()});
    report.conditions = vec![serde_json::from_value(waits).unwrap()];
    let pool = |ready: u32, why: &str| PoolSeen::Found {
        ready,
        compatible: ready,
        needed: 1,
        why: why.to_owned(),
    };
    for (pool, words, message) in [
        (
            pool(0, "it is scaled to 0, set replicas"),
            "",
            "it is scaled to 0",
        ),
        (pool(2, ""), "", "2 workers are ready and none has a session"),
        (
            pool(2, ""),
            "10.0.0.7:7400: the session was refused: wrong key",
            "has a session with the coordinator. The coordinator: 10.0.0.7:7400: the session was refused: wrong key",
        ),
        (PoolSeen::Absent, "", "was deleted"),
    ] {
        report.conditions[0].message = words.to_owned();
        world.seen.report = Some(Arc::new(report.clone()));
        world.seen.pool = pool;
        let (_, life, _) = world.settle();
        assert_eq!(
            (life.phase, life.reason),
            (QueryPhase::Running, ProgressReason::WaitingForWorkers.into())
        );
        assert!(life.message.contains(message), "{}", life.message);
    }
}
