//! An error of DataFusion in one sentence: what is wrong, where in the SQL, and what to write instead.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use datafusion::arrow::error::ArrowError;
use datafusion::common::utils::quote_identifier;
use datafusion::common::{Column, Diagnostic, SchemaError};
use datafusion::error::DataFusionError;

use super::messages;
use super::names::{any_of, instead, nearest};
use super::query_text::{QueryText, at_span};
use super::{PlanError, syntax};
use crate::planner::correlated::CORRELATED_KEY;
use crate::planner::outer_keys::OUTER_KEY;

/// A sentence: `{subject}{at} {predicate}: {fix}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sentence {
    subject: String,
    at: String,
    predicate: String,
    fix: String,
}

impl Sentence {
    /// `at` is ` at line 1, column 8` or empty; without `predicate` the subject says it all.
    pub(super) fn new(
        subject: impl Into<String>,
        at: impl AsRef<str>,
        predicate: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            subject: subject.into(),
            at: at.as_ref().to_owned(),
            predicate: predicate.into(),
            fix: fix.into(),
        }
    }
}

impl fmt::Display for Sentence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            subject,
            at,
            predicate,
            fix,
        } = self;
        let space = if predicate.is_empty() { "" } else { " " };
        write!(f, "{subject}{at}{space}{predicate}: {fix}")
    }
}

/// What the planner refuses, in the words of [`PlanError`].
pub(in crate::planner) fn describe(error: DataFusionError, text: &QueryText) -> PlanError {
    let (diagnostic, cause) = innermost(error);
    let diagnostic = diagnostic.as_ref();
    let sentence = match cause {
        DataFusionError::External(cause) => match cause.downcast::<PlanError>() {
            Ok(typed) => return *typed,
            Err(other) => messages::external(text, &other.to_string()),
        },
        DataFusionError::SQL(error, _) => {
            return PlanError::Syntax {
                message: syntax::sentence(&error, text).to_string(),
            };
        }
        DataFusionError::SchemaError(error, _) => schema_error(&error, diagnostic, text),
        DataFusionError::ArrowError(error, _) => messages::arrow(text, &error.to_string()),
        DataFusionError::Plan(message)
        | DataFusionError::NotImplemented(message)
        | DataFusionError::Execution(message)
        | DataFusionError::Internal(message)
        | DataFusionError::Configuration(message)
        | DataFusionError::ResourcesExhausted(message) => messages::planning(text, diagnostic, &message),
        other => messages::external(text, &other.strip_backtrace()),
    };
    PlanError::Query {
        message: sentence.to_string(),
    }
}

/// The error under all wrappers, and the outermost diagnostic on the way.
fn innermost(error: DataFusionError) -> (Option<Diagnostic>, DataFusionError) {
    let mut diagnostic: Option<Diagnostic> = None;
    let mut error = error;
    loop {
        error = match error {
            DataFusionError::Context(_, inner) => *inner,
            DataFusionError::Diagnostic(outer, inner) => {
                diagnostic.get_or_insert(*outer);
                *inner
            }
            DataFusionError::Collection(errors) => match errors.into_iter().next() {
                Some(first) => first,
                None => return (diagnostic, DataFusionError::Plan("the query is refused".into())),
            },
            DataFusionError::Shared(shared) => match Arc::try_unwrap(shared) {
                Ok(inner) => inner,
                Err(shared) => {
                    return (
                        diagnostic,
                        DataFusionError::External(shared.strip_backtrace().into()),
                    );
                }
            },
            DataFusionError::External(inner) => match inner.downcast::<DataFusionError>() {
                Ok(inner) => *inner,
                Err(other) => return (diagnostic, DataFusionError::External(other)),
            },
            DataFusionError::ArrowError(inner, trace) => match *inner {
                ArrowError::ExternalError(inner) => DataFusionError::External(inner),
                other => return (diagnostic, DataFusionError::ArrowError(Box::new(other), trace)),
            },
            other => return (diagnostic, other),
        };
    }
}

