//! The metrics of the operator, in the OpenMetrics text format.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::config::Scope;
use crate::demand::PoolDemand;

pub struct Metrics {
    registry: Registry,
    reconciles: Family<Reconcile, Counter>,
    durations: Family<Kind, Histogram, fn() -> Histogram>,
    leading: Gauge<i64>,
    /// Seconds from a coordinator's report of a transition to the status that shows it. Where no report was received, from the
    /// end of the query. Progress is delayed on purpose and does not count.
    pub status_lag: Histogram,
    unreadable: Family<ScopedKind, Gauge>,
    pools: PoolGauges,
    pub status_writes: Counter<u64, AtomicU64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reconcile {
    kind: String,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ScopedKind {
    kind: String,
    /// The served namespace; empty for all.
    scope: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Pool {
    namespace: String,
    pool: String,
}

#[derive(Clone, Default)]
struct PoolGauges {
    slots_wanted: Family<Pool, Gauge>,
    slots: Family<Pool, Gauge>,
    queries_running: Family<Pool, Gauge>,
    queries_queued: Family<Pool, Gauge>,
    workers_wanted: Family<Pool, Gauge>,
}

/// The values of the gauges of a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolState {
    pub demand: PoolDemand,
    /// Slots of the ready workers.
    pub slots: u32,
    /// Workers that the pool should have.
    pub workers: u32,
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
            unreadable: Family::default(),
            pools: PoolGauges::default(),
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
        registry.register(
            "unreadable_objects",
            "Custom resources that are left out, as this version cannot read them",
            metrics.unreadable.clone(),
        );
        metrics.pools.register(&mut registry);
        registry.register("status_writes", "Statuses written", metrics.status_writes.clone());
        Self { registry, ..metrics }
    }
}

impl Metrics {
    /// Records the end of a reconcile.
    pub fn reconciled(&self, kind: &str, took: Duration, well: bool) {
        let kind = kind.to_owned();
        let result = if well { "success" } else { "error" };
        self.durations
            .get_or_create(&Kind { kind: kind.clone() })
            .observe(took.as_secs_f64());
        self.reconciles.get_or_create(&Reconcile { kind, result }).inc();
    }

    /// The gauge of unreadable objects of `kind` in `scope`.
    pub fn unreadable(&self, kind: &str, scope: &Scope) -> Gauge {
        let scope = match scope {
            Scope::All => String::new(),
            Scope::Namespace(namespace) => namespace.clone(),
        };
        let kind = kind.to_owned();
        self.unreadable.get_or_create(&ScopedKind { kind, scope }).clone()
    }

    /// Sets the gauges of a pool; `None` removes them.
    pub fn pool(&self, namespace: &str, pool: &str, state: Option<PoolState>) {
        let labels = Pool {
            namespace: namespace.to_owned(),
            pool: pool.to_owned(),
        };
        let gauges = &self.pools;
        let shown = |state: PoolState| {
            [
                (&gauges.slots_wanted, state.demand.slots),
                (&gauges.slots, state.slots),
                (&gauges.queries_running, state.demand.running),
                (&gauges.queries_queued, state.demand.queued),
                (&gauges.workers_wanted, state.workers),
            ]
        };
        for (family, value) in shown(state.unwrap_or_default()) {
            match state {
                Some(_) => {
                    family.get_or_create(&labels).set(value.into());
                }
                None => {
                    family.remove(&labels);
                }
            }
        }
    }

    pub fn leads(&self, leading: bool) {
        self.leading.set(i64::from(leading));
    }

    /// All metrics in the text format.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = text::encode(&mut out, &self.registry);
        out
    }
}

impl PoolGauges {
    fn register(&self, registry: &mut Registry) {
        for (name, help, family) in [
            (
                "pool_slots_wanted",
                "Slots that the queries of a pool could use now",
                &self.slots_wanted,
            ),
            ("pool_slots", "Slots of the ready workers of a pool", &self.slots),
            (
                "pool_queries_running",
                "Queries that have a place in a pool",
                &self.queries_running,
            ),
            (
                "pool_queries_queued",
                "Queries that wait for a pool or for a place in it",
                &self.queries_queued,
            ),
            (
                "pool_workers_wanted",
                "Workers that a pool is to have",
                &self.workers_wanted,
            ),
        ] {
            registry.register(name, help, family.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_shows_what_is_wanted_until_it_is_gone() {
        let metrics = Metrics::default();
        let demand = PoolDemand {
            slots: 9,
            running: 2,
            queued: 1,
        };
        let state = PoolState {
            demand,
            slots: 4,
            workers: 3,
        };
        metrics.pool("n", "p", Some(state));
        let text = metrics.text();
        for line in [
            r#"sluice_operator_pool_slots_wanted{namespace="n",pool="p"} 9"#,
            r#"sluice_operator_pool_slots{namespace="n",pool="p"} 4"#,
            r#"sluice_operator_pool_queries_running{namespace="n",pool="p"} 2"#,
            r#"sluice_operator_pool_queries_queued{namespace="n",pool="p"} 1"#,
            r#"sluice_operator_pool_workers_wanted{namespace="n",pool="p"} 3"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        metrics.pool("n", "p", None);
        assert!(!metrics.text().contains(r#"pool="p""#));
    }

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
