//! `sluice validate`.

use crate::cli::{CommandResult, QueryFile, print_out};
use crate::query;

/// Checks a file without running it: YAML, fields, rules; no table is opened.
#[derive(clap::Args)]
pub(super) struct ValidateArgs {
    #[command(flatten)]
    query: QueryFile,
}

pub(super) fn run(args: &ValidateArgs) -> CommandResult {
    let loaded = query::load(&args.query.file)?;
    print_out(&format!("ShuffleQuery {} is valid\n", loaded.name()))
}
