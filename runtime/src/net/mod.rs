//! The gRPC endpoints of workers and coordinators: how clients connect and how servers listen. Keep-alive, windows,
//! message limits and tokens are set here and nowhere else.

mod client;
mod server;

pub(crate) use client::{AuthenticatedChannel, coordinator_client, fetch_client, session_client};
pub(crate) use server::{Listener, health, serve_coordinator, serve_worker};

/// HTTP/2 flow-control windows of both ends: four chunks of one call, sixteen of one connection.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
