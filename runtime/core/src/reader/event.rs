//! What happens to a reader, and what it wants done.

use crate::failure::FetchError;
use crate::ids::{AttemptId, StreamEpoch, StreamId, WorkerId};
use crate::message::{ChunkHead, InputUpdate};

/// Something that happened to a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The coordinator said where a map task's output is and what it is worth.
    InputUpdated(InputUpdate),
    /// A chunk came for the stream; its bytes are with the shell.
    ChunkArrived {
        /// The stream.
        stream: StreamId,
        /// Its range and state.
        head: ChunkHead,
    },
    /// The response ended, or was refused or broke with an error.
    FetchEnded {
        /// The stream.
        stream: StreamId,
        /// Why, unless all that was asked for came.
        error: Option<FetchError>,
    },
    /// The frames that delivered bytes held turned out corrupt (checksum or chain hash).
    FrameRejected {
        /// The stream.
        stream: StreamId,
    },
    /// The operators took this many delivered bytes off the queue.
    BytesConsumed {
        /// How many.
        bytes: u64,
    },
    /// Time has passed.
    Ticked,
}

/// Something that a reader wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Ask the worker for bytes of the stream.
    Fetch {
        /// Who serves it.
        worker: WorkerId,
        /// The stream.
        stream: StreamId,
        /// The lowest epoch that will do.
        min_stream_epoch: StreamEpoch,
        /// The first byte.
        start_offset: u64,
        /// The most bytes.
        max_bytes: u64,
    },
    /// Give up an open fetch; what still comes of it is ignored.
    CancelFetch {
        /// The stream.
        stream: StreamId,
    },
    /// Hand the bytes of the chunk that just arrived to the decoder of input `input`.
    Deliver {
        /// The input of the stage.
        input: u32,
        /// The stream.
        stream: StreamId,
        /// First byte.
        start_offset: u64,
        /// One past the last byte.
        end_offset: u64,
    },
    /// The stream has been read to its end and delivered.
    EndStream {
        /// The input of the stage.
        input: u32,
        /// The stream.
        stream: StreamId,
    },
    /// All streams of the input have ended: its rows are complete.
    EndInput {
        /// The input of the stage.
        input: u32,
    },
    /// The attempt cannot go on; nothing follows.
    Fail {
        /// The map attempt that could not be read.
        map_attempt: AttemptId,
        /// Why.
        error: FetchError,
    },
}