fn schema_error(error: &SchemaError, diagnostic: Option<&Diagnostic>, text: &QueryText) -> Sentence {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            unknown_column(field, valid_fields, diagnostic, text)
        }
        SchemaError::AmbiguousReference { field } => {
            let name = field.quoted_flat_name();
            let notes = diagnostic.iter().flat_map(|diagnostic| &diagnostic.notes);
            let possible: Vec<&str> = notes
                .filter_map(|note| note.message.strip_prefix("possible column "))
                .collect();
            let fix = if possible.is_empty() {
                "write the name of its table and a point before it".to_owned()
            } else {
                format!("write {}", any_of(&possible))
            };
            let at = place(diagnostic, field, text);
            Sentence::new(format!("column {name}"), at, "is a column of several tables", fix)
        }
        SchemaError::DuplicateQualifiedField { qualifier, .. } => Sentence::new(
            format!("the name {}", qualifier.table()),
            text.at_last_name(qualifier.table()),
            "stands for two tables of one FROM",
            "give one of them another alias",
        ),
        SchemaError::DuplicateUnqualifiedField { name } => Sentence::new(
            format!("the name {name}"),
            text.at_last_name(name),
            "stands for two columns of one SELECT",
            "name one of them with AS",
        ),
    }
}

fn place(diagnostic: Option<&Diagnostic>, field: &Column, text: &QueryText) -> String {
    let span = diagnostic.and_then(|diagnostic| diagnostic.span);
    match span.or_else(|| field.spans.first()) {
        None => text.at_name(&field.quoted_flat_name()),
        span => at_span(span),
    }
}

fn unknown_column(
    field: &Column,
    valid_fields: &[Column],
    diagnostic: Option<&Diagnostic>,
    text: &QueryText,
) -> Sentence {
    // A name of the planner's own, or among them, is none of the text.
    let is_own = |column: &Column| {
        let table = column.relation.as_ref().map_or("", |table| table.table());
        [CORRELATED_KEY, OUTER_KEY]
            .iter()
            .any(|key| column.name.starts_with(key))
            || table.starts_with("__")
    };
    if is_own(field) || valid_fields.iter().any(is_own) {
        let what = "a subquery in FROM of another subquery";
        let says = "compares its rows with the query around both";
        return Sentence::new(what, "", says, "write a join");
    }
    let at = place(diagnostic, field, text);
    let subject = format!("column {}", field.quoted_flat_name());
    let unknown = |fix: String| Sentence::new(subject.clone(), &at, "is not known there", fix);
    let same = |valid: &&Column| valid.name != field.name && valid.name.eq_ignore_ascii_case(&field.name);
    if let Some(other) = valid_fields.iter().find(same) {
        let name = quote_identifier(&other.name);
        return unknown(format!(
            "write {name}: names without double quotes are read in lower case"
        ));
    }
    // Those that a name of this table may stand for; results of the planner's own are no columns that one can write.
    let of_table = |valid: &&Column| field.relation.is_none() || valid.relation == field.relation;
    let writable = |valid: &&Column| !valid.name.contains('(');
    let mut columns: Vec<&Column> = valid_fields.iter().filter(of_table).filter(writable).collect();
    if columns.is_empty() {
        columns = valid_fields.iter().filter(writable).collect();
    }
    let tables: BTreeSet<_> = columns.iter().map(|valid| &valid.relation).collect();
    let qualified = tables.len() > 1 || field.relation.is_some();
    if field.relation.is_none() && text.is_alias(&field.name) {
        let fix = "it names an expression of a SELECT list, which is computed later: repeat the expression";
        return unknown(fix.to_owned());
    }
    let span = diagnostic.and_then(|diagnostic| diagnostic.span);
    if text.is_quoted(span) && field.relation.is_none() {
        let fix = format!(
            "write '{}' if it is a text: double quotes are for names",
            field.name
        );
        return unknown(fix);
    }
    let near = nearest(&field.name, columns.iter().map(|valid| valid.name.as_str()));
    let mut names: Vec<String> = Vec::new();
    let mut near_names: Vec<String> = Vec::new();
    for valid in columns {
        let name = match qualified && valid.relation.is_some() {
            true => valid.quoted_flat_name(),
            false => quote_identifier(&valid.name).into_owned(),
        };
        if near.contains(&valid.name.as_str()) && !near_names.contains(&name) {
            near_names.push(name.clone());
        }
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let near: Vec<&str> = near_names.iter().map(String::as_str).collect();
    let without = || match text.has_from() {
        true => "write a constant there".to_owned(),
        false => "add a FROM clause".to_owned(),
    };
    unknown(instead(&near, &names).unwrap_or_else(without))
}
