//! What `sluice run` adds to the real coordinator and workers: it starts them on this machine, follows the query as a
//! client, and shows progress and rows.

pub mod analyze;
pub mod child_process;
pub mod client;
pub mod error;
pub mod follow;
pub mod key;
pub mod progress;
pub mod result_printer;
pub mod row_printer;
pub mod status;
pub mod workers;
