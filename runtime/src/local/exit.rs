//! How a command ends: the message and the exit code.

use std::process::ExitCode;

use sluice_core::coordinator::{Outcome, QueryFailure};
use sluice_crds::ErrorReason;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub enum Failure {
    /// Something the user gave is wrong.
    BadInput(String),
    /// The query ended without success.
    Query(Outcome),
    /// A child process ended with this code after it had said why.
    Child(u8),
    /// Anything else.
    Other(anyhow::Error),
}

impl Failure {
    /// A failure for which the user's input is to blame, with its causes.
    pub fn bad_input(error: impl Into<anyhow::Error>) -> Self {
        Self::BadInput(format!("{:#}", error.into()))
    }

    /// Says on standard error what went wrong.
    pub fn print(&self) {
        match self {
            Self::BadInput(message) => eprintln!("error: {message}"),
            Self::Query(Outcome::Failed(QueryFailure { reason, message, .. })) => {
                eprintln!("error: the query failed ({reason:?}): {message}");
            }
            Self::Query(Outcome::Cancelled) => eprintln!("cancelled"),
            Self::Query(Outcome::Succeeded) | Self::Child(_) => {}
            Self::Other(error) => eprintln!("error: {error:#}"),
        }
    }

    /// The exit code, as `sluice --help` lists them.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::BadInput(_) => 2,
            Self::Query(outcome) => outcome_code(outcome),
            Self::Child(code) => *code,
            Self::Other(_) => 1,
        })
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

fn outcome_code(outcome: &Outcome) -> u8 {
    match outcome {
        Outcome::Succeeded => 0,
        Outcome::Cancelled => 130,
        Outcome::Failed(failure) => match failure.reason {
            ErrorReason::InvalidSpec
            | ErrorReason::InvalidSql
            | ErrorReason::TableNotFound
            | ErrorReason::InputChanged
            | ErrorReason::InputCorrupt
            | ErrorReason::ForbiddenPath
            | ErrorReason::UnsupportedPlan
            | ErrorReason::SinkExists => 2,
            ErrorReason::WorkersLost => 4,
            ErrorReason::Cancelled => 130,
            ErrorReason::SinkFailed
            | ErrorReason::ResourcesExhausted
            | ErrorReason::TaskFailed
            | ErrorReason::FetchFailed
            | ErrorReason::OutOfMemory
            | ErrorReason::CoordinatorLost
            | ErrorReason::DeadlineExceeded
            | ErrorReason::RowsLeft
            | ErrorReason::BuildMismatch
            | ErrorReason::Internal => 3,
        },
    }
}

/// A token that is cancelled once the process is asked to stop, by Ctrl-C or a termination signal. From this call on
/// neither ends the process by itself, so that it can clean up: make it before there is anything to clean up.
pub fn interrupts() -> CancellationToken {
    let asked = CancellationToken::new();
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    let (Ok(mut interrupt), Ok(mut terminate)) = signals else {
        return asked;
    };
    let cancel = asked.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        cancel.cancel();
    });
    asked
}
