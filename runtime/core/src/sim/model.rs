//! What queries compute in the simulator: rows are numbers, and the rows of the result are known in advance.

use rand::Rng;
use rand::rngs::SmallRng;

use super::filters::{join, random_filter};
use super::joins;
use crate::ids::{AttemptId, ExchangeId, StageId};
use crate::locality::{DataLocality, FilesHash};
use crate::plan::{Determinism, Exchange, ExchangeKind, ReadKind, Stage, StageGraph, StageInput};

pub type Row = u64;

/// The label of a scan of a table without rows.
const NO_ROWS: &str = "scan nothing";

/// A number that looks random and depends on both (the finaliser of SplitMix64).
pub fn mix(a: u64, b: u64) -> u64 {
    let mut x = a ^ b
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(0x632b_e59b_d9b4_e019);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// What one task makes of its inputs' rows; a scan makes its own.
pub fn compute(stage: &Stage, task: u32, inputs: &[Vec<Row>]) -> Vec<Row> {
    let base = u64::from(stage.id.0) << 32;
    let mut read = stage.inputs.iter().zip(inputs);
    if stage.label == NO_ROWS || read.any(|(input, rows)| input.empty_ends && rows.is_empty()) {
        return Vec::new();
    }
    if stage.inputs.is_empty() {
        let me = mix(base, u64::from(task));
        return (0..3 + me % 9).map(|row| mix(me, row)).collect();
    }
    if joins::is_join(stage) {
        return joins::joined(stage, inputs);
    }
    // Of an operator whose tasks divide an input, each reads the others whole. Its rows depend on all of theirs, and not on
    // how many tasks there are.
    let divides = |input: &StageInput| input.read != ReadKind::AllPartitions;
    let divided = stage.inputs.iter().any(divides);
    let whole = stage
        .inputs
        .iter()
        .zip(inputs)
        .filter(|(input, _)| !divides(input));
    let digest = whole
        .flat_map(|(_, rows)| rows)
        .fold(0, |sum: Row, row| sum.wrapping_add(mix(*row, base)));
    let mut rows = Vec::new();
    for (number, (input, read)) in (0_u64..).zip(stage.inputs.iter().zip(inputs)) {
        let salt = match input.read {
            // A row gives the same row whatever its partition was: the result does not depend on routing.
            ReadKind::OwnPartition | ReadKind::OwnRange => mix(base + number, digest),
            ReadKind::AllPartitions if divided => continue,
            ReadKind::AllPartitions => mix(base + number, u64::from(task) + 1),
        };
        rows.extend(read.iter().map(|row| mix(*row, salt)));
    }
    rows
}

/// By task, the hash of the file that a scan reads.
fn files_of(scan: StageId, tasks: u32) -> impl Iterator<Item = FilesHash> {
    let file = format!("scan-{}", scan.0);
    (0..tasks).filter_map(move |task| FilesHash::of([(file.as_str(), u64::from(task))].into_iter()))
}

/// The partition of a row. An indeterminate stage routes differently in each attempt.
pub fn route(stage: &Stage, attempt: AttemptId, row: Row, partitions: u32) -> u32 {
    u32::try_from(mix(row, salt(stage, attempt)) % u64::from(partitions)).unwrap_or(0)
}

/// The key by which a task of a range exchange sorts a row; many rows share one. Those of an indeterminate stage differ
/// from attempt to attempt.
pub fn sort_key(stage: &Stage, attempt: AttemptId, row: Row) -> Vec<u8> {
    vec![u8::try_from(mix(row, salt(stage, attempt)) % 13).unwrap_or(0)]
}

fn salt(stage: &Stage, attempt: AttemptId) -> u64 {
    match stage.determinism {
        Determinism::Determinate | Determinism::Unordered => 0,
        Determinism::Indeterminate => u64::from(attempt.attempt) + 1,
    }
}

/// All rows of the result, sorted, computed without stages running anywhere.
pub fn reference(graph: &StageGraph) -> Vec<Row> {
    // By exchange, by partition.
    let mut written: Vec<Vec<Vec<Row>>> = graph
        .exchanges
        .iter()
        .map(|e| vec![Vec::new(); e.partitions as usize])
        .collect();
    for stage in &graph.stages {
        for task in 0..stage.tasks {
            let read = |input: &StageInput| {
                let exchange = &written[input.exchange.0 as usize];
                match input.read {
                    ReadKind::OwnPartition => exchange[task as usize].clone(),
                    ReadKind::AllPartitions => exchange.concat(),
                    // A row gives the same row in whichever task.
                    ReadKind::OwnRange if task == 0 => exchange.concat(),
                    ReadKind::OwnRange => Vec::new(),
                }
            };
            let inputs = join(graph, stage, stage.inputs.iter().map(read).collect());
            let attempt = AttemptId {
                stage: stage.id,
                stage_epoch: Default::default(),
                task,
                attempt: 0,
            };
            let output = &mut written[stage.output.0 as usize];
            let partitions = u32::try_from(output.len()).unwrap_or(1);
            for row in compute(stage, task, &inputs) {
                output[route(stage, attempt, row, partitions) as usize].push(row);
            }
        }
    }
    let mut rows = written[graph.result.0 as usize].concat();
    rows.sort_unstable();
    rows
}

/// The node of one worker, which may be down, or only its zone.
fn random_locality(rng: &mut SmallRng) -> DataLocality {
    let worker = rng.random_range(0..4_u32);
    DataLocality {
        nodes: rng
            .random_bool(0.5)
            .then(|| format!("w{worker}"))
            .into_iter()
            .collect(),
        zones: [format!("zone-{}", worker % 2)].into(),
    }
}

/// Lets the last stage read its own exchange by ranges.
fn merge_ranges(stages: &mut [Stage], exchanges: &mut [Exchange]) {
    let inputs = stages.last_mut().into_iter().flat_map(|root| &mut root.inputs);
    for own in inputs.filter(|input| input.read == ReadKind::OwnPartition) {
        own.read = ReadKind::OwnRange;
        let exchange = &mut exchanges[own.exchange.0 as usize];
        exchange.kind = ExchangeKind::Range;
        exchange.partitions = 1;
    }
}

/// Merges ranges at the end, or not, and makes a stage indeterminate, or not. Says whether there are ranges.
fn vary(stages: &mut [Stage], exchanges: &mut [Exchange], rng: &mut SmallRng) -> bool {
    let ordered = rng.random_bool(0.4);
    if ordered {
        merge_ranges(stages, exchanges);
    }
    if rng.random_bool(0.3) {
        let stage = rng.random_range(0..stages.len());
        stages[stage].determinism = Determinism::Indeterminate;
    }
    ordered
}

/// A hash exchange.
fn hash(id: u32, partitions: u32, writers: Vec<StageId>) -> Exchange {
    Exchange {
        id: ExchangeId(id),
        kind: ExchangeKind::Hash,
        partitions,
        writers,
        fetch: None,
    }
}

/// Lets stages write nothing without some of their inputs, or share partitions, and a scan read nothing, or not.
fn vary_inputs(stages: &mut [Stage], scans: u32, rng: &mut SmallRng) {
    let own = stages.iter_mut().flat_map(|stage| &mut stage.inputs);
    own.for_each(|input| {
        input.empty_ends = rng.random_bool(0.5);
        input.may_split = input.read == ReadKind::OwnPartition && rng.random_bool(0.7);
    });
    let scan = rng.random_range(0..scans * 2);
    if let Some(scan) = stages
        .get_mut(scan as usize)
        .filter(|_| scan < scans && rng.random_bool(0.5))
    {
        NO_ROWS.clone_into(&mut scan.label);
    }
}

/// A small plan: scans, then one to three reading stages over one or two of what comes before.
pub fn random_graph(rng: &mut SmallRng) -> StageGraph {
    let scans = rng.random_range(1..=2_u32);
    let depth = rng.random_range(1..=3_u32);
    let union = scans == 2 && rng.random_bool(0.3);
    let mut stages = Vec::new();
    let mut exchanges: Vec<Exchange> = Vec::new();
    let widths: Vec<u32> = (0..depth).map(|_| rng.random_range(1..=5)).collect();
    let add = |stages: &mut Vec<Stage>, inputs: Vec<StageInput>, tasks: u32, output: u32| {
        let id = StageId(u32::try_from(stages.len()).unwrap_or(0));
        let is_scan = inputs.is_empty();
        stages.push(Stage {
            id,
            label: format!("stage {}", id.0),
            tasks,
            inputs,
            output: ExchangeId(output),
            determinism: Determinism::Unordered,
            coalesces: false,
            has_sortable_join: false,
            swappable_joins: Vec::new(),
            data: DataLocality::default(),
            files: files_of(id, tasks).filter(|_| is_scan).collect(),
        });
        id
    };
    let first: Vec<StageId> = (0..scans)
        .map(|scan| {
            let tasks = rng.random_range(1..=4);
            let id = add(&mut stages, Vec::new(), tasks, if union { 0 } else { scan });
            if rng.random_bool(0.5) {
                stages[id.0 as usize].data = random_locality(rng);
            }
            id
        })
        .collect();
    if union {
        exchanges.push(hash(0, widths[0], first));
    } else {
        exchanges.push(hash(0, widths[0], vec![first[0]]));
        // The second scan is broadcast to the first reading stage.
        exchanges.extend(first.get(1).map(|scan| hash(1, 2, vec![*scan])));
    }
    let mut last = ExchangeId(0);
    for (level, width) in (0_u32..).zip(&widths) {
        let input = |exchange, read| StageInput {
            exchange,
            read,
            empty_ends: false,
            may_split: false,
        };
        let own = input(last, ReadKind::OwnPartition);
        let all = input(ExchangeId(1), ReadKind::AllPartitions);
        let broadcast = level == 0 && exchanges.len() == 2;
        let inputs = if broadcast { vec![all, own] } else { vec![own] };
        let output = u32::try_from(exchanges.len()).unwrap_or(0);
        let writer = add(&mut stages, inputs, *width, output);
        stages[writer.0 as usize].coalesces = rng.random_bool(0.8);
        stages[writer.0 as usize].has_sortable_join = rng.random_bool(0.3);
        let partitions = widths.get(level as usize + 1).copied().unwrap_or(1);
        exchanges.push(hash(output, partitions, vec![writer]));
        last = ExchangeId(output);
    }
    let ordered = vary(&mut stages, &mut exchanges, rng);
    vary_inputs(&mut stages, scans, rng);
    let filters = random_filter(&stages, &exchanges, rng);
    StageGraph {
        stages,
        exchanges,
        result: last,
        ordered,
        filters: filters.into_iter().collect(),
    }
}
