//! The text of a query and what is known by name in it: where a part that an error names is written.

use datafusion::common::Span;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan};

/// Most places that a message names for a part that is written several times.
const MAX_PLACES: usize = 3;

/// What a query may name.
#[derive(Debug, Default)]
pub(in crate::planner) struct Names {
    /// The declared tables.
    pub(in crate::planner) tables: Vec<String>,
    /// Functions that give a value for a row or for a group.
    pub(in crate::planner) functions: Vec<String>,
    /// Functions that need a window.
    pub(in crate::planner) window_functions: Vec<String>,
    /// Functions that stand in FROM.
    pub(in crate::planner) table_functions: Vec<String>,
}

/// A query's text, in tokens, and its names.
#[derive(Debug)]
pub(in crate::planner) struct QueryText {
    tokens: Vec<TokenWithSpan>,
    pub(super) names: Names,
}

/// A token that is not white space, and its neighbours.
struct TokenContext<'a> {
    before: Option<&'a Token>,
    token: &'a Token,
    after: Option<&'a Token>,
    start: Location,
}

impl QueryText {
    /// The text that these tokens make up; none where the text has none.
    pub(in crate::planner) fn new(tokens: Vec<TokenWithSpan>, names: Names) -> Self {
        let tokens = tokens.into_iter();
        let tokens = tokens.filter(|token| !matches!(token.token, Token::Whitespace(_)));
        Self {
            tokens: tokens.collect(),
            names,
        }
    }

