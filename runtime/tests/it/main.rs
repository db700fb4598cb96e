//! Queries end to end: through the real coordinator and real workers, compared with plain DataFusion.

mod builds;
mod compare;
mod differential;
mod fuzz;
mod generator;
mod harness;
mod live_fetch;
mod order;
mod processes;
mod pruning;
mod spill;
mod tpch;
