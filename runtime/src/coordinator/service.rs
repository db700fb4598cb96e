//! The coordinator's gRPC face: status, the result's rows, cancel.

use std::net::SocketAddr;
use std::sync::Mutex;

use anyhow::Context;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow_ipc::writer::StreamWriter;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use sluice_core::ids::QueryId;
use sluice_proto::auth::Guard;
use sluice_proto::{LIVENESS_SERVICE, MAX_SESSION_MESSAGE_BYTES, QueryReport, wire};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, WatchStream};
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, async_trait};
use tonic_health::ServingStatus;
use tonic_health::server::health_reporter;
use wire::coordinator_server::{Coordinator, CoordinatorServer};

use super::{Reporter, ResultBatches, RunningQuery};

/// Serves one query.
pub struct CoordinatorService {
    query: QueryId,
    reporter: Reporter,
    schema: SchemaRef,
    rows: Mutex<Option<ResultBatches>>,
    guard: Guard,
    cancel: CancellationToken,
    taken: CancellationToken,
}

/// A service that runs.
pub struct Served {
    /// Where.
    pub address: SocketAddr,
    /// Cancelled once somebody was told how the query ended.
    pub taken: CancellationToken,
    /// Ends with the service.
    pub task: tokio::task::JoinHandle<()>,
}

/// Serves `running` on `address` (port 0 takes a free one) until `stop`.
///
/// # Errors
/// The address cannot be bound.
pub async fn serve(
    query: QueryId,
    schema: SchemaRef,
    running: &mut RunningQuery,
    address: SocketAddr,
    stop: CancellationToken,
) -> anyhow::Result<Served> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("--listen: cannot listen on {address}"))?;
    let address = listener.local_addr()?;
    let taken = CancellationToken::new();
    let service = CoordinatorService {
        query,
        reporter: running.reporter(),
        schema,
        rows: Mutex::new(running.rows.take()),
        guard: running.guard.clone(),
        cancel: running.cancel_token(),
        taken: taken.clone(),
    };
    let (health, health_service) = health_reporter();
    for service in [CoordinatorServer::<CoordinatorService>::NAME, LIVENESS_SERVICE] {
        health.set_service_status(service, ServingStatus::Serving).await;
    }
    let server = CoordinatorServer::new(service).max_encoding_message_size(MAX_SESSION_MESSAGE_BYTES);
    let serve = tonic::transport::Server::builder()
        .add_service(health_service)
        .add_service(server)
        .serve_with_incoming_shutdown(
            TcpIncoming::from(listener).with_nodelay(Some(true)),
            stop.cancelled_owned(),
        );
    let task = tokio::spawn(async move {
        if let Err(error) = serve.await {
            tracing::error!(%error, "the coordinator's service stopped");
        }
    });
    Ok(Served { address, taken, task })
}

impl CoordinatorService {
    fn check(&self, request: &Request<wire::QueryRef>) -> Result<(), Status> {
        self.guard
            .admit_query_or_operator(request.metadata(), &self.query)?;
        let asked = &request.get_ref().query;
        if asked == self.query.as_str() {
            return Ok(());
        }
        Err(Status::not_found(format!(
            "this coordinator runs query {}, not {asked}",
            self.query
        )))
    }
}

/// A report as it travels; notes that the end was told.
fn tell(report: &QueryReport, taken: &CancellationToken) -> Result<wire::QueryStatus, Status> {
    let told = wire::QueryStatus::try_from(report).map_err(|error| Status::internal(error.to_string()))?;
    if report.snapshot.outcome.is_some() {
        taken.cancel();
    }
    Ok(told)
}

#[async_trait]
impl Coordinator for CoordinatorService {
    type WatchQueryStatusStream = BoxStream<'static, Result<wire::QueryStatus, Status>>;
    type ReadResultStream = ReceiverStream<Result<wire::ResultChunk, Status>>;

    async fn get_query_status(
        &self,
        request: Request<wire::QueryRef>,
    ) -> Result<Response<wire::QueryStatus>, Status> {
        self.check(&request)?;
        Ok(Response::new(tell(&self.reporter.now(), &self.taken)?))
    }

    async fn watch_query_status(
        &self,
        request: Request<wire::QueryRef>,
    ) -> Result<Response<Self::WatchQueryStatusStream>, Status> {
        self.check(&request)?;
        let (reporter, taken) = (self.reporter.clone(), self.taken.clone());
        let snapshots = WatchStream::new(reporter.snapshots.clone());
        let states = snapshots.map(move |snapshot| tell(&reporter.at(snapshot), &taken));
        Ok(Response::new(states.boxed()))
    }

    async fn read_result(
        &self,
        request: Request<wire::QueryRef>,
    ) -> Result<Response<Self::ReadResultStream>, Status> {
        self.check(&request)?;
        let rows = self.rows.lock().map(|mut rows| rows.take()).unwrap_or_default();
        let Some(rows) = rows else {
            return Err(Status::failed_precondition(
                "the result goes to a sink, or somebody else reads it already",
            ));
        };
        let (chunks, receiver) = mpsc::channel(4);
        tokio::spawn(encode_rows(self.schema.clone(), rows, chunks));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn cancel_query(
        &self,
        request: Request<wire::QueryRef>,
    ) -> Result<Response<wire::CancelAck>, Status> {
        self.check(&request)?;
        self.cancel.cancel();
        Ok(Response::new(wire::CancelAck {}))
    }
}

/// The most bytes of one chunk: a batch may be larger than any message that a client takes.
const CHUNK_BYTES: usize = 1 << 20;

type Chunks = mpsc::Sender<Result<wire::ResultChunk, Status>>;

/// Chunks of an Arrow IPC stream: the schema, the batches, then the mark of its end. They are cut anywhere.
async fn encode_rows(schema: SchemaRef, rows: ResultBatches, chunks: Chunks) {
    // A client that went away wants no error.
    if let Err(Some(error)) = send_rows(schema, rows, &chunks).await {
        let _ = chunks.send(Err(Status::internal(error.to_string()))).await;
    }
}

/// Fails without an error where nobody listens.
async fn send_rows(
    schema: SchemaRef,
    mut rows: ResultBatches,
    chunks: &Chunks,
) -> Result<(), Option<ArrowError>> {
    let mut writer = StreamWriter::try_new(Vec::new(), &schema).map_err(Some)?;
    send_cut(std::mem::take(writer.get_mut()), 0, chunks).await?;
    while let Some(batch) = rows.recv().await {
        writer.write(&batch).map_err(Some)?;
        let rows = u64::try_from(batch.num_rows()).unwrap_or(u64::MAX);
        send_cut(std::mem::take(writer.get_mut()), rows, chunks).await?;
    }
    // A decoder knows that a message is complete once more bytes come: without the end of the stream, the schema of
    // a result without rows would not show.
    writer.finish().map_err(Some)?;
    send_cut(std::mem::take(writer.get_mut()), 0, chunks).await
}

/// Sends bytes of the stream in pieces; the last one tells their rows.
async fn send_cut(bytes: Vec<u8>, rows: u64, chunks: &Chunks) -> Result<(), Option<ArrowError>> {
    let mut bytes = Bytes::from(bytes);
    while !bytes.is_empty() {
        let ipc = bytes.split_to(bytes.len().min(CHUNK_BYTES));
        let rows = if bytes.is_empty() { rows } else { 0 };
        let sent = chunks.send(Ok(wire::ResultChunk { ipc, rows })).await;
        sent.map_err(|_| None)?;
    }
    Ok(())
}
