//! The client of one coordinator: follows its status and takes its rows.

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow_ipc::reader::StreamDecoder;
use sluice_core::coordinator::Outcome;
use sluice_core::ids::QueryId;
use sluice_proto::auth::Token;
use sluice_proto::{QueryReport, wire};
use wire::coordinator_client::CoordinatorClient;

use crate::net::{self, AuthenticatedChannel};

/// The coordinator disconnected or hangs, and has not reported the end of its query.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the coordinator went away before the query had ended: {0}")]
pub struct CoordinatorLost(String);

impl CoordinatorLost {
    fn to_say(cause: &dyn std::error::Error) -> Self {
        let mut text = cause.to_string();
        let mut next = cause.source();
        while let Some(cause) = next {
            let cause_text = cause.to_string();
            if !text.contains(&cause_text) {
                text.push_str(": ");
                text.push_str(&cause_text);
            }
            next = cause.source();
        }
        Self(text)
    }

    fn of_call(status: &tonic::Status) -> Self {
        // The status of a broken connection says little; its cause has the details.
        match std::error::Error::source(status) {
            Some(cause) => Self::to_say(cause),
            None => Self(status.message().to_owned()),
        }
    }
}

/// A connection to the coordinator of one query. Every call ends: a coordinator that does not answer for some seconds
/// counts as lost.
#[derive(Clone)]
pub struct Client {
    inner: CoordinatorClient<AuthenticatedChannel>,
    query: QueryId,
}

impl Client {
    /// Connects to a coordinator at host:port with its token.
    ///
    /// # Errors
    /// The connection fails.
    pub async fn connect(address: &str, query: QueryId, token: Token) -> Result<Self, CoordinatorLost> {
        let inner = net::coordinator_client(address, token).await;
        let inner = inner.map_err(|error| CoordinatorLost::to_say(error.cause()))?;
        Ok(Self { inner, query })
    }

    fn reference(&self) -> wire::QueryRef {
        wire::QueryRef {
            query: self.query.as_str().to_owned(),
        }
    }

    /// Cancels the query.
    ///
    /// # Errors
    /// The coordinator is lost.
    pub async fn cancel(&mut self) -> Result<(), CoordinatorLost> {
        let reference = self.reference();
        let answer = self.inner.cancel_query(reference).await;
        answer
            .map(|_| ())
            .map_err(|status| CoordinatorLost::of_call(&status))
    }

    /// Calls `seen` with each new report until the query has ended. Returns the last report.
    ///
    /// # Errors
    /// The coordinator is lost before the query has ended.
    pub async fn watch(
        &mut self,
        mut seen: impl FnMut(&QueryReport),
    ) -> Result<(QueryReport, Outcome), CoordinatorLost> {
        let reference = self.reference();
        let lost = |status: tonic::Status| CoordinatorLost::of_call(&status);
        let states = self.inner.watch_query_status(reference).await.map_err(lost)?;
        let mut states = states.into_inner();
        let mut last = None;
        while let Some(status) = states.message().await.map_err(lost)? {
            let state = QueryReport::try_from(status).map_err(|error| CoordinatorLost::to_say(&error))?;
            seen(&state);
            last = Some(state);
        }
        let ended = last.and_then(|state| state.snapshot.outcome.clone().map(|outcome| (state, outcome)));
        ended.ok_or_else(|| CoordinatorLost("it closed the connection".to_owned()))
    }

    /// Starts to read the rows of the result. Only one client may.
    ///
    /// # Errors
    /// The coordinator is lost, or has no rows for clients.
    pub async fn read_result(&mut self) -> Result<ResultStream, CoordinatorLost> {
        let reference = self.reference();
        let chunks = self.inner.read_result(reference).await;
        let chunks = chunks.map_err(|status| CoordinatorLost::of_call(&status))?;
        Ok(ResultStream {
            chunks: chunks.into_inner(),
            bytes: Buffer::from(Vec::<u8>::new()),
            decoder: StreamDecoder::new(),
            schema_given: false,
            decoded: None,
        })
    }
}

/// The result as a stream.
pub struct ResultStream {
    chunks: tonic::Streaming<wire::ResultChunk>,
    /// Bytes that are not decoded yet. A chunk may hold any part of the IPC stream.
    bytes: Buffer,
    decoder: StreamDecoder,
    schema_given: bool,
    decoded: Option<RecordBatch>,
}

#[derive(Debug, Clone)]
pub enum ResultPart {
    /// The schema, first and once.
    Schema(SchemaRef),
    Rows(RecordBatch),
}

impl ResultStream {
    /// The next part; `None` after the last one.
    ///
    /// # Errors
    /// The coordinator is lost.
    pub async fn next(&mut self) -> Result<Option<ResultPart>, CoordinatorLost> {
        loop {
            if let (false, Some(schema)) = (self.schema_given, self.decoder.schema()) {
                self.schema_given = true;
                return Ok(Some(ResultPart::Schema(schema)));
            }
            if let Some(batch) = self.decoded.take() {
                return Ok(Some(ResultPart::Rows(batch)));
            }
            if self.bytes.is_empty() {
                let chunk = self.chunks.message().await;
                match chunk.map_err(|status| CoordinatorLost::of_call(&status))? {
                    Some(chunk) => self.bytes = Buffer::from(chunk.ipc),
                    None if self.schema_given => return Ok(None),
                    None => return Err(CoordinatorLost("it sent no schema".to_owned())),
                }
            }
            let decoded = self.decoder.decode(&mut self.bytes);
            self.decoded = decoded.map_err(|error| CoordinatorLost::to_say(&error))?;
        }
    }
}
