//! The client of one coordinator: follows its status and takes its rows.

use std::io::Write;

use anyhow::{Context, anyhow, bail};
use arrow::buffer::Buffer;
use arrow_ipc::reader::StreamDecoder;
use sluice_core::coordinator::Outcome;
use sluice_core::ids::QueryId;
use sluice_proto::{MAX_SESSION_MESSAGE_BYTES, QueryReport, wire};
use tonic::transport::{Channel, Endpoint};
use wire::coordinator_client::CoordinatorClient;

use super::output::{OutputFormat, RowPrinter};

/// What a coordinator says of its query.
pub type Seen = QueryReport;

/// A connection to a coordinator about one query.
#[derive(Clone)]
pub struct Client {
    inner: CoordinatorClient<Channel>,
    query: QueryId,
}

impl Client {
    /// Connects to a coordinator at host:port.
    ///
    /// # Errors
    /// Nobody answers there.
    pub async fn connect(address: &str, query: QueryId) -> anyhow::Result<Self> {
        let channel = Endpoint::from_shared(format!("http://{address}"))?
            .tcp_nodelay(true)
            .connect()
            .await?;
        let inner = CoordinatorClient::new(channel).max_decoding_message_size(MAX_SESSION_MESSAGE_BYTES);
        Ok(Self { inner, query })
    }

    fn reference(&self) -> wire::QueryRef {
        wire::QueryRef {
            query: self.query.as_str().to_owned(),
        }
    }

    /// Asks for the query's end.
    ///
    /// # Errors
    /// The coordinator is gone.
    pub async fn cancel(&mut self) -> anyhow::Result<()> {
        let reference = self.reference();
        self.inner.cancel_query(reference).await?;
        Ok(())
    }

    /// Calls `seen` with each new state until the query has ended; answers the last one.
    ///
    /// # Errors
    /// The coordinator went away first.
    pub async fn watch(&mut self, mut seen: impl FnMut(&Seen)) -> anyhow::Result<(Seen, Outcome)> {
        let reference = self.reference();
        let mut states = self.inner.watch_query_status(reference).await?.into_inner();
        let mut last = None;
        let gone = |status: tonic::Status| {
            anyhow!(
                "the coordinator went away before the query had ended: {}",
                status.message()
            )
        };
        while let Some(status) = states.message().await.map_err(gone)? {
            let state = Seen::try_from(status)?;
            seen(&state);
            last = Some(state);
        }
        let last = last.context("the coordinator said nothing of its query")?;
        let Some(outcome) = last.snapshot.outcome.clone() else {
            bail!("the coordinator went away before the query had ended");
        };
        Ok((last, outcome))
    }

    /// Takes all rows of the result and prints them as they come; what must wait for the end is printed by the
    /// printer's `finish`.
    ///
    /// # Errors
    /// The coordinator went away, or standard output is closed.
    pub async fn print_rows<W: Write>(
        &mut self,
        format: OutputFormat,
        out: W,
    ) -> anyhow::Result<RowPrinter<W>> {
        let reference = self.reference();
        let mut chunks = self.inner.read_result(reference).await?.into_inner();
        let mut decoder = StreamDecoder::new();
        let mut printer = None;
        let mut out = Some(out);
        while let Some(chunk) = chunks.message().await? {
            let mut bytes = Buffer::from(chunk.ipc);
            while !bytes.is_empty() {
                let batch = decoder.decode(&mut bytes)?;
                if let Some(schema) = decoder.schema()
                    && let Some(out) = out.take()
                {
                    printer = Some(RowPrinter::new(format, schema, out));
                }
                if let (Some(batch), Some(printer)) = (batch, printer.as_mut()) {
                    printer.print(&batch)?;
                }
            }
        }
        printer.context("the coordinator sent no schema")
    }
}
