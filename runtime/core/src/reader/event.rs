//! What happens to a reader, and what it wants done.

use crate::failure::FetchError;
use crate::ids::{AttemptId, StreamEpoch, StreamId, WorkerId};
use crate::message::{ChunkHead, NextStream, ReaderUpdate};

/// One fetch of a reader. Ids are never used twice, so late chunks of a cancelled fetch are recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FetchId(pub u64);

/// Something that happened to a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The coordinator sent an update about a map task's output.
    InputUpdated(ReaderUpdate),
    /// A chunk arrived; the shell has its bytes.
    ChunkArrived {
        /// The call.
        fetch: FetchId,
        /// Its range and state.
        head: ChunkHead,
    },
    /// The response ended, or was refused or broke with an error.
    FetchEnded {
        /// The call.
        fetch: FetchId,
        /// Why, unless all that was asked for came.
        error: Option<FetchError>,
    },
    /// The frames that delivered bytes held turned out corrupt (checksum or chain hash).
    FrameRejected {
        /// The stream.
        stream: StreamId,
    },
    /// Operators took delivered bytes of the stream, or the bytes are the beginning of a frame whose rest is still to be
    /// fetched, which nobody can take yet.
    BytesConsumed {
        /// The input of the stage.
        input: u32,
        /// The stream.
        stream: StreamId,
        /// How many.
        bytes: u64,
    },
    /// Time has passed. The first event of a reader: it starts the fetches.
    Ticked,
}

/// Something that a reader wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Ask the worker for bytes of the stream.
    Fetch {
        /// The call.
        fetch: FetchId,
        /// Who serves it.
        worker: WorkerId,
        /// The stream.
        stream: StreamId,
        /// Other streams of the worker to bring after it, each from its beginning, as far as there is room.
        next_streams: Vec<NextStream>,
        /// The lowest epoch that will do.
        min_stream_epoch: StreamEpoch,
        /// The first byte.
        start_offset: u64,
        /// The most bytes.
        max_bytes: u64,
    },
    /// Cancel an open fetch; late chunks of it are ignored.
    CancelFetch {
        /// The call.
        fetch: FetchId,
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
    /// The stream was delivered to its end; its open fetch is no longer needed.
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
