//! A worker's streams: what was published, what may be read, what is spilled.

mod event;

pub use event::{Action, Event, FetchId};
