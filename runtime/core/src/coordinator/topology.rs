//! A checked stage graph, and what scheduling needs of it: who reads whom, and what is urgent.

use std::collections::BTreeSet;

use thiserror::Error;

use crate::ids::{ExchangeId, FilterId, StageId};
use crate::limits::{TooLarge, check_partitions, check_stages, check_streams, check_tasks};
use crate::plan::{Determinism, Exchange, ExchangeKind, ReadKind, Stage, StageGraph};

/// Why a stage graph cannot be executed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GraphError {
    /// There is nothing to run.
    #[error("the graph has no stages")]
    Empty,
    /// The stage's number is not its index in the list.
    #[error("stage {0} is not at the index of its number")]
    StageMisplaced(StageId),
    /// The exchange's number is not its index in the list.
    #[error("exchange {0} is not at the index of its number")]
    ExchangeMisplaced(ExchangeId),
    /// The stage has no task.
    #[error("stage {0} has no task")]
    NoTasks(StageId),
    /// The graph is larger than [`crate::limits`] allow.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// The exchange has no partition.
    #[error("exchange {0} has no partition")]
    NoPartitions(ExchangeId),
    /// The exchange has no writing stage.
    #[error("exchange {0} has no writing stage")]
    NoWriters(ExchangeId),
    /// A number that no exchange has.
    #[error("exchange {0} does not exist")]
    UnknownExchange(ExchangeId),
    /// The exchange's list of writers and the stage's output contradict each other.
    #[error("stage {stage} and exchange {exchange} disagree about whether the one writes the other")]
    WriterMismatch {
        /// The stage.
        stage: StageId,
        /// The exchange.
        exchange: ExchangeId,
    },
    /// The stage reads what a later stage, or itself, writes.
    #[error(
        "stage {reader} reads exchange {exchange}, which stage {writer} writes that does not come before it"
    )]
    ReadsLater {
        /// The reading stage.
        reader: StageId,
        /// The exchange.
        exchange: ExchangeId,
        /// Its writer.
        writer: StageId,
    },
    /// Partitions would stay unread, or be missing.
    #[error(
        "each task of stage {stage} reads its own partition of exchange {exchange}: {tasks} tasks, {partitions} partitions"
    )]
    PartitionsMismatch {
        /// The reading stage.
        stage: StageId,
        /// The exchange.
        exchange: ExchangeId,
        /// Tasks of the stage.
        tasks: u32,
        /// Partitions of the exchange.
        partitions: u32,
    },
    /// Only runs of a range exchange, which have one partition, are read by ranges.
    #[error("stage {stage} reads ranges of exchange {exchange}, which does not consist of sorted runs")]
    NotSorted {
        /// The reading stage.
        stage: StageId,
        /// The exchange.
        exchange: ExchangeId,
    },
    /// The stage reads ranges of more than one exchange: its tasks have one set of bounds.
    #[error("stage {0} reads ranges of more than one exchange")]
    ManyRanges(StageId),
    /// Nobody reads the exchange, and it is not the result.
    #[error("exchange {0} is read by no stage and is not the result")]
    Unread(ExchangeId),
    /// The filter's number is not its index in the list, or it names a stage that does not exist.
    #[error("filter {0} is not at the index of its number, or one of its stages does not exist")]
    BadFilter(FilterId),
    /// Another run of the stage may write other keys.
    #[error("filter {filter} is made by stage {stage}, whose runs do not write the same rows")]
    FilterOfOtherRows {
        /// The filter.
        filter: FilterId,
        /// Its source.
        stage: StageId,
    },
    /// Stages would wait for each other.
    #[error("a stage waits for a filter that is made of its own rows")]
    FilterCycle,
    /// The result is read by a stage, or has more than one partition.
    #[error("the result, exchange {0}, must have one partition and no reading stage")]
    BadResult(ExchangeId),
}

/// Checks that a coordinator can execute the graph.
///
/// # Errors
///
/// It cannot be executed, or is too large.
pub fn check_graph(graph: &StageGraph) -> Result<(), GraphError> {
    Topology::new(graph).map(|_| ())
}

