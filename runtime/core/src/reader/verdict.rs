//! How a chunk fits the stream for which it was fetched.

use crate::failure::FetchError;
use crate::ids::StreamEpoch;
use crate::message::ChunkHead;

/// How a chunk fits the stream for which it was fetched.
pub(super) enum Verdict {
    /// It has the next bytes.
    Next,
    /// Its bytes are there already: it was repeated on its way.
    Repeated,
    /// Bytes before it are missing, or it is an empty chunk of a winner that is not finalized yet at the worker: worth a
    /// retry.
    Gap,
    /// It does not answer the request.
    Wrong(FetchError),
}

/// Judges a chunk by the lowest epoch that will do, the next byte wanted and the most bytes that were asked for.
pub(super) fn check_chunk(head: &ChunkHead, min_epoch: StreamEpoch, cursor: u64, most: u64) -> Verdict {
    if head.stream_epoch < min_epoch {
        return Verdict::Wrong(FetchError::StaleStreamEpoch);
    }
    if head.start_offset < cursor {
        return Verdict::Repeated;
    }
    if head.start_offset > cursor {
        return Verdict::Gap;
    }
    match head.end_offset.checked_sub(cursor) {
        Some(0) if !head.finalized => Verdict::Gap,
        Some(bytes) if bytes <= most && head.end_offset <= head.watermark_offset => Verdict::Next,
        Some(_) | None => Verdict::Wrong(FetchError::Corrupt),
    }
}
