//! The command line: one file a command.

pub mod attached;
mod coordinator;
mod data;
pub(crate) mod exit;
mod explain;
mod machine;
mod run;
mod signals;
mod validate;
mod worker;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use sluice_crds::ByteSize;
use sluice_crds::process::env;
use sluice_proto::log::LogFormat;

use crate::stderr::print_stderr;
use exit::Failure;

/// How long the process waits at its end for blocked threads, such as one that reads a file.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs SQL queries as stages on many workers, with the same YAML on one machine and on Kubernetes.
#[derive(Parser)]
#[command(name = "sluice", version, about, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// What to log on standard error: error, warn, info, debug, or a filter such as sluice=debug.
    #[arg(long, global = true, env = "SLUICE_LOG", default_value = "warn")]
    log: String,
    /// How log lines are written: text or json.
    #[arg(
        long,
        global = true,
        env = env::LOG_FORMAT,
        default_value_t,
        value_name = "FORMAT"
    )]
    log_format: LogFormat,
}

const EXIT_CODES: &str = "\
Exit codes:
  0    the query succeeded
  2    bad input: command line, YAML, SQL, a table or the sink
  3    the query failed
  4    the query lost all its workers
  130  the query was cancelled
  141  nobody read the rows to their end: standard output was closed
  143  a coordinator was told to stop, or superseded, and left its query to a successor
  1    anything else";

#[derive(Subcommand)]
enum Command {
    Run(run::RunArgs),
    Explain(explain::ExplainArgs),
    Validate(validate::ValidateArgs),
    Worker(worker::WorkerArgs),
    Coordinator(coordinator::CoordinatorArgs),
    #[command(subcommand)]
    Data(data::DataCommand),
}

/// What every command that reads a query needs.
#[derive(clap::Args)]
struct QueryFile {
    /// A YAML file with one ShuffleQuery and, if it names one, its WorkerPool. `-` is standard input.
    file: PathBuf,
}

/// Parses the command line, runs the command, and prints its error if it failed.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_new(&cli.log).unwrap_or_else(|_| "warn".into());
    sluice_proto::log::start(filter, cli.log_format);
    sluice_proto::listener::raise_open_files();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            print_stderr(format!("error: threads cannot be started: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(dispatch(cli.command));
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print();
            failure.exit_code()
        }
    }
}

async fn dispatch(command: Command) -> CommandResult {
    match command {
        Command::Run(args) => run::run(args).await,
        Command::Explain(args) => explain::run(args).await,
        Command::Validate(args) => validate::run(&args),
        Command::Worker(args) => worker::run(args).await,
        Command::Coordinator(args) => coordinator::run(args).await,
        Command::Data(command) => data::run(command).await,
    }
}

/// Writes text to standard output, for commands that say nothing else there.
fn print_out(text: &str) -> CommandResult {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Failure::OutputClosed),
        Err(error) => Err(Failure::Other(anyhow::anyhow!("standard output: {error}"))),
    }
}

fn parse_size(text: &str) -> Result<ByteSize, String> {
    text.parse::<ByteSize>().map_err(|error| error.to_string())
}

/// Checks that a worker's address is host:port.
fn parse_workers(text: &str) -> Result<String, String> {
    let host_and_port = text.rsplit_once(':');
    let fits = |(host, port): (&str, &str)| {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        !host.is_empty() && host.chars().all(legal) && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    if text.parse::<SocketAddr>().is_ok() || host_and_port.is_some_and(fits) {
        return Ok(text.to_owned());
    }
    Err(format!("{text} is not host:port"))
}

type CommandResult = Result<(), Failure>;
