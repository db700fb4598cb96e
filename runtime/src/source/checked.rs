//! A scan of files that nobody has looked into: lengths first, then rows, and a panic of the decoder is an error.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::stream::{self, Stream, StreamExt, TryStreamExt};
use object_store::ObjectStore;
use object_store::path::Path;
use sluice_core::failure::AttemptFailure;
use sluice_core::plan::FileRange;

use super::check::Decoder;
use super::error::{classify_error, decoder_failed, decoder_panicked};

/// Files of which the lengths are checked at once.
const CONCURRENT_CHECKS: usize = 4;

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
        Ok(Arc::new(Self {
            scan,
            decoder: self.decoder.clone(),
            ranges: Arc::clone(&self.ranges),
        }))
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
            check(&store, &decoder, &ranges).await?;
            scan.execute(partition, context)
        });
        let rows = RecordBatchStreamAdapter::new(self.schema(), rows.try_flatten());
        Ok(Box::pin(Guarded {
            rows: Some(Box::pin(rows)),
            schema: self.schema(),
            ranges: Arc::clone(&self.ranges),
            is_arrow: matches!(self.decoder, Decoder::ArrowFile | Decoder::ArrowStream),
        }))
    }
}

async fn check(store: &Arc<dyn ObjectStore>, decoder: &Decoder, ranges: &[FileRange]) -> Result<()> {
    // Made before the stream: a closure over references would keep the future from being `Send`.
    let checks: Vec<_> = ranges
        .iter()
        .map(|range| check_range(store, decoder, range))
        .collect();
    stream::iter(checks)
        .buffered(CONCURRENT_CHECKS)
        .try_collect()
        .await
}

async fn check_range(store: &Arc<dyn ObjectStore>, decoder: &Decoder, range: &FileRange) -> Result<()> {
    let location = Path::parse(&range.file.path)
        .map_err(|error| DataFusionError::ObjectStore(Box::new(error.into())))?;
    let checked = decoder.check(store, &location, range.start..range.end).await;
    // Here it is known which file it is.
    checked.map_err(
        |error| match classify_error(&error, std::slice::from_ref(range)) {
            failure @ AttemptFailure::BadInput { .. } => DataFusionError::External(Box::new(failure)),
            _ => error,
        },
    )
}

/// Rows of a decoder that may panic.
struct Guarded {
    /// Gone once it has panicked.
    rows: Option<SendableRecordBatchStream>,
    schema: SchemaRef,
    ranges: Arc<[FileRange]>,
    is_arrow: bool,
}

impl Stream for Guarded {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(rows) = self.rows.as_mut() else {
            return Poll::Ready(None);
        };
        // Nothing outlives the unwinding: the decoder is dropped.
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

impl RecordBatchStream for Guarded {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}
