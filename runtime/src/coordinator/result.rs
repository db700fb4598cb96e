//! The coordinator reads its query's result, the rows of winning root attempts, and forwards them to a client.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::execution::memory_pool::{MemoryPool, UnboundedMemoryPool};
use futures::StreamExt;
use sluice_core::coordinator::Event;
use sluice_core::failure::FetchError;
use sluice_core::ids::{AttemptId, TaskId};
use sluice_core::message::{AssignedInput, InputState, InputUpdate, Writer};
use sluice_core::reader::Delivery;
use sluice_core::result_cursor::{PartiallyDelivered, ResultCursor};
use sluice_crds::shuffle_query::status::ResultPreview;
use sluice_crds::shuffle_query::{
    PREVIEW_MAX_COLUMNS, PREVIEW_MAX_ROWS, PREVIEW_MAX_TEXT, PreviewMode, bound_preview,
};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::link::LinkEvent;
use super::panics::report_panic;
use super::{CoordinatorOptions, EventSender};
use crate::shuffle::read::{Part, ReadFailed, ReadInput, ReadSpec, ShuffleReads};
use crate::time_text;
use crate::transport::Peers;
use crate::transport::read_config;
use sluice_proto::auth::FetchEndpoint;

/// Rows of the result, in order if the query is ordered. Ends with the last row or the query.
pub type ResultBatches = mpsc::Receiver<RecordBatch>;

/// Batches that wait for the client.
const QUEUED_BATCHES: usize = 16;
/// Streams fetched at once, and bytes fetched ahead.
const FETCH_WINDOW: u32 = 8;
const FETCH_AHEAD_BYTES: u64 = 16 << 20;

/// Reads the result exchange. The first update starts it.
pub struct ResultReader {
    /// What the reading task needs; `None` once it runs.
    start: Option<ReaderStart>,
    updates: mpsc::UnboundedSender<ResultUpdate>,
    peers: Peers,
    task: Option<AbortOnDropHandle<()>>,
}

/// What the reading task is told.
enum ResultUpdate {
    /// Where a root attempt is, and whether it counts.
    Input(InputUpdate),
    /// How many tasks a root stage has.
    Tasks(Writer),
}

struct ReaderStart {
    spec: ReadSpec,
    inbox: mpsc::UnboundedReceiver<ResultUpdate>,
    rows: mpsc::Sender<RecordBatch>,
    mode: PreviewMode,
    preview: watch::Sender<Option<ResultPreview>>,
}

