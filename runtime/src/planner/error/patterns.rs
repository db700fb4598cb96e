//! The messages of the planner that users meet, each with the sentence that it becomes.

mod clauses;
mod names;
mod values;

use super::query_text::QueryText;
use super::sentence::Sentence;

/// What is known beside a message.
pub(super) struct MessageContext<'a> {
    pub(super) text: &'a QueryText,
    /// The place that the planner told; empty where it told none.
    pub(super) at: String,
    /// What the planner noted beside the message.
    pub(super) notes: Vec<&'a str>,
}

impl MessageContext<'_> {
    /// The place that the planner told, or else this one.
    fn at(&self, other: impl FnOnce(&QueryText) -> String) -> String {
        if self.at.is_empty() {
            other(self.text)
        } else {
            self.at.clone()
        }
    }
}

/// Makes a sentence of the parts of a message; `None` leaves it to the next pattern.
pub(super) type Pattern = fn(&MessageContext<'_>, &[&str]) -> Option<Sentence>;

/// Patterns and their sentences; the first that fits counts.
pub(super) fn patterns() -> impl Iterator<Item = &'static (&'static str, Pattern)> {
    names::PATTERNS
        .iter()
        .chain(values::PATTERNS)
        .chain(clauses::PATTERNS)
}

fn first<'a>(parts: &[&'a str]) -> &'a str {
    parts.first().copied().unwrap_or_default()
}
