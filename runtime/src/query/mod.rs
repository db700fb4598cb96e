//! From a YAML file to a query that a coordinator can run, in a cluster and on one machine alike.

mod deadline;
mod error;
mod load;
mod policy;
mod prepare;

pub use deadline::Deadline;
pub use error::PrepareError;
pub use load::{LoadedQuery, load};
pub use prepare::{PreparedQuery, WorkerCapacity, plan_only, prepare, prepare_with_manifest, sink_of};
