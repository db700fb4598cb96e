//! Errors of the parser in a sentence.

use datafusion::sql::sqlparser::parser::ParserError;

use super::names::nearest;
use super::query_text::QueryText;
use super::sentence::Sentence;

/// Words that clauses begin with: a misspelt one reads as an alias, and what follows it is refused.
const CLAUSES: [&str; 22] = [
    "SELECT",
    "FROM",
    "WHERE",
    "GROUP",
    "HAVING",
    "QUALIFY",
    "WINDOW",
    "ORDER",
    "LIMIT",
    "OFFSET",
    "UNION",
    "INTERSECT",
    "EXCEPT",
    "JOIN",
    "INNER",
    "LEFT",
    "RIGHT",
    "FULL",
    "CROSS",
    "USING",
    "VALUES",
    "WITH",
];

/// What the parser refuses.
pub(super) fn sentence(error: &ParserError, text: &QueryText) -> Sentence {
    let message = match error {
        ParserError::ParserError(message) | ParserError::TokenizerError(message) => message.as_str(),
        ParserError::RecursionLimitExceeded => "the text is nested too deeply",
    };
    let (what, place) = split_place(message);
    let at = place.map_or_else(String::new, |(line, column)| {
        format!(" at line {line}, column {column}")
    });
    let unclosed = |what: &str, fix: &str| Sentence::new(what, &at, "is not closed", fix);
    if what.starts_with("Unterminated string literal") {
        return unclosed(
            "the text in single quotes",
            "write the closing quote; a quote within it is written twice",
        );
    }
    if what.starts_with("Expected close delimiter") {
        return unclosed(
            "the name in double quotes",
            "write the closing quote; text is written in single quotes",
        );
    }
    if what.starts_with("Unexpected EOF while in a multi-line comment") {
        return Sentence::new("a comment", "", "is not closed", "write */ at its end");
    }
    let Some((expected, found)) = expected_found(what) else {
        return Sentence::new(
            lower_first(what.trim_end_matches('.')),
            &at,
            "",
            "correct the text there",
        );
    };
    let expected = match expected {
        "end of statement" => "the end of the query",
        "an SQL statement" => "a query",
        "identifier" => "a name",
        other => other,
    };
    if found == "EOF" {
        let fix = "write what is missing, or remove what is before";
        return Sentence::new(
            "the text ends",
            text.at_end(),
            format!("where {expected} is expected"),
            fix,
        );
    }
    let fix = misspelt(text, place).unwrap_or_else(|| {
        if found.eq_ignore_ascii_case("group") || found.eq_ignore_ascii_case("order") {
            "write BY behind it".to_owned()
        } else if expected == "a name" {
            "put the name in double quotes if it is one".to_owned()
        } else {
            "remove it, or write what is missing before it".to_owned()
        }
    });
    Sentence::new(found, at, format!("stands where {expected} is expected"), fix)
}

/// The keyword that one of the words before a place, or the word there, was meant to be.
fn misspelt(text: &QueryText, place: Option<(u64, u64)>) -> Option<String> {
    let (line, column) = place?;
    let words = text.words_before(line, column, 2);
    words.iter().find_map(|(word, at)| {
        let upper = word.to_uppercase();
        let near = nearest(&upper, CLAUSES);
        let keyword = near
            .first()
            .filter(|keyword| **keyword != upper && word.chars().count() > 2)?;
        Some(format!("write {keyword} in place of {word}{at}"))
    })
}

/// A message without ` at Line: 1, Column: 26`, and that place.
fn split_place(message: &str) -> (&str, Option<(u64, u64)>) {
    let split = || {
        let (what, place) = message.rsplit_once(" at Line: ")?;
        let (line, column) = place.split_once(", Column: ")?;
        Some((what, (line.parse().ok()?, column.parse().ok()?)))
    };
    split().map_or((message, None), |(what, place)| (what, Some(place)))
}

fn expected_found(message: &str) -> Option<(&str, &str)> {
    let expected = message.strip_prefix("Expected")?.trim_start_matches([':', ' ']);
    expected.rsplit_once(", found: ")
}

/// A message in the middle of a sentence.
pub(super) fn lower_first(message: &str) -> String {
    let mut characters = message.chars();
    match characters.next() {
        Some(first)
            if characters
                .as_str()
                .starts_with(|next: char| next.is_lowercase() || next == ' ') =>
        {
            first.to_lowercase().chain(characters).collect()
        }
        _ => message.to_owned(),
    }
}
