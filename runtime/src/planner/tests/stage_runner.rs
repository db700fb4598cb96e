//! Runs a planned query in process, stage by stage, with the decisions of the coordinator that change what a task reads.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::concat_batches;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::memory::MemoryStream;
use datafusion::physical_plan::metrics::Time;
use datafusion::physical_plan::repartition::BatchPartitioner;
use futures::TryStreamExt;
use prost::Message;
use sluice_core::ids::{FilterId, StageId};
use sluice_core::key_filter::{KeyFilter, KeyLookup};
use sluice_core::layout::{Shard, TaskLayout};
use sluice_core::plan::{ExchangeKind, ReadKind, Stage, StageGraph, StageInput};
use sluice_core::ranges::{SortedRun, divide};

use super::super::runtime_filters::FilterMaker;
use super::super::{
    Fragment, InputProvider, InputStream, PlanError, PlannedQuery, decode_schema, decode_task, sort_joins,
    task_context,
};
use crate::shuffle::sorted::{RunSampler, SortKeys};

/// What each map task of an exchange wrote: by map task, then partition.
type Written = Vec<Vec<Vec<RecordBatch>>>;

/// Most tasks that share a partition: each shard is a map task of the next stage, so one for every map task would double and
/// double the tasks of a chain of joins.
const MAX_SHARDS: usize = 3;

/// How tasks read the inputs that they divide by partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reads {
    /// Each its partition, or a shard of it.
    Partitions,
    /// Where that cannot change rows, each what some map tasks wrote of one input, and all of the others.
    Broadcast,
}

/// Runs a planned query stage by stage. Every fragment goes through its bytes.
pub(super) async fn run(planned: &PlannedQuery, runtime: &Arc<RuntimeEnv>) -> Result<Vec<RecordBatch>> {
    run_with(planned, runtime, Reads::Partitions).await
}

/// As [`run`], with inputs read in this way.
pub(super) async fn run_with(
    planned: &PlannedQuery,
    runtime: &Arc<RuntimeEnv>,
    reads: Reads,
) -> Result<Vec<RecordBatch>> {
    let mut exchanges: HashMap<u32, Written> = HashMap::new();
    let mut filters: BTreeMap<FilterId, KeyFilter> = BTreeMap::new();
    for stage in in_order(&planned.graph) {
        let planned_stage = &planned.stages[stage.id.0 as usize];
        let bytes = planned_stage.fragment.encode_to_vec();
        let fragment =
            Fragment::decode(bytes.as_slice()).map_err(|error| DataFusionError::External(error.into()))?;
        assert_eq!(fragment.inputs.len(), stage.inputs.len());
        assert_eq!(planned_stage.tasks.len(), stage.tasks as usize);
        for (number, layout) in layout(stage, &exchanges, reads).into_iter().enumerate() {
            let splits = &planned_stage.tasks[layout.partitions.start as usize];
            let context = task_context(&fragment.options, "test", Arc::clone(runtime)).map_err(typed)?;
            let streams = read(planned, stage, &exchanges, &layout, &context)?;
            let needs_rows = |(input, read): (&StageInput, &Vec<Vec<RecordBatch>>)| {
                input.empty_ends && read.iter().flatten().all(|batch| batch.num_rows() == 0)
            };
            let writes_nothing = stage.inputs.iter().zip(&streams).any(needs_rows);
            let inputs: Arc<dyn InputProvider> = Arc::new(Inputs {
                streams,
                fragment: fragment.clone(),
                filters: filters.clone(),
            });
            // Of three tasks of a join, one does it as planned, one ran out of memory before, and for one the sides change places.
            let way = (stage.id.0 as usize + number) % 3;
            let joins = stage.swappable_joins.iter().filter(|_| way == 2);
            let swapped: Vec<u32> = joins.map(|join| join.join).collect();
            let mut plan = decode_task(&fragment, splits, &context, &inputs, &swapped).map_err(typed)?;
            if stage.has_sortable_join && way == 1 {
                plan = sort_joins(plan).map_err(typed)?;
            }
            let rows: Vec<RecordBatch> = plan.execute(0, Arc::clone(&context))?.try_collect().await?;
            assert!(
                !writes_nothing || rows.iter().all(|batch| batch.num_rows() == 0),
                "{} writes rows though an input is empty",
                stage.label
            );
            make_filters(planned, stage.id, &rows, &mut filters)?;
            let partitions = write(&rows, planned_stage, &fragment, &context)?;
            exchanges.entry(stage.output.0).or_default().push(partitions);
        }
    }
    let result = exchanges
        .remove(&planned.graph.result.0)
        .expect("the result is written");
    Ok(result.into_iter().flatten().flatten().collect())
}

