//! How a command ends: the message and the exit code.

use std::process::ExitCode;

use sluice_core::coordinator::{Outcome, QueryFailure};
use sluice_core::termination::Termination;
use sluice_crds::ErrorReason;
use sluice_crds::shuffle_query::status::QueryPhase;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::coordinator::Left;

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub enum Failure {
    /// Something the user gave is wrong.
    BadInput(String),
    /// The query cannot be planned, or its sink cannot be written.
    Unplanned {
        /// The reason for status.
        reason: ErrorReason,
        /// What is wrong and what to do.
        message: String,
    },
    /// The query ended without success.
    Query(Outcome),
    /// The coordinator left the query to a successor.
    Left(Left),
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

    /// A failure to plan the query.
    pub fn unplanned(reason: ErrorReason, error: impl Into<anyhow::Error>) -> Self {
        Self::Unplanned {
            reason,
            message: format!("{:#}", error.into()),
        }
    }

    /// The last words of a coordinator whose query failed like this before it could run; none where another try may
    /// fare better, or another coordinator has the word.
    pub fn last_words(&self) -> Option<Termination> {
        let now = jiff::Timestamp::now();
        match self {
            Self::BadInput(message) => Some(Termination::refused(
                ErrorReason::InvalidSpec,
                message.clone(),
                now,
            )),
            Self::Unplanned { reason, message } => Some(Termination::refused(*reason, message.clone(), now)),
            Self::Query(Outcome::Failed(failure)) => {
                Some(Termination::refused(failure.reason, failure.message.clone(), now))
            }
            Self::Query(Outcome::Cancelled) => {
                let message = "the query was cancelled".to_owned();
                let words = Termination::refused(ErrorReason::Cancelled, message, now);
                Some(Termination {
                    phase: QueryPhase::Cancelled,
                    ..words
                })
            }
            Self::Query(Outcome::Succeeded) | Self::Left(_) | Self::Child(_) | Self::Other(_) => None,
        }
    }

    /// Says on standard error what went wrong.
    pub fn print(&self) {
        match self {
            Self::BadInput(message) | Self::Unplanned { message, .. } => eprintln!("error: {message}"),
            Self::Left(left) => eprintln!("{left}"),
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
            Self::BadInput(_) | Self::Unplanned { .. } => 2,
            Self::Left(_) => 143,
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

/// What the process was asked for, each cancelled once it was.
pub struct Signals {
    /// Ctrl-C.
    pub interrupt: CancellationToken,
    /// A termination signal.
    pub terminate: CancellationToken,
    /// A second termination signal.
    pub terminate_again: CancellationToken,
}

/// Listens for signals. From this call on none of them ends the process by itself, so that it can clean up: make it
/// before there is anything to clean up.
pub fn signals() -> Signals {
    let asked = Signals {
        interrupt: CancellationToken::new(),
        terminate: CancellationToken::new(),
        terminate_again: CancellationToken::new(),
    };
    let received = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    let (Ok(mut interrupt), Ok(mut terminate)) = received else {
        return asked;
    };
    let interrupted = asked.interrupt.clone();
    tokio::spawn(async move {
        interrupt.recv().await;
        interrupted.cancel();
    });
    let (first, second) = (asked.terminate.clone(), asked.terminate_again.clone());
    tokio::spawn(async move {
        terminate.recv().await;
        first.cancel();
        terminate.recv().await;
        second.cancel();
    });
    asked
}

/// A token that is cancelled once the process is asked to stop, by Ctrl-C or a termination signal, as by [`signals`].
pub fn interrupts() -> CancellationToken {
    let asked = CancellationToken::new();
    let Signals {
        interrupt, terminate, ..
    } = signals();
    let cancel = asked.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = interrupt.cancelled() => {}
            () = terminate.cancelled() => {}
        }
        cancel.cancel();
    });
    asked
}
