//! The coordinator as the reader of its query's result: rows of winning root attempts, on their way to a client.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::execution::memory_pool::{MemoryPool, UnboundedMemoryPool};
use futures::StreamExt;
use sluice_core::coordinator::Event;
use sluice_core::failure::FetchError;
use sluice_core::ids::LayoutVersion;
use sluice_core::message::{AssignedInput, InputUpdate, Writer};
use sluice_core::reader::Delivery;
use sluice_crds::shuffle_query::status::ResultPreview;
use sluice_crds::shuffle_query::{PREVIEW_MAX_BYTES, PREVIEW_MAX_ROWS};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use super::link::FromLink;
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
                peers: Peers::default(),
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
            self.task = Some(AbortOnDropHandle::new(tokio::spawn(read)));
        }
    }
}

async fn read(start: Start, peers: Peers, events: EventSender) {
    let Start {
        spec,
        mut inbox,
        rows,
        preview,
    } = start;
    let mut shown = Preview::new(&spec);
    let mut delivered = false;
    loop {
        let (updates, forwarded) = mpsc::unbounded_channel();
        let pool: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
        let transport = Arc::new(peers.clone());
        let reads = ShuffleReads::start(spec.clone(), transport, forwarded, &pool, &Handle::current());
        let Some(mut batches) = reads
            .and_then(|mut reads| reads.take(0))
            .ok()
            .and_then(|mut rows| rows.pop())
        else {
            return;
        };
        let failed = loop {
            tokio::select! {
                Some(update) = inbox.recv() => {
                    let _ = updates.send(update);
                }
                batch = batches.next() => match batch {
                    Some(Ok(batch)) => {
                        if !delivered && batch.num_rows() > 0 {
                            delivered = true;
                            let _ = events.send(FromLink::Event(Event::FirstRowDelivered));
                        }
                        if shown.add(&batch) {
                            preview.send_replace(Some(shown.preview.clone()));
                        }
                        // A client that went away does not end the query: its preview remains.
                        let _ = rows.send(batch).await;
                    }
                    Some(Err(error)) => break ReadFailed::find(&error),
                    None => {
                        preview.send_replace(Some(shown.preview.clone()));
                        let _ = events.send(FromLink::Event(Event::ResultDelivered));
                        return;
                    }
                },
            }
        };
        let Some(ReadFailed { map_attempt, error }) = failed else {
            return;
        };
        let error: FetchError = error;
        let event = Event::ResultFetchFailed {
            map_attempt,
            error,
            rows_left: delivered,
        };
        let _ = events.send(FromLink::Event(event));
        if delivered {
            return;
        }
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
