//! Suspension, deadlines, and what is left to do once a query has ended or goes.

use sluice_crds::shuffle_query::status::ResultPreview;

use super::*;

#[test]
fn suspension_cancels_then_deletes_and_resuming_starts_over() {
    let mut world = World::running(json!({"deadlineSeconds": 100}));
    world.edit(json!({"deadlineSeconds": 100, "suspend": true}));
    world.now = at(50);
    let (actions, record, again) = world.settle();
    let follow = Action::Follow {
        epoch: 1,
        address: "10.0.0.1".to_owned(),
    };
    assert_eq!(actions, [follow, Action::Cancel]);
    assert_eq!(
        (record.phase, record.admitted, record.suspended),
        (QueryPhase::Suspended, None, Some(at(50)))
    );
    assert_eq!(again, CANCEL_GRACE);
    world.report(QueryPhase::Cancelled, Some(ErrorReason::Cancelled));
    let (actions, record, _) = world.settle();
    assert_eq!(
        actions,
        [Action::Unfollow, delete("q-c1")],
        "once it has answered"
    );
    assert_eq!(record.phase, QueryPhase::Suspended);
    // Long after the deadline, which does not count this.
    (world.seen.pods, world.seen.report, world.now) = (Vec::new(), None, at(1_050));
    assert_eq!(world.settle().1.phase, QueryPhase::Suspended);
    world.edit(json!({"deadlineSeconds": 100}));
    let (actions, record, _) = world.settle();
    assert_eq!(actions, launches(2, 1));
    assert_eq!(
        (record.suspended, record.suspended_millis, record.epoch),
        (None, 1_000_000, 2)
    );
    world.now = at(1_101);
    assert_eq!(world.settle().1.reason, ErrorReason::DeadlineExceeded.into());
}

#[test]
fn a_suspended_query_keeps_its_data_if_that_is_asked_for() {
    let keep = |suspend| json!({"suspend": suspend, "shuffle": {"keepWhileSuspended": "1m"}});
    let mut world = World::running(keep(false));
    world.edit(keep(true));
    world.now = at(50);
    let (actions, record, again) = world.settle();
    assert_eq!(
        actions,
        [Action::Unfollow, delete("q-c1")],
        "stopped, not cancelled"
    );
    assert_eq!(record.phase, QueryPhase::Suspended);
    assert_eq!(again, Duration::from_secs(60));
    world.edit(keep(false));
    assert_eq!(world.settle().0, launches(2, 1));
}

#[test]
fn a_coordinator_that_does_not_answer_is_deleted_all_the_same() {
    let mut world = World::running(json!({}));
    world.edit(json!({"suspend": true}));
    world.settle();
    world.now += CANCEL_GRACE;
    assert_eq!(world.settle().0, [Action::Unfollow, delete("q-c1")]);
}

#[test]
fn success_that_came_before_a_suspension_counts() {
    let mut world = World::running(json!({}));
    world.edit(json!({"suspend": true}));
    world.settle();
    world.seen.report = None;
    world.pod(1, said(QueryPhase::Succeeded, None));
    assert_eq!(world.settle().1.phase, QueryPhase::Succeeded);
}

#[test]
fn a_deadline_waits_for_the_coordinators_answer_a_while() {
    let overdue = || {
        let mut world = World::running(json!({"deadlineSeconds": 10}));
        world.now = at(11);
        let follow = Action::Follow {
            epoch: 1,
            address: "10.0.0.1".to_owned(),
        };
        assert_eq!(world.settle().0, [follow, Action::Cancel]);
        world
    };
    let exceeded = ErrorReason::DeadlineExceeded.into();
    let rows = [
        (
            Some((QueryPhase::Succeeded, None)),
            ProgressReason::Completed.into(),
        ),
        (
            Some((QueryPhase::Cancelled, Some(ErrorReason::Cancelled))),
            exceeded,
        ),
        (
            Some((QueryPhase::Failed, Some(ErrorReason::InputChanged))),
            ErrorReason::InputChanged.into(),
        ),
        (None, exceeded),
    ];
    for (answer, reason) in rows {
        let mut world = overdue();
        match answer {
            Some((phase, error)) => world.report(phase, error),
            None => world.now += CANCEL_GRACE,
        }
        assert_eq!(world.settle().1.reason, reason, "{answer:?}");
    }
}

#[test]
fn a_waiting_query_has_a_deadline_too() {
    let mut world = World::new(json!({"deadlineSeconds": 10}));
    world.seen.pool = ObservedPool::Absent;
    let (_, _, again) = world.settle();
    assert_eq!(again, Duration::from_secs(9));
    world.now = at(10);
    let (_, record, _) = world.settle();
    assert_eq!(
        (record.phase, record.reason),
        (QueryPhase::Failed, ErrorReason::DeadlineExceeded.into())
    );
}

#[test]
fn after_the_end_pods_end_by_themselves_for_a_while() {
    let mut world = World::running(json!({}));
    world.report(QueryPhase::Succeeded, None);
    let (actions, _, again) = world.settle();
    assert_eq!((actions, again), (vec![Action::Unfollow], END_GRACE));
    world.now += END_GRACE;
    assert_eq!(world.settle().0, [Action::Unfollow, delete("q-c1")]);
}

#[test]
fn the_pod_of_a_failed_query_stays_for_its_log() {
    let mut world = World::running(json!({}));
    world.seen.report = None;
    world.pod(1, said(QueryPhase::Failed, Some(ErrorReason::Internal)));
    world.settle();
    world.now = at(9_999);
    assert_eq!(world.settle().0, [Action::Unfollow]);
}

