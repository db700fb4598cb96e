//! From names to addresses, again and again while a query runs.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;
use tonic::async_trait;

use super::link::LinkEvent;

/// How long what was found for a name counts as news.
const PERIOD: Duration = Duration::from_secs(2);

/// Finds the addresses that a name (`host:port`) stands for.
#[async_trait]
pub trait Resolve: Send + Sync {
    /// All addresses at this moment.
    ///
    /// # Errors
    /// The name stands for nothing, or nobody could tell.
    async fn resolve(&self, name: &str) -> io::Result<BTreeSet<SocketAddr>>;
}

/// The resolver of the system: its hosts file and name servers.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, name: &str) -> io::Result<BTreeSet<SocketAddr>> {
        Ok(tokio::net::lookup_host(name).await?.collect())
    }
}

/// Resolves a name until nobody listens.
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
