//! How a coordinator ended, and when and with what the next one starts.

use super::*;

/// How a coordinator's pod ended; what becomes of its query: phase, reason, and (epoch, retries, counted retries).
type Ending = (PodState, QueryPhase, ConditionReason, (u64, u32, u32));

fn endings() -> Vec<Ending> {
    let failed = |reason| said(QueryPhase::Failed, Some(reason));
    let stays = |end: PodState, phase, reason: ConditionReason| (end, phase, reason, (1, 0, 0));
    let fails = |end, reason: ErrorReason| stays(end, QueryPhase::Failed, reason.into());
    let again = |end, counted| {
        let reason = ProgressReason::CoordinatorRestarting.into();
        (end, QueryPhase::Pending, reason, (2, 1, counted))
    };
    let cancelled = said(QueryPhase::Cancelled, Some(ErrorReason::Cancelled));
    // Without a sink, a coordinator that ended without a preview has lost its rows.
    let (lost, stopped) = (ProgressReason::ResultLost.into(), ErrorReason::Cancelled.into());
    let (evicted, crashed) = ("Evicted".to_owned(), "exit code 101".to_owned());
    vec![
        stays(said(QueryPhase::Succeeded, None), QueryPhase::Succeeded, lost),
        stays(cancelled, QueryPhase::Cancelled, stopped),
        stays(PodState::Ended(PodEnd::Cancelled), QueryPhase::Cancelled, stopped),
        fails(failed(ErrorReason::TaskFailed), ErrorReason::TaskFailed),
        fails(failed(ErrorReason::InputCorrupt), ErrorReason::InputCorrupt),
        fails(failed(ErrorReason::InvalidSql), ErrorReason::InvalidSql),
        fails(failed(ErrorReason::Internal), ErrorReason::Internal),
        fails(
            PodState::Ended(PodEnd::Refused("why".to_owned())),
            ErrorReason::InvalidSpec,
        ),
        again(failed(ErrorReason::WorkersLost), 1),
        again(failed(ErrorReason::SinkFailed), 1),
        again(failed(ErrorReason::BuildMismatch), 1),
        again(PodState::Ended(PodEnd::NoWorkers), 1),
        again(PodState::Ended(PodEnd::OutOfMemory), 1),
        again(PodState::Ended(PodEnd::Crashed(crashed)), 1),
        again(PodState::Ended(PodEnd::Lost(evicted)), 0),
    ]
}

#[test]
fn how_a_coordinator_ended_decides_what_comes_next() {
    for (state, phase, reason, counts) in endings() {
        let mut world = World::running(json!({}));
        world.seen.report = None;
        world.pod(1, state.clone());
        let (_, record, _) = world.settle();
        assert_eq!((record.phase, record.reason), (phase, reason), "{state:?}");
        assert_eq!(
            (record.epoch, record.pod_retries, record.coordinator_failures),
            counts,
            "{state:?}"
        );
        assert!(record.admitted.is_some(), "{state:?} takes the place away");
    }
}

#[test]
fn a_pod_that_is_gone_or_must_go_is_not_waited_for() {
    for leaving in [true, false] {
        let mut world = World::running(json!({}));
        world.seen.report = None;
        match leaving {
            true => world.seen.pods[0].leaving = true,
            false => world.seen.pods.clear(),
        }
        let (actions, record, again) = world.settle();
        assert_eq!(
            (record.epoch, record.pod_retries, record.coordinator_failures),
            (2, 1, 0)
        );
        assert_eq!((actions, again), (vec![Action::Unfollow], Duration::from_secs(1)));
        world.now = at(2);
        assert_eq!(world.settle().0, launches(2, 1), "after the wait");
        world.pod(2, PodState::Running("10.0.0.2".to_owned()));
        let follow = Action::Follow {
            epoch: 2,
            address: "10.0.0.2".to_owned(),
        };
        assert_eq!(
            world.settle().0,
            [follow],
            "one that leaves already is not deleted again"
        );
    }
}