#[test]
fn a_ttl_deletes_the_query_in_its_time() {
    let mut world = World::running(json!({"ttlSecondsAfterFinished": 60}));
    world.seen.report = None;
    world.pod(1, said(QueryPhase::Succeeded, None));
    world.now = at(5);
    world.settle();
    // It ended at second 5.
    (world.seen.pods, world.now) = (Vec::new(), at(64));
    assert_eq!(
        world.settle(),
        (
            vec![Action::Unfollow],
            QueryRecord::of(&world.seen.query),
            Duration::from_secs(1)
        )
    );
    world.now = at(65);
    assert_eq!(world.settle().0, [Action::Unfollow, Action::DeleteQuery]);
}

/// The coordinator's clock is 300 s ahead.
#[test]
fn an_end_ahead_of_the_clock_is_no_age() {
    let mut world = World::running(json!({"ttlSecondsAfterFinished": 60}));
    world.report(QueryPhase::Succeeded, None);
    let mut report = ShuffleQueryStatus::clone(world.seen.report.as_ref().unwrap());
    report.end_time = Some(Time(at(301)));
    world.seen.report = Some(Arc::new(report));
    let (actions, _, again) = world.settle();
    assert_eq!((actions, again), (vec![Action::Unfollow], END_GRACE));
    let ended = world.seen.query.status.as_ref().unwrap().end_time.clone();
    assert_eq!(ended, Some(Time(at(1))), "as this operator has seen it");

    // One that was stored so, or this operator's clock was set back.
    let mut query = ShuffleQuery::clone(&world.seen.query);
    query.status.as_mut().unwrap().end_time = Some(Time(at(301)));
    world.seen.query = Arc::new(query);
    assert_eq!(world.settle().0, [Action::Unfollow], "it is not deleted");
    world.now = at(361);
    assert_eq!(world.settle().0, [Action::Unfollow, Action::DeleteQuery]);
}

#[test]
fn a_rest_that_began_ahead_of_the_clock_still_waits_for_the_coordinators_answer() {
    let mut world = World::running(json!({}));
    world.edit(json!({"suspend": true}));
    world.now = at(301);
    world.settle();
    world.now = at(2);
    assert!(world.settle().0.contains(&Action::Cancel));
    world.edit(json!({}));
    let (_, record, _) = world.settle();
    assert_eq!((record.suspended, record.suspended_millis), (None, 0));
}

/// What nobody heard while the coordinator ran is in its last words.
#[test]
fn who_hears_of_the_end_late_has_the_rows_or_says_that_they_are_lost() {
    let preview = ResultPreview {
        columns: vec!["a".to_owned()],
        rows: vec![vec!["1".to_owned()]],
        truncated: false,
    };
    let stage = json!({"id": 0, "label": "scan t", "state": "Done", "tasksPlanned": 2, "tasksDone": 2});
    let ended = |spec: Value, preview: Option<ResultPreview>| {
        let mut world = World::running(spec);
        let mut state = said(QueryPhase::Succeeded, None);
        let PodState::Ended(PodEnd::Reported(termination)) = &mut state else {
            panic!("no termination message");
        };
        termination.preview = preview;
        termination.totals.rows_written = 3;
        termination.stages = vec![serde_json::from_value(stage.clone()).unwrap()];
        world.pod(1, state);
        world.now = at(9);
        let Decision::Persist(record) = decide(&world.seen, world.now) else {
            panic!("it acts first");
        };
        let unheard = coordinator_outcome::unreported_end(&world.seen, &record);
        assert_eq!(unheard, Some(at(5)), "the lag is counted from the end");
        world.settle();
        ShuffleQueryStatus::clone(world.seen.query.status.as_ref().unwrap())
    };
    let completed = Some(ProgressReason::Completed.into());
    let status = ended(json!({}), Some(preview.clone()));
    assert_eq!((status.phase, status.reason), (QueryPhase::Succeeded, completed));
    assert_eq!((status.preview, status.stages.len()), (Some(preview), 1));

    let status = ended(json!({}), None);
    assert_eq!(
        (status.phase, status.reason),
        (QueryPhase::Succeeded, Some(ProgressReason::ResultLost.into()))
    );
    assert!(status.message.unwrap().contains("rows are lost"));

    let status = ended(json!({"sink": {"location": "/out/q", "format": "parquet"}}), None);
    assert_eq!(status.reason, completed, "its rows are in the sink");

    let status = ended(json!({"preview": "None"}), None);
    assert_eq!(status.reason, completed, "nobody was to see its rows");
    let message = status.message.unwrap();
    assert!(
        message.starts_with("rows of the result: 3;") && message.contains("none is kept"),
        "{message}"
    );
}

#[test]
fn a_query_that_is_being_deleted_is_only_cancelled() {
    let mut world = World::running(json!({}));
    let mut query = ShuffleQuery::clone(&world.seen.query);
    query.metadata.deletion_timestamp = Some(Time(at(3)));
    world.seen.query = Arc::new(query);
    assert_eq!(world.settle().0, [Action::Cancel]);
}

#[test]
fn an_epoch_is_above_every_pod_even_without_a_status() {
    let mut world = World::new(json!({}));
    world.pod(7, PodState::Running("10.0.0.7".to_owned()));
    let Decision::Persist(record) = decide(&world.seen, world.now) else {
        panic!("it acts first");
    };
    assert_eq!(record.epoch, 8);
    assert_eq!(world.settle().0, launches(8, 1));
    world.pod(8, PodState::Running("10.0.0.8".to_owned()));
    let follow = Action::Follow {
        epoch: 8,
        address: "10.0.0.8".to_owned(),
    };
    assert_eq!(world.settle().0, [follow, delete("q-c7")]);
}
