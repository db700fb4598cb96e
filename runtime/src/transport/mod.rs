//! How bytes of streams get from worker to worker: one channel a peer, found by what input updates say.

mod peers;

pub use peers::Peers;
pub(crate) use peers::endpoint;
