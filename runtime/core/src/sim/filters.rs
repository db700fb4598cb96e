//! Runtime filters in the simulator: a stage joins what a filter's source and target wrote by a key of their rows.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;

use super::model::{Row, mix};
use crate::ids::{FilterId, StageId};
use crate::key_filter::{KeyBounds, KeyFilter};
use crate::message::AssignedFilter;
use crate::plan::{Determinism, Exchange, RuntimeFilter, Stage, StageGraph, StageInput};

/// The hash of a row's key.
fn key(row: Row) -> u64 {
    mix(row % 23, 1)
}

/// A row's key as a number.
fn number(row: Row) -> i128 {
    i128::from(row % 23)
}

/// What a stage takes of its inputs' rows: of what a filter's target wrote only rows whose keys its source wrote too.
pub fn join(graph: &StageGraph, stage: &Stage, mut inputs: Vec<Vec<Row>>) -> Vec<Vec<Row>> {
    let written_by = |writer: StageId| {
        let exchange = |input: &StageInput| &graph.exchanges[input.exchange.0 as usize];
        let writes = |input: &StageInput| exchange(input).writers.contains(&writer);
        stage.inputs.iter().position(writes)
    };
    for filter in &graph.filters {
        let Some(source) = written_by(filter.source) else {
            continue;
        };
        let keys: BTreeSet<u64> = inputs[source].iter().map(|row| key(*row)).collect();
        for target in filter.targets.iter().filter_map(|target| written_by(*target)) {
            inputs[target].retain(|row| keys.contains(&key(*row)));
        }
    }
    inputs
}

/// Leaves out rows by the filters that an assignment names.
pub fn apply(filters: &[AssignedFilter], rows: &mut Vec<Row>) {
    for filter in filters {
        let keys = filter.keys.lookup();
        let lies_within = |row: Row| match keys.bounds() {
            Some(KeyBounds::Numbers { least, greatest }) => (*least..=*greatest).contains(&number(row)),
            Some(KeyBounds::Bytes { .. }) | None => true,
        };
        rows.retain(|row| keys.admits(key(*row)) && lies_within(*row));
    }
}

/// The filters that a task of a stage reports of the rows that it wrote.
pub fn made(graph: &StageGraph, stage: StageId, rows: &[Row]) -> Vec<KeyFilter> {
    let of_stage = graph.filters.iter().filter(|filter| filter.source == stage);
    let numbers = rows.iter().map(|row| number(*row));
    let bounds = numbers.clone().min().zip(numbers.max());
    let bounds = bounds.map(|(least, greatest)| KeyBounds::Numbers { least, greatest });
    let keys = |_| KeyFilter {
        bounds: bounds.clone(),
        ..KeyFilter::of(rows.iter().map(|row| key(*row)).collect())
    };
    of_stage.map(keys).collect()
}

/// A filter of what the broadcast scan writes for the first scan, or none.
pub fn random_filter(stages: &[Stage], exchanges: &[Exchange], rng: &mut SmallRng) -> Option<RuntimeFilter> {
    let source = exchanges.get(1)?.writers.first().copied()?;
    let broadcast = source == StageId(1) && stages[1].inputs.is_empty();
    let same_rows = stages[1].determinism != Determinism::Indeterminate;
    (broadcast && same_rows && rng.random_bool(0.7)).then(|| RuntimeFilter {
        id: FilterId(0),
        source,
        targets: vec![StageId(0)],
        max_wait: Duration::from_millis(rng.random_range(0..2_000)),
    })
}
