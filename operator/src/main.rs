//! The program `sluice-operator`.

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use sluice_operator::config::{CommandLine, Config};

#[tokio::main]
async fn main() -> ExitCode {
    let line = CommandLine::parse();
    sluice_operator::log::start(line.log_format);
    sluice_proto::listener::raise_open_files();
    let ended = match (line.command, line.config) {
        (Some(command), _) => sluice_operator::execute(command).await,
        (None, Some(config)) => {
            let log_format = line.log_format;
            sluice_operator::run(Config { log_format, ..config }).await
        }
        (None, None) => {
            let usage = CommandLine::command().render_help();
            Err(anyhow::anyhow!("no command and no flags\n{usage}"))
        }
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
