//! Clauses that are not planned, and where they stand.

use datafusion::sql::sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan};

use super::super::error::PlanError;

/// A clause that is not planned.
pub(super) struct Refusal {
    what: String,
    at: Span,
    fix: String,
}

impl Refusal {
    pub(super) fn new(what: impl Into<String>, at: Span, fix: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            at,
            fix: fix.into(),
        }
    }

    /// The refusal of a clause of the text that these tokens make up.
    pub(super) fn into_error(self, tokens: &[TokenWithSpan]) -> PlanError {
        let start = self.start(tokens);
        let place = match start.line {
            0 => String::new(),
            line => format!(" at line {line}, column {}", start.column),
        };
        PlanError::Clause {
            what: self.what,
            place,
            fix: self.fix,
        }
    }

    /// Where the clause begins. The parser knows of many only the place of the query or the SELECT that they belong to; their
    /// keywords follow it.
    fn start(&self, tokens: &[TokenWithSpan]) -> Location {
        let tokens = tokens
            .iter()
            .filter(|token| !matches!(token.token, Token::Whitespace(_)));
        let tokens: Vec<_> = tokens
            .skip_while(|token| token.span.start < self.at.start)
            .collect();
        let is_keyword = |word: &&str| word.chars().all(|letter| letter.is_ascii_uppercase());
        let keywords: Vec<_> = self.what.split_whitespace().take_while(is_keyword).collect();
        let is = |(token, keyword): (&&TokenWithSpan, &&str)| match &token.token {
            Token::Word(word) => word.quote_style.is_none() && word.value.eq_ignore_ascii_case(keyword),
            _ => false,
        };
        let mut windows = tokens.windows(keywords.len().max(1));
        let found = windows.find(|seen| !keywords.is_empty() && seen.iter().zip(&keywords).all(is));
        found
            .and_then(|seen| seen.first())
            .map_or(self.at.start, |first| first.span.start)
    }
}

impl From<Refusal> for PlanError {
    fn from(refusal: Refusal) -> Self {
        refusal.into_error(&[])
    }
}

pub(super) type Checked = Result<(), Refusal>;

/// Refuses a clause that is there.
pub(super) fn absent(there: bool, what: &str, at: Span) -> Checked {
    if there {
        return Err(Refusal::new(what, at, "remove it"));
    }
    Ok(())
}
