//! Counters of an attempt, read from its plan's metrics while it runs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::MetricValue;
use sluice_core::metrics::AttemptMetrics;

use super::activity::Activity;
use crate::planner::{ROWS_FILTERED, ShuffleReadExec};
use crate::shuffle::read::ReadCounters;

/// The counters of one attempt; read by its session while the attempt runs.
pub(super) struct Counters {
    started: Instant,
    plan: OnceLock<Arc<dyn ExecutionPlan>>,
    inputs: OnceLock<Arc<ReadCounters>>,
    /// What its thread does.
    pub(super) activity: Activity,
    rows_out: AtomicU64,
    bytes_out: AtomicU64,
    /// When the operators produced their first row.
    first_row: OnceLock<Instant>,
}

impl Counters {
    /// The counters of an attempt that starts now.
    pub(super) fn start() -> Self {
        Self {
            started: Instant::now(),
            plan: OnceLock::new(),
            inputs: OnceLock::new(),
            activity: Activity::default(),
            rows_out: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            first_row: OnceLock::new(),
        }
    }

    /// The plan whose metrics count scans and spills.
    pub(super) fn set_plan(&self, plan: Arc<dyn ExecutionPlan>) {
        // An attempt has one plan; a second call would only lose counts.
        let _ = self.plan.set(plan);
    }

    /// The counters of the attempt's inputs.
    pub(super) fn set_inputs(&self, inputs: Arc<ReadCounters>) {
        let _ = self.inputs.set(inputs);
    }

    /// What was written to the exchange or the sink so far.
    pub(super) fn set_written(&self, rows: u64, bytes: u64) {
        self.rows_out.store(rows, Ordering::Relaxed);
        self.bytes_out.store(bytes, Ordering::Relaxed);
    }

    /// Records that operators produced rows.
    pub(super) fn note_output(&self, rows: usize) {
        if rows > 0 {
            self.first_row.get_or_init(Instant::now);
        }
    }

    fn millis_until(&self, at: Instant) -> u64 {
        let span = at.saturating_duration_since(self.started);
        u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
    }

    /// All counters so far, except those of the shuffle store.
    pub(super) fn read(&self) -> AttemptMetrics {
        let mut metrics = AttemptMetrics {
            rows_out: self.rows_out.load(Ordering::Relaxed),
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
            activity: self.activity.now(),
            first_reduce_row_ms: self.first_row.get().map(|at| self.millis_until(*at)),
            ..AttemptMetrics::default()
        };
        if let Some(inputs) = self.inputs.get() {
            metrics.shuffle_rows_in = inputs.rows();
            metrics.shuffle_bytes_in = inputs.bytes();
            metrics.first_chunk_ms = inputs.first_chunk().map(|at| self.millis_until(at));
        }
        if let Some(plan) = self.plan.get() {
            add_plan(plan, &mut metrics);
        }
        metrics
    }
}

fn add_plan(plan: &Arc<dyn ExecutionPlan>, sum: &mut AttemptMetrics) {
    let reads_table = plan.children().is_empty() && plan.downcast_ref::<ShuffleReadExec>().is_none();
    if let Some(metrics) = plan.metrics() {
        sum.bytes_spilled += wide(metrics.spilled_bytes().unwrap_or(0));
        let filtered = metrics
            .sum(|metric| matches!(metric.value(), MetricValue::Count { name, .. } if name == ROWS_FILTERED));
        sum.rows_filtered += wide(filtered.map_or(0, |value| value.as_usize()));
        if reads_table {
            sum.rows_read += wide(metrics.output_rows().unwrap_or(0));
            let scanned = metrics.sum(
                |metric| matches!(metric.value(), MetricValue::Count { name, .. } if name == "bytes_scanned"),
            );
            let made = metrics.sum(|metric| matches!(metric.value(), MetricValue::OutputBytes(_)));
            sum.bytes_read += wide(scanned.or(made).map_or(0, |value| value.as_usize()));
        }
    }
    for child in plan.children() {
        add_plan(child, sum);
    }
}

fn wide(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
