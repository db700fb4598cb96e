//! Joins in the simulator: rows match where they have the same key, and that is the partition in which they were planned to meet.

use std::collections::BTreeMap;

use rand::Rng;
use rand::rngs::SmallRng;

use super::model::{Row, mix};
use crate::ids::{ExchangeId, StageId};
use crate::joins::JoinPolicy;
use crate::locality::DataLocality;
use crate::plan::{
    Determinism, Exchange, ExchangeKind, ReadKind, Stage, StageGraph, StageInput, SwappableJoin,
};

/// The label of a stage that joins its inputs.
const JOIN: &str = "join";

/// Whether the stage joins its inputs: the first one is the probe side.
pub fn is_join(stage: &Stage) -> bool {
    stage.label == JOIN
}

/// The rows of an inner join: one for each pair of rows with the same key, of which a filter leaves a few.
pub fn joined(stage: &Stage, inputs: &[Vec<Row>]) -> Vec<Row> {
    let [probe, build] = inputs else {
        return Vec::new();
    };
    let key = |row: Row| mix(row, 0) % u64::from(stage.tasks);
    let mut matches: BTreeMap<u64, Vec<Row>> = BTreeMap::new();
    for row in build {
        matches.entry(key(*row)).or_default().push(*row);
    }
    let pairs = probe.iter().flat_map(|row| {
        let of_row = matches.get(&key(*row)).into_iter().flatten();
        of_row.map(|matched| mix(*row, *matched))
    });
    pairs.filter(|pair| pair.is_multiple_of(4)).collect()
}

/// One or two scans of many tasks, joined with a scan of few, and perhaps tasks that read the join.
pub fn joined_graph(rng: &mut SmallRng) -> StageGraph {
    let probes = rng.random_range(1..=2_u32);
    let partitions = rng.random_range(2..=5_u32);
    let readers = rng.random_range(0..=3_u32);
    let own = |exchange: u32, may_split| StageInput {
        exchange: ExchangeId(exchange),
        read: ReadKind::OwnPartition,
        empty_ends: false,
        may_split,
    };
    let stage = |id: u32, label: &str, tasks: u32, inputs: Vec<StageInput>, output: u32| Stage {
        id: StageId(id),
        label: label.to_owned(),
        tasks,
        inputs,
        output: ExchangeId(output),
        determinism: Determinism::Unordered,
        coalesces: true,
        has_sortable_join: label == JOIN,
        swappable_joins: Vec::new(),
        data: DataLocality::default(),
        files: Vec::new(),
    };
    let exchange = |id: u32, partitions: u32, writers: Vec<u32>| Exchange {
        id: ExchangeId(id),
        kind: ExchangeKind::Hash,
        partitions,
        writers: writers.into_iter().map(StageId).collect(),
        fetch: None,
    };
    let mut stages: Vec<Stage> = (0..probes)
        .map(|id| stage(id, "scan", rng.random_range(2..=6), Vec::new(), 0))
        .collect();
    stages.push(stage(probes, "scan", rng.random_range(1..=3), Vec::new(), 1));
    let inputs = vec![own(0, true), own(1, rng.random_bool(0.5))];
    let mut join = stage(probes + 1, JOIN, partitions, inputs, 2);
    let (build, probe) = if rng.random_bool(0.5) { (0, 1) } else { (1, 0) };
    join.swappable_joins.push(SwappableJoin {
        join: 0,
        build,
        probe,
    });
    stages.push(join);
    let mut exchanges = vec![
        exchange(0, partitions, (0..probes).collect()),
        exchange(1, partitions, vec![probes]),
        exchange(2, readers.max(1), vec![probes + 1]),
    ];
    if readers > 0 {
        stages.push(stage(probes + 2, "read", readers, vec![own(2, false)], 3));
        exchanges.push(exchange(3, 1, vec![probes + 2]));
    }
    StageGraph {
        stages,
        result: ExchangeId(if readers > 0 { 3 } else { 2 }),
        exchanges,
        ordered: false,
        filters: Vec::new(),
    }
}

/// A policy by which some joins change. Frames have up to 90,000 bytes.
pub fn random_policy(rng: &mut SmallRng) -> JoinPolicy {
    JoinPolicy {
        max_broadcast_bytes: rng.random_range(0..1_500_000),
        max_broadcast_percent: if rng.random_bool(0.5) { u32::MAX } else { 125 },
        max_swap_percent: rng.random_range(20..200),
    }
}
