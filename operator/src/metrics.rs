//! What /metrics tells, in the OpenMetrics text format.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// The operator's metrics.
pub struct Metrics {
    registry: Registry,
    reconciles: Family<Reconcile, Counter>,
    durations: Family<Kind, Histogram, fn() -> Histogram>,
    leading: Gauge<i64>,
    /// Seconds from a coordinator's report of a transition to the status that shows it; from the end of the query, where nobody
    /// heard of that while its coordinator ran. Progress waits on purpose, and does not count.
    pub status_lag: Histogram,
    /// Writes of a status.
    pub status_writes: Counter<u64, AtomicU64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reconcile {
    kind: String,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: String,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("sluice_operator");
        let seconds: fn() -> Histogram = || Histogram::new(exponential_buckets(0.001, 2.0, 16));
        let metrics = Self {
            reconciles: Family::default(),
            durations: Family::new_with_constructor(seconds),
            leading: Gauge::default(),
            status_lag: seconds(),
            status_writes: Counter::default(),
            registry: Registry::default(),
        };
        registry.register(
            "reconciles",
            "Reconciles that ended, by result",
            metrics.reconciles.clone(),
        );
        registry.register_with_unit(
            "reconcile_duration",
            "Time of one reconcile",
            Unit::Seconds,
            metrics.durations.clone(),
        );
        registry.register(
            "leading",
            "1 while this operator is the one that acts",
            metrics.leading.clone(),
        );
        registry.register_with_unit(
            "status_lag",
            "Time from a coordinator's report of a transition to the status that shows it",
            Unit::Seconds,
            metrics.status_lag.clone(),
        );
        registry.register("status_writes", "Statuses written", metrics.status_writes.clone());
        Self { registry, ..metrics }
    }
}

impl Metrics {
    /// One reconcile of `kind` ended.
    pub fn reconciled(&self, kind: &str, took: Duration, well: bool) {
        let kind = kind.to_owned();
        let result = if well { "success" } else { "error" };
        self.durations
            .get_or_create(&Kind { kind: kind.clone() })
            .observe(took.as_secs_f64());
        self.reconciles.get_or_create(&Reconcile { kind, result }).inc();
    }

    /// Whether this operator leads.
    pub fn leads(&self, leading: bool) {
        self.leading.set(i64::from(leading));
    }

    /// All metrics as text.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = text::encode(&mut out, &self.registry);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reconciles_are_counted_by_kind_and_result() {
        let metrics = Metrics::default();
        metrics.reconciled("WorkerPool", Duration::from_millis(3), true);
        metrics.reconciled("WorkerPool", Duration::from_millis(3), false);
        metrics.leads(true);
        let text = metrics.text();
        for line in [
            r#"sluice_operator_reconciles_total{kind="WorkerPool",result="success"} 1"#,
            r#"sluice_operator_reconciles_total{kind="WorkerPool",result="error"} 1"#,
            r#"sluice_operator_reconcile_duration_seconds_count{kind="WorkerPool"} 2"#,
            "sluice_operator_leading 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
