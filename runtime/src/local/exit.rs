//! How a command ends: the message and the exit code.

use std::io::Write;
use std::process::ExitCode;

use sluice_core::coordinator::{Outcome, QueryFailure};
use sluice_core::termination::Termination;
use sluice_crds::ErrorReason;
use sluice_crds::shuffle_query::status::QueryPhase;
use sluice_proto::text::escaped_lines;

use crate::coordinator::Handover;

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
    HandedOver(Handover),
    /// The rows were wanted no more: standard output was closed.
    Unread,
    /// A child process ended with this code after it had said why on standard error.
    Child {
        /// Its exit code.
        code: u8,
        /// How its query ended, as far as it said.
        words: Option<Box<Termination>>,
    },
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
            Self::Child { words, .. } => words.as_deref().cloned(),
            Self::Query(Outcome::Succeeded) | Self::Unread | Self::HandedOver(_) | Self::Other(_) => None,
        }
    }

    /// How a query ended that failed like this and of which no coordinator said how it ended.
    pub fn ending(&self) -> Termination {
        let message = match self {
            Self::BadInput(message) | Self::Unplanned { message, .. } => message.clone(),
            Self::Query(_) | Self::Unread => String::new(),
            Self::HandedOver(handover) => handover.to_string(),
            Self::Child { code, .. } => {
                format!("the coordinator's process ended with code {code} before it was ready")
            }
            Self::Other(error) => format!("{error:#}"),
        };
        let refused = || Termination::refused(ErrorReason::Internal, message, jiff::Timestamp::now());
        self.last_words().unwrap_or_else(refused)
    }

    /// Says on standard error what went wrong.
    pub fn print(&self) {
        match self {
            Self::BadInput(message) | Self::Unplanned { message, .. } => say(format!("error: {message}")),
            Self::HandedOver(handover) => say(handover),
            Self::Query(Outcome::Failed(QueryFailure { reason, message, .. })) => {
                say(format!("error: the query failed ({reason:?}): {message}"));
            }
            Self::Query(Outcome::Cancelled) => say("cancelled"),
            // As other programs end in a pipe that was closed: without a word.
            Self::Query(Outcome::Succeeded) | Self::Unread | Self::Child { .. } => {}
            Self::Other(error) => say(format!("error: {error:#}")),
        }
    }

    /// The exit code, as `sluice --help` lists them.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::BadInput(_) | Self::Unplanned { .. } => 2,
            Self::HandedOver(_) => 143,
            Self::Unread => 141,
            Self::Query(outcome) => outcome_code(outcome),
            Self::Child { code, .. } => *code,
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
            | ErrorReason::PoisonTask
            | ErrorReason::FetchFailed
            | ErrorReason::OutOfMemory
            | ErrorReason::CoordinatorLost
            | ErrorReason::DeadlineExceeded
            | ErrorReason::ResultPartiallyRead
            | ErrorReason::BuildMismatch
            | ErrorReason::Internal => 3,
        },
    }
}

/// Says a line on standard error. One that is closed must not end what the process is doing, and what a file or a peer
/// holds must not steer a terminal.
pub fn say(line: impl std::fmt::Display) {
    let line = line.to_string();
    let _ = writeln!(std::io::stderr(), "{}", escaped_lines(&line));
}
