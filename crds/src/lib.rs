//! Every word a user of Sluice may write, once: the custom resources `ShuffleQuery` and `WorkerPool`, their
//! units, their conditions, the rules that make an object valid, and the generated CRD files under `yaml/`.
//!
//! Nothing here talks to a cluster. The operator, the coordinator and local mode share these types, so the same
//! YAML means the same thing in each of them.

pub mod bounds;
pub mod cases;
pub mod conditions;
pub mod embedded;
pub mod parse;
pub mod process;
pub mod reference;
pub mod shuffle_query;
pub mod text;
pub mod units;
pub mod validate;
pub mod worker_pool;
pub mod yaml;

/// A point in time as status objects carry it (RFC 3339 on the wire).
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

pub use conditions::{
    Condition, ConditionReason, ConditionStatus, ErrorReason, PoolConditionType, ProgressReason,
    QueryConditionType,
};
pub use parse::{ParseError, Resource, parse_documents};
pub use shuffle_query::bound;
pub use shuffle_query::status::ShuffleQueryStatus;
pub use shuffle_query::{ShuffleQuery, ShuffleQuerySpec};
pub use units::{ByteSize, Millis, quantity_bytes};
pub use validate::{Problem, validate_pool, validate_query, validate_query_update};
pub use worker_pool::{WorkerPool, WorkerPoolSpec, WorkerPoolStatus};

/// API group of both resources.
pub const GROUP: &str = "sluice.dev";
/// API version of both resources.
pub const VERSION: &str = "v1alpha1";
