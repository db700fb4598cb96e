//! A table of situations and what is done about each.

use std::sync::Arc;

use serde_json::{Value, json};
use sluice_core::termination::Termination;
use sluice_crds::shuffle_query::status::QueryError;
use sluice_crds::{ConditionReason, ShuffleQuery, Time};

use super::super::coordinator_pod::{PodEnd, WaitReason};
use super::super::status::compose;
use super::*;

mod calls;
mod queue;
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

const READY: ObservedPool = ObservedPool::Found {
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
                admission: Admission::Granted,
                sql: ObservedSql::Available,
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
    fn settle(&mut self) -> (Vec<Action>, QueryRecord, Duration) {
        for _ in 0..8 {
            let (record, done) = match decide(&self.seen, self.now) {
                Decision::Persist(record) => (record, None),
                Decision::Act {
                    actions,
                    record,
                    again,
                } => (record, Some((actions, again))),
            };
            let mut query = ShuffleQuery::clone(&self.seen.query);
            if !QueryRecord::of(&query).phase.is_terminal() {
                query.status = Some(compose(&query, &record, self.seen.report.as_deref(), self.now));
            }
            self.seen.query = Arc::new(query);
            if let Some((actions, again)) = done {
                let record = QueryRecord::of(&self.seen.query);
                return (actions, record, again);
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
            ip: match &state {
                PodState::Running(address) => Some(address.clone()),
                PodState::Waiting(_) | PodState::Ended(_) => None,
            },
            started: None,
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
        let (_, record, _) = world.settle();
        assert_eq!(record.phase, QueryPhase::Running);
        world
    }
}

fn said(phase: QueryPhase, reason: Option<ErrorReason>) -> PodState {
    let mut termination = Termination::refused(ErrorReason::Internal, "as said".to_owned(), at(5));
    (termination.phase, termination.reason) = (phase, reason);
    PodState::Ended(PodEnd::Reported(Box::new(termination)))
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
    let Decision::Persist(record) = decide(&world.seen, world.now) else {
        panic!("it acts first");
    };
    assert_eq!((record.epoch, record.admitted), (1, Some(at(1))));
    let (actions, record, _) = world.settle();
    assert_eq!(actions, launches(1, 1));
    assert_eq!(record.reason, ProgressReason::CoordinatorStarting.into());
    assert_eq!(record.coordinator, Coordinator::Starting);
}

/// A pool of whose workers so many are ready and compatible, for queries that need three.
fn found(ready: u32, compatible: u32, why: &str) -> ObservedPool {
    ObservedPool::Found {
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
    let waits = Admission::Queued {
        ahead: 2,
        running: 64,
    };
    let missing = ObservedSql::Missing("ConfigMap c does not exist".to_owned());
    let there = ObservedSql::Available;
    let rows = [
        (
            ObservedPool::Absent,
            Admission::Granted,
            &there,
            ProgressReason::PoolNotFound,
            "create a WorkerPool p in this",
        ),
        (
            ObservedPool::Deleting,
            Admission::Granted,
            &there,
            ProgressReason::WaitingForPool,
            "pool p is being deleted",
        ),
        (
            short,
            Admission::Granted,
            &there,
            ProgressReason::WaitingForPool,
            "1 workers are ready of 3 that a query needs: no node",
        ),
        (
            rolled,
            Admission::Granted,
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
            Admission::Granted,
            &missing,
            ProgressReason::SqlNotFound,
            "ConfigMap c does not exist",
        ),
    ];
    for (pool, admission, sql, reason, message) in rows {
        let mut world = World::new(json!({}));
        (world.seen.pool, world.seen.admission, world.seen.sql) = (pool, admission, sql.clone());
        let (actions, record, _) = world.settle();
        assert_eq!(actions, [], "{reason:?}");
        assert_eq!(
            (record.phase, record.reason),
            (QueryPhase::Pending, reason.into())
        );
        assert!(record.message.starts_with(message), "{}", record.message);
        assert_eq!((record.epoch, record.admitted), (0, None));
    }
}

#[test]
fn inline_workers_are_created_and_freed_again() {
    let mut world = World::new(json!({"workers": {"replicas": 1}}));
    world.seen.pool = ObservedPool::Absent;
    let (actions, record, _) = world.settle();
    assert_eq!(actions, [Action::CreatePool]);
    assert_eq!(record.pool.as_deref(), Some("q-workers"));
    world.seen.pool = ObservedPool::NameTaken;
    assert_eq!(world.settle().1.reason, ProgressReason::NameTaken.into());
    world.seen.pool = READY;
    assert_eq!(world.settle().0, launches(1, 1));
    world.pod(1, said(QueryPhase::Succeeded, None));
    let (actions, record, _) = world.settle();
    assert_eq!(record.phase, QueryPhase::Succeeded);
    assert_eq!(actions, [Action::Unfollow, delete("q-c1"), Action::DeletePool]);
}

#[test]
fn a_bad_spec_fails_at_once() {
    let mut world = World::new(json!({}));
    world.seen.problems = vec!["spec.sql is blank".to_owned()];
    let (_, record, _) = world.settle();
    assert_eq!(
        (record.phase, record.reason),
        (QueryPhase::Failed, ErrorReason::InvalidSpec.into())
    );
    assert_eq!(record.message, "spec.sql is blank");
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
            PodState::Waiting(WaitReason {
                reason,
                message: "so it says".to_owned(),
            }),
        );
        let (actions, record, _) = world.settle();
        assert_eq!(actions, []);
        assert_eq!(
            (record.reason, record.message.as_str()),
            (reason.into(), "so it says")
        );
    }
}

#[test]
fn what_a_coordinator_needed_goes_once_none_may_run() {
    let mut world = World::running(json!({}));
    world.seen.input = true;
    world.report(QueryPhase::Succeeded, None);
    let (actions, record, _) = world.settle();
    assert_eq!(record.phase, QueryPhase::Succeeded);
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
    let pool = |ready: u32, why: &str| ObservedPool::Found {
        ready,
        compatible: ready,
        needed: 1,
        why: why.to_owned(),
    };
    for (pool, reported, message) in [
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
        (ObservedPool::Absent, "", "was deleted"),
    ] {
        report.conditions[0].message = reported.to_owned();
        world.seen.report = Some(Arc::new(report.clone()));
        world.seen.pool = pool;
        let (_, record, _) = world.settle();
        assert_eq!(
            (record.phase, record.reason),
            (QueryPhase::Running, ProgressReason::WaitingForWorkers.into())
        );
        assert!(record.message.contains(message), "{}", record.message);
    }
}