/// Old workers are ready and would refuse a coordinator of the new image.
#[test]
fn the_next_coordinator_waits_while_the_pool_is_rolled() {
    let rolled = |compatible| found(3, compatible, "");
    let mut world = World::running(json!({}));
    world.seen.pool = rolled(0);
    assert_eq!(world.settle().1.phase, QueryPhase::Running, "what runs goes on");
    world.seen.report = None;
    world.pod(1, said(QueryPhase::Failed, Some(ErrorReason::BuildMismatch)));
    let (_, record, again) = world.settle();
    assert_eq!(record.reason, ProgressReason::CoordinatorRestarting.into());
    world.now += again;
    for _ in 0..2 {
        let (actions, record, _) = world.settle();
        assert_eq!(actions, [Action::Unfollow]);
        assert_eq!(
            (record.epoch, record.pod_retries, record.coordinator_failures),
            (2, 1, 1)
        );
        assert_eq!(
            (record.phase, record.reason),
            (QueryPhase::Pending, ProgressReason::WaitingForPool.into())
        );
        assert_eq!(
            record.message,
            "pool p is being rolled: 0 workers of its image are ready of 1 that a query needs"
        );
        assert!(record.admitted.is_some(), "it keeps its place");
    }
    // One new worker will do for a query that has its place.
    world.seen.pool = rolled(1);
    assert_eq!(world.settle().0, launches(2, 1));
}

#[test]
fn a_pod_that_was_not_posted_yet_keeps_its_epoch() {
    let mut world = World::new(json!({}));
    let Decision::Persist(record) = decide(&world.seen, world.now) else {
        panic!("it acts first");
    };
    let mut query = ShuffleQuery::clone(&world.seen.query);
    query.status = Some(compose(&query, &record, None, world.now));
    // The operator went away here; another takes over.
    world.seen.query = Arc::new(query);
    assert_eq!(world.settle().0, launches(1, 1));
}

#[test]
fn waits_grow_to_a_minute_and_uncounted_losses_have_no_end() {
    let mut world = World::running(json!({}));
    world.seen.report = None;
    let mut waits = Vec::new();
    for epoch in 1..=12 {
        world.pod(epoch, PodState::Ended(PodEnd::Lost("Evicted".to_owned())));
        let (_, record, again) = world.settle();
        assert_eq!((record.epoch, record.coordinator_failures), (epoch + 1, 0));
        waits.push(again.as_secs());
        world.now += again;
        assert_eq!(world.settle().0, launches(epoch + 1, 1));
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60, 60]);
}

#[test]
fn memory_doubles_up_to_a_cap() {
    let mut world = World::running(json!({}));
    world.seen.report = None;
    let mut factors = Vec::new();
    for epoch in 1..=8 {
        let factor = *factors.last().unwrap_or(&1);
        world.pod(epoch, PodState::Ended(PodEnd::OutOfMemory));
        world.seen.pods.last_mut().unwrap().memory_factor = factor;
        let (_, record, again) = world.settle();
        if record.phase.is_terminal() {
            assert_eq!(record.reason, ErrorReason::OutOfMemory.into());
            break;
        }
        world.now += again;
        let (actions, ..) = world.settle();
        let Some(Action::CreatePod { memory_factor, .. }) = actions.last() else {
            panic!("{actions:?}");
        };
        factors.push(*memory_factor);
    }
    assert_eq!(factors, [2, 4, 8]);
}

#[test]
fn more_memory_is_not_forgotten_with_the_pod_that_lacked_it() {
    let mut world = World::running(json!({}));
    world.seen.report = None;
    world.pod(1, PodState::Ended(PodEnd::OutOfMemory));
    let (actions, record, again) = world.settle();
    assert_eq!((actions, record.epoch), (vec![Action::Unfollow], 2));
    // Somebody tidies up before the successor's turn has come.
    world.seen.pods.clear();
    world.now += again;
    assert_eq!(world.settle().0, launches(2, 2));
    // Lost for another reason, the next one gets as much.
    world.pod(2, PodState::Ended(PodEnd::Lost("Evicted".to_owned())));
    let (_, _, again) = world.settle();
    world.seen.pods.clear();
    world.now += again;
    assert_eq!(world.settle().0, launches(3, 2));
}

#[test]
fn coordinator_failures_end() {
    for (attempts, expected) in [(1, 0), (3, 2)] {
        let mut world = World::running(json!({"retry": {"maxTaskAttempts": attempts}}));
        world.seen.report = None;
        let ended = (1..=10).find_map(|epoch| {
            world.pod(epoch, said(QueryPhase::Failed, Some(ErrorReason::WorkersLost)));
            let (_, record, again) = world.settle();
            world.now += again;
            world.settle();
            record.phase.is_terminal().then_some(record)
        });
        let ended = ended.expect("it tries for ever");
        assert_eq!(ended.reason, ErrorReason::WorkersLost.into());
        assert_eq!(ended.coordinator_failures, expected);
    }
}
