//! The inputs of an attempt, opened by the shuffle reads of its plan.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::{Schema, SchemaRef};
use bytes::Bytes;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::LexOrdering;
use datafusion::physical_plan::{EmptyRecordBatchStream, ExecutionPlan};
use futures::stream::BoxStream;
use sluice_core::failure::{AttemptFailure, FetchError};
use sluice_core::ids::WorkerId;
use sluice_core::key_filter::KeyLookup;
use sluice_core::limits::check_streams;
use sluice_core::message::{AssignedInput, ChunkHead, FetchRequest};
use sluice_core::ranges::KeyRange;
use sluice_core::reader::Delivery;

use super::attempt::AttemptJob;
use super::session_filters::AttemptFilters;
use crate::planner::{InputProvider, InputStream, ReadMode, ShuffleReadExec, decode_schema};
use crate::shuffle::read::{FetchTransport, ReadInput, ReadSpec, ShuffleReads};
use crate::shuffle::sorted::{SortKeys, within};
use crate::shuffle::store::StoreHandle;
use crate::source::classify_error;
use crate::transport::{Peers, read_config};

/// The streams of an attempt's inputs; filled once its plan is known.
pub(super) struct Inputs {
    streams: Mutex<Vec<Vec<Option<SendableRecordBatchStream>>>>,
    filters: AttemptFilters,
}

impl Inputs {
    pub(super) fn new(filters: AttemptFilters) -> Self {
        Self {
            streams: Mutex::default(),
            filters,
        }
    }

    /// Starts to fetch what the plan's shuffle reads will open. Consumes the job's updates.
    pub(super) fn start(&self, plan: &Arc<dyn ExecutionPlan>, job: AttemptJob) -> Result<(), AttemptFailure> {
        let mut uses = vec![InputUse::default(); job.assignment.inputs.len()];
        collect_uses(plan, &mut uses);
        let mut inputs = Vec::with_capacity(uses.len());
        let mut ranges = Vec::with_capacity(uses.len());
        let mut merged = Vec::with_capacity(uses.len());
        for ((assigned, input_use), schema) in job
            .assignment
            .inputs
            .iter()
            .zip(uses)
            .zip(&job.stage.fragment.inputs)
        {
            let schema = decode_schema(schema).map_err(|error| refused(&error))?;
            ranges.push(range_of(assigned, &input_use, &schema)?);
            merged.push(input_use.merges.map(|tasks| (tasks, Arc::clone(&schema))));
            inputs.push(ReadInput {
                assigned: assigned.clone(),
                delivery: delivery_of(assigned, input_use.delivery),
                schema,
            });
        }
        if inputs.len() != job.assignment.inputs.len() {
            return Err(refused(&"the assignment's inputs are not those of the fragment"));
        }
        let window = job.assignment.recommended_reduce_fetch_window_partitions;
        let spec = ReadSpec {
            query: job.query.clone(),
            coordinator_epoch: job.coordinator_epoch,
            inputs,
            config: read_config(window, prefetch_bytes(job.shared.options.memory_bytes)),
        };
        let transport = Arc::new(LocalFirstTransport {
            local: job.shared.id.clone(),
            store: job.shared.store.clone(),
            peers: job.peers.clone(),
        });
        let pool = job.shared.memory.query_pool(&job.query);
        let failed = |error: DataFusionError| classify_error(&error, &[]);
        let mut reads =
            ShuffleReads::start(spec, transport, job.inputs, &pool, &job.shared.control).map_err(failed)?;
        job.counters.set_inputs(Arc::clone(reads.counters()));
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        for (input, (range, merged)) in ranges.into_iter().zip(merged).enumerate() {
            let of_input = reads.take(input).map_err(failed)?.into_iter();
            let mut of_input: Vec<_> = match range {
                Some(runs) => of_input
                    .zip(&runs.numbers)
                    .map(|(stream, number)| {
                        Some(within(stream, runs.keys.clone(), runs.range.clone(), *number))
                    })
                    .collect(),
                None => of_input.map(Some).collect(),
            };
            if let Some((planned, schema)) = merged {
                check_streams([(u64::from(planned), 1)]).map_err(|error| refused(&error))?;
                if of_input.len() > planned as usize {
                    return Err(refused(&format!(
                        "{} map tasks are merged by a plan for {planned}",
                        of_input.len()
                    )));
                }
                add_empty_streams(&mut of_input, planned, &schema);
            }
            streams.push(of_input);
        }
        Ok(())
    }
}

/// Bytes that one input of one attempt may fetch ahead: a small share of the worker's memory.
fn prefetch_bytes(memory_bytes: u64) -> u64 {
    (memory_bytes / 32).clamp(256 << 10, 16 << 20)
}

