//! `sluice data`.

use std::path::PathBuf;

use crate::cli::CommandResult;
use crate::local::exit::Failure;
use crate::source::generate::generate_tpch;

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
    let progress = |line: &str| eprintln!("{line}");
    let summary = generate_tpch(scale, &out, progress)
        .await
        .map_err(Failure::bad_input)?;
    eprintln!(
        "{} rows in {} files, {} bytes, in {}",
        summary.rows,
        summary.files,
        summary.bytes,
        out.display()
    );
    Ok(())
}
