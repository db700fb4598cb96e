//! The program `sluice-operator`.

use std::process::ExitCode;

use clap::Parser;
use sluice_operator::config::Config;

#[tokio::main]
async fn main() -> ExitCode {
    let config = Config::parse();
    sluice_operator::log::start();
    match sluice_operator::run(config).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