/// Who reads whom.
#[derive(Debug)]
pub(super) struct Topology {
    /// Per stage, the stages that write its inputs.
    pub(super) inputs: Vec<BTreeSet<StageId>>,
    /// Per stage, the stages that read its output.
    pub(super) consumers: Vec<BTreeSet<StageId>>,
    /// The stages that write the result.
    pub(super) roots: BTreeSet<StageId>,
    /// All stages, the most urgent first: longest path to the result, then lowest number.
    pub(super) urgency: Vec<StageId>,
}

impl Topology {
    pub(super) fn new(graph: &StageGraph) -> Result<Self, GraphError> {
        check_numbers(graph)?;
        graph
            .exchanges
            .iter()
            .try_for_each(|exchange| check_writers(graph, exchange))?;
        graph
            .stages
            .iter()
            .try_for_each(|stage| check_stage(graph, stage))?;
        let result = exchange_of(graph, graph.result)?;
        let mut inputs = vec![BTreeSet::new(); graph.stages.len()];
        let mut consumers = vec![BTreeSet::new(); graph.stages.len()];
        let mut read = BTreeSet::new();
        for stage in &graph.stages {
            for input in &stage.inputs {
                read.insert(input.exchange);
                for writer in &exchange_of(graph, input.exchange)?.writers {
                    inputs[stage.id.0 as usize].insert(*writer);
                    consumers[writer.0 as usize].insert(stage.id);
                }
            }
        }
        if result.partitions != 1 || read.contains(&result.id) {
            return Err(GraphError::BadResult(result.id));
        }
        let unread = graph
            .exchanges
            .iter()
            .find(|e| e.id != result.id && !read.contains(&e.id));
        if let Some(exchange) = unread {
            return Err(GraphError::Unread(exchange.id));
        }
        check_filters(graph, &inputs)?;
        let urgency = by_urgency(&consumers);
        let roots = result.writers.iter().copied().collect();
        Ok(Self {
            inputs,
            consumers,
            roots,
            urgency,
        })
    }
}

fn exchange_of(graph: &StageGraph, id: ExchangeId) -> Result<&Exchange, GraphError> {
    graph
        .exchanges
        .get(id.0 as usize)
        .ok_or(GraphError::UnknownExchange(id))
}

fn check_numbers(graph: &StageGraph) -> Result<(), GraphError> {
    if graph.stages.is_empty() {
        return Err(GraphError::Empty);
    }
    let misplaced = graph
        .stages
        .iter()
        .enumerate()
        .find(|(index, stage)| stage.id.0 as usize != *index);
    if let Some((_, stage)) = misplaced {
        return Err(GraphError::StageMisplaced(stage.id));
    }
    let misplaced = graph
        .exchanges
        .iter()
        .enumerate()
        .find(|(index, e)| e.id.0 as usize != *index);
    if let Some((_, exchange)) = misplaced {
        return Err(GraphError::ExchangeMisplaced(exchange.id));
    }
    check_stages(graph.stages.len() as u64)?;
    check_tasks(graph.stages.iter().map(|stage| u64::from(stage.tasks)).sum())?;
    Ok(())
}

fn check_writers(graph: &StageGraph, exchange: &Exchange) -> Result<(), GraphError> {
    if exchange.partitions == 0 {
        return Err(GraphError::NoPartitions(exchange.id));
    }
    check_partitions(exchange.partitions)?;
    if exchange.writers.is_empty() {
        return Err(GraphError::NoWriters(exchange.id));
    }
    let writes = |stage: &StageId| {
        graph
            .stages
            .get(stage.0 as usize)
            .is_some_and(|stage| stage.output == exchange.id)
    };
    match exchange.writers.iter().find(|stage| !writes(stage)) {
        Some(stage) => Err(GraphError::WriterMismatch {
            stage: *stage,
            exchange: exchange.id,
        }),
        None => Ok(()),
    }
}

