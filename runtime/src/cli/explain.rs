//! `sluice explain`.

use crate::cli::{CommandResult, QueryFile, cores};
use crate::local::{load, prepare};

/// Shows how a query is cut: stages, exchanges, tasks, and why there. Tables are listed but not read.
#[derive(clap::Args)]
pub(super) struct ExplainArgs {
    #[command(flatten)]
    query: QueryFile,
    /// Partitions of an exchange when the file does not say; default: the machine's cores.
    #[arg(long)]
    partitions: Option<u32>,
}

pub(super) async fn run(args: ExplainArgs) -> CommandResult {
    let loaded = load::load(&args.query.file)?;
    let slots = args.partitions.unwrap_or_else(cores);
    let prepared = prepare::prepare(&loaded, &super::run::new_query_id(), slots).await?;
    print!("{}", crate::planner::explain(&prepared.planned));
    Ok(())
}
