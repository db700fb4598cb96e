//! Probes and metrics over HTTP.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::serve::Listener;
use sluice_proto::listener::{BoundedListener, Connection};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// The state behind the probes.
#[derive(Clone, Default)]
pub struct Health {
    /// Whether the API server has answered: the operator can lead.
    pub ready: Arc<AtomicBool>,
}

/// Serves /livez, /readyz and /metrics until `stop`.
///
/// # Errors
/// The address cannot be bound.
pub async fn serve(
    address: SocketAddr,
    health: Health,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("--listen {address}"))?;
    let router = router(health, metrics);
    Ok(tokio::spawn(async move {
        let listener = Bounded(BoundedListener::new(listener));
        let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
        if let Err(error) = served.await {
            tracing::error!(%error, "probes and metrics are not served any more");
        }
    }))
}

/// Adapts a bounded listener to axum.
struct Bounded(BoundedListener);

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        self.0.accept().await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

fn router(health: Health, metrics: Arc<Metrics>) -> Router {
    let probes = Router::new()
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .with_state(health);
    let scrape = Router::new().route("/metrics", get(scrape)).with_state(metrics);
    probes.merge(scrape)
}

async fn ready(State(health): State<Health>) -> (StatusCode, &'static str) {
    if health.ready.load(Ordering::Relaxed) {
        (StatusCode::OK, "ok")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the API server has not answered yet",
        )
    }
}

async fn scrape(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, OPEN_METRICS)], metrics.text())
}
