//! Where the operator's log lines go.

use sluice_proto::text::LogLines;
use tracing_subscriber::EnvFilter;

/// Lines on standard error, at `info` unless RUST_LOG says otherwise.
pub fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .log_internal_errors(false)
        .with_writer(|| LogLines)
        .init();
}
