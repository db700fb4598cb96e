//! The commands around an installation: what the chart's hooks run.

pub mod apply_pool;
pub mod install_crds;
pub mod try_query;
