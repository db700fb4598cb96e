//! The coordinator as the reader of its query's result: rows of winning root attempts, on their way to a client.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::execution::memory_pool::{MemoryPool, UnboundedMemoryPool};
use futures::StreamExt;
use sluice_core::coordinator::Event;
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
use crate::shuffle::read::{ReadFailed, ReadInput, ReadSpec, ShuffleReads};
use crate::transport::Peers;
use crate::transport::read_config;

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
        };
        let schema = Arc::clone(&options.schema);
        let spec = ReadSpec {
            query: options.query.clone(),
            coordinator_epoch: options.epoch,
            layout_version: LayoutVersion(1),
            inputs: vec![ReadInput {
                assigned: input,
                delivery: Delivery::Arrival,
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
                peers: Peers::default().with_token(options.token.clone()),
                task: None,
            }),
            Some(batches),
        )
    }

    /// Tells the reader about root attempts and where they are served.
    pub(super) fn update(&mut self, updates: Vec<(InputUpdate, String)>, events: &EventSender) {
        for (update, address) in updates {
            self.peers.learn(&update.worker, &address);
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
    Failed(ReadFailed),
}

/// Reads the result until it is delivered, or rows that left the query turned out not to count.
async fn read(start: Start, peers: Peers, events: EventSender) {
    let mut forward = Forward {
        shown: Preview::new(&start.spec),
        rows: start.rows,
        preview: start.preview,
        events,
        delivered: false,
    };
    let mut inbox = start.inbox;
    let mut latest: BTreeMap<TaskId, InputUpdate> = BTreeMap::new();
    loop {
        let end = forward
            .read_once(&start.spec, &peers, &mut inbox, &mut latest)
            .await;
        let event = match end {
            ReadEnd::Delivered => Event::ResultDelivered,
            ReadEnd::Failed(ReadFailed { map_attempt, error }) => Event::ResultFetchFailed {
                map_attempt,
                error,
                rows_left: forward.delivered,
            },
        };
        let done = forward.delivered || event == Event::ResultDelivered;
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
    /// Whether a row has left the query.
    delivered: bool,
}

impl Forward {
    async fn read_once(
        &mut self,
        spec: &ReadSpec,
        peers: &Peers,
        inbox: &mut mpsc::UnboundedReceiver<InputUpdate>,
        latest: &mut BTreeMap<TaskId, InputUpdate>,
    ) -> ReadEnd {
        let (updates, forwarded) = mpsc::unbounded_channel();
        for update in latest.values() {
            let _ = updates.send(update.clone());
        }
        let pool: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
        let transport = Arc::new(peers.clone());
        let reads = ShuffleReads::start(spec.clone(), transport, forwarded, &pool, &Handle::current());
        let batches = reads
            .and_then(|mut reads| reads.take(0))
            .map(|mut streams| streams.pop());
        let Ok(Some(mut batches)) = batches else {
            return ReadEnd::Failed(unreadable(latest));
        };
        loop {
            tokio::select! {
                Some(update) = inbox.recv() => {
                    latest.insert(update.map_attempt.task_id(), update.clone());
                    if update.state == InputState::Superseded {
                        // Its rows do not count, even where they were read to their end.
                        let error = FetchError::StaleAttempt;
                        return ReadEnd::Failed(ReadFailed { map_attempt: update.map_attempt, error });
                    }
                    let _ = updates.send(update);
                }
                batch = batches.next() => match batch {
                    Some(Ok(batch)) => self.pass_on(batch).await,
                    Some(Err(error)) => {
                        let failed = ReadFailed::find(&error);
                        return ReadEnd::Failed(failed.unwrap_or_else(|| unreadable(latest)));
                    }
                    None => {
                        self.preview.send_replace(Some(self.shown.preview.clone()));
                        return ReadEnd::Delivered;
                    }
                },
            }
        }
    }

    async fn pass_on(&mut self, batch: RecordBatch) {
        if batch.num_rows() == 0 {
            return;
        }
        if !self.delivered {
            self.delivered = true;
            let _ = self.events.send(FromLink::Event(Event::FirstRowDelivered));
        }
        if self.shown.add(&batch) {
            self.preview.send_replace(Some(self.shown.preview.clone()));
        }
        // A client that went away does not end the query: its preview remains.
        let _ = self.rows.send(batch).await;
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
