//! Queries that wait for a quota, for a place in their pool, or for their start.

use super::*;

#[test]
fn a_query_beyond_the_quota_of_its_namespace_waits_and_starts_no_workers() {
    for spec in [json!({}), json!({"workers": {"replicas": 1}})] {
        let mut world = World::new(spec);
        if world.seen.query.spec.workers.is_some() {
            world.seen.pool = ObservedPool::Absent;
        }
        world.seen.quota = Some("2 queries run in this namespace".to_owned());
        let (actions, record, again) = world.settle();
        assert_eq!(actions, []);
        assert_eq!(
            (record.phase, record.reason, record.message.as_str()),
            (
                QueryPhase::Pending,
                ProgressReason::NamespaceQuotaReached.into(),
                "2 queries run in this namespace"
            )
        );
        assert_eq!((record.admitted, again), (None, POLL));
    }
}

#[test]
fn a_place_in_the_queue_is_told_anew_the_sooner_the_nearer_it_is() {
    let mut before = Duration::ZERO;
    for ahead in [0, 5, 150, 1_000, 100_000] {
        let mut world = World::new(json!({}));
        world.seen.admission = Admission::Queued { ahead, running: 1 };
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
fn a_query_that_starts_later_has_no_epoch_yet() {
    let mut world = World::new(json!({}));
    world.seen.admission = Admission::Delayed(Duration::from_secs(3));
    let (actions, record, again) = world.settle();
    assert_eq!(
        (actions, record.admitted, record.epoch, again),
        (Vec::new(), None, 0, Duration::from_secs(3))
    );
    assert_eq!(
        (record.reason, record.message.as_str()),
        (ProgressReason::Queued.into(), STARTS_LATER)
    );
    world.seen.admission = Admission::Granted;
    let (actions, record, _) = world.settle();
    assert!(
        actions.contains(&Action::CreatePod {
            epoch: 1,
            memory_factor: 1
        }),
        "{actions:?}"
    );
    assert_eq!(record.epoch, 1);
}
