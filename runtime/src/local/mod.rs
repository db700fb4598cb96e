//! What `sluice run` adds to a query's coordinator and workers, which are the real ones: it starts them on this machine,
//! follows the query as a client, and shows progress and rows.

pub mod client;
pub mod follow;
pub mod key;
pub mod progress;
pub mod result_printer;
pub mod row_printer;
pub mod status;
pub mod workers;
