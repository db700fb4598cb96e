//! A worker's streams: what was published, what may be read, what is spilled.

mod event;
mod table;

pub use event::{Action, Event, FetchId};
pub use table::{MAX_CHUNK_BYTES, StreamTable};
