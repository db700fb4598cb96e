//! Maps errors to failures: for the user who plans a query, and for attempts.

use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use parquet::errors::ParquetError;
use sluice_core::failure::{AttemptFailure, BadInputKind, Resource};
use sluice_core::plan::FileRange;
use sluice_crds::ErrorReason;
use sluice_proto::text::{shortened_display, shortened_to};
use thiserror::Error;

use super::check::BadText;
use super::manifest::shown;
use super::store::RangeBeyondFile;
use crate::functions::{reason_of, unread_pattern, without_kind};
use crate::memory::is_about_memory;
use crate::panic_text::panic_text;

/// Files that a message names at most.
const NAMED_FILES: usize = 3;
/// The most bytes quoted from a decoder's message, which may contain a cell.
const MAX_QUOTED_BYTES: usize = 2048;

/// Why a table cannot be read. The message names the location or file, the problem and the fix.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("table {table}: {message}")]
pub struct SourceError {
    pub reason: ErrorReason,
    pub table: String,
    pub message: String,
}

impl SourceError {
    pub(super) fn new(reason: ErrorReason, table: &str, message: impl Into<String>) -> Self {
        Self {
            reason,
            table: table.to_owned(),
            message: message.into(),
        }
    }
}

/// Maps an error of the engine to a failure of the attempt, with a message of bounded length, since it may quote a
/// cell. `ranges` are the file ranges that the attempt reads: a message about bad bytes names them, because decoders
/// know at most a line.
pub fn classify_error(error: &DataFusionError, ranges: &[FileRange]) -> AttemptFailure {
    match error {
        DataFusionError::Context(_, inner) => classify_error(inner, ranges),
        DataFusionError::Diagnostic(_, inner) => classify_error(inner, ranges),
        DataFusionError::Shared(inner) => classify_error(inner, ranges),
        DataFusionError::Collection(errors) => match errors.first() {
            Some(first) => classify_error(first, ranges),
            None => failed(error),
        },
        DataFusionError::ResourcesExhausted(message) => exhausted(shortened_display(message)),
        DataFusionError::ArrowError(inner, _) => {
            classify_arrow(inner, ranges).unwrap_or_else(|| failed(error))
        }
        DataFusionError::ParquetError(inner) => {
            classify_parquet(inner, ranges).unwrap_or_else(|| failed(error))
        }
        DataFusionError::ObjectStore(inner) => classify_store(inner).unwrap_or_else(|| failed(error)),
        DataFusionError::External(inner) => {
            classify_external(inner.as_ref(), ranges).unwrap_or_else(|| failed(error))
        }
        DataFusionError::IoError(inner) => classify_io(inner, ranges).unwrap_or_else(|| failed(error)),
        DataFusionError::NotImplemented(message) => {
            bad(BadInputKind::UnsupportedPlan, shortened_display(message))
        }
        // What an operator or a function says of its arguments: another try has the same.
        DataFusionError::Plan(message) => bad(BadInputKind::InvalidValue, shortened_display(message)),
        DataFusionError::Internal(message) if unread_pattern(message).is_some() => bad(
            BadInputKind::InvalidValue,
            shortened_display(&unread_pattern(message).unwrap_or_default()),
        ),
        DataFusionError::Execution(message) if is_bad_value(message) => bad(
            BadInputKind::InvalidValue,
            shortened_display(&without_kind(message)),
        ),
        _ => failed(error),
    }
}

/// As [`classify_error`], for an error of a task's operators. One about a value names the files that the task reads: no
/// operator knows from which of them, or from which line, a value came.
pub fn classify_task_error(error: &DataFusionError, ranges: &[FileRange]) -> AttemptFailure {
    match classify_error(error, ranges) {
        AttemptFailure::BadInput {
            kind: BadInputKind::InvalidValue,
            message,
        } if !ranges.is_empty() => {
            let message = format!("{message} (the task reads {})", files(ranges));
            bad(BadInputKind::InvalidValue, shortened_display(&message))
        }
        other => other,
    }
}

/// The files of ranges, each once, as far as a message names them.
fn files(ranges: &[FileRange]) -> String {
    let mut names: Vec<String> = ranges.iter().map(|range| shown(&range.file.path)).collect();
    names.sort();
    names.dedup();
    let more = names.len().saturating_sub(NAMED_FILES);
    names.truncate(NAMED_FILES);
    if more > 0 {
        names.push(format!("{more} more"));
    }
    names.join(", ")
}

fn failed(error: &DataFusionError) -> AttemptFailure {
    AttemptFailure::Failed {
        message: shortened_display(error),
    }
}

