//! Names and types as users write them.

use datafusion::common::utils::datafusion_strsim::levenshtein;

/// Most names that a message proposes, and most that it lists.
const MAX_NEAR: usize = 3;
const MAX_LISTED: usize = 24;

/// The names that a misspelt one may have been, the nearest first.
pub(super) fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let word = word.to_lowercase();
    let distances = names.into_iter().map(|name| {
        let lower = name.to_lowercase();
        let distance = levenshtein(&word, &lower);
        (distance, word.chars().count().max(lower.chars().count()), name)
    });
    let mut near: Vec<_> = distances
        .filter(|(distance, longer, _)| {
            *distance <= 1 && *longer > 1
                || *distance <= 2 && distance.saturating_mul(5) <= longer.saturating_mul(2)
        })
        .map(|(distance, _, name)| (distance, name))
        .collect();
    near.sort_unstable();
    near.dedup();
    near.into_iter().take(MAX_NEAR).map(|(_, name)| name).collect()
}

/// `a`, `a or b`, `a, b or c`.
pub(super) fn any_of(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// All of a list, as far as a message holds it.
pub(super) fn listed(names: &[&str]) -> String {
    let shown = names.get(..MAX_LISTED).unwrap_or(names);
    let more = names.len().saturating_sub(shown.len());
    if more == 0 {
        return shown.join(", ");
    }
    format!("{} and {more} more", shown.join(", "))
}

/// What to write in place of a name that is none of these, of which `near` are the nearest.
pub(super) fn instead(near: &[&str], names: &[&str]) -> Option<String> {
    let others: Vec<&str> = names
        .iter()
        .copied()
        .filter(|name| !near.contains(name))
        .collect();
    match (near, others.as_slice()) {
        ([], []) => None,
        ([], [only]) => Some(format!("write {only}")),
        ([], others) => Some(format!("write one of {}", listed(others))),
        (near, []) => Some(format!("write {}", any_of(near))),
        (near, others) => Some(format!(
            "write {}, or another of {}",
            any_of(near),
            listed(others)
        )),
    }
}

/// SQL's name of a type of Arrow.
fn sql_type(word: &str) -> Option<&'static str> {
    Some(match word {
        "Utf8" | "Utf8View" | "LargeUtf8" | "String" => "VARCHAR",
        "Int8" => "TINYINT",
        "Int16" => "SMALLINT",
        "Int32" => "INT",
        "Int64" => "BIGINT",
        "UInt8" => "TINYINT UNSIGNED",
        "UInt16" => "SMALLINT UNSIGNED",
        "UInt32" => "INT UNSIGNED",
        "UInt64" => "BIGINT UNSIGNED",
        "Float32" => "FLOAT",
        "Float64" => "DOUBLE",
        "Boolean" => "BOOLEAN",
        "Date32" | "Date64" => "DATE",
        "Time32" | "Time64" | "Time" => "TIME",
        "Timestamp" => "TIMESTAMP",
        "Interval" => "INTERVAL",
        "Decimal32" | "Decimal64" | "Decimal128" | "Decimal256" | "Decimal" => "DECIMAL",
        "Binary" | "LargeBinary" | "BinaryView" | "FixedSizeBinary" => "BYTEA",
        "List" | "LargeList" | "FixedSizeList" | "ListView" => "ARRAY",
        "Struct" => "STRUCT",
        "Null" => "NULL",
        "Numeric" => "NUMERIC",
        "Integer" => "INTEGER",
        _ => return None,
    })
}

/// A text of the planner with SQL's names of types.
pub(super) fn with_sql_types(text: &str) -> String {
    replace_words(text, |word, _| sql_type(word).map(|name| (name.to_owned(), 0)))
}

/// An expression as the planner shows it, with its constants as SQL has them: `Int64(1)` is `1`.
pub(super) fn expression(text: &str) -> String {
    replace_words(text, |word, rest| {
        sql_type(word)?;
        let inner = rest.strip_prefix('(')?;
        let (value, length) = match inner.strip_prefix('"') {
            Some(quoted) => {
                let end = quoted.find("\")")?;
                (format!("'{}'", quoted.get(..end)?), end + 4)
            }
            None => {
                let end = inner.find(')')?;
                (inner.get(..end)?.to_owned(), end + 2)
            }
        };
        Some((value, length))
    })
}

/// Replaces words (letters, digits and `_`). `by` gets a word and what follows it; it gives what to write, and how many
/// bytes behind the word that stands for too.
fn replace_words(text: &str, by: impl Fn(&str, &str) -> Option<(String, usize)>) -> String {
    let is_part = |character: char| character.is_alphanumeric() || character == '_';
    let mut replaced = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(is_part) {
        let (before, from) = rest.split_at(start);
        replaced.push_str(before);
        let end = from.find(|character| !is_part(character)).unwrap_or(from.len());
        let (word, after) = from.split_at(end);
        match by(word, after) {
            Some((new, behind)) => {
                replaced.push_str(&new);
                rest = after.get(behind..).unwrap_or_default();
            }
            None => {
                replaced.push_str(word);
                rest = after;
            }
        }
    }
    replaced.push_str(rest);
    replaced
}
