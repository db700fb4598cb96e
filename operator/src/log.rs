//! The operator's log.

use sluice_proto::log::LogFormat;
use tracing_subscriber::EnvFilter;

/// Writes lines to standard error, at `info` unless RUST_LOG says otherwise.
pub fn start(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    sluice_proto::log::start(filter, format);
}
