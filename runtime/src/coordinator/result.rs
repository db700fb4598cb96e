//! The coordinator as the reader of its query's result: rows of winning root attempts, on their way to a client.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::execution::memory_pool::{MemoryPool, UnboundedMemoryPool};
use futures::StreamExt;
use sluice_core::coordinator::Event;
use sluice_core::delivered::{Delivered, RowsLeft};
use sluice_core::failure::FetchError;
use sluice_core::ids::{AttemptId, LayoutVersion, TaskId};
use sluice_core::message::{AssignedInput, InputState, InputUpdate, Writer};
use sluice_core::reader::Delivery;
use sluice_crds::shuffle_query::status::ResultPreview;
use sluice_crds::shuffle_query::{PREVIEW_MAX_BYTES, PREVIEW_MAX_ROWS};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use super::link::FromLink;
use super::panics::report_panic;
use super::{CoordinatorOptions, EventSender};
use crate::shuffle::read::{Part, ReadFailed, ReadInput, ReadSpec, ShuffleReads};
use crate::transport::Peers;
use crate::transport::read_config;
use sluice_proto::auth::FetchEndpoint;

/// Rows of the result, in order where the query orders them; ends with the last row or the query.
pub type ResultBatches = mpsc::Receiver<RecordBatch>;

/// Batches that wait for the client.
const QUEUED_BATCHES: usize = 16;
/// Streams fetched at once, and bytes fetched ahead.
const FETCH_WINDOW: u32 = 8;
const FETCH_AHEAD_BYTES: u64 = 16 << 20;

/// Reads the result exchange. The first update starts it.
pub struct ResultReader {
    /// What the reading task needs, until it runs.
    start: Option<Start>,
    updates: mpsc::UnboundedSender<InputUpdate>,
    peers: Peers,
    task: Option<AbortOnDropHandle<()>>,
}

struct Start {
    spec: ReadSpec,
    inbox: mpsc::UnboundedReceiver<InputUpdate>,
    rows: mpsc::Sender<RecordBatch>,
    preview: watch::Sender<Option<ResultPreview>>,
}

impl ResultReader {
    /// A reader of the query's result and the other end of it; neither where rows go to a sink.
    pub fn channel(
        options: &CoordinatorOptions,
        preview: watch::Sender<Option<ResultPreview>>,
    ) -> (Option<Self>, Option<ResultBatches>) {
        if options.sink.is_some() {
            return (None, None);
        }
        let graph = &options.graph;
        let result = usize::try_from(graph.result.0)
            .ok()
            .and_then(|index| graph.exchanges.get(index));
        let writers = result
            .iter()
            .flat_map(|exchange| &exchange.writers)
            .filter_map(|stage| {
                let tasks = graph.stages.iter().find(|other| other.id == *stage)?.tasks;
                Some(Writer { stage: *stage, tasks })
            });
        let input = AssignedInput {
            writers: writers.collect(),
            assigned_reduce_partitions: vec![0],
            range: None,
        };
        // Ranges follow each other; otherwise rows go out as they come.
        let delivery = if graph.ordered {
            Delivery::InOrder
        } else {
            Delivery::Arrival
        };
        let schema = Arc::clone(&options.schema);
        let spec = ReadSpec {
            query: options.query.clone(),
            coordinator_epoch: options.epoch,
            layout_version: LayoutVersion(1),
            inputs: vec![ReadInput {
                assigned: input,
                delivery,
                schema,
            }],
            config: read_config(FETCH_WINDOW, FETCH_AHEAD_BYTES),
        };
        let (updates, inbox) = mpsc::unbounded_channel();
        let (rows, batches) = mpsc::channel(QUEUED_BATCHES);
        let start = Some(Start {
            spec,
            inbox,
            rows,
            preview,
        });
        (
            Some(Self {
                start,
                updates,
                peers: Peers::default(),
                task: None,
            }),
            Some(batches),
        )
    }

