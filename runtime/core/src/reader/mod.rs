//! The inputs of one reduce attempt, or of the client that reads a result: what to fetch next, from whom, and when
//! the rows of a map task are complete.

mod event;
mod input;
mod machine;
mod open_fetch;
mod verdict;

pub use event::{Action, Event, FetchId};
pub use input::Delivery;
pub use machine::{Config, MIN_FETCH_BYTES, Reader};
