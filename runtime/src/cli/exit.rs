//! How a command ends: the message and the exit code.

use std::process::ExitCode;

use sluice_core::coordinator::{Outcome, QueryFailure};
use sluice_core::termination::Termination;
use sluice_crds::ErrorReason;
use sluice_crds::process::exit_code;
use sluice_crds::shuffle_query::status::QueryPhase;

use crate::coordinator::Handover;
use crate::local::client::CoordinatorLost;
use crate::local::error::FollowError;
use crate::query::PrepareError;
use crate::stderr::print_stderr;

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// The user's input is wrong.
    BadInput(String),
    /// The query cannot be planned, or its sink cannot be written.
    Rejected {
        reason: ErrorReason,
        message: String,
    },
    /// The query ended without success.
    Query(Outcome),
    /// The coordinator left the query to a successor.
    HandedOver(Handover),
    /// Standard output was closed before all rows were written.
    OutputClosed,
    /// A child process ended with this code and wrote the reason to standard error.
    Child {
        code: u8,
        /// How its query ended, if it reported that.
        termination: Option<Box<Termination>>,
    },
    Other(anyhow::Error),
}

impl Failure {
    /// A failure that the user's input caused, with its causes.
    pub fn bad_input(error: impl Into<anyhow::Error>) -> Self {
        Self::BadInput(format!("{:#}", error.into()))
    }

    /// The termination message of a coordinator whose query failed like this before it could run. None where another
    /// try may succeed, or where another coordinator reports the end.
    pub fn termination(&self) -> Option<Termination> {
        let now = jiff::Timestamp::now();
        match self {
            Self::BadInput(message) => Some(Termination::refused(
                ErrorReason::InvalidSpec,
                message.clone(),
                now,
            )),
            Self::Rejected { reason, message } => Some(Termination::refused(*reason, message.clone(), now)),
            Self::Query(Outcome::Failed(failure)) => {
                Some(Termination::refused(failure.reason, failure.message.clone(), now))
            }
            Self::Query(Outcome::Cancelled) => {
                let message = "the query was cancelled".to_owned();
                let termination = Termination::refused(ErrorReason::Cancelled, message, now);
                Some(Termination {
                    phase: QueryPhase::Cancelled,
                    ..termination
                })
            }
            Self::Child { termination, .. } => termination.as_deref().cloned(),
            Self::Query(Outcome::Succeeded) | Self::OutputClosed | Self::HandedOver(_) | Self::Other(_) => {
                None
            }
        }
    }

    /// The end of a query that failed like this, if no coordinator has reported its end.
    pub fn final_termination(&self) -> Termination {
        let message = match self {
            Self::BadInput(message) | Self::Rejected { message, .. } => message.clone(),
            Self::Query(_) | Self::OutputClosed => String::new(),
            Self::HandedOver(handover) => handover.to_string(),
            Self::Child { code, .. } => {
                format!("the coordinator's process ended with code {code} before it was ready")
            }
            Self::Other(error) => format!("{error:#}"),
        };
        let refused = || Termination::refused(ErrorReason::Internal, message, jiff::Timestamp::now());
        self.termination().unwrap_or_else(refused)
    }

    /// Writes the failure to standard error.
    pub fn print(&self) {
        match self {
            Self::BadInput(message) | Self::Rejected { message, .. } => {
                print_stderr(format!("error: {message}"));
            }
            Self::HandedOver(handover) => print_stderr(handover),
            Self::Query(Outcome::Failed(QueryFailure { reason, message, .. })) => {
                print_stderr(format!("error: the query failed ({reason:?}): {message}"));
            }
            Self::Query(Outcome::Cancelled) => print_stderr("cancelled"),
            // Silent, like other programs whose pipe was closed.
            Self::Query(Outcome::Succeeded) | Self::OutputClosed | Self::Child { .. } => {}
            Self::Other(error) => print_stderr(format!("error: {error:#}")),
        }
    }

    /// The exit code, as `sluice --help` lists them.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::BadInput(_) | Self::Rejected { .. } => exit_code::INVALID_INPUT,
            Self::HandedOver(_) => exit_code::TERMINATED,
            Self::OutputClosed => exit_code::OUTPUT_CLOSED,
            Self::Query(Outcome::Succeeded) => exit_code::SUCCESS,
            Self::Query(Outcome::Cancelled) => exit_code::CANCELLED,
            Self::Query(Outcome::Failed(failure)) => failure.reason.exit_code(),
            Self::Child { code, .. } => *code,
            Self::Other(_) => exit_code::FAILURE,
        })
    }
}

impl From<PrepareError> for Failure {
    fn from(error: PrepareError) -> Self {
        match error {
            PrepareError::BadInput(message) => Self::BadInput(message),
            PrepareError::Rejected { reason, message } => Self::Rejected { reason, message },
            PrepareError::Failed(failure) => Self::Query(Outcome::Failed(failure)),
            PrepareError::Other(error) => Self::Other(error),
        }
    }
}

impl From<FollowError> for Failure {
    fn from(error: FollowError) -> Self {
        match error {
            FollowError::Query(outcome) => Self::Query(outcome),
            FollowError::OutputClosed => Self::OutputClosed,
            FollowError::Other(error) => Self::Other(error),
        }
    }
}

impl From<CoordinatorLost> for Failure {
    fn from(lost: CoordinatorLost) -> Self {
        FollowError::from(lost).into()
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}
