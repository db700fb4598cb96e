//! Stages that merge ranges of sorted runs.

use super::fixture::{Query, assignments, attempt, exchange, policy, stage, states_at, worker};
use crate::coordinator::{Action, Event};
use crate::ids::{AttemptId, ExchangeId, StageEpoch};
use crate::layout::LayoutId;
use crate::message::{Assignment, InputState};
use crate::metrics::AttemptMetrics;
use crate::plan::{Determinism, ExchangeKind, ReadKind, StageGraph};
use crate::ranges::{ByteRange, KeyRange, RunSample, SortedRun};
use crate::time::Instant;

/// Two map tasks that sort, and `tasks` that merge.
fn sort(tasks: u32) -> StageGraph {
    StageGraph {
        stages: vec![
            stage(0, 2, &[], 0),
            stage(1, tasks, &[(0, ReadKind::OwnRange)], 1),
        ],
        exchanges: vec![
            exchange(0, ExchangeKind::Range, 1, &[0]),
            exchange(1, ExchangeKind::Forward, 1, &[1]),
        ],
        result: ExchangeId(1),
        ordered: true,
        filters: Vec::new(),
    }
}

/// A success whose frames of 100 bytes start with these keys.
fn sorted(name: &str, id: AttemptId, keys: &[u8]) -> Event {
    let samples = (0..).zip(keys).map(|(frame, key)| RunSample {
        key: vec![*key],
        offset: frame * 100,
    });
    Event::AttemptSucceeded {
        worker: worker(name),
        attempt: id,
        layout: LayoutId::default(),
        outputs: Vec::new(),
        run: Some(SortedRun {
            samples: samples.collect(),
            end: 100 * keys.len() as u64,
        }),
        filters: Vec::new(),
        metrics: AttemptMetrics::default(),
    }
}

fn ranges(actions: &[Action]) -> Vec<KeyRange> {
    let assigned = assignments(actions);
    let of = |(_, assignment): (_, Assignment)| Some(assignment.inputs[0].range.clone()?.keys);
    assigned.into_iter().filter_map(of).collect()
}

/// What an attempt was told of where its range is: with its assignment, or by an update.
fn bytes(actions: &[Action], reader: AttemptId) -> Vec<(AttemptId, ByteRange)> {
    let told = |action: &Action| match action {
        Action::AssignAttempt { assignment, .. } if assignment.attempt == reader => {
            let ranges = assignment.inputs.iter().filter_map(|input| input.range.clone());
            let runs = ranges.flat_map(|range| range.runs);
            runs.map(|run| (run.map_attempt, run.bytes)).collect()
        }
        Action::UpdateInputs { ranges, .. } => {
            let own = ranges.iter().filter(|range| range.reader == reader);
            own.map(|range| (range.run.map_attempt, range.run.bytes))
                .collect()
        }
        _ => Vec::new(),
    };
    actions.iter().flat_map(told).collect()
}

fn part(start: u64, end: u64) -> ByteRange {
    ByteRange { start, end }
}

#[test]
fn each_task_is_told_its_range_and_where_it_lies_in_each_run() {
    let mut query = Query::new(sort(2), policy());
    query.join("a", 4);
    query.run(sorted("a", attempt(0, 0, 0), &[1, 3, 5, 7]));
    let actions = query.run(sorted("a", attempt(0, 1, 0), &[2, 4, 6, 8]));
    let ranges = ranges(&actions);
    assert_eq!(ranges.len(), 2);
    assert!(ranges[0].lower.is_none() && ranges[1].upper.is_none());
    assert_eq!(ranges[0].upper, ranges[1].lower);
    let bound = ranges[0].upper.clone().expect("a bound");
    assert_eq!((bound.key, bound.map_task), (vec![6], 1));
    // Of the first run's frames the third has rows of either range, of the second run's the second one.
    assert_eq!(
        bytes(&actions, attempt(1, 0, 0)),
        [(attempt(0, 0, 0), part(0, 300)), (attempt(0, 1, 0), part(0, 200))]
    );
    assert_eq!(
        bytes(&actions, attempt(1, 1, 0)),
        [
            (attempt(0, 0, 0), part(200, 400)),
            (attempt(0, 1, 0), part(100, 400))
        ]
    );
    let reduce = query
        .machine
        .snapshot(Instant(0))
        .stages
        .swap_remove(1)
        .reduce
        .expect("it reads");
    assert_eq!(
        reduce.partition_bytes_histogram.iter().sum::<u32>(),
        2,
        "{reduce:?}"
    );
}