    /// Tells the reader about root attempts and where they are served.
    pub(super) fn update(&mut self, updates: Vec<(InputUpdate, FetchEndpoint)>, events: &EventSender) {
        for (update, endpoint) in updates {
            self.peers.learn(&update.worker, endpoint);
            // The reading task ends with the query only.
            let _ = self.updates.send(update);
        }
        if let Some(start) = self.start.take() {
            let read = read(start, self.peers.clone(), events.clone());
            let task = AbortOnDropHandle::new(tokio::spawn(read));
            let report = report_panic("the reader of the result", task, events.clone());
            self.task = Some(AbortOnDropHandle::new(tokio::spawn(report)));
        }
    }
}

/// How one reader ended.
enum ReadEnd {
    /// With the last row.
    Delivered,
    /// Without: this attempt could not be read, or its rows count no more.
    Failed {
        attempt: AttemptId,
        error: FetchError,
        /// Whether the query needs this very attempt.
        rows_left: bool,
    },
}

/// Reads the result until it is delivered, or the rest of rows that have left the query will not come.
async fn read(start: Start, peers: Peers, events: EventSender) {
    let mut forward = Forward {
        shown: Preview::new(&start.spec),
        rows: start.rows,
        preview: start.preview,
        events,
        delivered: Delivered::default(),
        waiting: None,
        began: false,
    };
    let mut inbox = start.inbox;
    let mut latest: BTreeMap<TaskId, InputUpdate> = BTreeMap::new();
    loop {
        let end = forward
            .read_once(&start.spec, &peers, &mut inbox, &mut latest)
            .await;
        let (event, done) = match end {
            ReadEnd::Delivered => (Event::ResultDelivered, true),
            ReadEnd::Failed {
                attempt,
                error,
                rows_left,
            } => {
                // The next reader waits for what the coordinator has to say of it.
                let failed = latest.get_mut(&attempt.task_id());
                if let Some(update) = failed.filter(|update| update.map_attempt == attempt) {
                    update.state = InputState::Lost;
                }
                let event = Event::ResultFetchFailed {
                    map_attempt: attempt,
                    error,
                    rows_left,
                };
                (event, rows_left)
            }
        };
        let _ = forward.events.send(FromLink::Event(event));
        if done {
            return;
        }
    }
}

/// Where rows go.
struct Forward {
    shown: Preview,
    rows: mpsc::Sender<RecordBatch>,
    preview: watch::Sender<Option<ResultPreview>>,
    events: EventSender,
    /// What has left the query, or waits to.
    delivered: Delivered,
    /// Rows for which the client has no room yet.
    waiting: Option<RecordBatch>,
    /// Whether a row has left the query.
    began: bool,
}

impl Forward {
    /// Reads everything, and passes on what has not left the query.
    async fn read_once(
        &mut self,
        spec: &ReadSpec,
        peers: &Peers,
        inbox: &mut mpsc::UnboundedReceiver<InputUpdate>,
        latest: &mut BTreeMap<TaskId, InputUpdate>,
    ) -> ReadEnd {
        self.delivered.restart();
        let (updates, forwarded) = mpsc::unbounded_channel();
        for update in latest.values() {
            let _ = updates.send(update.clone());
        }
        let pool: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
        let transport = Arc::new(peers.clone());
        let reads = ShuffleReads::start(spec.clone(), transport, forwarded, &pool, &Handle::current());
        let Ok(mut parts) = reads.and_then(|mut reads| reads.take_parts(0)) else {
            return self.failed(unreadable(latest));
        };
        let rows = self.rows.clone();
        loop {
            tokio::select! {
                Some(update) = inbox.recv() => {
                    latest.insert(update.map_attempt.task_id(), update.clone());
                    if update.state == InputState::Superseded {
                        // Its rows do not count, even where they were read to their end.
                        return ReadEnd::Failed {
                            attempt: update.map_attempt,
                            error: FetchError::StaleAttempt,
                            rows_left: self.delivered.supersede(update.map_attempt).is_err(),
                        };
                    }
                    let _ = updates.send(update);
                }
                // What happens to attempts is heard while the client takes its time, too.
                place = rows.reserve(), if self.waiting.is_some() => {
                    // A client that went away does not end the query: its preview remains.
                    if let (Ok(place), Some(batch)) = (place, self.waiting.take()) {
                        place.send(batch);
                    }
                }
                part = parts.next(), if self.waiting.is_none() => match part {
                    Some(Ok(part)) => if let Err(RowsLeft(attempt)) = self.take(part) {
                        let error = FetchError::StaleAttempt;
                        return ReadEnd::Failed { attempt, error, rows_left: true };
                    },
                    Some(Err(error)) => {
                        let failed = ReadFailed::find(&error);
                        return self.failed(failed.unwrap_or_else(|| unreadable(latest)));
                    }
                    None => {
                        self.preview.send_replace(Some(self.shown.preview.clone()));
                        return ReadEnd::Delivered;
                    }
                },
            }
        }
    }

