//! What happens in the simulation.

use crate::coordinator::Event;
use crate::ids::{AttemptId, StreamId, WorkerId};
use crate::message::FetchRequest;
use crate::reader;
use crate::sim::fetch::{Answer, ReaderId};
use crate::sim::plan::Fault;
use crate::sim::session::ToWorker;

/// An event of the simulation, queued by its time.
#[derive(Debug, Clone)]
pub enum SimEvent {
    CoordinatorTick,
    Connect {
        name: String,
    },
    ConnectTimedOut {
        name: String,
        session: u64,
    },
    ToWorker {
        name: String,
        session: u64,
        message: ToWorker,
    },
    ToCoordinator {
        name: String,
        session: u64,
        event: Event,
    },
    BrokenAtCoordinator {
        name: String,
        session: u64,
    },
    BrokenAtWorker {
        name: String,
        session: u64,
    },
    Beat {
        name: String,
        incarnation: u64,
    },
    Work {
        name: String,
        incarnation: u64,
        attempt: AttemptId,
    },
    Request {
        from: ReaderId,
        fetch: reader::FetchId,
        worker: WorkerId,
        request: FetchRequest,
    },
    Answered {
        to: ReaderId,
        fetch: reader::FetchId,
        answer: Answer,
    },
    ReaderTick {
        reader: ReaderId,
    },
    RepeatUpdate {
        reader: ReaderId,
        task: crate::ids::TaskId,
    },
    Consumed {
        reader: ReaderId,
        input: u32,
        stream: StreamId,
        bytes: u64,
    },
    /// It takes the oldest chunk that its reader has delivered.
    ClientTakes {
        generation: u32,
    },
    Fault {
        name: String,
        fault: Fault,
    },
    CoordinatorLost,
    Restart {
        name: String,
    },
    Thaw {
        name: String,
    },
    SinkAnswered,
    CancelRequested,
}

impl SimEvent {
    /// The worker at which it happens, if any: a frozen worker parks it.
    pub fn worker(&self) -> Option<&String> {
        match self {
            Self::ToWorker { name, .. }
            | Self::BrokenAtWorker { name, .. }
            | Self::Beat { name, .. }
            | Self::Work { name, .. } => Some(name),
            Self::Request { worker, .. } => Some(&worker.name),
            Self::Answered { to: reader, .. }
            | Self::ReaderTick { reader }
            | Self::RepeatUpdate { reader, .. }
            | Self::Consumed { reader, .. } => match reader {
                ReaderId::Attempt { name, .. } => Some(name),
                ReaderId::Client(_) => None,
            },
            Self::CoordinatorTick
            | Self::Connect { .. }
            | Self::ConnectTimedOut { .. }
            | Self::ToCoordinator { .. }
            | Self::BrokenAtCoordinator { .. }
            | Self::ClientTakes { .. }
            | Self::Fault { .. }
            | Self::CoordinatorLost
            | Self::Restart { .. }
            | Self::Thaw { .. }
            | Self::SinkAnswered
            | Self::CancelRequested => None,
        }
    }
}
