//! Where the operator's log lines go.

use tracing_subscriber::EnvFilter;

/// Lines on standard error, at `info` unless RUST_LOG says otherwise.
pub fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
}