fn check_stage(graph: &StageGraph, stage: &Stage) -> Result<(), GraphError> {
    if stage.tasks == 0 {
        return Err(GraphError::NoTasks(stage.id));
    }
    if !exchange_of(graph, stage.output)?.writers.contains(&stage.id) {
        return Err(GraphError::WriterMismatch {
            stage: stage.id,
            exchange: stage.output,
        });
    }
    for input in &stage.inputs {
        let exchange = exchange_of(graph, input.exchange)?;
        if let Some(writer) = exchange.writers.iter().find(|writer| **writer >= stage.id) {
            return Err(GraphError::ReadsLater {
                reader: stage.id,
                exchange: exchange.id,
                writer: *writer,
            });
        }
        match input.read {
            ReadKind::OwnPartition if exchange.partitions != stage.tasks => {
                return Err(GraphError::PartitionsMismatch {
                    stage: stage.id,
                    exchange: exchange.id,
                    tasks: stage.tasks,
                    partitions: exchange.partitions,
                });
            }
            ReadKind::OwnRange if exchange.kind != ExchangeKind::Range || exchange.partitions != 1 => {
                return Err(GraphError::NotSorted {
                    stage: stage.id,
                    exchange: exchange.id,
                });
            }
            ReadKind::OwnPartition | ReadKind::AllPartitions | ReadKind::OwnRange => {}
        }
    }
    let ranges = stage
        .inputs
        .iter()
        .filter(|input| input.read == ReadKind::OwnRange);
    if ranges.count() > 1 {
        return Err(GraphError::ManyRanges(stage.id));
    }
    check_reads(graph, stage)
}

/// Checks that no task of the stage reads more streams than a worker takes.
fn check_reads(graph: &StageGraph, stage: &Stage) -> Result<(), GraphError> {
    let mut inputs = Vec::with_capacity(stage.inputs.len());
    for input in &stage.inputs {
        let exchange = exchange_of(graph, input.exchange)?;
        let writers = exchange.writers.iter();
        let known = writers.filter_map(|id| graph.stages.get(id.0 as usize));
        let tasks: u64 = known.map(|writer| u64::from(writer.tasks)).sum();
        let partitions = match input.read {
            ReadKind::AllPartitions | ReadKind::OwnRange => u64::from(exchange.partitions),
            ReadKind::OwnPartition => 1,
        };
        inputs.push((tasks, partitions));
    }
    check_streams(inputs)?;
    Ok(())
}

/// Checks that every filter is made of the same rows in each run, and that no stage waits for itself.
fn check_filters(graph: &StageGraph, inputs: &[BTreeSet<StageId>]) -> Result<(), GraphError> {
    let mut waits_for = inputs.to_vec();
    for (index, filter) in graph.filters.iter().enumerate() {
        let source = graph.stages.get(filter.source.0 as usize);
        let known = filter
            .targets
            .iter()
            .all(|target| (target.0 as usize) < graph.stages.len());
        let Some(source) = source.filter(|_| known && filter.id.0 as usize == index) else {
            return Err(GraphError::BadFilter(filter.id));
        };
        match source.determinism {
            Determinism::Determinate | Determinism::Unordered => {}
            Determinism::Indeterminate => {
                return Err(GraphError::FilterOfOtherRows {
                    filter: filter.id,
                    stage: source.id,
                });
            }
        }
        for target in &filter.targets {
            waits_for[target.0 as usize].insert(source.id);
        }
    }
    // Stages that wait for none of the others are taken away until none is left.
    let mut left: BTreeSet<StageId> = graph.stages.iter().map(|stage| stage.id).collect();
    while !left.is_empty() {
        let waits = |stage: &StageId| {
            waits_for[stage.0 as usize]
                .iter()
                .any(|other| left.contains(other))
        };
        let waiting: BTreeSet<StageId> = left.iter().copied().filter(waits).collect();
        if waiting.len() == left.len() {
            return Err(GraphError::FilterCycle);
        }
        left = waiting;
    }
    Ok(())
}

/// Stages by the length of their longest path to the result, longest first.
fn by_urgency(consumers: &[BTreeSet<StageId>]) -> Vec<StageId> {
    let mut levels = vec![0_u32; consumers.len()];
    for stage in (0..consumers.len()).rev() {
        let next = consumers[stage]
            .iter()
            .map(|consumer| levels[consumer.0 as usize] + 1);
        levels[stage] = next.max().unwrap_or(0);
    }
    let mut order: Vec<usize> = (0..consumers.len()).collect();
    order.sort_by_key(|stage| (std::cmp::Reverse(levels[*stage]), *stage));
    // The numbers came from u32 ids.
    order
        .into_iter()
        .filter_map(|stage| u32::try_from(stage).ok())
        .map(StageId)
        .collect()
}
