//! Tests that no other test may run beside, as they take nodes away, measure, or install an operator that serves every
//! namespace. `e2e/run` runs them after all others, one at a time.

mod autoscaling;
mod helm_cluster;
mod helm_quickstart;
mod latency;
mod load;
mod node_drained;
mod node_lost;
