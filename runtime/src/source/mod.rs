//! What a query reads: files of the user's tables, pinned at planning, and generated TPC-H rows.
//!
//! [`InputManifest::list`] lists every declared location once. [`pinned_stores`] gives the session (of the coordinator
//! and of every worker) a store that serves exactly the files of the manifest, as they were listed. [`register_tables`]
//! creates tables that scan these files. [`CheckedScan`] checks the lengths in a file before it is decoded. [`verify`]
//! tells a worker after a scan whether the files are unchanged. [`classify_error`] maps errors of the engine to
//! failures.

mod check;
mod checked;
mod error;
mod files;
pub mod generate;
mod inference;
mod lister;
mod location;
mod manifest;
mod nulls;
mod roots;
mod schema;
mod store;
#[cfg(test)]
mod tests;
pub mod tpch;

pub use check::{Decoder, parquet_group_starts};
pub use checked::CheckedScan;
pub use error::{SourceError, classify_error, classify_task_error};
pub use files::{FileTable, register_tables, table_bytes};
pub use location::{InvalidLocation, local_path};
pub use manifest::{InputManifest, input_file, object_meta, shown, verify};
pub use roots::InputRoots;
pub use store::pinned_stores;