#[test]
fn little_is_merged_by_the_first_task() {
    let mut query = Query::new(sort(3), policy());
    query.join("a", 4);
    query.run(sorted("a", attempt(0, 0, 0), &[1]));
    let actions = query.run(sorted("a", attempt(0, 1, 0), &[]));
    let found = bytes(&actions, attempt(1, 0, 0));
    assert_eq!(
        found,
        [(attempt(0, 0, 0), part(0, 100)), (attempt(0, 1, 0), part(0, 0))]
    );
    for task in 1..3 {
        let found = bytes(&actions, attempt(1, task, 0));
        assert_eq!(
            found,
            [(attempt(0, 0, 0), part(0, 0)), (attempt(0, 1, 0), part(0, 0))]
        );
    }
}

#[test]
fn bounds_stay_when_a_run_is_written_again() {
    let mut query = Query::new(sort(2), policy());
    query.join("a", 1);
    query.join("b", 1);
    query.run(sorted("a", attempt(0, 0, 0), &[1, 3, 5, 7]));
    let before = ranges(&query.run(sorted("b", attempt(0, 1, 0), &[2, 4, 6, 8])));
    query.lose("a");
    query.join("c", 2);
    // Other frames, of the same rows: what is told of them is where the same range lies there.
    let actions = query.run(sorted("c", attempt(0, 0, 1), &[1, 6]));
    let waits = bytes(&actions, attempt(1, 0, 0));
    assert_eq!(waits, [(attempt(0, 0, 1), part(0, 200))]);
    let begins = bytes(&actions, attempt(1, 1, 1));
    assert_eq!(
        begins,
        [
            (attempt(0, 0, 1), part(100, 200)),
            (attempt(0, 1, 0), part(100, 400))
        ]
    );
    let again = ranges(&actions);
    assert_eq!(again.len(), 1);
    assert!(again.iter().all(|range| before.contains(range)), "{again:?}");
}

#[test]
fn a_stage_that_starts_over_is_divided_anew() {
    let mut graph = sort(2);
    graph.stages[0].determinism = Determinism::Indeterminate;
    let mut query = Query::new(graph, policy());
    query.join("a", 1);
    query.join("b", 2);
    query.run(sorted("a", attempt(0, 0, 0), &[1, 3, 5, 7]));
    let before = ranges(&query.run(sorted("b", attempt(0, 1, 0), &[2, 4, 6, 8])));
    let lost = query.lose("a");
    let again = assignments(&lost)
        .into_iter()
        .map(|(worker, assignment)| (worker, assignment.attempt));
    assert_eq!(again.collect::<Vec<_>>(), [("b".to_owned(), attempt(0, 0, 1))]);
    let actions = query.run(sorted("b", attempt(0, 0, 1), &[11, 13, 15, 17]));
    let after = assignments(&actions);
    assert!(!after.is_empty());
    assert!(
        after
            .iter()
            .all(|(_, assignment)| assignment.attempt.stage_epoch == StageEpoch(1))
    );
    let after = ranges(&actions);
    assert!(after.iter().all(|range| !before.contains(range)), "{after:?}");
}

#[test]
fn a_run_without_samples_is_read_whole() {
    let mut query = Query::new(sort(2), policy());
    query.join("a", 4);
    query.run(sorted("a", attempt(0, 0, 0), &[1, 3, 5, 7]));
    let actions = query.succeed("a", attempt(0, 1, 0));
    let received = bytes(&actions, attempt(1, 0, 0));
    assert_eq!(
        received.len(),
        1,
        "of the other run, its reader leaves out what is not its own: {received:?}"
    );
    let won = |attempt| (attempt, InputState::Won);
    assert_eq!(
        states_at(&actions, "a"),
        [won(attempt(0, 0, 0)), won(attempt(0, 1, 0))]
    );
}
