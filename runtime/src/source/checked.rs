//! A scan of untrusted files: it checks lengths before rows, and turns panics of decoders into errors.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::config::ConfigOptions;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::filter_pushdown::{FilterDescription, FilterPushdownPhase};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::stream::{self, Stream, StreamExt, TryStreamExt};
use object_store::ObjectStore;
use object_store::path::Path;
use sluice_core::failure::AttemptFailure;
use sluice_core::plan::FileRange;

use super::check::{DecodeMemory, Decoder};
use super::error::{classify_error, decoder_failed, decoder_panicked, describe_ranges};

/// Files whose lengths are checked concurrently.
const CONCURRENT_CHECKS: usize = 4;

/// Bytes that decoders may hold without a reservation: enough for well-written files.
const FREE_BYTES: u64 = 64 << 20;
/// The most bytes of text rows in a batch of several rows.
const TEXT_BATCH_BYTES: u64 = 16 << 20;
/// Decoder memory per byte of text.
const TEXT_GROWTH: u64 = 12;

/// A scan of file ranges that checks them before it decodes them, see [`Decoder::check`], and turns a panic of the
/// decoder into an error that names the files.
#[derive(Debug)]
pub struct CheckedScan {
    scan: Arc<dyn ExecutionPlan>,
    decoder: Decoder,
    ranges: Arc<[FileRange]>,
}

impl CheckedScan {
    /// Reads `ranges` through `scan`, which decodes them by `decoder`.
    pub fn new(scan: Arc<dyn ExecutionPlan>, decoder: Decoder, ranges: &[FileRange]) -> Self {
        Self {
            scan,
            decoder,
            ranges: ranges.into(),
        }
    }

    /// What decodes the ranges.
    pub(crate) fn scan(&self) -> &Arc<dyn ExecutionPlan> {
        &self.scan
    }

    /// The same checks before another scan of the same ranges.
    pub(crate) fn with_scan(&self, scan: Arc<dyn ExecutionPlan>) -> Self {
        Self {
            scan,
            decoder: self.decoder.clone(),
            ranges: Arc::clone(&self.ranges),
        }
    }
}

impl DisplayAs for CheckedScan {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CheckedScan")
    }
}

impl ExecutionPlan for CheckedScan {
    fn name(&self) -> &str {
        "CheckedScan"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.scan.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.scan]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let [scan] = <[_; 1]>::try_from(children)
            .map_err(|_| DataFusionError::Internal("a checked scan has one input".to_owned()))?;
        Ok(Arc::new(self.with_scan(scan)))
    }

    fn gather_filters_for_pushdown(
        &self,
        _: FilterPushdownPhase,
        parent_filters: Vec<Arc<dyn PhysicalExpr>>,
        _: &ConfigOptions,
    ) -> Result<FilterDescription> {
        FilterDescription::from_children(parent_filters, &self.children())
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let url = ObjectStoreUrl::local_filesystem();
        let store = context.runtime_env().object_store(url)?;
        let (scan, decoder, ranges) = (
            Arc::clone(&self.scan),
            self.decoder.clone(),
            Arc::clone(&self.ranges),
        );
        let rows = stream::once(async move {
            let held = check(&store, &decoder, &ranges).await?;
            let (batch_size, bytes) = plan_batches(held, context.session_config().batch_size());
            let reservation = reserve(&context, bytes, &ranges)?;
            let rows = scan.execute(partition, with_batch_size(&context, batch_size))?;
            // Keeps the reservation as long as the stream.
            Ok::<_, DataFusionError>(rows.inspect(move |_| {
                let _ = &reservation;
            }))
        });
        let rows = RecordBatchStreamAdapter::new(self.schema(), rows.try_flatten());
        Ok(Box::pin(PanicGuard {
            rows: Some(Box::pin(rows)),
            schema: self.schema(),
            ranges: Arc::clone(&self.ranges),
            is_arrow: matches!(self.decoder, Decoder::ArrowFile | Decoder::ArrowStream),
        }))
    }
}

