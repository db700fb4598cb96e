//! What an attempt counts: read from its plan's own metrics while it runs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::MetricValue;
use sluice_core::metrics::AttemptMetrics;

use crate::planner::ShuffleReadExec;
use crate::shuffle::read::ReadCounters;

/// The counters of one attempt; read by its session while the attempt runs.
#[derive(Default)]
pub(super) struct Counters {
    plan: OnceLock<Arc<dyn ExecutionPlan>>,
    inputs: OnceLock<Arc<ReadCounters>>,
    rows_out: AtomicU64,
    bytes_out: AtomicU64,
    bytes_spilled: AtomicU64,
}

impl Counters {
    /// The plan whose metrics count scans and spills.
    pub(super) fn follow_plan(&self, plan: Arc<dyn ExecutionPlan>) {
        // One attempt has one plan: a second call would be a bug that only costs numbers.
        let _ = self.plan.set(plan);
    }

    /// The counters of the attempt's inputs.
    pub(super) fn follow_inputs(&self, inputs: Arc<ReadCounters>) {
        let _ = self.inputs.set(inputs);
    }

    /// What was written to the exchange or the sink so far.
    pub(super) fn wrote(&self, rows: u64, bytes: u64) {
        self.rows_out.store(rows, Ordering::Relaxed);
        self.bytes_out.store(bytes, Ordering::Relaxed);
    }

    /// What the shuffle store moved to disk of the query's data while the attempt ran.
    pub(super) fn spilled(&self, bytes: u64) {
        self.bytes_spilled.store(bytes, Ordering::Relaxed);
    }

    /// All counters so far.
    pub(super) fn read(&self) -> AttemptMetrics {
        let mut metrics = AttemptMetrics {
            rows_out: self.rows_out.load(Ordering::Relaxed),
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
            bytes_spilled: self.bytes_spilled.load(Ordering::Relaxed),
            ..AttemptMetrics::default()
        };
        if let Some(inputs) = self.inputs.get() {
            metrics.shuffle_rows_in = inputs.rows();
            metrics.shuffle_bytes_in = inputs.bytes();
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
