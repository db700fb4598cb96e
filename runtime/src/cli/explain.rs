//! `sluice explain`.

use sluice_crds::shuffle_query::MAX_PARTITIONS;

use crate::cli::{CommandResult, QueryFile, print_out};
use crate::query;

/// Shows how a query is cut: stages, exchanges, tasks, and why there. Tables are listed but not read, and nothing is
/// written: a query whose sink exists can be explained too.
#[derive(clap::Args)]
pub(super) struct ExplainArgs {
    #[command(flatten)]
    query: QueryFile,
    /// Slots of all workers: so many partitions an exchange has at least when the file does not say; default: as many as `run`
    /// takes.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_PARTITIONS)))]
    partitions: Option<u32>,
}

pub(super) async fn run(args: ExplainArgs) -> CommandResult {
    let loaded = query::load(&args.query.file)?;
    let mut capacity = super::run::default_capacity(&loaded);
    if let Some(partitions) = args.partitions {
        capacity.slots = partitions;
    }
    let prepared = query::plan_only(&loaded, &super::run::new_query_id(), capacity).await?;
    print_out(&crate::planner::explain(&prepared.planned))
}