    fn places(&self, is: impl Fn(&TokenContext<'_>) -> bool) -> Vec<Location> {
        let token = |index: Option<usize>| Some(&self.tokens.get(index?)?.token);
        let seen = self.tokens.iter().enumerate().map(|(index, here)| TokenContext {
            before: token(index.checked_sub(1)),
            token: &here.token,
            after: token(index.checked_add(1)),
            start: here.span.start,
        });
        seen.filter(is).map(|seen| seen.start).collect()
    }

    /// Where a column or table is named, as DataFusion writes names: `t.a`, `t."A b"`.
    pub(super) fn at_name(&self, name: &str) -> String {
        let parts = parts_of_name(name);
        let Some((last, qualifiers)) = parts.split_last() else {
            return String::new();
        };
        let named =
            |seen: &TokenContext<'_>| is_word(Some(seen.token), last) && !is(seen.after, &Token::LParen);
        let places = match qualifiers.last() {
            None => Vec::new(),
            Some(qualifier) => {
                // Spans of compound names begin at their first part.
                let all = self
                    .places(|seen| is_word(Some(seen.token), qualifier) && is(seen.after, &Token::Period));
                all.into_iter()
                    .filter(|start| self.is_followed_by(*start, last))
                    .collect()
            }
        };
        if places.is_empty() {
            at(&self.places(named))
        } else {
            at(&places)
        }
    }

    /// Whether the name that begins here goes on with this part.
    fn is_followed_by(&self, start: Location, part: &str) -> bool {
        let index = self.tokens.iter().position(|token| token.span.start == start);
        let part_at = index.and_then(|index| self.tokens.get(index.saturating_add(2)));
        is_word(part_at.map(|token| &token.token), part)
    }

    /// Where a table of FROM is named or renamed so; the last place.
    pub(super) fn at_last_name(&self, name: &str) -> String {
        self.at_last(|seen| is_word(Some(seen.token), name) && !is(seen.after, &Token::Period))
    }

    /// Where an expression gets this name: the last place, behind AS where there is one.
    pub(super) fn at_alias(&self, name: &str) -> String {
        let parts = parts_of_name(name);
        let name = parts.last().map_or(name, String::as_str);
        let renamed = self.at_last(|seen| is_word(Some(seen.token), name) && is_word(seen.before, "as"));
        if renamed.is_empty() {
            self.at_name(name)
        } else {
            renamed
        }
    }

    /// Where WITH defines a query of this name; the last place.
    pub(super) fn at_definition(&self, name: &str) -> String {
        self.at_last(|seen| {
            let defines = is_word(seen.after, "as") || is(seen.after, &Token::LParen);
            is_word(Some(seen.token), name) && defines
        })
    }

    fn at_last(&self, is: impl Fn(&TokenContext<'_>) -> bool) -> String {
        self.places(is)
            .last()
            .map_or_else(String::new, |last| at(&[*last]))
    }

    /// Where a function is called.
    pub(super) fn at_call(&self, function: &str) -> String {
        at(&self.places(|seen| is_word(Some(seen.token), function) && is(seen.after, &Token::LParen)))
    }

    /// Where a text in single quotes or a number stands.
    pub(super) fn at_value(&self, value: &str) -> String {
        at(&self.places(|seen| match seen.token {
            Token::SingleQuotedString(text)
            | Token::EscapedStringLiteral(text)
            | Token::HexStringLiteral(text)
            | Token::NationalStringLiteral(text) => text == value,
            Token::Number(digits, _) => digits == value,
            Token::Placeholder(text) => text == value,
            _ => false,
        }))
    }

    /// Where a keyword or a sign such as `<=` stands.
    pub(super) fn at_sign(&self, sign: &str) -> String {
        at(&self.places(|seen| match seen.token {
            Token::Word(word) => word.quote_style.is_none() && word.value.eq_ignore_ascii_case(sign),
            other => other.to_string() == sign,
        }))
    }

    /// Whether an expression of the text is renamed so.
    pub(super) fn is_alias(&self, name: &str) -> bool {
        let renamed = |seen: &TokenContext<'_>| is_word(Some(seen.token), name) && is_word(seen.before, "as");
        !self.places(renamed).is_empty()
    }

    /// Whether any part of the text is a FROM clause.
    pub(super) fn has_from(&self) -> bool {
        !self.places(|seen| is_word(Some(seen.token), "from")).is_empty()
    }

    /// Whether the token here is a name in double quotes.
    pub(super) fn is_quoted(&self, span: Option<Span>) -> bool {
        let Some(start) = span.map(|span| span.start) else {
            return false;
        };
        let quoted = |token: &Token| matches!(token, Token::Word(word) if word.quote_style == Some('"'));
        self.tokens.iter().any(|token| {
            let here = token.span.start;
            (here.line, here.column) == (start.line, start.column) && quoted(&token.token)
        })
    }

    /// The last place of the text.
    pub(super) fn at_end(&self) -> String {
        self.tokens.last().map_or_else(String::new, |last| {
            let end = last.span.end;
            format!(" at line {}, column {}", end.line, end.column)
        })
    }

    /// The unquoted words before a place, the nearest first, with their places; at most so many.
    pub(super) fn words_before(&self, line: u64, column: u64, most: usize) -> Vec<(String, String)> {
        let here = Location { line, column };
        let before = self.tokens.iter().rev().filter(|token| token.span.start <= here);
        let words = before.filter_map(|token| match &token.token {
            Token::Word(word) if word.quote_style.is_none() => {
                Some((word.value.clone(), at(&[token.span.start])))
            }
            _ => None,
        });
        words.take(most).collect()
    }
}

/// ` at line 1, column 8`, or nothing where the place is not known.
pub(super) fn at_span(span: Option<Span>) -> String {
    span.map_or_else(String::new, |span| {
        format!(" at line {}, column {}", span.start.line, span.start.column)
    })
}

/// A part that is written several times may be meant at each of its places.
fn at(places: &[Location]) -> String {
    if places.is_empty() || places.len() > MAX_PLACES {
        return String::new();
    }
    let one = |place: &Location| format!("line {}, column {}", place.line, place.column);
    let places: Vec<String> = places.iter().map(one).collect();
    format!(" at {}", places.join(" or "))
}

fn is(token: Option<&Token>, other: &Token) -> bool {
    token == Some(other)
}

/// Names without quotes are read in lower case.
fn is_word(token: Option<&Token>, name: &str) -> bool {
    match token {
        Some(Token::Word(word)) if word.quote_style.is_none() => {
            word.value.to_lowercase() == name.to_lowercase()
        }
        Some(Token::Word(word)) => word.value == name,
        Some(Token::SingleQuotedString(text)) => text == name,
        _ => false,
    }
}

/// The parts of a name, without their quotes.
fn parts_of_name(name: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut quoted = false;
    for character in name.chars() {
        match character {
            '"' => quoted = !quoted,
            '.' if !quoted => parts.push(String::new()),
            other => {
                if let Some(part) = parts.last_mut() {
                    part.push(other);
                }
            }
        }
    }
    parts
}