impl ResultReader {
    /// A reader of the query's result and the receiver of its rows; neither if the query has a sink.
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
                Some(Writer {
                    stage: *stage,
                    tasks,
                    only: None,
                })
            });
        let input = AssignedInput {
            writers: writers.collect(),
            assigned_reduce_partitions: vec![0],
            range: None,
        };
        // Ordered results read the ranges one after the other.
        let delivery = if graph.ordered {
            Delivery::InOrder
        } else {
            Delivery::Arrival
        };
        let schema = Arc::clone(&options.schema);
        let spec = ReadSpec {
            query: options.query.clone(),
            coordinator_epoch: options.epoch,
            inputs: vec![ReadInput {
                assigned: input,
                delivery,
                schema,
            }],
            config: read_config(FETCH_WINDOW, FETCH_AHEAD_BYTES),
        };
        let (updates, inbox) = mpsc::unbounded_channel();
        let (rows, batches) = mpsc::channel(QUEUED_BATCHES);
        let start = Some(ReaderStart {
            spec,
            inbox,
            rows,
            mode: options.preview,
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

    /// Passes on how many tasks a root stage has.
    pub(super) fn set_tasks(&mut self, writer: Writer) {
        let _ = self.updates.send(ResultUpdate::Tasks(writer));
    }

    /// Passes on updates about root attempts and their addresses.
    pub(super) fn update(&mut self, updates: Vec<(InputUpdate, FetchEndpoint)>, events: &EventSender) {
        for (update, endpoint) in updates {
            self.peers.learn(&update.worker, endpoint);
            // The reading task ends only with the query.
            let _ = self.updates.send(ResultUpdate::Input(update));
        }
        if let Some(start) = self.start.take() {
            let read = read(start, self.peers.clone(), events.clone());
            let task = AbortOnDropHandle::new(tokio::spawn(read.in_current_span()));
            let report = report_panic("the reader of the result", task, events.clone());
            self.task = Some(AbortOnDropHandle::new(tokio::spawn(report.in_current_span())));
        }
    }
}

enum ReadEnd {
    /// All rows were delivered.
    Delivered,
    /// A root stage has another number of tasks than the reader waits for.
    Resized(Writer),
    /// This attempt could not be read, or its rows no longer count.
    Failed {
        attempt: AttemptId,
        error: FetchError,
        /// Whether rows of the attempt were delivered, so that no other attempt can replace it.
        partially_delivered: bool,
    },
}

/// Reads the result until it is delivered, or until a partially delivered attempt is lost.
async fn read(start: ReaderStart, peers: Peers, events: EventSender) {
    let mut forwarder = ResultForwarder {
        shown: Preview::new(start.mode, &start.spec),
        rows: start.rows,
        preview: start.preview,
        events,
        cursor: ResultCursor::default(),
        pending: None,
        first_row_sent: false,
    };
    let (mut spec, mut inbox) = (start.spec, start.inbox);
    let mut latest: BTreeMap<TaskId, InputUpdate> = BTreeMap::new();
    loop {
        let end = forwarder.read_once(&spec, &peers, &mut inbox, &mut latest).await;
        let (event, done) = match end {
            ReadEnd::Delivered => (Event::ResultDelivered, true),
            ReadEnd::Resized(told) => {
                let inputs = spec.inputs.iter_mut();
                let writers = inputs.flat_map(|input| &mut input.assigned.writers);
                writers
                    .filter(|writer| writer.stage == told.stage)
                    .for_each(|writer| writer.tasks = told.tasks);
                continue;
            }
            ReadEnd::Failed {
                attempt,
                error,
                partially_delivered,
            } => {
                // The next read waits for the coordinator's update about it.
                let failed = latest.get_mut(&attempt.task_id());
                if let Some(update) = failed.filter(|update| update.map_attempt == attempt) {
                    update.state = InputState::Lost;
                }
                let event = Event::ResultFetchFailed {
                    map_attempt: attempt,
                    error,
                    partially_delivered,
                };
                (event, partially_delivered)
            }
        };
        let _ = forwarder.events.send(LinkEvent::Event(event));
        if done {
            return;
        }
    }
}

struct ResultForwarder {
    /// The first rows, if status shows them.
    shown: Option<Preview>,
    rows: mpsc::Sender<RecordBatch>,
    preview: watch::Sender<Option<ResultPreview>>,
    events: EventSender,
    /// What was delivered, `pending` included.
    cursor: ResultCursor,
    /// Rows that wait for room in the client's channel.
    pending: Option<RecordBatch>,
    /// Whether a row was forwarded.
    first_row_sent: bool,
}

impl ResultForwarder {
    /// Reads everything, and forwards what was not delivered before.
    async fn read_once(
        &mut self,
        spec: &ReadSpec,
        peers: &Peers,
        inbox: &mut mpsc::UnboundedReceiver<ResultUpdate>,
        latest: &mut BTreeMap<TaskId, InputUpdate>,
    ) -> ReadEnd {
        self.cursor.restart();
        let (updates, forwarded) = mpsc::unbounded_channel();
        for update in latest.values() {
            let _ = updates.send(update.clone().into());
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
                    let update = match update {
                        ResultUpdate::Input(update) => update,
                        ResultUpdate::Tasks(writer) => return ReadEnd::Resized(writer),
                    };
                    latest.insert(update.map_attempt.task_id(), update.clone());
                    if update.state == InputState::Superseded {
                        // Its rows do not count, even if all were read.
                        return ReadEnd::Failed {
                            attempt: update.map_attempt,
                            error: FetchError::StaleAttempt,
                            partially_delivered: self.cursor.supersede(update.map_attempt).is_err(),
                        };
                    }
                    let _ = updates.send(update.into());
                }
                // Updates are handled while the client is slow, too.
                permit = rows.reserve(), if self.pending.is_some() => {
                    // A client that disconnects does not end the query: the preview remains.
                    if let (Ok(permit), Some(batch)) = (permit, self.pending.take()) {
                        permit.send(batch);
                    }
                }
                part = parts.next(), if self.pending.is_none() => match part {
                    Some(Ok(part)) => if let Err(PartiallyDelivered(attempt)) = self.on_part(part) {
                        let error = FetchError::StaleAttempt;
                        return ReadEnd::Failed { attempt, error, partially_delivered: true };
                    },
                    Some(Err(error)) => {
                        let failed = ReadFailed::find(&error);
                        return self.failed(failed.unwrap_or_else(|| unreadable(latest)));
                    }
                    None => {
                        if let Some(shown) = &self.shown {
                            self.preview.send_replace(shown.shown());
                        }
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
            partially_delivered: self.cursor.is_partially_delivered(map_attempt),
        }
    }

    fn on_part(&mut self, part: Part) -> Result<(), PartiallyDelivered> {
        match part {
            Part::Rows { stream, batch } => {
                let rows = u64::try_from(batch.num_rows()).unwrap_or(u64::MAX);
                let before = self.cursor.take(stream.attempt, rows)?;
                // Not more than the batch has.
                let before = usize::try_from(before)
                    .unwrap_or(usize::MAX)
                    .min(batch.num_rows());
                self.forward(batch.slice(before, batch.num_rows() - before));
                Ok(())
            }
            Part::End { stream } => self.cursor.end(stream.attempt),
        }
    }

    fn forward(&mut self, batch: RecordBatch) {
        if batch.num_rows() == 0 {
            return;
        }
        if !self.first_row_sent {
            self.first_row_sent = true;
            let _ = self.events.send(LinkEvent::Event(Event::FirstRowDelivered));
        }
        if let Some(shown) = &mut self.shown
            && shown.add(&batch)
        {
            self.preview.send_replace(shown.shown());
        }
        self.pending = Some(batch);
    }
}

/// The failure for a result that this build cannot read at all.
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

/// The first rows, with values truncated to the length that a preview shows.
struct Preview {
    rows: ResultPreview,
}

impl Preview {
    fn new(mode: PreviewMode, spec: &ReadSpec) -> Option<Self> {
        let fields = spec.inputs.iter().flat_map(|input| input.schema.fields());
        let columns = fields.map(|field| field.name().clone()).collect();
        match mode {
            PreviewMode::FirstRows => Some(Self::of(columns)),
            PreviewMode::None => None,
        }
    }

    fn of(columns: Vec<String>) -> Self {
        Self {
            rows: ResultPreview {
                columns,
                rows: Vec::new(),
                truncated: false,
            },
        }
    }

    fn shown(&self) -> Option<ResultPreview> {
        bound_preview(self.rows.clone())
    }

    /// Returns whether anything was added.
    fn add(&mut self, batch: &RecordBatch) -> bool {
        let room = PREVIEW_MAX_ROWS.saturating_sub(self.rows.rows.len());
        if batch.num_rows() == 0 || room == 0 && self.rows.truncated {
            return false;
        }
        self.rows.truncated |= batch.num_rows() > room;
        let options = time_text::display_options();
        let columns = batch.columns().iter().take(PREVIEW_MAX_COLUMNS);
        let columns: Result<Vec<_>, _> = columns
            .map(|column| time_text::formatter(column, &options))
            .collect();
        let Ok(columns) = columns else {
            self.rows.truncated = true;
            return true;
        };
        self.rows.truncated |= columns.len() < batch.num_columns();
        for row in 0..batch.num_rows().min(room) {
            let cells = columns.iter().map(|column| truncated(column.value(row)));
            self.rows.rows.push(cells.collect());
        }
        true
    }
}

/// A text of bounded length.
#[derive(Default)]
struct TruncatedText {
    text: String,
    characters: usize,
}

impl fmt::Write for TruncatedText {
    /// Fails once the text is long enough, which stops the formatting of a long value.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            if self.characters > PREVIEW_MAX_TEXT {
                return Err(fmt::Error);
            }
            self.text.push(character);
            self.characters += 1;
        }
        Ok(())
    }
}