/// Rows per batch, and the bytes that decoding one needs.
fn plan_batches(held: DecodeMemory, batch_size: usize) -> (usize, u64) {
    if held.row == 0 {
        return (batch_size, held.pages);
    }
    let rows = usize::try_from(TEXT_BATCH_BYTES / held.row).unwrap_or(batch_size);
    let rows = rows.clamp(1, batch_size.max(1));
    // If the longest line is short, few lines are as long; if it is long, a batch has few lines.
    let text = held.row.saturating_mul(u64::try_from(rows).unwrap_or(u64::MAX));
    let bytes = if rows == batch_size { held.row } else { text };
    (rows, bytes.saturating_mul(TEXT_GROWTH))
}

/// Reserves what decoding needs beyond [`FREE_BYTES`].
fn reserve(context: &TaskContext, bytes: u64, ranges: &[FileRange]) -> Result<MemoryReservation> {
    let reservation = MemoryConsumer::new("scan").register(context.memory_pool());
    let excess = usize::try_from(bytes.saturating_sub(FREE_BYTES)).unwrap_or(usize::MAX);
    match reservation.try_grow(excess) {
        Ok(()) => Ok(reservation),
        Err(_) => Err(DataFusionError::ResourcesExhausted(format!(
            "decoding {} takes {} MiB at once, more than the worker has left: raise workers.memory, or write the file with smaller rows and pages",
            describe_ranges(ranges),
            bytes >> 20
        ))),
    }
}

/// The same context with another batch size.
fn with_batch_size(context: &Arc<TaskContext>, batch_size: usize) -> Arc<TaskContext> {
    if context.session_config().batch_size() == batch_size {
        return Arc::clone(context);
    }
    Arc::new(TaskContext::new(
        context.task_id(),
        context.session_id(),
        context.session_config().clone().with_batch_size(batch_size),
        context.scalar_functions().clone(),
        context.higher_order_functions().clone(),
        context.aggregate_functions().clone(),
        context.window_functions().clone(),
        context.runtime_env(),
    ))
}

async fn check(
    store: &Arc<dyn ObjectStore>,
    decoder: &Decoder,
    ranges: &[FileRange],
) -> Result<DecodeMemory> {
    // Collected before the stream: a closure over references would make the future not `Send`.
    let checks: Vec<_> = ranges
        .iter()
        .map(|range| check_range(store, decoder, range))
        .collect();
    stream::iter(checks)
        .buffered(CONCURRENT_CHECKS)
        .try_fold(DecodeMemory::default(), |most, held| async move {
            Ok(DecodeMemory {
                row: most.row.max(held.row),
                pages: most.pages.max(held.pages),
            })
        })
        .await
}

async fn check_range(
    store: &Arc<dyn ObjectStore>,
    decoder: &Decoder,
    range: &FileRange,
) -> Result<DecodeMemory> {
    let location = Path::parse(&range.file.path)
        .map_err(|error| DataFusionError::ObjectStore(Box::new(error.into())))?;
    let checked = decoder.check(store, &location, range.start..range.end).await;
    // Only here the file is known.
    checked.map_err(
        |error| match classify_error(&error, std::slice::from_ref(range)) {
            failure @ AttemptFailure::BadInput { .. } => DataFusionError::External(Box::new(failure)),
            _ => error,
        },
    )
}

/// Rows of a decoder, whose panics become errors.
struct PanicGuard {
    /// `None` once it has panicked.
    rows: Option<SendableRecordBatchStream>,
    schema: SchemaRef,
    ranges: Arc<[FileRange]>,
    is_arrow: bool,
}

impl Stream for PanicGuard {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(rows) = self.rows.as_mut() else {
            return Poll::Ready(None);
        };
        // The decoder is dropped after a panic, so no broken state is used.
        match catch_unwind(AssertUnwindSafe(|| rows.poll_next_unpin(context))) {
            Ok(Poll::Ready(Some(Err(error)))) if self.is_arrow => {
                Poll::Ready(Some(Err(decoder_failed(error, &self.ranges))))
            }
            Ok(polled) => polled,
            Err(panic) => {
                self.rows = None;
                let failure = decoder_panicked(panic.as_ref(), &self.ranges);
                Poll::Ready(Some(Err(DataFusionError::External(Box::new(failure)))))
            }
        }
    }
}

impl RecordBatchStream for PanicGuard {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}
