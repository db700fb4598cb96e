//! When a coordinator is called, what its reports count for, and when it is out of reach.

use super::*;
use crate::shuffle_query::progress::Unreachable;

fn creating() -> PodState {
    PodState::Waiting(WaitReason {
        reason: ProgressReason::CoordinatorStarting,
        message: String::new(),
    })
}

#[test]
fn a_report_counts_before_the_kubelet_says_that_the_container_runs() {
    let mut world = World::new(json!({}));
    world.settle();
    world.pod(1, creating());
    assert_eq!(world.settle().0, []);
    world.seen.pods[0].ip = Some("10.0.0.1".to_owned());
    let follow = Action::Follow {
        epoch: 1,
        address: "10.0.0.1".to_owned(),
    };
    assert_eq!(world.settle().0, [follow]);
    world.report(QueryPhase::Running, None);
    assert_eq!(world.settle().1.coordinator, Coordinator::Serving);
    world.report(QueryPhase::Succeeded, None);
    assert_eq!(world.settle().1.phase, QueryPhase::Succeeded);
}

#[test]
fn a_coordinator_is_not_out_of_reach_as_long_as_it_may_start() {
    let mut world = World::new(json!({}));
    world.settle();
    // Its image was pulled for a minute.
    world.seen.unreachable = Some(Unreachable {
        address: "10.0.0.1".to_owned(),
        since: at(2),
        error: "connection refused".to_owned(),
    });
    world.now = at(70);
    world.pod(1, creating());
    world.seen.pods[0].ip = Some("10.0.0.1".to_owned());
    assert_eq!(
        world.settle().1.reason,
        ProgressReason::CoordinatorStarting.into()
    );
    world.pod(1, PodState::Running("10.0.0.1".to_owned()));
    for (runs_for, reason, waits) in [
        (1, ProgressReason::CoordinatorStarting, Duration::from_secs(29)),
        (30, ProgressReason::CoordinatorUnreachable, IDLE),
    ] {
        world.seen.pods[0].started = Some(at(70 - runs_for));
        let (_, record, again) = world.settle();
        assert_eq!((record.reason, again), (reason.into(), waits));
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
    let (actions, record, _) = world.settle();
    assert_eq!(
        (actions, record.coordinator),
        (vec![follow.clone()], Coordinator::Starting)
    );
    // It serves when it has something to tell; an operator that has just started has not heard of it.
    world.report(QueryPhase::Pending, None);
    let (actions, record, _) = world.settle();
    assert_eq!(
        (actions, record.coordinator),
        (vec![follow.clone()], Coordinator::Serving)
    );
    world.seen.report = None;
    let (actions, record, _) = world.settle();
    assert_eq!(
        (actions, record.coordinator),
        (vec![follow], Coordinator::Serving)
    );
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
        let (_, record, _) = world.settle();
        assert_eq!(
            (record.phase, record.reason, record.coordinator),
            (
                phase,
                ProgressReason::CoordinatorUnreachable.into(),
                Coordinator::Starting
            )
        );
        let message = "the operator has not reached the coordinator at 10.0.0.1 port 7401 since 13:46:43 UTC (connection timed \
                       out)";
        assert!(record.message.starts_with(message), "{}", record.message);
        world.seen.unreachable = None;
        world.report(QueryPhase::Running, None);
        let (_, record, _) = world.settle();
        assert_eq!(
            (record.reason, record.coordinator),
            (ProgressReason::Running.into(), Coordinator::Serving)
        );
    }
}
