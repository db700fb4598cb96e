//! `sluice data`.

use std::path::PathBuf;

use sluice_core::coordinator::Outcome;

use crate::cli::CommandResult;
use crate::cli::exit::Failure;
use crate::cli::signals::{ExitHooks, cancel_on_signal};
use crate::source::generate::generate_tpch;
use crate::stderr::print_stderr;

/// Makes data to query.
#[derive(clap::Subcommand)]
pub(super) enum DataCommand {
    /// Writes the eight TPC-H tables as Parquet, a folder a table and several files in each.
    Tpch {
        /// The scale factor: 1 is about 1 GB of raw data, 0.01 is enough to try things.
        #[arg(long)]
        scale: f64,
        /// The folder to write; it must not exist or be empty.
        #[arg(long)]
        out: PathBuf,
    },
}

pub(super) async fn run(command: DataCommand) -> CommandResult {
    let DataCommand::Tpch { scale, out } = command;
    let interrupted = cancel_on_signal(&ExitHooks::default());
    let generate = generate_tpch(scale, &out, |line| print_stderr(line));
    let summary = tokio::select! {
        made = generate => made.map_err(Failure::bad_input)?,
        // Dropping the future removes unfinished files.
        () = interrupted.cancelled() => return Err(Failure::Query(Outcome::Cancelled)),
    };
    print_stderr(format!(
        "{} rows in {} files, {} bytes, in {}",
        summary.rows,
        summary.files,
        summary.bytes,
        out.display()
    ));
    Ok(())
}
