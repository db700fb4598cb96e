//! What a query reads: files of the user's tables, pinned when the query is planned, and generated TPC-H rows.
//!
//! The way of a query: [`InputManifest::list`] lists every declared location once; [`pinned_stores`] gives the
//! session (of the coordinator and of every worker) a store that serves the files of the manifest as they were listed,
//! and nothing else; [`register_tables`] makes tables that scan exactly these files; [`CheckedScan`] looks at the
//! lengths in them before it decodes them; [`verify`] tells a worker after a scan whether they are still the same;
//! [`classify_error`] tells what an engine's error means.

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
pub use error::{SourceError, classify_error, classify_task_error, panic_text};
pub use files::{FileTable, register_tables};
pub use location::{InvalidLocation, local_path};
pub use manifest::{InputManifest, input_file, object_meta, shown, verify};
pub use roots::InputRoots;
pub use store::pinned_stores;
