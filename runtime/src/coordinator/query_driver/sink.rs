//! What the driver has the sink do: each beside the driver, since its file system may not answer.

use std::sync::Arc;
use std::time::Duration;

use sluice_core::coordinator::{Event, Outcome};
use sluice_core::ids::AttemptId;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::QueryDriver;
use crate::coordinator::link::LinkEvent;
use crate::coordinator::panics::report_panic;

/// How long to clean up beside the sink, before and after the query: its file system may not answer.
const SINK_CLEANUP_TIMEOUT: Duration = Duration::from_secs(10);

impl QueryDriver {
    /// Removes the staging files of earlier coordinators.
    pub(super) async fn supersede_sink(&self) {
        let options = Arc::clone(&self.options);
        let superseded = tokio::task::spawn_blocking(move || match &options.sink {
            Some(sink) => sink.supersede(&options.query, options.epoch),
            None => Ok(()),
        });
        match timeout(SINK_CLEANUP_TIMEOUT, superseded).await {
            Ok(Ok(Err(error))) => {
                tracing::warn!(%error, "what a predecessor wrote beside the sink could not be removed");
            }
            Ok(_) => {}
            Err(_) => tracing::warn!("the sink's file system does not answer"),
        }
    }

    pub(super) fn commit_sink(&self, winners: Vec<AttemptId>) {
        let (options, committed) = (Arc::clone(&self.options), self.committed.clone());
        let (events, told) = (self.events.clone(), self.events.clone());
        let commit = tokio::task::spawn_blocking(move || {
            let Some(sink) = &options.sink else { return };
            let event = match sink.commit(&options.query, options.epoch, &winners) {
                Ok(shown) => {
                    committed.send_replace(Some(shown));
                    Event::SinkCommitted
                }
                Err(error) => Event::SinkFailed {
                    message: error.to_string(),
                },
            };
            let _ = told.send(LinkEvent::Event(event));
        });
        let commit = AbortOnDropHandle::new(commit);
        tokio::spawn(report_panic("the commit of the sink", commit, events).in_current_span());
    }

    /// Removes what the query wrote. If an earlier coordinator that was thought dead has committed meanwhile, the query
    /// has succeeded, whatever happened here.
    pub(super) async fn abort_sink(&self, outcome: Outcome) -> Outcome {
        let options = Arc::clone(&self.options);
        let aborted = tokio::task::spawn_blocking(move || {
            let sink = options.sink.as_ref()?;
            if let Err(error) = sink.abort(&options.query, options.epoch) {
                tracing::warn!(%error, "the sink's staging folder could not be removed");
            }
            sink.committed(&options.query).ok().flatten()
        });
        match timeout(SINK_CLEANUP_TIMEOUT, aborted).await {
            Ok(Ok(Some(committed))) => {
                self.committed.send_replace(Some(committed));
                Outcome::Succeeded
            }
            Ok(Ok(None) | Err(_)) => outcome,
            Err(_) => {
                tracing::warn!("the sink's file system does not answer: its staging folder may stay behind");
                outcome
            }
        }
    }
}
