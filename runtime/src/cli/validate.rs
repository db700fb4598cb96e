//! `sluice validate`.

use crate::cli::{CommandResult, QueryFile};
use crate::local::load;

/// Checks a file without running it: YAML, fields, rules; no table is opened.
#[derive(clap::Args)]
pub(super) struct ValidateArgs {
    #[command(flatten)]
    query: QueryFile,
}

pub(super) fn run(args: &ValidateArgs) -> CommandResult {
    let loaded = load::load(&args.query.file)?;
    println!("ShuffleQuery {} is valid", loaded.name());
    Ok(())
}
