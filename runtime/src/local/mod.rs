//! Queries without a cluster: the real coordinator and real workers on this machine, and the client that shows
//! progress and rows.

pub mod client;
pub mod deadline;
pub mod exit;
pub mod follow;
pub mod key;
pub mod load;
pub mod memory;
pub mod output;
pub mod prepare;
pub mod printing;
pub mod progress;
pub mod signals;
pub mod status;
pub mod workers;
