//! The coordinator's gRPC service: status, result rows, cancel, token renewal.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow_ipc::writer::StreamWriter;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use prost::Message;
use sluice_core::ids::QueryId;
use sluice_core::snapshot::QuerySnapshot;
use sluice_proto::auth::{Authorizer, Subject, Token, Verb};
use sluice_proto::{MAX_REPORT_BYTES, QueryReport, wire};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, async_trait};
use wire::coordinator_server::{Coordinator, CoordinatorServer};

use super::{Reporter, ResultBatches, RunningQuery};
use crate::net::{self, Listener};

pub struct CoordinatorService {
    query: QueryId,
    reporter: Reporter,
    schema: SchemaRef,
    rows: Mutex<Option<ResultBatches>>,
    authorizer: Authorizer,
    renewals: watch::Sender<Option<Token>>,
    cancel: CancellationToken,
    end_reported: CancellationToken,
}

pub struct ServiceHandle {
    pub address: SocketAddr,
    /// Cancelled once a client was told how the query ended.
    pub end_reported: CancellationToken,
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
) -> anyhow::Result<ServiceHandle> {
    let listener = Listener::bind(address).await?;
    let address = listener.address();
    let end_reported = CancellationToken::new();
    let service = CoordinatorService {
        query,
        reporter: running.reporter(),
        schema,
        rows: Mutex::new(running.rows.take()),
        authorizer: running.authorizer.clone(),
        renewals: running.renewals.clone(),
        cancel: running.cancel_token(),
        end_reported: end_reported.clone(),
    };
    let (_, health) = net::health::<CoordinatorServer<CoordinatorService>>().await;
    let serve = net::serve_coordinator(listener, health, service, stop);
    let task = tokio::spawn(async move {
        if let Err(error) = serve.await {
            tracing::error!(%error, "the coordinator's service stopped");
        }
    });
    Ok(ServiceHandle {
        address,
        end_reported,
        task,
    })
}

impl CoordinatorService {
    /// Checks a call. Returns the caller, if tokens are checked.
    fn check(&self, request: &Request<wire::QueryRef>, verb: Verb) -> Result<Option<Subject>, Status> {
        let claims = self.authorizer.authorize(request.metadata(), verb)?;
        self.check_query(&request.get_ref().query)?;
        Ok(claims.map(|claims| claims.subject))
    }

    fn check_query(&self, asked: &str) -> Result<(), Status> {
        if asked == self.query.as_str() {
            return Ok(());
        }
        Err(Status::not_found(format!(
            "this coordinator runs query {}, not {asked}",
            self.query
        )))
    }
}

/// Encodes a report within its size limit: drops the preview first. Notes if it reports the end.
fn encode_report(
    report: &QueryReport,
    end_reported: &CancellationToken,
) -> Result<wire::QueryStatus, Status> {
    let mut status =
        wire::QueryStatus::try_from(report).map_err(|error| Status::internal(error.to_string()))?;
    if status.encoded_len() > MAX_REPORT_BYTES {
        status.preview_json = None;
    }
    if status.encoded_len() > MAX_REPORT_BYTES {
        let message = format!("the report is larger than {MAX_REPORT_BYTES} bytes");
        return Err(Status::resource_exhausted(message));
    }
    if report.snapshot.outcome.is_some() {
        end_reported.cancel();
    }
    Ok(status)
}

/// The least time between two reports to the operator, which watches many queries.
const REPORT_PERIOD: Duration = Duration::from_secs(1);

/// Snapshots of a query at least `period` apart, except the last one, which comes at once.
fn status_stream(
    seen: watch::Receiver<QuerySnapshot>,
    period: Duration,
) -> impl Stream<Item = QuerySnapshot> {
    futures::stream::unfold((seen, None), move |(mut seen, last)| async move {
        if let Some(last) = last {
            seen.changed().await.ok()?;
            // An error means that no other snapshot will come.
            let ended = seen.wait_for(|snapshot| snapshot.outcome.is_some());
            let _ = timeout_at(last + period, ended).await;
        }
        let snapshot = seen.borrow_and_update().clone();
        Some((snapshot, (seen, Some(Instant::now()))))
    })
}

#[async_trait]
impl Coordinator for CoordinatorService {
    type WatchQueryStatusStream = BoxStream<'static, Result<wire::QueryStatus, Status>>;
    type ReadResultStream = ReceiverStream<Result<wire::ResultChunk, Status>>;

    async fn get_query_status(
        &self,
        request: Request<wire::QueryRef>,
    ) -> Result<Response<wire::QueryStatus>, Status> {
        self.check(&request, Verb::ReadStatus)?;
        Ok(Response::new(encode_report(
            &self.reporter.now(),
            &self.end_reported,
        )?))
    }

    async fn watch_query_status(
        &self,
        request: Request<wire::QueryRef>,
    ) -> Result<Response<Self::WatchQueryStatusStream>, Status> {
        let asks = self.check(&request, Verb::ReadStatus)?;
        let (reporter, end_reported) = (self.reporter.clone(), self.end_reported.clone());
        // An unchecked caller may be the operator.
        let period = match asks {
            None | Some(Subject::Operator) => REPORT_PERIOD,
            Some(Subject::Query(_)) => Duration::ZERO,
        };
        let states = status_stream(reporter.snapshots.clone(), period)
            .map(move |snapshot| encode_report(&reporter.at(snapshot), &end_reported));
        Ok(Response::new(states.boxed()))
    }