/// Operators report what ran out only as text.
fn exhausted(message: String) -> AttemptFailure {
    let resource = if is_about_memory(&message) {
        Resource::Memory
    } else {
        Resource::Disk
    };
    AttemptFailure::ResourcesExhausted { resource, message }
}

fn bad(kind: BadInputKind, message: String) -> AttemptFailure {
    AttemptFailure::BadInput { kind, message }
}

/// Classifies known errors inside other errors.
fn classify_external(
    error: &(dyn std::error::Error + Send + Sync + 'static),
    ranges: &[FileRange],
) -> Option<AttemptFailure> {
    if let Some(failure) = error.downcast_ref::<AttemptFailure>() {
        return Some(failure.clone());
    }
    if let Some(error) = error.downcast_ref::<BadText>() {
        // It has the line of the file and the fix.
        let message = format!("{}: {error}", describe_ranges(ranges));
        return Some(bad(BadInputKind::InputCorrupt, message));
    }
    if let Some(error) = error.downcast_ref::<DataFusionError>() {
        return Some(classify_error(error, ranges));
    }
    if let Some(error) = error.downcast_ref::<ArrowError>() {
        return classify_arrow(error, ranges);
    }
    if let Some(error) = error.downcast_ref::<ParquetError>() {
        return classify_parquet(error, ranges);
    }
    error
        .downcast_ref::<object_store::Error>()
        .and_then(classify_store)
}

/// Spill files of operators report an exhausted limit only as text, and name a setting that Sluice does not have.
fn classify_io(error: &std::io::Error, ranges: &[FileRange]) -> Option<AttemptFailure> {
    let text = error.to_string();
    if error.kind() == std::io::ErrorKind::StorageFull
        || text.starts_with("The used disk space during the spilling")
    {
        let what = text.split(". Please").next().unwrap_or_default();
        return Some(exhausted(format!(
            "spill space is used up: {what}: raise workers.spill.limit, or workers.memory"
        )));
    }
    error.get_ref().and_then(|inner| classify_external(inner, ranges))
}

fn classify_arrow(error: &ArrowError, ranges: &[FileRange]) -> Option<AttemptFailure> {
    match error {
        ArrowError::ExternalError(inner) => classify_external(inner.as_ref(), ranges),
        ArrowError::IoError(_, inner) => classify_io(inner, ranges),
        ArrowError::CsvError(message)
        | ArrowError::JsonError(message)
        | ArrowError::IpcError(message)
        | ArrowError::ParquetError(message) => Some(corrupt(message, ranges)),
        // This text is the CSV reader's; cast kernels have others.
        ArrowError::ParseError(message) if message.starts_with("Error while parsing value") => {
            Some(corrupt(message, ranges))
        }
        ArrowError::InvalidArgumentError(message)
            if message.contains("non-nullable") && !ranges.is_empty() =>
        {
            Some(corrupt(message, ranges))
        }
        // From kernels, for example for a decimal that does not fit. A retry would have the same values.
        ArrowError::InvalidArgumentError(_)
        | ArrowError::ParseError(_)
        | ArrowError::CastError(_)
        | ArrowError::DivideByZero
        | ArrowError::ArithmeticOverflow(_)
        | ArrowError::ComputeError(_) => {
            let reason = reason_of(error, None).unwrap_or_else(|| error.to_string());
            Some(bad(BadInputKind::InvalidValue, shortened_display(&reason)))
        }
        ArrowError::MemoryError(message) => Some(exhausted(shortened_display(message))),
        _ => None,
    }
}

fn classify_parquet(error: &ParquetError, ranges: &[FileRange]) -> Option<AttemptFailure> {
    match error {
        ParquetError::External(inner) => classify_external(inner.as_ref(), ranges),
        ParquetError::General(_)
        | ParquetError::EOF(_)
        | ParquetError::NYI(_)
        | ParquetError::IndexOutOfBound(_, _)
        | ParquetError::ArrowError(_) => Some(corrupt(&shortened_display(error), ranges)),
        _ => None,
    }
}

fn classify_store(error: &object_store::Error) -> Option<AttemptFailure> {
    match error {
        object_store::Error::NotFound { path, .. } => Some(bad(
            BadInputKind::InputChanged,
            format!(
                "{} was removed after the query had listed it: run the query again",
                shown(path)
            ),
        )),
        object_store::Error::Precondition { path, source } => Some(bad(
            BadInputKind::InputChanged,
            format!(
                "{} {source} after the query had listed it: run the query again",
                shown(path)
            ),
        )),
        object_store::Error::Generic { source, .. } => {
            let beyond = source.downcast_ref::<RangeBeyondFile>()?;
            Some(undecodable(&shown(&beyond.path), &beyond.to_string()))
        }
        object_store::Error::PermissionDenied { path, source } => Some(bad(
            BadInputKind::ForbiddenPath,
            format!("{} cannot be read: {source}", shown(path)),
        )),
        _ => None,
    }
}

/// Scalar functions report a bad value as an execution error, recognisable only by its text.
fn is_bad_value(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    ["divide by zero", "overflow", "parse", "invalid", "out of range"]
        .iter()
        .any(|sign| message.contains(sign))
}

fn corrupt(message: &str, ranges: &[FileRange]) -> AttemptFailure {
    // Drop the quoted row after the wrong value.
    let message = message.split(". Row data: ").next().unwrap_or(message);
    // Leave room for the advice after it.
    undecodable(
        &describe_ranges(ranges),
        &shortened_to(&message, MAX_QUOTED_BYTES),
    )
}

fn undecodable(place: &str, message: &str) -> AttemptFailure {
    bad(
        BadInputKind::InputCorrupt,
        format!(
            "{place} cannot be decoded: {message}: mend the file, or declare columns in the table's schema that fit it"
        ),
    )
}

/// The message for a decoder that panicked: the bytes are at fault, not the worker.
pub(super) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    format!("the decoder gave up ({})", panic_text(panic))
}