/// Whether some task of the query can read as [`Reads::Broadcast`] has it.
pub(super) fn may_broadcast(graph: &StageGraph) -> bool {
    graph.stages.iter().any(broadcasts)
}

fn broadcasts(stage: &Stage) -> bool {
    let own = |input: &&StageInput| input.read == ReadKind::OwnPartition;
    let divided = stage.inputs.iter().filter(own).count();
    stage.coalesces && divided > 1 && stage.inputs.iter().any(|input| input.may_split)
}

/// What each task reads. Where an input may be split, each partition has several tasks.
fn layout(stage: &Stage, exchanges: &HashMap<u32, Written>, reads: Reads) -> Vec<TaskLayout> {
    let inputs = (0..).zip(&stage.inputs);
    let splittable: Vec<(u32, &StageInput)> = inputs.filter(|(_, input)| input.may_split).collect();
    let parts: Vec<Range<u32>> = if reads == Reads::Broadcast && broadcasts(stage) {
        std::iter::once(0..stage.tasks).collect()
    } else {
        (0..stage.tasks).map(|task| task..task + 1).collect()
    };
    let tasks = (stage.id.0 as usize..).zip(parts);
    let tasks = tasks.flat_map(|(turn, partitions)| {
        // Of the sides of a join, one in this task and the other in the next.
        let split = splittable.get(turn % splittable.len().max(1));
        let shards = split.map_or(vec![None], |(input, read)| {
            let map_tasks = exchanges[&read.exchange.0].len();
            let shard = |first: usize| Shard {
                input: *input,
                map_tasks: (first as u32..map_tasks as u32).step_by(MAX_SHARDS).collect(),
            };
            let shards = map_tasks.min(MAX_SHARDS);
            (0..shards).map(|first| Some(shard(first))).collect()
        });
        shards.into_iter().map(move |shard| TaskLayout {
            partitions: partitions.clone(),
            range: None,
            shard,
        })
    });
    tasks.collect()
}

/// What a task reads of each input, by map task.
fn read(
    planned: &PlannedQuery,
    stage: &Stage,
    exchanges: &HashMap<u32, Written>,
    layout: &TaskLayout,
    context: &TaskContext,
) -> Result<Vec<Vec<Vec<RecordBatch>>>> {
    let mut streams = Vec::new();
    for (number, input) in (0..).zip(&stage.inputs) {
        let written = exchanges
            .get(&input.exchange.0)
            .expect("inputs are written before");
        let partitions = match input.read {
            ReadKind::OwnPartition => layout.partitions.clone(),
            ReadKind::AllPartitions => 0..1,
            ReadKind::OwnRange => {
                let runs: Vec<&Vec<RecordBatch>> = written.iter().map(|parts| &parts[0]).collect();
                let task = layout.partitions.start as usize;
                streams.push(range_of(&runs, planned, stage, task, context)?);
                continue;
            }
        };
        let partitions = partitions.start as usize..partitions.end as usize;
        let shard = layout.shard.as_ref().filter(|shard| shard.input == number);
        let map_tasks = (0..)
            .zip(written)
            .filter(|(map_task, _)| shard.is_none_or(|shard| shard.contains(*map_task)));
        streams.push(
            map_tasks
                .map(|(_, parts)| parts[partitions.clone()].concat())
                .collect(),
        );
    }
    Ok(streams)
}

/// The stages in an order in which each comes after its inputs and after the makers of its filters.
fn in_order(graph: &StageGraph) -> Vec<&Stage> {
    let mut order: Vec<&Stage> = Vec::new();
    while order.len() < graph.stages.len() {
        let done = |id: &StageId| order.iter().any(|stage| stage.id == *id);
        let ready = |stage: &&Stage| {
            let exchanges = stage
                .inputs
                .iter()
                .map(|input| &graph.exchanges[input.exchange.0 as usize]);
            let mut inputs = exchanges.flat_map(|exchange| &exchange.writers);
            let used = graph
                .filters
                .iter()
                .filter(|filter| filter.targets.contains(&stage.id));
            !done(&stage.id) && inputs.all(done) && used.map(|filter| &filter.source).all(done)
        };
        let next = graph
            .stages
            .iter()
            .find(ready)
            .expect("no stage waits for itself");
        order.push(next);
    }
    order
}

