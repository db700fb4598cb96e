//! The coordinator of one query: which attempt runs where, which has won, what must run again, how it ends.

mod event;
mod policy;

pub use event::{Action, Event, Outcome, QueryFailure};
pub use policy::Policy;
