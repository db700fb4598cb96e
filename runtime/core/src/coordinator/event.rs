//! What happens to a coordinator, and what it wants done.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::failure::{AttemptFailure, FetchError};
use crate::ids::{AttemptId, WorkerId};
use crate::key_filter::KeyFilter;
use crate::layout::LayoutId;
use crate::locality::NodeLocation;
use crate::message::{
    Assignment, FinishedOutput, InputUpdate, MapOutputPartitionMeta, ReaderRange, Recovered, StageLayout,
    Writer, deserialize_shared, serialize_shared,
};
use crate::metrics::AttemptMetrics;
use crate::ranges::SortedRun;

pub use crate::query_outcome::{Outcome, QueryFailure};

/// Something that happened. Events about a worker that was lost since, or an attempt that ended since, are stale and
/// ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A session with a worker is up (handshake done). Comes again, with a higher incarnation, after a restart.
    WorkerJoined {
        /// The worker.
        worker: WorkerId,
        /// Its number of slots in all.
        slots: u32,
        /// Where it runs.
        location: NodeLocation,
        /// Attempts of this query whose finalized output it still holds; all others of this query are gone there.
        held: Vec<AttemptId>,
        /// What it holds of attempts of earlier coordinators. They are not among those.
        #[serde(default)]
        recovered: Recovered,
    },
    /// Every worker that the query may have had was reached or has not answered: a successor need not wait for more.
    WorkersKnown,
    /// A message of any kind came from the worker.
    WorkerHeard {
        /// The worker.
        worker: WorkerId,
    },
    /// The session broke or could not be opened.
    WorkerLost {
        /// The worker.
        worker: WorkerId,
        /// What broke, for people.
        message: String,
    },
    /// The worker takes no new attempts but still serves what it holds.
    WorkerDrained {
        /// The worker.
        worker: WorkerId,
    },
    /// The worker leased this many more slots to this query.
    SlotsGranted {
        /// The worker.
        worker: WorkerId,
        /// How many more.
        slots: u32,
    },
    /// The attempt runs and reports its counters. Comes repeatedly.
    AttemptProgressed {
        /// Who runs it.
        worker: WorkerId,
        /// The attempt.
        attempt: AttemptId,
        /// Its counters so far.
        metrics: AttemptMetrics,
    },
    /// The attempt finalized all its output.
    AttemptSucceeded {
        /// Who ran it.
        worker: WorkerId,
        /// The attempt.
        attempt: AttemptId,
        /// The layout by which it read its inputs, as its assignment said.
        layout: LayoutId,
        /// One entry a partition that holds bytes.
        outputs: Vec<MapOutputPartitionMeta>,
        /// Of an attempt that writes a range exchange, where its keys are.
        run: Option<SortedRun>,
        /// The runtime filters that its stage makes, in their order: the keys of the rows that it wrote.
        filters: Vec<KeyFilter>,
        /// Its final counters.
        metrics: AttemptMetrics,
    },
    /// The attempt ended without success.
    AttemptFailed {
        /// Who ran it.
        worker: WorkerId,
        /// The attempt.
        attempt: AttemptId,
        /// Why.
        failure: AttemptFailure,
    },
    /// The first row of the result can be read by the client.
    FirstRowDelivered,
    /// The client has all rows of the result.
    ResultDelivered,
    /// The client's reader could not fetch a winning root attempt's rows.
    ResultFetchFailed {
        /// The attempt.
        map_attempt: AttemptId,
        /// Why.
        error: FetchError,
        /// Whether some rows of this attempt were delivered, so that no other attempt can replace it.
        partially_delivered: bool,
    },
    /// The sink shows all files of the query.
    SinkCommitted,
    /// The sink could not be committed; nothing of it is visible.
    SinkFailed {
        /// Why.
        message: String,
    },
    /// A task of the coordinator process panicked and will not answer: the commit of the sink, or the reader of the result.
    TaskPanicked {
        /// Which task, and its panic message.
        message: String,
    },
    /// A user asked to cancel the query.
    CancelRequested,
    /// Time has passed; sent at the latest at `next_deadline()`.
    Ticked,
}