/// Adds what a task of a stage wrote to the filters that the stage makes.
fn make_filters(
    planned: &PlannedQuery,
    stage: StageId,
    rows: &[RecordBatch],
    filters: &mut BTreeMap<FilterId, KeyFilter>,
) -> Result<()> {
    let mut maker = FilterMaker::new(&planned.stages[stage.0 as usize].filters);
    for batch in rows {
        maker.add(batch)?;
    }
    let made = planned
        .graph
        .filters
        .iter()
        .filter(|filter| filter.source == stage);
    for (filter, keys) in made.zip(maker.finish()?) {
        let known = filters.remove(&filter.id).unwrap_or_default();
        filters.insert(filter.id, known.union(keys));
    }
    Ok(())
}

/// The part of each sorted run that lies in the range of one task, with the decisions of the coordinator and the reading of
/// the worker.
fn range_of(
    runs: &[&Vec<RecordBatch>],
    planned: &PlannedQuery,
    stage: &Stage,
    task: usize,
    context: &TaskContext,
) -> Result<Vec<Vec<RecordBatch>>> {
    let writers = &planned.graph.exchanges[stage.inputs[0].exchange.0 as usize].writers;
    let writer = &planned.stages[writers[0].0 as usize];
    let schema = decode_schema(&writer.fragment.output).map_err(typed)?;
    let ordering = writer
        .output
        .sorted_by(&schema, context)
        .map_err(typed)?
        .expect("a sorted run");
    let keys = SortKeys::new(ordering, &schema)?;
    let mut sampled = Vec::new();
    for run in runs {
        // A row counts as a byte.
        let (mut sampler, mut offset) = (RunSampler::new(keys.clone()), 0);
        for batch in *run {
            for start in (0..batch.num_rows()).step_by(7) {
                let frame = batch.slice(start, 7.min(batch.num_rows() - start));
                sampler.frame(&frame, offset)?;
                offset += frame.num_rows() as u64;
            }
        }
        sampled.push(sampler.finish(offset));
    }
    let all: Vec<&SortedRun> = sampled.iter().collect();
    let range = divide(&all, stage.tasks, 1).swap_remove(task);
    (0..)
        .zip(runs.iter().zip(&sampled))
        .map(|(map_task, (batches, run))| {
            let bytes = range.bytes_of(run, map_task);
            let rows = concat_batches(&schema, *batches)?;
            let start = usize::try_from(bytes.start).unwrap();
            let part = rows.slice(start, usize::try_from(bytes.end).unwrap() - start);
            Ok(vec![keys.within(&part, &range, map_task)?])
        })
        .collect()
}

pub(super) fn typed(error: PlanError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

fn write(
    rows: &[RecordBatch],
    stage: &super::super::PlannedStage,
    fragment: &Fragment,
    context: &TaskContext,
) -> Result<Vec<Vec<RecordBatch>>> {
    let spec = &stage.output;
    let mut partitions = vec![Vec::new(); spec.partitions as usize];
    let schema = decode_schema(&fragment.output).map_err(typed)?;
    for batch in rows {
        assert_eq!(batch.schema().fields().len(), schema.fields().len());
        for (written, field) in batch.schema().fields().iter().zip(schema.fields()) {
            assert_eq!(
                written.data_type(),
                field.data_type(),
                "a task writes the schema of its fragment"
            );
        }
    }
    if spec.kind != ExchangeKind::Hash {
        partitions[0] = rows.to_vec();
        return Ok(partitions);
    }
    let partitioning = spec.partitioning(&schema, context).map_err(typed)?;
    let mut partitioner = BatchPartitioner::try_new(partitioning, Time::new(), 0, 1)?;
    for batch in rows {
        partitioner.partition(batch.clone(), |partition, part| {
            partitions[partition].push(part);
            Ok(())
        })?;
    }
    Ok(partitions)
}

/// The inputs of one task: for each input the batches of each map task.
struct Inputs {
    streams: Vec<Vec<Vec<RecordBatch>>>,
    fragment: Fragment,
    filters: BTreeMap<FilterId, KeyFilter>,
}

impl InputProvider for Inputs {
    fn filter(&self, filter: u32) -> Option<Arc<KeyLookup>> {
        let keys = self.filters.get(&FilterId(filter))?;
        Some(Arc::new(keys.lookup()))
    }

    fn open(&self, stream: InputStream, _: &Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = &self.streams[stream.input];
        let batches: Vec<RecordBatch> = match stream.map_task {
            Some(map_task) => input[map_task as usize].clone(),
            // Another order than the one written: readers may not rely on it.
            None => input.iter().rev().flatten().cloned().collect(),
        };
        let schema = decode_schema(&self.fragment.inputs[stream.input]).map_err(typed)?;
        Ok(Box::pin(MemoryStream::try_new(batches, schema, None)?))
    }
}

/// The inputs of a task that reads none.
pub(super) struct Unread;

impl InputProvider for Unread {
    fn open(&self, stream: InputStream, _: &Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        panic!("input {} is read", stream.input)
    }
}
