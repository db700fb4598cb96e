//! Workers that this process fetches from.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use sluice_core::failure::FetchError;
use sluice_core::ids::WorkerId;
use sluice_core::message::{ChunkHead, FetchRequest};
use sluice_proto::auth::FetchEndpoint;
use sluice_proto::{fetch_error_of, wire};
use tonic::transport::Channel;
use wire::worker_client::WorkerClient;

use crate::net;
use crate::shuffle::read::FetchTransport;

/// How long a peer may stay silent in the middle of a response.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(10);

/// The workers that one session has named: their addresses, the keys of the query's data there, and one lazy connection
/// to each. Clones share the connections. Sessions do not: what one says about a worker is trusted for its own query
/// only.
///
/// The lock protects a cache, which no decision reads.
#[derive(Clone, Default)]
pub struct Peers {
    known: Arc<Mutex<BTreeMap<WorkerId, Peer>>>,
}

struct Peer {
    endpoint: FetchEndpoint,
    client: Option<WorkerClient<Channel>>,
}

impl Peers {
    /// Records where a worker serves fetches. Drops its older incarnations.
    pub fn learn(&self, worker: &WorkerId, endpoint: FetchEndpoint) {
        let mut known = self.lock();
        if known.get(worker).is_some_and(|peer| peer.endpoint == endpoint) {
            return;
        }
        known.retain(|other, _| other.name != worker.name || other.incarnation > worker.incarnation);
        known.insert(
            worker.clone(),
            Peer {
                endpoint,
                client: None,
            },
        );
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<WorkerId, Peer>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection to the worker, and the request with the key for the query's data there.
    fn prepare(
        &self,
        worker: &WorkerId,
        request: FetchRequest,
    ) -> Result<(WorkerClient<Channel>, tonic::Request<wire::FetchRequest>), FetchError> {
        let mut known = self.lock();
        let peer = known.get_mut(worker).ok_or(FetchError::Unreachable)?;
        let mut request = tonic::Request::new(wire::FetchRequest::from(request));
        if let Some(key) = &peer.endpoint.key {
            key.attach(request.metadata_mut());
        }
        if let Some(client) = &peer.client {
            return Ok((client.clone(), request));
        }
        let client = net::fetch_client(&peer.endpoint.address).map_err(|_| FetchError::Unreachable)?;
        peer.client = Some(client.clone());
        Ok((client, request))
    }
}

impl FetchTransport for Peers {
    fn fetch(
        &self,
        worker: &WorkerId,
        request: FetchRequest,
    ) -> BoxStream<'static, Result<(ChunkHead, Bytes), FetchError>> {
        let call = self.prepare(worker, request);
        futures::stream::once(open(call)).try_flatten().boxed()
    }
}

async fn open(
    call: Result<(WorkerClient<Channel>, tonic::Request<wire::FetchRequest>), FetchError>,
) -> Result<BoxStream<'static, Result<(ChunkHead, Bytes), FetchError>>, FetchError> {
    let (mut client, request) = call?;
    let call = client.fetch(request);
    let response = tokio::time::timeout(CHUNK_TIMEOUT, call)
        .await
        .map_err(|_| FetchError::Unreachable)?;
    let chunks = response.map_err(|status| fetch_error_of(&status))?.into_inner();
    Ok(tokio_stream::StreamExt::timeout(chunks, CHUNK_TIMEOUT)
        .map(|chunk| match chunk {
            Ok(Ok(chunk)) => <(ChunkHead, Bytes)>::try_from(chunk).map_err(|_| FetchError::Corrupt),
            Ok(Err(status)) => Err(fetch_error_of(&status)),
            Err(_silent) => Err(FetchError::Unreachable),
        })
        .boxed())
}