    async fn read_result(
        &self,
        request: Request<wire::QueryRef>,
    ) -> Result<Response<Self::ReadResultStream>, Status> {
        self.check(&request, Verb::ReadResult)?;
        let rows = self.rows.lock().map(|mut rows| rows.take()).unwrap_or_default();
        let Some(rows) = rows else {
            return Err(Status::failed_precondition(
                "the result goes to a sink, or somebody else reads it already",
            ));
        };
        let (chunks, receiver) = mpsc::channel(4);
        tokio::spawn(stream_rows(self.schema.clone(), rows, chunks));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn cancel_query(
        &self,
        request: Request<wire::QueryRef>,
    ) -> Result<Response<wire::CancelAck>, Status> {
        self.check(&request, Verb::Cancel)?;
        self.cancel.cancel();
        Ok(Response::new(wire::CancelAck {}))
    }

    async fn renew_token(
        &self,
        request: Request<wire::TokenRenewal>,
    ) -> Result<Response<wire::RenewAck>, Status> {
        self.authorizer.authorize(request.metadata(), Verb::Renew)?;
        let wire::TokenRenewal { query, renewal } = request.into_inner();
        self.check_query(&query)?;
        // Workers verify it.
        let renewal = Token::new(&renewal)?;
        self.renewals.send_replace(Some(renewal));
        Ok(Response::new(wire::RenewAck {}))
    }
}

/// The most bytes of one chunk: a batch may be larger than any message that a client accepts.
const CHUNK_BYTES: usize = 1 << 20;

type Chunks = mpsc::Sender<Result<wire::ResultChunk, Status>>;

/// Sends an Arrow IPC stream (schema, batches, end marker) in chunks that may cut it anywhere.
async fn stream_rows(schema: SchemaRef, rows: ResultBatches, chunks: Chunks) {
    // A client that has disconnected needs no error.
    if let Err(Some(error)) = send_rows(schema, rows, &chunks).await {
        let _ = chunks.send(Err(Status::internal(error.to_string()))).await;
    }
}

/// Fails with `None` if the client has disconnected.
async fn send_rows(
    schema: SchemaRef,
    mut rows: ResultBatches,
    chunks: &Chunks,
) -> Result<(), Option<ArrowError>> {
    let mut writer = StreamWriter::try_new(Vec::new(), &schema).map_err(Some)?;
    send_chunks(std::mem::take(writer.get_mut()), chunks).await?;
    while let Some(batch) = rows.recv().await {
        writer.write(&batch).map_err(Some)?;
        send_chunks(std::mem::take(writer.get_mut()), chunks).await?;
    }
    // A decoder returns a message once more bytes arrive: without the end marker, a result without rows would have no
    // schema.
    writer.finish().map_err(Some)?;
    send_chunks(std::mem::take(writer.get_mut()), chunks).await
}

async fn send_chunks(bytes: Vec<u8>, chunks: &Chunks) -> Result<(), Option<ArrowError>> {
    let mut bytes = Bytes::from(bytes);
    while !bytes.is_empty() {
        let ipc = bytes.split_to(bytes.len().min(CHUNK_BYTES));
        let sent = chunks.send(Ok(wire::ResultChunk { ipc })).await;
        sent.map_err(|_| None)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use sluice_core::coordinator::Outcome;
    use sluice_core::status::StatusContext;
    use sluice_crds::shuffle_query::status::ResultPreview;

    use super::*;

    fn snapshot(workers: u32) -> QuerySnapshot {
        QuerySnapshot {
            workers,
            outcome: None,
            ..QuerySnapshot::committed_before()
        }
    }

    #[tokio::test]
    async fn reports_wait_for_their_time_and_the_last_one_does_not() {
        const HOUR: Duration = Duration::from_secs(3600);
        let (send, seen) = watch::channel(snapshot(0));
        let hasty = status_stream(seen.clone(), Duration::ZERO);
        let states = status_stream(seen, HOUR);
        tokio::pin!(states, hasty);
        assert_eq!(states.next().await.expect("the first").workers, 0);
        assert_eq!(hasty.next().await.expect("the first").workers, 0);
        for workers in 1..=50 {
            send.send_replace(snapshot(workers));
        }
        assert_eq!(hasty.next().await.expect("the newest").workers, 50);
        assert!(states.next().now_or_never().is_none(), "an hour has not passed");
        send.send_replace(QuerySnapshot {
            outcome: Some(Outcome::Succeeded),
            ..snapshot(51)
        });
        assert_eq!(states.next().await.expect("the last").workers, 51);
        drop(send);
        assert!(states.next().await.is_none());
    }

    #[test]
    fn a_report_that_is_too_large_loses_its_preview() {
        let cell = "x".repeat(MAX_REPORT_BYTES);
        let mut report = QueryReport {
            snapshot: QuerySnapshot::committed_before(),
            context: StatusContext {
                start_time: jiff::Timestamp::UNIX_EPOCH,
                result_stages: Vec::new(),
                sink: None,
            },
            preview: Some(ResultPreview {
                columns: vec!["c".to_owned()],
                rows: vec![vec![cell]],
                truncated: false,
            }),
        };
        let end_reported = CancellationToken::new();
        let status = encode_report(&report, &end_reported).expect("it fits without");
        assert_eq!(status.preview_json, None);
        assert!(status.encoded_len() < MAX_REPORT_BYTES && end_reported.is_cancelled());
        if let Some(preview) = &mut report.preview {
            preview.rows.clear();
        }
        assert!(
            encode_report(&report, &end_reported)
                .expect("it fits")
                .preview_json
                .is_some()
        );
    }
}