impl Event {
    /// The success of an attempt at a worker.
    pub fn succeeded(worker: WorkerId, output: FinishedOutput) -> Self {
        Self::AttemptSucceeded {
            worker,
            attempt: output.attempt,
            layout: output.layout,
            outputs: output.outputs,
            run: output.run,
            filters: output.filters,
            metrics: output.metrics,
        }
    }

    /// The worker that the event comes from or is about, if it is one.
    pub fn worker(&self) -> Option<&WorkerId> {
        match self {
            Self::WorkerJoined { worker, .. }
            | Self::WorkerHeard { worker }
            | Self::WorkerLost { worker, .. }
            | Self::WorkerDrained { worker }
            | Self::SlotsGranted { worker, .. }
            | Self::AttemptProgressed { worker, .. }
            | Self::AttemptSucceeded { worker, .. }
            | Self::AttemptFailed { worker, .. } => Some(worker),
            Self::WorkersKnown
            | Self::FirstRowDelivered
            | Self::ResultDelivered
            | Self::ResultFetchFailed { .. }
            | Self::SinkCommitted
            | Self::SinkFailed { .. }
            | Self::TaskPanicked { .. }
            | Self::CancelRequested
            | Self::Ticked => None,
        }
    }
}

/// Something to do. An action that fails comes back as an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Ask the worker for this many slots beyond those it has granted and that are not yet consumed; replaces the
    /// last such request. Each grant reduces the request by what it grants.
    RequestSlots {
        /// The worker.
        worker: WorkerId,
        /// How many; 0 withdraws the request.
        slots: u32,
        /// How many of them only duplicates of slow attempts need. The worker grants those when no other coordinator waits.
        speculative_slots: u32,
    },
    /// Give granted, unconsumed slots back.
    ReleaseSlots {
        /// The worker.
        worker: WorkerId,
        /// How many.
        slots: u32,
    },
    /// Run an attempt in a granted slot. The worker gets the slot back when the attempt ends.
    AssignAttempt {
        /// Who runs it.
        worker: WorkerId,
        /// What to run.
        assignment: Assignment,
    },
    /// Let a worker keep the layout of a stage beside the outputs of its tasks, for a successor of this coordinator. It comes
    /// before the first assignment by that layout.
    DefineLayout {
        /// Who keeps it.
        worker: WorkerId,
        /// The layout. All workers are told the same.
        #[serde(serialize_with = "serialize_shared", deserialize_with = "deserialize_shared")]
        layout: Arc<StageLayout>,
    },
    /// Tell a worker about outputs of map tasks, for all attempts there that read them, in this session and until the next
    /// update about the same map task.
    UpdateInputs {
        /// Who is told.
        worker: WorkerId,
        /// The updates, in order. Workers that are told the same share them.
        #[serde(serialize_with = "serialize_shared", deserialize_with = "deserialize_shared")]
        updates: Arc<Vec<InputUpdate>>,
        /// Where the ranges of attempts at work there lie in sorted runs that the updates are about.
        ranges: Vec<ReaderRange>,
    },
    /// Stop an attempt and drop what it wrote. If it still runs, it ends with `AttemptFailed(Cancelled)`.
    CancelAttempt {
        /// Who runs it.
        worker: WorkerId,
        /// The attempt.
        attempt: AttemptId,
    },
    /// Drop the finished output of an attempt.
    RetireAttempt {
        /// Who holds it.
        worker: WorkerId,
        /// The attempt.
        attempt: AttemptId,
    },
    /// Close the session. The worker may join again.
    DropWorker {
        /// The worker.
        worker: WorkerId,
    },
    /// Tell the client's reader about root attempts. `Superseded` means that the rows of the attempt do not count, even if
    /// all were read, because its stage started over. If any were delivered, the answer is
    /// `ResultFetchFailed` with `partially_delivered`.
    UpdateResult {
        /// The updates, in order.
        updates: Vec<InputUpdate>,
    },
    /// Tell the client's reader how many tasks a root stage has in its epoch, unless those are as many as were planned or as
    /// it was told last.
    SetResultTasks {
        /// The stage and its number of tasks.
        writer: Writer,
    },
    /// Make the winners' files visible, all at once.
    CommitSink {
        /// The winning root attempts, by task.
        winners: Vec<AttemptId>,
    },
    /// Remove everything the query wrote to the sink.
    AbortSink,
    /// The query has ended. Nothing follows it.
    EndQuery {
        /// How.
        outcome: Outcome,
    },
}
