//! The handshake and everything else that a session carries.

use std::time::Duration;

use sluice_core::coordinator::Event;
use sluice_core::failure::RefusedReason;
use sluice_core::ids::{AttemptId, CoordinatorEpoch, QueryId, WorkerId};

use crate::auth::FetchKey;
use crate::ids::query_id;
use crate::text::shortened_to;
use crate::{WireError, need, wire};

/// Most bytes of a query's name in a log: Kubernetes takes no longer ones.
const MAX_QUERY_NAME: usize = 253;

/// How a coordinator introduces itself to a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Its query.
    pub query: QueryId,
    /// Its epoch.
    pub coordinator_epoch: CoordinatorEpoch,
    /// Its build.
    pub build_id: String,
    /// How long the worker keeps the query's output without a session.
    pub lease: Duration,
    /// Silence after which either side ends the session.
    pub liveness_timeout: Duration,
    /// Folders below which the query's scans may read.
    pub input_roots: Vec<String>,
    /// The query's name, for the log.
    pub query_name: String,
    /// A hash of the plan and the files that it reads.
    pub plan_fingerprint: u64,
}

impl From<Hello> for wire::Hello {
    fn from(hello: Hello) -> Self {
        Self {
            query: hello.query.as_str().to_owned(),
            coordinator_epoch: hello.coordinator_epoch.0,
            build_id: hello.build_id,
            lease_millis: millis(hello.lease),
            liveness_timeout_millis: millis(hello.liveness_timeout),
            input_roots: hello.input_roots,
            query_name: hello.query_name,
            plan_fingerprint: hello.plan_fingerprint,
        }
    }
}

impl TryFrom<wire::Hello> for Hello {
    type Error = WireError;

    fn try_from(wire: wire::Hello) -> Result<Self, WireError> {
        if wire.liveness_timeout_millis == 0 {
            return Err(WireError::impossible("hello.liveness_timeout_millis", 0));
        }
        Ok(Self {
            query: query_id(wire.query)?,
            coordinator_epoch: CoordinatorEpoch(wire.coordinator_epoch),
            build_id: wire.build_id,
            lease: Duration::from_millis(wire.lease_millis),
            liveness_timeout: Duration::from_millis(wire.liveness_timeout_millis),
            input_roots: wire.input_roots,
            query_name: shortened_to(&wire.query_name, MAX_QUERY_NAME),
            plan_fingerprint: wire.plan_fingerprint,
        })
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// How a worker answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// Who it is.
    pub worker: WorkerId,
    /// Its slots in all.
    pub slots: u32,
    /// Attempts of the query whose finalized output it still holds.
    pub held: Vec<AttemptId>,
    /// The node that it runs on, if it knows.
    pub node: Option<String>,
    /// The zone of that node, if it knows.
    pub zone: Option<String>,
    /// Opens the query's data at this worker to fetches.
    pub fetch_key: FetchKey,
    /// Finalized outputs that it has dropped, because a coordinator of an earlier epoch had another plan.
    pub discarded: u32,
}

impl From<Welcome> for wire::Welcome {
    fn from(welcome: Welcome) -> Self {
        Self {
            worker: Some(welcome.worker.into()),
            slots: welcome.slots,
            held: welcome.held.into_iter().map(Into::into).collect(),
            node: welcome.node.unwrap_or_default(),
            zone: welcome.zone.unwrap_or_default(),
            fetch_key: FetchKey::to_wire(Some(&welcome.fetch_key)),
            discarded: welcome.discarded,
        }
    }
}

impl TryFrom<wire::Welcome> for Welcome {
    type Error = WireError;

    fn try_from(wire: wire::Welcome) -> Result<Self, WireError> {
        Ok(Self {
            worker: need(wire.worker, "welcome.worker")?.into(),
            slots: wire.slots,
            held: wire.held.into_iter().map(Into::into).collect(),
            node: Some(wire.node).filter(|node| !node.is_empty()),
            zone: Some(wire.zone).filter(|zone| !zone.is_empty()),
            fetch_key: need(
                FetchKey::from_wire(&wire.fetch_key, "welcome.fetch_key")?,
                "welcome.fetch_key",
            )?,
            discarded: wire.discarded,
        })
    }
}

impl From<RefusedReason> for wire::RefusedReason {
    fn from(reason: RefusedReason) -> Self {
        match reason {
            RefusedReason::BuildMismatch => Self::BuildMismatch,
            RefusedReason::StaleCoordinator => Self::StaleCoordinator,
            RefusedReason::Draining => Self::Draining,
            RefusedReason::BadHello => Self::BadHello,
        }
    }
}

impl TryFrom<wire::RefusedReason> for RefusedReason {
    type Error = WireError;

    fn try_from(wire: wire::RefusedReason) -> Result<Self, WireError> {
        Ok(match wire {
            wire::RefusedReason::BuildMismatch => Self::BuildMismatch,
            wire::RefusedReason::StaleCoordinator => Self::StaleCoordinator,
            wire::RefusedReason::Draining => Self::Draining,
            wire::RefusedReason::BadHello => Self::BadHello,
            wire::RefusedReason::Unspecified => return Err(WireError::Missing("refused.reason")),
        })
    }
}

impl wire::WorkerMessage {
    /// Wraps one message.
    pub fn of(message: wire::worker_message::Message) -> Self {
        Self {
            message: Some(message),
        }
    }

    /// What the message means to the coordinator, once the handshake is done; `None` for a bare heartbeat.
    ///
    /// # Errors
    /// A message that no correct worker sends at this point.
    pub fn into_event(self, worker: &WorkerId) -> Result<Option<Event>, WireError> {
        use wire::worker_message::Message;
        let worker = worker.clone();
        Ok(Some(match need(self.message, "message")? {
            Message::Heartbeat(_) => return Ok(None),
            Message::SlotsGranted(granted) => Event::SlotsGranted {
                worker,
                slots: granted.slots,
            },
            Message::Draining(_) => Event::WorkerDrained { worker },
            Message::AttemptProgressed(progress) => Event::AttemptProgressed {
                worker,
                attempt: need(progress.attempt, "attempt_progressed.attempt")?.into(),
                metrics: progress.metrics.unwrap_or_default().into(),
            },
            Message::AttemptSucceeded(success) => Event::succeeded(worker, success.try_into()?),
            Message::AttemptFailed(failed) => Event::AttemptFailed {
                worker,
                attempt: need(failed.attempt, "attempt_failed.attempt")?.into(),
                failure: need(failed.failure, "attempt_failed.failure")?.try_into()?,
            },
            Message::Welcome(_) => return Err(WireError::impossible("message", "a second welcome")),
            Message::RecoveredLayout(_) | Message::RecoveredOutput(_) => {
                return Err(WireError::impossible(
                    "message",
                    "a recovered output after the welcome",
                ));
            }
            Message::Refused(_) => {
                return Err(WireError::impossible("message", "a refusal after the welcome"));
            }
        }))
    }
}

impl wire::CoordinatorMessage {
    /// Wraps one message.
    pub fn of(message: wire::coordinator_message::Message) -> Self {
        Self {
            message: Some(message),
        }
    }
}