    fn failed(&self, ReadFailed { map_attempt, error }: ReadFailed) -> ReadEnd {
        ReadEnd::Failed {
            attempt: map_attempt,
            error,
            rows_left: self.delivered.has_part_of(map_attempt),
        }
    }

    fn take(&mut self, part: Part) -> Result<(), RowsLeft> {
        match part {
            Part::Rows { stream, batch } => {
                let rows = u64::try_from(batch.num_rows()).unwrap_or(u64::MAX);
                let before = self.delivered.take(stream.attempt, rows)?;
                // Not more than the batch has.
                let before = usize::try_from(before)
                    .unwrap_or(usize::MAX)
                    .min(batch.num_rows());
                self.pass_on(batch.slice(before, batch.num_rows() - before));
                Ok(())
            }
            Part::End { stream } => self.delivered.end(stream.attempt),
        }
    }

    fn pass_on(&mut self, batch: RecordBatch) {
        if batch.num_rows() == 0 {
            return;
        }
        if !self.began {
            self.began = true;
            let _ = self.events.send(FromLink::Event(Event::FirstRowDelivered));
        }
        if self.shown.add(&batch) {
            self.preview.send_replace(Some(self.shown.preview.clone()));
        }
        self.waiting = Some(batch);
    }
}

/// The failure of a result whose bytes this build cannot read at all.
fn unreadable(latest: &BTreeMap<TaskId, InputUpdate>) -> ReadFailed {
    let map_attempt = latest
        .values()
        .next()
        .map_or_else(AttemptId::default, |update| update.map_attempt);
    ReadFailed {
        map_attempt,
        error: FetchError::Corrupt,
    }
}

/// The first rows, as status shows them.
struct Preview {
    preview: ResultPreview,
    bytes: usize,
}

impl Preview {
    fn new(spec: &ReadSpec) -> Self {
        let fields = spec.inputs.iter().flat_map(|input| input.schema.fields());
        let columns: Vec<String> = fields.map(|field| field.name().clone()).collect();
        let bytes = columns.iter().map(String::len).sum();
        Self {
            preview: ResultPreview {
                columns,
                rows: Vec::new(),
                truncated: false,
            },
            bytes,
        }
    }

    /// Says whether anything was new.
    fn add(&mut self, batch: &RecordBatch) -> bool {
        if self.preview.truncated || batch.num_rows() == 0 {
            return false;
        }
        let options = FormatOptions::default()
            .with_display_error(true)
            .with_null("NULL");
        let columns: Result<Vec<_>, _> = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column, &options))
            .collect();
        let Ok(columns) = columns else {
            self.preview.truncated = true;
            return true;
        };
        for row in 0..batch.num_rows() {
            let cells: Vec<String> = columns
                .iter()
                .map(|column| column.value(row).to_string())
                .collect();
            let bytes: usize = cells.iter().map(String::len).sum();
            if self.preview.rows.len() >= PREVIEW_MAX_ROWS || self.bytes + bytes > PREVIEW_MAX_BYTES {
                self.preview.truncated = true;
                return true;
            }
            self.bytes += bytes;
            self.preview.rows.push(cells);
        }
        true
    }
}
