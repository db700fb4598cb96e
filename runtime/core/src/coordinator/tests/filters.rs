//! Runtime filters: who waits for whom and how long, and which keys a scan gets.

use std::time::Duration;

use super::fixture::*;
use crate::coordinator::{Event, GraphError, check_graph};
use crate::ids::{AttemptId, FilterId, StageId};
use crate::key_filter::KeyFilter;
use crate::plan::{Determinism, ExchangeKind, ReadKind, RuntimeFilter, StageGraph};

const MAX_WAIT: u64 = 700;

/// s0 (build) and s1 (probe, four tasks) are joined by s2. A filter goes from s0 to s1.
fn join(builds: u32) -> StageGraph {
    StageGraph {
        stages: vec![
            stage(0, builds, &[], 0),
            stage(1, 4, &[], 1),
            stage(
                2,
                2,
                &[(0, ReadKind::OwnPartition), (1, ReadKind::OwnPartition)],
                2,
            ),
        ],
        exchanges: vec![
            exchange(0, ExchangeKind::Hash, 2, &[0]),
            exchange(1, ExchangeKind::Hash, 2, &[1]),
            exchange(2, ExchangeKind::Forward, 1, &[2]),
        ],
        filters: vec![RuntimeFilter {
            id: FilterId(0),
            source: StageId(0),
            targets: vec![StageId(1)],
            max_wait: Duration::from_millis(MAX_WAIT),
        }],
        ..chain(3)
    }
}

fn succeeded_with(id: AttemptId, keys: &[u64]) -> Event {
    let mut event = succeeded("a", id);
    if let Event::AttemptSucceeded { filters, .. } = &mut event {
        *filters = vec![KeyFilter::of(keys.to_vec())];
    }
    event
}

/// The attempts that were assigned, each with the keys that it was given.
fn keys(actions: &[crate::coordinator::Action]) -> Vec<(AttemptId, Vec<KeyFilter>)> {
    let all = assignments(actions).into_iter();
    all.map(|(_, assignment)| {
        let keys = assignment
            .filters
            .iter()
            .map(|filter| filter.keys.as_ref().clone());
        (assignment.attempt, keys.collect())
    })
    .collect()
}

#[test]
fn a_probe_side_waits_for_the_keys_of_all_tasks_of_the_build_side() {
    let mut query = Query::new(join(2), policy());
    let begun = query.join("a", 8);
    assert_eq!(
        keys(&begun),
        [(attempt(0, 0, 0), vec![]), (attempt(0, 1, 0), vec![])]
    );
    assert_eq!(keys(&query.run(succeeded_with(attempt(0, 0, 0), &[1, 2]))), []);
    let probe = keys(&query.run(succeeded_with(attempt(0, 1, 0), &[2, 3])));
    assert_eq!(probe.len(), 4);
    for (task, (id, filters)) in (0..).zip(probe) {
        assert_eq!(id, attempt(1, task, 0));
        assert_eq!(filters, [KeyFilter::of(vec![1, 2, 3])]);
    }
    let snapshot = query.machine.snapshot(crate::time::Instant(0));
    let shown: Vec<_> = snapshot.stages.iter().map(|stage| stage.filters).collect();
    assert_eq!(shown[0].map(|filters| filters.made), Some(1));
    assert_eq!(
        shown[1].map(|filters| (filters.used, filters.missed)),
        Some((1, 0))
    );
    assert_eq!(shown[2], None);
}

#[test]
fn waiting_ends_after_its_bound_and_the_stage_goes_without() {
    let mut query = Query::new(join(1), policy());
    assert_eq!(assigned(&query.join("a", 8)).len(), 1);
    query.tick_at(10);
    let wake = query.machine.next_deadline().expect("it waits");
    assert_eq!(wake.0, 10 + MAX_WAIT);
    assert_eq!(assigned(&query.tick_at(9 + MAX_WAIT)), []);
    let late = keys(&query.tick_at(wake.0));
    assert_eq!(late.len(), 4);
    assert!(late.iter().all(|(_, filters)| filters.is_empty()));
    let snapshot = query.machine.snapshot(wake);
    let shown = snapshot.stages[1].filters.expect("it uses a filter");
    assert_eq!((shown.used, shown.missed, shown.waited_ms), (0, 1, MAX_WAIT));
    // The keys come too late. An attempt that is tried again reads like the others of its stage.
    query.run(succeeded_with(attempt(0, 0, 0), &[1]));
    query.fail("a", attempt(1, 2, 0), failed("disk"));
    let again = keys(&query.tick_at(wake.0 + 1_000));
    assert_eq!(again, [(attempt(1, 2, 1), vec![])]);
}

#[test]
fn only_the_time_counts_in_which_nothing_else_could_start() {
    let mut query = Query::new(join(3), policy());
    // One slot: the second and third task of the build side wait for it.
    query.join("a", 1);
    query.tick_at(5_000);
    query.run(succeeded_with(attempt(0, 0, 0), &[1]));
    query.tick_at(9_000);
    assert_eq!(
        assigned(&query.run(succeeded_with(attempt(0, 1, 0), &[2]))),
        [("a".into(), attempt(0, 2, 0))]
    );
    let probe = keys(&query.run(succeeded_with(attempt(0, 2, 0), &[3])));
    assert_eq!(probe, [(attempt(1, 0, 0), vec![KeyFilter::of(vec![1, 2, 3])])]);
}

#[test]
fn a_lost_output_does_not_lose_its_keys() {
    let mut query = Query::new(join(1), policy());
    query.join("a", 1);
    query.run(succeeded_with(attempt(0, 0, 0), &[1, 2]));
    query.lose("a");
    let first = keys(&query.join("b", 8));
    let probe: Vec<_> = first.iter().filter(|(id, _)| id.stage == StageId(1)).collect();
    assert_eq!(probe.len(), 4, "{first:?}");
    assert!(
        probe
            .iter()
            .all(|(_, filters)| *filters == [KeyFilter::of(vec![1, 2])])
    );
}

#[test]
fn a_filter_that_is_not_reported_admits_everything() {
    let mut query = Query::new(join(1), policy());
    query.join("a", 8);
    let probe = keys(&query.succeed("a", attempt(0, 0, 0)));
    assert_eq!(probe.len(), 4);
    assert!(
        probe
            .iter()
            .all(|(_, filters)| *filters == [KeyFilter::everything()])
    );
}

#[test]
fn filters_that_cannot_be_right_are_refused() {
    let mut other_rows = join(1);
    other_rows.stages[0].determinism = Determinism::Indeterminate;
    let mut itself = join(1);
    itself.filters[0].targets = vec![StageId(0)];
    let mut of_its_reader = join(1);
    of_its_reader.filters[0].source = StageId(2);
    let mut unknown = join(1);
    unknown.filters[0].targets = vec![StageId(9)];
    let expected = [
        GraphError::FilterOfOtherRows {
            filter: FilterId(0),
            stage: StageId(0),
        },
        GraphError::FilterCycle,
        GraphError::FilterCycle,
        GraphError::BadFilter(FilterId(0)),
    ];
    for (graph, error) in [other_rows, itself, of_its_reader, unknown].iter().zip(expected) {
        assert_eq!(check_graph(graph), Err(error));
    }
    assert_eq!(check_graph(&join(1)), Ok(()));
}