/// The failure of an attempt whose decoder panicked as it read these ranges.
pub(super) fn decoder_panicked(panic: &(dyn std::any::Any + Send), ranges: &[FileRange]) -> AttemptFailure {
    corrupt(&panic_message(panic), ranges)
}

/// The failure of a scan of Arrow files. Its decoder reports wrong bytes like kernels report wrong arguments; in a scan
/// it is the bytes.
pub(super) fn decoder_failed(error: DataFusionError, ranges: &[FileRange]) -> DataFusionError {
    let DataFusionError::ArrowError(cause, _) = error.find_root() else {
        return error;
    };
    let is_argument = matches!(cause.as_ref(), ArrowError::InvalidArgumentError(_));
    match classify_error(&error, ranges) {
        AttemptFailure::Failed { .. } => {}
        AttemptFailure::BadInput {
            kind: BadInputKind::InvalidValue,
            ..
        } if is_argument => {}
        _ => return error,
    }
    DataFusionError::External(Box::new(corrupt(&shortened_display(cause), ranges)))
}

/// Names what an attempt was reading. Lines are counted from the start of a range.
pub(super) fn describe_ranges(ranges: &[FileRange]) -> String {
    let name = |range: &FileRange| {
        let path = shown(&range.file.path);
        if range.start == 0 {
            path
        } else {
            format!("{path} (lines counted from byte {})", range.start)
        }
    };
    match ranges {
        [] => "an input".to_owned(),
        [range] => name(range),
        _ => {
            let mut names: Vec<_> = ranges.iter().take(NAMED_FILES).map(name).collect();
            if ranges.len() > NAMED_FILES {
                names.push(format!("{} more", ranges.len() - NAMED_FILES));
            }
            format!("one of {}", names.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use sluice_proto::MAX_TEXT_BYTES;

    use super::*;

    #[test]
    fn values_that_do_not_fit_are_not_tried_again() {
        for error in [
            ArrowError::InvalidArgumentError(
                "1e9 is too large to store in a Decimal128 of precision 5".to_owned(),
            ),
            ArrowError::CastError("Cannot cast string 'x' to value of Int32 type".to_owned()),
            ArrowError::DivideByZero,
            ArrowError::ArithmeticOverflow("Overflow happened on: 1 + 2".to_owned()),
        ] {
            let failure = classify_error(&DataFusionError::from(error), &[]);
            let AttemptFailure::BadInput { kind, .. } = failure else {
                panic!("it is tried again: {failure:?}");
            };
            assert_eq!(kind, BadInputKind::InvalidValue);
        }
    }

    #[test]
    fn a_cell_in_a_message_is_cut_where_the_message_is_made() {
        let cell = "x".repeat(10 << 20);
        for error in [
            DataFusionError::Execution(cell.clone()),
            DataFusionError::Execution(format!("cannot parse {cell}")),
            DataFusionError::NotImplemented(cell.clone()),
            DataFusionError::ResourcesExhausted(cell.clone()),
            DataFusionError::from(ArrowError::CastError(cell.clone())),
            DataFusionError::from(ArrowError::CsvError(cell)),
        ] {
            let message = classify_error(&error, &[]).to_string();
            assert!(message.len() <= MAX_TEXT_BYTES, "{} bytes", message.len());
        }
    }
}
