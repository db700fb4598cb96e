//! Errors about values. They name the expression, quote little, and end the query at once: a retry would meet the same
//! values.

use std::panic::{AssertUnwindSafe, catch_unwind};

use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::error::ArrowError;
use datafusion::error::{DataFusionError, Result};
use sluice_core::failure::{AttemptFailure, BadInputKind};
use sluice_proto::text::shortened_to;

use super::text::sql_type;

/// Most bytes of what a function says, which may quote a cell.
const REASON_BYTES: usize = 300;

/// The error of an expression that cannot work on its values.
pub(super) fn invalid(expression: &str, reason: &dyn std::fmt::Display) -> DataFusionError {
    let reason = shortened_to(&with_intervals(&reason.to_string()), REASON_BYTES);
    DataFusionError::External(Box::new(AttemptFailure::BadInput {
        kind: BadInputKind::InvalidValue,
        message: format!("{expression} cannot be computed: {reason}"),
    }))
}

/// Names the expression in an engine's error about values. Other errors stay unchanged.
fn named(expression: &str, result: &DataType, error: DataFusionError) -> DataFusionError {
    let reason = match error.find_root() {
        DataFusionError::ArrowError(inner, _) => reason_of(inner, Some(result)),
        DataFusionError::Execution(message) | DataFusionError::Internal(message) => {
            let message = message.split("This issue was likely caused by").next();
            Some(message.unwrap_or_default().trim_end().to_owned())
        }
        _ => None,
    };
    reason.map_or(error, |reason| invalid(expression, &without_kind(&reason)))
}

/// Engines put the kind of an error before what they say, some of them several times.
pub(crate) fn without_kind(message: &str) -> &str {
    const KINDS: [&str; 8] = [
        "Arrow error: ",
        "Cast error: ",
        "Compute error: ",
        "Execution error: ",
        "External error: ",
        "Internal error: ",
        "Invalid argument error: ",
        "Parser error: ",
    ];
    let stripped = KINDS.iter().find_map(|kind| message.strip_prefix(kind));
    stripped.map_or(message, without_kind)
}

/// What is wrong with a regular expression, if a message says that of one.
pub(crate) fn unread_pattern(message: &str) -> Option<String> {
    let (_, reason) = message.split_once("Regular expression did not compile: ")?;
    if reason.starts_with("CompiledTooBig") {
        let says = "a regular expression takes more than 10 MiB of memory: make its repetitions smaller";
        return Some(says.to_owned());
    }
    let reason = reason.split("This issue was likely caused by").next()?;
    // The parser draws: the pattern, a mark below the place, and the reason.
    let drawn = reason.split_once("regex parse error:").and_then(|(_, drawn)| {
        let pattern = drawn.lines().map(str::trim).find(|line| !line.is_empty())?;
        let (_, why) = drawn.rsplit_once("error: ")?;
        let why = why.lines().next()?;
        Some(format!(
            "the regular expression '{pattern}' cannot be read: {why}"
        ))
    });
    Some(drawn.unwrap_or_else(|| format!("a regular expression cannot be read: {}", reason.trim_end())))
}

/// A message in which intervals are written as in SQL: kernels print their fields.
fn with_intervals(message: &str) -> String {
    const FIELDS: [&str; 3] = ["IntervalMonthDayNano { months: ", ", days: ", ", nanoseconds: "];
    let mut text = String::new();
    let mut rest = message;
    while let Some((before, after)) = rest.split_once(FIELDS[0]) {
        let fields = after.split_once(" }").and_then(|(fields, rest)| {
            let (months, fields) = fields.split_once(FIELDS[1])?;
            let (days, nanoseconds) = fields.split_once(FIELDS[2])?;
            Some((months, days, nanoseconds, rest))
        });
        let Some((months, days, nanoseconds, after)) = fields else {
            break;
        };
        text.push_str(before);
        text.push_str(&format!(
            "INTERVAL '{months} months {days} days {nanoseconds} nanoseconds'"
        ));
        rest = after;
    }
    text + rest
}

/// What a kernel says of a value, as a user would; `None` for other errors. `result` is the type that it was to have, if
/// that is known.
pub(crate) fn reason_of(error: &ArrowError, result: Option<&DataType>) -> Option<String> {
    match error {
        ArrowError::DivideByZero => Some("division by zero".to_owned()),
        ArrowError::ArithmeticOverflow(message) => {
            let operation = message.trim_start_matches("Overflow happened on: ");
            let fit = result.map_or_else(|| "its type".to_owned(), sql_type);
            Some(format!("overflow: {operation} does not fit {fit}"))
        }
        ArrowError::ComputeError(message) if unread_pattern(message).is_some() => unread_pattern(message),
        ArrowError::CastError(message)
        | ArrowError::ParseError(message)
        | ArrowError::ComputeError(message)
        | ArrowError::InvalidArgumentError(message)
        | ArrowError::NotYetImplemented(message) => Some(without_kind(message).to_owned()),
        _ => None,
    }
}

/// Runs an expression over a batch. A panic is an error of the expression: it ends the query, not the process.
pub(super) fn guarded<T>(expression: &str, result: &DataType, run: impl FnOnce() -> Result<T>) -> Result<T> {
    // Nothing outlives the unwinding: arrays are immutable, and what was being built is dropped.
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(named(expression, result, error)),
        Err(panic) => {
            let text = crate::panic_text::panic_text(panic.as_ref());
            Err(invalid(
                expression,
                &format!("a value is out of the range that it works on ({text})"),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drawing_of_a_regular_expression_becomes_a_sentence() {
        let drawn = "Regular expression did not compile: Syntax(\n~~~~\nregex parse error:\n    a(\n     ^\nerror: unclosed group\n~~~~\n)";
        let told = "the regular expression 'a(' cannot be read: unclosed group";
        assert_eq!(unread_pattern(drawn).as_deref(), Some(told));
        let other = "Regular expression did not compile: no reason";
        assert_eq!(
            unread_pattern(other).as_deref(),
            Some("a regular expression cannot be read: no reason")
        );
        assert_eq!(unread_pattern("another message"), None);
    }

    #[test]
    fn intervals_are_written_as_in_sql() {
        let printed = "1 + IntervalMonthDayNano { months: 1, days: -2, nanoseconds: 3 } - IntervalMonthDayNano { months: 0";
        assert_eq!(
            with_intervals(printed),
            "1 + INTERVAL '1 months -2 days 3 nanoseconds' - IntervalMonthDayNano { months: 0"
        );
    }
}
