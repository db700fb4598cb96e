//! The coordinator's gRPC face: status, the result's rows, cancel.

use std::net::SocketAddr;
use std::sync::Mutex;

use arrow::datatypes::SchemaRef;
use arrow_ipc::writer::StreamWriter;
use futures::StreamExt;
use futures::stream::BoxStream;
use sluice_core::ids::QueryId;
use sluice_core::snapshot::QuerySnapshot;
use sluice_crds::shuffle_query::status::ResultPreview;
use sluice_proto::{MAX_SESSION_MESSAGE_BYTES, wire};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, WatchStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, async_trait};
use wire::coordinator_server::{Coordinator, CoordinatorServer};

use super::{ResultBatches, RunningQuery};
use crate::sink::Committed;

/// Serves one query.
pub struct CoordinatorService {
    query: QueryId,
    snapshots: watch::Receiver<QuerySnapshot>,
    shown: Shown,
    schema: SchemaRef,
    rows: Mutex<Option<ResultBatches>>,
    cancel: CancellationToken,
}

/// Serves `running` on `address` (port 0 takes a free one) until `stop`; answers where.
///
/// # Errors
/// The address cannot be bound.
pub async fn serve(
    query: QueryId,
    schema: SchemaRef,
    running: &mut RunningQuery,
    address: SocketAddr,
    stop: CancellationToken,
) -> anyhow::Result<(SocketAddr, tokio::task::JoinHandle<()>)> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let service = CoordinatorService {
        query,
        snapshots: running.snapshots.clone(),
        shown: Shown {
            preview: running.preview.clone(),
            committed: running.committed.clone(),
        },
        schema,
        rows: Mutex::new(running.rows.take()),
        cancel: running.cancel_token(),
    };
    let server = CoordinatorServer::new(service).max_encoding_message_size(MAX_SESSION_MESSAGE_BYTES);
    let serve = tonic::transport::Server::builder()
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
    Ok((address, task))
}

impl CoordinatorService {
    fn check(&self, request: &Request<wire::QueryRef>) -> Result<(), Status> {
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

/// What of the result can be seen so far.
#[derive(Clone)]
struct Shown {
    preview: watch::Receiver<Option<ResultPreview>>,
    committed: watch::Receiver<Option<Committed>>,
}

impl Shown {
    fn encode(&self, snapshot: &QuerySnapshot) -> Result<wire::QueryStatus, Status> {
        let broken = |error: serde_json::Error| Status::internal(error.to_string());
        let preview = self
            .preview
            .borrow()
            .as_ref()
            .map(serde_json::to_string)
            .transpose();
        let sink = self
            .committed
            .borrow()
            .as_ref()
            .map(serde_json::to_string)
            .transpose();
        Ok(wire::QueryStatus {
            snapshot_json: serde_json::to_string(snapshot).map_err(broken)?,
            preview_json: preview.map_err(broken)?,
            sink_json: sink.map_err(broken)?,
        })
    }
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
        let snapshot = self.snapshots.borrow().clone();
        Ok(Response::new(self.shown.encode(&snapshot)?))
    }

    async fn watch_query_status(
        &self,
        request: Request<wire::QueryRef>,
    ) -> Result<Response<Self::WatchQueryStatusStream>, Status> {
        self.check(&request)?;
        let (snapshots, shown) = (WatchStream::new(self.snapshots.clone()), self.shown.clone());
        Ok(Response::new(
            snapshots.map(move |snapshot| shown.encode(&snapshot)).boxed(),
        ))
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

/// Chunks of an Arrow IPC stream: the schema first, then a chunk a batch, then the mark of its end.
async fn encode_rows(
    schema: SchemaRef,
    mut rows: ResultBatches,
    chunks: mpsc::Sender<Result<wire::ResultChunk, Status>>,
) {
    let mut writer = match StreamWriter::try_new(Vec::new(), &schema) {
        Ok(writer) => writer,
        Err(error) => {
            let _ = chunks.send(Err(Status::internal(error.to_string()))).await;
            return;
        }
    };
    let head = wire::ResultChunk {
        ipc: std::mem::take(writer.get_mut()).into(),
        rows: 0,
    };
    if chunks.send(Ok(head)).await.is_err() {
        return;
    }
    while let Some(batch) = rows.recv().await {
        let written = writer
            .write(&batch)
            .map_err(|error| Status::internal(error.to_string()));
        let rows = u64::try_from(batch.num_rows()).unwrap_or(u64::MAX);
        let chunk = written.map(|()| wire::ResultChunk {
            ipc: std::mem::take(writer.get_mut()).into(),
            rows,
        });
        let failed = chunk.is_err();
        if chunks.send(chunk).await.is_err() || failed {
            return;
        }
    }
    // A decoder knows that a message is complete once more bytes come: without the end of the stream, the schema of
    // a result without rows would not show.
    let ended = writer.finish();
    let chunk = ended.map(|()| wire::ResultChunk {
        ipc: std::mem::take(writer.get_mut()).into(),
        rows: 0,
    });
    let _ = chunks
        .send(chunk.map_err(|error| Status::internal(error.to_string())))
        .await;
}
