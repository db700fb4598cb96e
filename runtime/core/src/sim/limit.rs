//! Queries with a limit: scans write an exchange of which some rows are enough, one task takes them, and perhaps other
//! tasks read that one.

use std::collections::BTreeSet;

use rand::Rng;
use rand::rngs::SmallRng;

use super::audit::Violation;
use super::model::{Row, mix};
use crate::ids::{AttemptId, ExchangeId, StageId, TaskId};
use crate::locality::DataLocality;
use crate::plan::{Determinism, Exchange, ExchangeKind, ReadKind, Stage, StageGraph, StageInput};

/// One or two scans of many tasks, a limit over both, and perhaps tasks that read it.
pub fn limited_graph(rng: &mut SmallRng) -> StageGraph {
    let scans = rng.random_range(1..=2_u32);
    let fetch = rng.random_range(1..60);
    let readers = rng.random_range(0..=3_u32);
    let input = |exchange: u32, read| StageInput {
        exchange: ExchangeId(exchange),
        read,
        empty_ends: false,
        may_split: false,
    };
    let stage = |id: u32, tasks: u32, inputs: Vec<StageInput>, output: u32, determinism| Stage {
        id: StageId(id),
        label: format!("stage {id}"),
        tasks,
        inputs,
        output: ExchangeId(output),
        determinism,
        coalesces: false,
        has_sortable_join: false,
        swappable_joins: Vec::new(),
        data: DataLocality::default(),
        files: Vec::new(),
    };
    let exchange = |id: u32, kind, partitions: u32, writers: Vec<StageId>, fetch| Exchange {
        id: ExchangeId(id),
        kind,
        partitions,
        writers,
        fetch,
    };
    let mut stages: Vec<Stage> = (0..scans)
        .map(|id| {
            let determinism = match rng.random_bool(0.4) {
                true => Determinism::Indeterminate,
                false => Determinism::Determinate,
            };
            stage(id, rng.random_range(2..=12), Vec::new(), 0, determinism)
        })
        .collect();
    let all = vec![input(0, ReadKind::AllPartitions)];
    stages.push(stage(scans, 1, all, 1, Determinism::Indeterminate));
    let writers = (0..scans).map(StageId).collect();
    let mut exchanges = vec![
        exchange(0, ExchangeKind::Forward, 1, writers, Some(fetch)),
        exchange(1, ExchangeKind::Hash, readers.max(1), vec![StageId(scans)], None),
    ];
    if readers > 0 {
        let own = vec![input(1, ReadKind::OwnPartition)];
        stages.push(stage(scans + 1, readers, own, 2, Determinism::Unordered));
        exchanges.push(exchange(
            2,
            ExchangeKind::Forward,
            1,
            vec![StageId(scans + 1)],
            None,
        ));
    }
    let result = ExchangeId(u32::from(readers > 0) + 1);
    StageGraph {
        stages,
        exchanges,
        result,
        filters: Vec::new(),
        ordered: false,
    }
}

fn fetch_of(graph: &StageGraph, exchange: ExchangeId) -> Option<u64> {
    graph.exchanges[exchange.0 as usize].fetch
}

/// Leaves a limit the rows that it takes of those that it has read: others in each attempt.
pub fn take(graph: &StageGraph, stage: &Stage, reader: AttemptId, inputs: &mut [Vec<Row>]) {
    for (input, rows) in stage.inputs.iter().zip(inputs) {
        if let Some(fetch) = fetch_of(graph, input.exchange) {
            rows.sort_by_key(|row| mix(*row, u64::from(reader.attempt)));
            rows.truncate(usize::try_from(fetch).unwrap_or(usize::MAX));
        }
    }
}

/// Leaves a scan below a limit its rows: an indeterminate one has others, and fewer or more, in each attempt.
pub fn scan(graph: &StageGraph, stage: &Stage, attempt: AttemptId, rows: &mut Vec<Row>) {
    if fetch_of(graph, stage.output).is_none() {
        return;
    }
    match stage.determinism {
        Determinism::Determinate | Determinism::Unordered => {}
        Determinism::Indeterminate => {
            rows.retain(|row| !mix(*row, u64::from(attempt.attempt)).is_multiple_of(3));
        }
    }
}

/// Checks what the reader of a limited exchange got: enough rows, or those of all map tasks.
pub fn check_limit_read(
    graph: &StageGraph,
    exchange: ExchangeId,
    tasks: &BTreeSet<TaskId>,
    rows: u64,
) -> Result<(), Violation> {
    let exchange = &graph.exchanges[exchange.0 as usize];
    let writers = exchange.writers.iter();
    let all: u32 = writers.map(|writer| graph.stages[writer.0 as usize].tasks).sum();
    match exchange.fetch {
        Some(fetch) if rows < fetch && tasks.len() < all as usize => Err(format!(
            "a limit got {rows} rows of {fetch} from {} of {all} tasks",
            tasks.len()
        )),
        Some(_) | None => Ok(()),
    }
}

/// Checks the rows of a query with a limit: each once, and as many as the limit takes. Where scans have other rows each time,
/// nobody knows how many that are if they are fewer than the limit.
pub fn check_limit_result(graph: &StageGraph, rows: &[Row], reference: &[Row]) -> Result<(), Violation> {
    let Some(fetch) = graph.exchanges.iter().find_map(|exchange| exchange.fetch) else {
        return Ok(());
    };
    let known: BTreeSet<Row> = reference.iter().copied().collect();
    let distinct: BTreeSet<Row> = rows.iter().copied().collect();
    let (fetch, total) = (usize::try_from(fetch).unwrap_or(usize::MAX), known.len());
    let varies = graph
        .stages
        .iter()
        .any(|stage| stage.inputs.is_empty() && stage.determinism == Determinism::Indeterminate);
    let at_least = if varies { 0 } else { fetch.min(total) };
    let fits = distinct.len() == rows.len() && distinct.is_subset(&known);
    if fits && (at_least..=fetch).contains(&rows.len()) {
        return Ok(());
    }
    Err(format!(
        "the result has {} rows, {} of them distinct, instead of {at_least} to {fetch}",
        rows.len(),
        distinct.len()
    ))
}
