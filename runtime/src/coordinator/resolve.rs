//! Resolves worker names to addresses repeatedly while a query runs.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;
use tonic::async_trait;

use super::link::LinkEvent;

/// The time between two resolutions of a name.
const PERIOD: Duration = Duration::from_secs(2);

/// Resolves a name (`host:port`) to addresses.
#[async_trait]
pub trait Resolve: Send + Sync {
    /// All current addresses.
    ///
    /// # Errors
    /// The name does not exist, or resolution failed.
    async fn resolve(&self, name: &str) -> io::Result<BTreeSet<SocketAddr>>;
}

/// The system's resolver: hosts file and name servers.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, name: &str) -> io::Result<BTreeSet<SocketAddr>> {
        Ok(tokio::net::lookup_host(name).await?.collect())
    }
}

/// Resolves a name until the receiver is dropped.
pub(super) async fn follow(
    name: String,
    resolver: Arc<dyn Resolve>,
    events: mpsc::UnboundedSender<LinkEvent>,
) {
    loop {
        let found = resolver.resolve(&name).await;
        let found = found
            .map(|addresses| addresses.iter().map(SocketAddr::to_string).collect())
            .map_err(|error| error.to_string());
        let name = name.clone();
        if events.send(LinkEvent::Resolved { name, found }).is_err() {
            return;
        }
        sleep(PERIOD).await;
    }
}
