//! The planner's messages, which carry no types: each known one by its pattern, others without what no user needs.

use datafusion::common::Diagnostic;

use super::names::{expression, with_sql_types};
use super::patterns::{MessageContext, patterns};
use super::query_text::{QueryText, at_span};
use super::sentence::Sentence;
use super::syntax::lower_first;

/// Most bytes of a message that is passed on.
const MAX_MESSAGE: usize = 300;

/// What the planner says of its own.
pub(super) fn planning(text: &QueryText, diagnostic: Option<&Diagnostic>, message: &str) -> Sentence {
    let message = without_prefixes(message);
    let seen = MessageContext {
        text,
        at: at_span(diagnostic.and_then(|diagnostic| diagnostic.span)),
        notes: diagnostic
            .iter()
            .flat_map(|diagnostic| &diagnostic.notes)
            .map(|note| note.message.as_str())
            .collect(),
    };
    let known = patterns().find_map(|(pattern, sentence)| {
        let parts = captures(message, pattern)?;
        sentence(&seen, &parts)
    });
    known.unwrap_or_else(|| {
        let at = if seen.at.is_empty() {
            at_quoted(text, message)
        } else {
            seen.at
        };
        Sentence::new(plain(message), at, "", "write it another way")
    })
}

/// What Arrow says: of values that constants cannot become.
pub(super) fn arrow(text: &QueryText, message: &str) -> Sentence {
    planning(text, None, message)
}

/// What somebody else says.
pub(super) fn external(text: &QueryText, message: &str) -> Sentence {
    // The expression that failed is one of the planner's making; the text has the value.
    let reason = message.split_once(" cannot be computed: ");
    planning(text, None, reason.map_or(message, |(_, reason)| reason))
}

/// The parts of a message that stand for the `{}` of a pattern, which holds from the beginning. What follows a pattern
/// that ends otherwise counts for nothing.
pub(super) fn captures<'a>(message: &'a str, pattern: &str) -> Option<Vec<&'a str>> {
    let mut pieces = pattern.split("{}");
    let mut rest = message.strip_prefix(pieces.next()?)?;
    let mut parts = Vec::new();
    for piece in pieces {
        let end = if piece.is_empty() {
            rest.len()
        } else {
            rest.find(piece)?
        };
        parts.push(rest.get(..end)?);
        rest = rest.get(end..)?.get(piece.len()..)?;
    }
    Some(parts)
}

/// Words before what a message says.
const PREFIXES: [&str; 16] = [
    "Error during planning: ",
    "This feature is not implemented: ",
    "Invalid or Unsupported Configuration: ",
    "Execution error: ",
    "Internal error: ",
    "Resources exhausted: ",
    "Schema error: ",
    "SQL error: ",
    "Arrow error: ",
    "Cast error: ",
    "Parser error: ",
    "Compute error: ",
    "Arithmetic overflow: ",
    "Invalid argument error: ",
    "External error: ",
    "Not yet implemented: ",
];

/// A message without the names of its kind before it.
fn without_prefixes(message: &str) -> &str {
    let mut message = message.trim();
    while let Some(rest) = PREFIXES.iter().find_map(|prefix| message.strip_prefix(prefix)) {
        message = rest;
    }
    message
}

/// A message in the words of SQL: one line, no dumps of structures, no names that only the planner knows.
pub(in crate::planner) fn plain(message: &str) -> String {
    let message = without_prefixes(message);
    let line = message.lines().next().unwrap_or_default();
    let end = [" { ", "Span(", "(WindowFunction", "This issue was likely caused"]
        .iter()
        .filter_map(|dump| line.find(dump))
        .min()
        .unwrap_or(line.len());
    let mut line = line.get(..end).unwrap_or(line).to_owned();
    for prefix in PREFIXES {
        line = line.replace(prefix, "");
    }
    for (inner, shown) in [
        ("datafusion.public.", ""),
        ("datafusion.", ""),
        ("DataFusion", "the planner"),
        ("datafusion", "the planner"),
        ("`", ""),
    ] {
        line = line.replace(inner, shown);
    }
    let line = with_sql_types(&expression(&line));
    let end = line
        .char_indices()
        .map(|(at, character)| at + character.len_utf8())
        .take_while(|end| *end <= MAX_MESSAGE)
        .last()
        .unwrap_or(0);
    let shown = line.get(..end).unwrap_or_default();
    lower_first(shown.trim_end_matches(['.', '!', ' ', ':', ',']))
}

/// Where the first name or value that a message puts in quotes is written.
fn at_quoted(text: &QueryText, message: &str) -> String {
    ['\'', '"', '`']
        .iter()
        .find_map(|quote| {
            let (_, from) = message.split_once(*quote)?;
            let (quoted, _) = from.split_once(*quote)?;
            let places = [text.at_value(quoted), text.at_call(quoted), text.at_name(quoted)];
            places.into_iter().find(|place| !place.is_empty())
        })
        .unwrap_or_default()
}
