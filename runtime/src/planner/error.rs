//! Why a query cannot be planned.

mod messages;
mod names;
mod patterns;
mod query_text;
mod sentence;
mod syntax;

use sluice_crds::ErrorReason;

pub(in crate::planner) use messages::plain;
pub(in crate::planner) use query_text::{Names, QueryText};
pub(in crate::planner) use sentence::describe;

/// Why a query cannot be planned, or a fragment cannot be decoded. Every text names the place and the fix.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The text is no SQL.
    #[error("{message}")]
    Syntax {
        /// What is wrong, its line and column, and the fix.
        message: String,
    },
    /// The text holds no statement.
    #[error("the SQL text holds no statement: write one SELECT query")]
    Empty,
    /// The text holds more than one statement.
    #[error(
        "the SQL text holds {count} statements, the second one begins at {position}: a query is one \
         statement; remove the others, or make a query of each"
    )]
    SeveralStatements {
        /// How many statements the text holds.
        count: usize,
        /// Where the second one begins, as `line 1, column 10`.
        position: String,
    },
    /// The statement does something else than reading the declared tables.
    #[error(
        "{what} at {position} is not allowed: a query only reads the tables it declares; write a SELECT query"
    )]
    NotAQuery {
        /// The kind of statement, as `CREATE TABLE`.
        what: String,
        /// Where it begins, as `line 1, column 1`.
        position: String,
    },
    /// The statement asks for a plan.
    #[error(
        "EXPLAIN at {position} gives no rows of tables: `sluice explain` shows the plan, `sluice run` takes EXPLAIN ANALYZE SELECT …, \
         and the status of a query has its stages"
    )]
    Explain {
        /// Where it begins, as `line 1, column 1`.
        position: String,
    },
    /// A clause that is not planned, and not dropped either.
    #[error("{what}{place} is not supported: {fix}")]
    Clause {
        /// The clause, as `FOR UPDATE`.
        what: String,
        /// Where it is, as ` at line 1, column 1`; empty where that is not known.
        place: String,
        /// What to write instead.
        fix: String,
    },
    /// The query is longer or nested deeper than the engine follows.
    #[error("the query is nested too deeply ({what}): flatten the nested expressions or split the query")]
    TooDeep {
        /// Where the limit was met.
        what: String,
    },
    /// The query is refused: an unknown table or column, types that do not fit.
    #[error("{message}")]
    Query {
        /// What is wrong, its line and column where they are known, and the fix.
        message: String,
    },
    /// The plan holds something that Sluice cannot run.
    #[error("the plan needs {what}, which cannot run in stages: {fix}")]
    Unsupported {
        /// The part of the plan.
        what: String,
        /// What to write instead.
        fix: String,
    },
    /// A plan broke a rule that the planner itself should keep.
    #[error("planning failed in {place}: {message}; please report it with the query")]
    Internal {
        /// The step of planning.
        place: &'static str,
        /// What went wrong.
        message: String,
    },
    /// A fragment's bytes do not decode on this worker.
    #[error("the fragment of a task cannot be decoded ({place}): {message}")]
    Fragment {
        /// The part of the fragment.
        place: &'static str,
        /// What went wrong.
        message: String,
    },
}

impl PlanError {
    /// The reason for status.
    pub fn reason(&self) -> ErrorReason {
        match self {
            Self::Syntax { .. }
            | Self::Empty
            | Self::SeveralStatements { .. }
            | Self::NotAQuery { .. }
            | Self::Explain { .. }
            | Self::Clause { .. }
            | Self::TooDeep { .. }
            | Self::Query { .. } => ErrorReason::InvalidSql,
            Self::Unsupported { .. } | Self::Fragment { .. } => ErrorReason::UnsupportedPlan,
            Self::Internal { .. } => ErrorReason::Internal,
        }
    }

    /// A broken rule of the planner.
    pub(crate) fn internal(place: &'static str, message: impl std::fmt::Display) -> Self {
        Self::Internal {
            place,
            message: message.to_string(),
        }
    }

    /// A fragment that does not decode.
    pub(crate) fn fragment(place: &'static str, message: impl std::fmt::Display) -> Self {
        Self::Fragment {
            place,
            message: message.to_string(),
        }
    }
}