/// How a shuffle read of the plan uses an input.
#[derive(Clone)]
struct InputUse {
    delivery: Delivery,
    /// How many streams the plan merges, one for each map task that was planned.
    merges: Option<u32>,
    /// The order of the rows of each map task.
    ordering: Option<LexOrdering>,
}

impl Default for InputUse {
    fn default() -> Self {
        Self {
            delivery: Delivery::Arrival,
            merges: None,
            ordering: None,
        }
    }
}

fn collect_uses(plan: &Arc<dyn ExecutionPlan>, uses: &mut [InputUse]) {
    if let Some(read) = plan.downcast_ref::<ShuffleReadExec>() {
        let slot = usize::try_from(read.input_index()).unwrap_or(usize::MAX);
        if let (Some(input_use), ReadMode::PerMapTask(tasks)) = (uses.get_mut(slot), read.mode()) {
            input_use.delivery = Delivery::PerStream;
            input_use.merges = Some(tasks);
            input_use.ordering = read.facts().orderings.first().cloned();
        }
    }
    for child in plan.children() {
        collect_uses(child, uses);
    }
}

/// How an input is delivered that the plan takes in any order of its streams. Rows of one map task are in the same order
/// each time, so its partitions are read one after the other: the planner relies on it where it calls a stage determinate.
fn delivery_of(assigned: &AssignedInput, delivery: Delivery) -> Delivery {
    let map_tasks = assigned.writers.iter().map(|writer| u64::from(writer.tasks));
    let is_one_order = map_tasks.sum::<u64>() == 1 && assigned.assigned_reduce_partitions.len() > 1;
    match delivery {
        Delivery::Arrival if is_one_order => Delivery::InOrder,
        Delivery::Arrival | Delivery::PerStream | Delivery::InOrder => delivery,
    }
}

/// Adds a stream without rows for each map task that was planned and did not run: the layout of its stage has fewer.
fn add_empty_streams(streams: &mut Vec<Option<SendableRecordBatchStream>>, planned: u32, schema: &SchemaRef) {
    let planned = usize::try_from(planned).unwrap_or(usize::MAX);
    while streams.len() < planned {
        let empty = EmptyRecordBatchStream::new(Arc::clone(schema));
        streams.push(Some(Box::pin(empty)));
    }
}

/// What an attempt reads of the sorted runs of an input.
struct RunRange {
    keys: SortKeys,
    range: KeyRange,
    /// The numbers of the runs that are read.
    numbers: Vec<u32>,
}

/// What the attempt reads of an input's sorted runs; `None` for all rows.
fn range_of(
    assigned: &AssignedInput,
    input_use: &InputUse,
    schema: &Schema,
) -> Result<Option<RunRange>, AttemptFailure> {
    let Some(range) = &assigned.range else {
        return Ok(None);
    };
    let ordering = input_use
        .ordering
        .clone()
        .ok_or_else(|| refused(&"a range of runs without an order"))?;
    let keys = SortKeys::new(ordering, schema).map_err(|error| refused(&error))?;
    Ok(Some(RunRange {
        keys,
        range: range.keys.clone(),
        numbers: assigned.run_numbers(),
    }))
}

fn refused(error: &dyn std::fmt::Display) -> AttemptFailure {
    AttemptFailure::Refused {
        message: error.to_string(),
    }
}

impl InputProvider for Inputs {
    fn open(
        &self,
        stream: InputStream,
        _: &Arc<TaskContext>,
    ) -> datafusion::error::Result<SendableRecordBatchStream> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let of_task = usize::try_from(stream.map_task.unwrap_or(0)).unwrap_or(usize::MAX);
        let opened = streams
            .get_mut(stream.input)
            .and_then(|streams| streams.get_mut(of_task)?.take());
        opened
            .ok_or_else(|| DataFusionError::Internal(format!("the attempt has no unread stream {stream:?}")))
    }

    fn filter(&self, filter: u32) -> Option<Arc<KeyLookup>> {
        self.filters.get(&filter).cloned()
    }
}

/// Reads local streams from the worker's own store, others over the network.
struct LocalFirstTransport {
    local: WorkerId,
    store: StoreHandle,
    peers: Peers,
}

impl FetchTransport for LocalFirstTransport {
    fn fetch(
        &self,
        worker: &WorkerId,
        request: FetchRequest,
    ) -> BoxStream<'static, Result<(ChunkHead, Bytes), FetchError>> {
        if *worker == self.local {
            self.store.fetch(request)
        } else {
            self.peers.fetch(worker, request)
        }
    }
}
