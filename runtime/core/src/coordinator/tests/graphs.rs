//! Graphs that are refused, each for its own reason.

use super::fixture::{chain, map_reduce, policy, sink_policy};
use crate::coordinator::{Coordinator, GraphError, check_graph};
use crate::ids::{ExchangeId, StageId};
use crate::limits::TooLarge;
use crate::plan::{ExchangeKind, ReadKind, StageGraph};
use crate::time::Instant;

fn large(why: TooLarge) -> Option<GraphError> {
    Some(GraphError::TooLarge(why))
}

fn error(change: impl FnOnce(&mut StageGraph)) -> Option<GraphError> {
    let mut graph = map_reduce(2, 3);
    change(&mut graph);
    Coordinator::new(graph, policy(), Instant(0)).err()
}

#[test]
fn good_graphs_pass() {
    assert_eq!(error(|_| {}), None);
    assert!(Coordinator::new(chain(5), sink_policy(), Instant(0)).is_ok());
}

#[test]
fn bad_graphs_are_refused_by_name() {
    let (s0, s1) = (StageId(0), StageId(1));
    let (x0, x1) = (ExchangeId(0), ExchangeId(1));
    assert_eq!(error(|graph| graph.stages.clear()), Some(GraphError::Empty));
    assert_eq!(
        error(|graph| graph.stages[1].id = s0),
        Some(GraphError::StageMisplaced(s0))
    );
    assert_eq!(
        error(|graph| graph.exchanges[0].id = x1),
        Some(GraphError::ExchangeMisplaced(x1))
    );
    assert_eq!(
        error(|graph| graph.stages[0].tasks = 0),
        Some(GraphError::NoTasks(s0))
    );
    let many = |graph: &mut StageGraph| graph.stages[0].tasks = u32::MAX;
    assert_eq!(error(many), large(TooLarge::Tasks(u64::from(u32::MAX) + 3)));
    let wide = |graph: &mut StageGraph| {
        graph.exchanges[0].partitions = 1 << 17;
        graph.stages[1].tasks = 1 << 17;
    };
    assert_eq!(error(wide), large(TooLarge::Partitions(1 << 17)));
    let long = Coordinator::new(chain(1025), policy(), Instant(0)).err();
    assert_eq!(long, large(TooLarge::Stages(1025)));
    assert_eq!(check_graph(&chain(1024)), Ok(()));
    assert_eq!(
        error(|graph| graph.exchanges[0].partitions = 0),
        Some(GraphError::NoPartitions(x0))
    );
    assert_eq!(
        error(|graph| graph.exchanges[0].writers.clear()),
        Some(GraphError::NoWriters(x0))
    );
    let unknown = ExchangeId(9);
    assert_eq!(
        error(|graph| graph.result = unknown),
        Some(GraphError::UnknownExchange(unknown))
    );
    let disagree = Some(GraphError::WriterMismatch {
        stage: s0,
        exchange: x1,
    });
    assert_eq!(error(|graph| graph.exchanges[1].writers.push(s0)), disagree);
    let own = Some(GraphError::PartitionsMismatch {
        stage: s1,
        exchange: x0,
        tasks: 3,
        partitions: 4,
    });
    assert_eq!(error(|graph| graph.exchanges[0].partitions = 4), own);
    assert_eq!(
        error(|graph| graph.stages[1].inputs.clear()),
        Some(GraphError::Unread(x0))
    );
    assert_eq!(
        error(|graph| graph.exchanges[1].partitions = 2),
        Some(GraphError::BadResult(x1))
    );
    let circle = |graph: &mut StageGraph| {
        graph.stages[1].inputs[0].exchange = x1;
        graph.stages[1].inputs[0].read = ReadKind::AllPartitions;
    };
    let later = Some(GraphError::ReadsLater {
        reader: s1,
        exchange: x1,
        writer: s1,
    });
    assert_eq!(error(circle), later);
}

#[test]
fn ranges_are_read_of_sorted_runs_and_of_one_exchange() {
    let (s1, x0) = (StageId(1), ExchangeId(0));
    let ranges = |graph: &mut StageGraph| graph.stages[1].inputs[0].read = ReadKind::OwnRange;
    let unsorted = Some(GraphError::NotSorted {
        stage: s1,
        exchange: x0,
    });
    assert_eq!(error(ranges), unsorted);
    let sorted = |graph: &mut StageGraph| {
        ranges(graph);
        graph.exchanges[0].kind = ExchangeKind::Range;
        graph.exchanges[0].partitions = 1;
    };
    assert_eq!(error(sorted), None);
    let twice = |graph: &mut StageGraph| {
        sorted(graph);
        graph.stages[1].inputs = vec![graph.stages[1].inputs[0]; 2];
    };
    assert_eq!(error(twice), Some(GraphError::ManyRanges(s1)));
}

#[test]
fn a_stage_that_reads_more_tasks_than_a_worker_takes_is_refused() {
    let often = |graph: &mut StageGraph| {
        graph.stages[0].tasks = 1 << 19;
        graph.stages[1].inputs = vec![graph.stages[1].inputs[0]; 3];
    };
    assert_eq!(error(often), large(TooLarge::Streams(3 << 19)));
    let all = |graph: &mut StageGraph| {
        graph.stages[0].tasks = 1 << 19;
        graph.stages[1].inputs[0].read = ReadKind::AllPartitions;
    };
    assert_eq!(error(all), large(TooLarge::Streams(3 << 19)));
}
