//! A planned query as text.

use std::fmt::Write;

use datafusion::physical_plan::displayable;
use sluice_core::plan::{Determinism, Exchange, ExchangeKind, FileRange, ReadKind, Split, Stage, StageInput};

use super::{PlannedQuery, PlannedStage};

/// A planned query as text, in parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainedQuery {
    /// The stages in the order in which they can start: the id of each, and its tasks, what it reads, its plan, and the
    /// exchange that it writes with the reason for the cut.
    pub stages: Vec<(u32, String)>,
    /// The result, the order of joins, and the parts that run in a single task.
    pub rest: String,
}

/// The parts of [`explain`].
pub fn explain_parts(query: &PlannedQuery) -> ExplainedQuery {
    let stages = query.graph.stages.iter().zip(&query.stages);
    let stages = stages.map(|(stage, planned)| {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _infallible = stage_text(&mut text, query, stage, planned);
        (stage.id.0, text)
    });
    ExplainedQuery {
        stages: stages.collect(),
        rest: rest_text(query),
    }
}

/// The stages of `query`, then what is true of it as a whole.
pub fn explain(query: &PlannedQuery) -> String {
    let parts = explain_parts(query);
    let mut text: String = parts.stages.into_iter().map(|(_, stage)| stage).collect();
    text.push_str(&parts.rest);
    text
}

fn rest_text(query: &PlannedQuery) -> String {
    let mut text = String::new();
    let order = if query.graph.ordered {
        "in the order of the query"
    } else {
        "in any order"
    };
    let _infallible = writeln!(text, "result: exchange {}, rows {order}", query.graph.result);
    for order in &query.join_orders {
        let _infallible = writeln!(text, "join order: {order}");
    }
    for note in &query.notes {
        let _infallible = writeln!(text, "single task: {}: {}", note.operator, note.reason);
    }
    text
}

/// How the tasks of a stage read an input.
fn input_text(stage: &Stage, input: &StageInput) -> &'static str {
    let own = stage
        .inputs
        .iter()
        .filter(|input| input.read == ReadKind::OwnPartition);
    match input.read {
        ReadKind::OwnPartition if stage.coalesces && input.may_split && own.count() > 1 => {
            "partition i in task i, small neighbours in one task, a hot one in several; what one worker wrote, if the others are \
             small"
        }
        ReadKind::OwnPartition if stage.coalesces && input.may_split => {
            "partition i in task i, small neighbours in one task, a hot one in several"
        }
        ReadKind::OwnPartition if stage.coalesces => "partition i in task i, small neighbours in one task",
        ReadKind::OwnPartition => "partition i in task i",
        ReadKind::AllPartitions => "all of it in each task",
        ReadKind::OwnRange => "range i of all runs in task i",
    }
}

/// How joins of a stage may be done in another way than planned.
fn join_changes(stage: &Stage) -> Vec<&'static str> {
    let changes = [
        (
            !stage.swappable_joins.is_empty(),
            "sides are swapped if the probe side is much smaller",
        ),
        (
            stage.has_sortable_join,
            "both sides are sorted if memory runs out",
        ),
    ];
    let changes = changes.into_iter().filter(|(may_happen, _)| *may_happen);
    changes.map(|(_, what)| what).collect()
}

fn stage_text(
    text: &mut String,
    query: &PlannedQuery,
    stage: &Stage,
    planned: &PlannedStage,
) -> std::fmt::Result {
    let tasks = if stage.tasks == 1 {
        "1 task".to_owned()
    } else {
        format!("{} tasks", stage.tasks)
    };
    writeln!(
        text,
        "stage {} \"{}\": {tasks}, {}",
        stage.id,
        stage.label,
        determinism(stage.determinism)
    )?;
    for (number, input) in stage.inputs.iter().enumerate() {
        let what = input_text(stage, input);
        writeln!(text, "  input {number}: exchange {}, {what}", input.exchange)?;
    }
    let changes = join_changes(stage);
    if !changes.is_empty() {
        writeln!(text, "  joins: {}", changes.join(", "))?;
    }
    if let Some(reads) = splits(planned) {
        writeln!(text, "  reads {reads}")?;
    }
    for line in displayable(planned.plan.as_ref())
        .indent(false)
        .to_string()
        .lines()
    {
        writeln!(text, "  | {line}")?;
    }
    let made = query
        .graph
        .filters
        .iter()
        .filter(|filter| filter.source == stage.id);
    for (filter, made) in made.zip(&planned.filters) {
        let schema = planned.plan.schema();
        let key = schema
            .fields()
            .get(made.column as usize)
            .map_or("", |field| field.name());
        let targets: Vec<String> = filter.targets.iter().map(ToString::to_string).collect();
        writeln!(
            text,
            "  makes filter {} of {key} for stage {}, which waits for it up to {} ms",
            filter.id,
            targets.join(", "),
            filter.max_wait.as_millis()
        )?;
    }
    let exchange = query.graph.exchanges.get(stage.output.0 as usize);
    let reason = query
        .reasons
        .get(stage.output.0 as usize)
        .map_or("", String::as_str);
    match exchange {
        Some(exchange) => writeln!(text, "  writes {}, because {reason}", exchange_text(exchange)),
        None => writeln!(text, "  writes nothing"),
    }
}

fn exchange_text(exchange: &Exchange) -> String {
    let partitions = match (exchange.kind, exchange.partitions) {
        (ExchangeKind::Range, _) => "a sorted run of each task".to_owned(),
        (_, 1) => "1 partition".to_owned(),
        (_, partitions) => format!("{partitions} partitions"),
    };
    let fetch = exchange
        .fetch
        .map_or_else(String::new, |rows| format!(", {rows} rows are enough"));
    format!(
        "exchange {} ({}, {partitions}{fetch})",
        exchange.id,
        exchange.kind.word()
    )
}

fn determinism(label: Determinism) -> &'static str {
    match label {
        Determinism::Determinate => "determinate",
        Determinism::Unordered => "unordered",
        Determinism::Indeterminate => "indeterminate",
    }
}

/// How much the tasks of a stage scan: `3 files, 12345 bytes`.
fn splits(planned: &PlannedStage) -> Option<String> {
    let mut ranges: Vec<&FileRange> = Vec::new();
    let mut parts = 0;
    for split in planned.tasks.iter().flat_map(|task| task.splits.values()) {
        match split {
            Split::Files(files) => ranges.extend(files),
            Split::Tpch { .. } => parts += 1,
            Split::Whole => {}
        }
    }
    if parts > 0 {
        return Some(format!("{parts} generated parts"));
    }
    if ranges.is_empty() {
        return None;
    }
    let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    let mut paths: Vec<&str> = ranges.iter().map(|range| range.file.path.as_str()).collect();
    paths.sort_unstable();
    paths.dedup();
    let files = if paths.len() == 1 {
        "1 file".to_owned()
    } else {
        format!("{} files", paths.len())
    };
    Some(format!("{files}, {bytes} bytes, in {} ranges", ranges.len()))
}