/// The text of a value, truncated to one character more than a preview shows.
fn truncated(value: impl fmt::Display) -> String {
    let mut text = TruncatedText::default();
    // It fails for longer values.
    let _ = fmt::write(&mut text, format_args!("{value}"));
    text.text
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, StringArray};

    use super::*;

    fn batch(columns: Vec<ArrayRef>) -> RecordBatch {
        let columns = columns.into_iter().enumerate();
        RecordBatch::try_from_iter(columns.map(|(at, column)| (format!("c{at}"), column))).unwrap()
    }

    fn shown(batches: &[RecordBatch]) -> ResultPreview {
        let schema = batches[0].schema();
        let mut preview = Preview::of(schema.fields().iter().map(|field| field.name().clone()).collect());
        for batch in batches {
            preview.add(batch);
        }
        preview.shown().unwrap()
    }

    #[test]
    fn one_long_value_leaves_the_others() {
        let doc: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(20_000), "short".to_owned()]));
        let shown = shown(&[batch(vec![Arc::new(Int64Array::from(vec![1, 2])), doc])]);
        assert_eq!(shown.rows.len(), 2);
        assert_eq!(shown.rows[0][0], "1");
        assert!(shown.rows[0][1].starts_with("xxxx") && shown.rows[0][1].ends_with('…'));
        assert_eq!(shown.rows[1], ["2", "short"]);
        assert!(shown.truncated);
    }

    #[test]
    fn many_wide_columns_leave_a_row() {
        let wide: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(1_000); 30]));
        let shown = shown(&[batch(vec![wide; 82])]);
        assert_eq!((shown.rows.len(), shown.truncated), (1, true));
        assert!(shown.columns.len() > 40);
    }

    #[test]
    fn twenty_rows_of_any_batches_are_shown_and_one_more_is_told() {
        let numbers = |count: i64| batch(vec![Arc::new(Int64Array::from_iter_values(0..count))]);
        let all = shown(&[numbers(15), numbers(5)]);
        assert_eq!((all.rows.len(), all.truncated), (20, false));
        let more = shown(&[numbers(15), numbers(5), numbers(1)]);
        assert_eq!((more.rows.len(), more.truncated), (20, true));
        let none = shown(&[numbers(0)]);
        assert_eq!(
            (none.rows.len(), none.columns.len(), none.truncated),
            (0, 1, false)
        );
    }
}
