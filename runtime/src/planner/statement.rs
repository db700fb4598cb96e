//! One statement, and only a query.

mod analyzed;
mod clauses;
mod dialect;
mod expressions;
mod like;
mod natural;
mod numbers;
mod refusal;
mod rewrite;
mod sample;
mod using;

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::error::DataFusionError;
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast::{self, Visit, Visitor};
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

use super::error::{Names, PlanError, QueryText, describe};
use super::session::RECURSION_LIMIT;
pub use analyzed::analyzed_query;
use dialect::SluiceDialect;
pub(crate) use natural::TableColumns;
pub(crate) use sample::Sampled;

/// Parses `sql`, which must be one query (`SELECT`, `WITH`, `VALUES`, set operations of them).
/// `scalars` are the names of functions that give a value for each row; `tables` the columns of the tables that it may
/// read, which need not be known to tell which those are. Beside the statement: what samples it asks for, see [`Sampled`].
pub(crate) fn parse(
    sql: &str,
    scalars: &BTreeSet<&str>,
    tables: Option<&TableColumns>,
) -> Result<(Statement, Vec<Sampled>), PlanError> {
    let dialect = SluiceDialect;
    let statements = DFParserBuilder::new(sql)
        .with_dialect(&dialect)
        .with_recursion_limit(RECURSION_LIMIT)
        .build()
        .and_then(|mut parser| parser.parse_statements())
        .map_err(|error| syntax(error, sql))?;
    let count = statements.len();
    let Some(statement) = statements.into_iter().next() else {
        return Err(PlanError::Empty);
    };
    if count > 1 {
        return Err(PlanError::SeveralStatements {
            count,
            position: position(sql, 1),
        });
    }
    check_depth(&statement)?;
    if let Some(what) = refused(&statement) {
        let position = position(sql, 0);
        if what == EXPLAIN {
            return Err(PlanError::Explain { position });
        }
        return Err(PlanError::NotAQuery { what, position });
    }
    let mut statement = statement;
    let mut samples = Vec::new();
    if let Statement::Statement(inner) = &mut statement {
        natural::name_columns(inner, tables);
        rewrite::rewrite(inner)?;
        samples = sample::take(inner.as_mut())?;
        clauses::check(inner, &tokens(sql), scalars)?;
    }
    Ok((statement, samples))
}

/// The longest chain of operators (`a + b + c`, `x OR y OR z`) and nesting of expressions that is planned. The
/// parser follows chains of any length; planners take time and memory by the square of it, tasks a part of
/// their stack for each level.
pub(crate) const MAX_EXPRESSION_DEPTH: usize = 1000;

/// The most SELECTs that UNION, INTERSECT and EXCEPT put in a row.
const MAX_SET_OPERANDS: usize = 500;

/// Refuses long chains before any planner sees them.
fn check_depth(statement: &Statement) -> Result<(), PlanError> {
    let Statement::Statement(inner) = statement else {
        return Ok(());
    };
    match inner.visit(&mut Depth::default()) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(what) => Err(PlanError::TooDeep { what }),
    }
}

/// How deep the walk of a statement is in expressions.
#[derive(Default)]
struct Depth {
    expressions: usize,
}

impl Visitor for Depth {
    type Break = String;

    fn pre_visit_expr(&mut self, _: &ast::Expr) -> ControlFlow<String> {
        self.expressions += 1;
        if self.expressions <= MAX_EXPRESSION_DEPTH {
            return ControlFlow::Continue(());
        }
        ControlFlow::Break(format!(
            "an expression has more than {MAX_EXPRESSION_DEPTH} levels or operands in a row; IN (…) takes the \
             place of many ORs"
        ))
    }

    fn post_visit_expr(&mut self, _: &ast::Expr) -> ControlFlow<String> {
        self.expressions = self.expressions.saturating_sub(1);
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &ast::Query) -> ControlFlow<String> {
        let mut selects = 1;
        let mut body = query.body.as_ref();
        while let ast::SetExpr::SetOperation { left, .. } = body {
            selects += 1;
            body = left.as_ref();
        }
        if selects <= MAX_SET_OPERANDS {
            return ControlFlow::Continue(());
        }
        ControlFlow::Break(format!(
            "{selects} SELECTs in a row, at most {MAX_SET_OPERANDS} are planned"
        ))
    }
}

fn syntax(error: DataFusionError, sql: &str) -> PlanError {
    if let DataFusionError::SQL(parser, _) = error.find_root()
        && matches!(parser.as_ref(), ParserError::RecursionLimitExceeded)
    {
        return PlanError::TooDeep {
            what: format!("more than {RECURSION_LIMIT} levels of parentheses, operators or subqueries"),
        };
    }
    describe(error, &QueryText::new(tokens(sql), Names::default()))
}

/// The tokens of a text with their places; those before the first one that cannot be read.
pub(crate) fn tokens(sql: &str) -> Vec<TokenWithSpan> {
    let mut tokens = Vec::new();
    // What is wrong with the rest is the parser's to say.
    let _ = Tokenizer::new(&SluiceDialect, sql).tokenize_with_location_into_buf(&mut tokens);
    tokens
}

/// The kind of a statement that asks for a plan.
const EXPLAIN: &str = "EXPLAIN";

/// What a statement is, if it is no query.
fn refused(statement: &Statement) -> Option<String> {
    match statement {
        Statement::Statement(inner) => match inner.as_ref() {
            ast::Statement::Query(query) => refused_query(query),
            other => Some(first_words(&other.to_string())),
        },
        Statement::CreateExternalTable(_) => Some("CREATE EXTERNAL TABLE".into()),
        Statement::CopyTo(_) => Some("COPY".into()),
        Statement::Explain(_) => Some(EXPLAIN.into()),
        Statement::Reset(_) => Some("RESET".into()),
    }
}

/// A query may hide a statement that writes: `WITH … INSERT`, `SELECT … INTO`.
fn refused_query(query: &ast::Query) -> Option<String> {
    let hidden = query
        .with
        .iter()
        .flat_map(|with| &with.cte_tables)
        .find_map(|cte| refused_query(&cte.query));
    hidden.or_else(|| refused_set(&query.body))
}

fn refused_set(body: &ast::SetExpr) -> Option<String> {
    match body {
        ast::SetExpr::Insert(_) => Some("INSERT".into()),
        ast::SetExpr::Update(_) => Some("UPDATE".into()),
        ast::SetExpr::Delete(_) => Some("DELETE".into()),
        ast::SetExpr::Merge(_) => Some("MERGE".into()),
        ast::SetExpr::Select(select) if select.into.is_some() => Some("SELECT INTO".into()),
        ast::SetExpr::Query(query) => refused_query(query),
        ast::SetExpr::SetOperation { left, right, .. } => refused_set(left).or_else(|| refused_set(right)),
        ast::SetExpr::Select(_) | ast::SetExpr::Values(_) | ast::SetExpr::Table(_) => None,
    }
}

/// The words that name a kind of statement: the upper-case words it begins with, at most three.
fn first_words(text: &str) -> String {
    let words: Vec<&str> = text
        .split_whitespace()
        .take(3)
        .take_while(|word| word.chars().all(|c| c.is_ascii_uppercase()))
        .collect();
    if words.is_empty() {
        "this statement".into()
    } else {
        words.join(" ")
    }
}

/// Where statement `index` (from 0) begins: the first token after that many semicolons.
fn position(sql: &str, index: usize) -> String {
    let tokens = tokens(sql);
    let mut after_semicolon = true;
    let mut begun = 0;
    for token in &tokens {
        match token.token {
            Token::Whitespace(_) => {}
            Token::SemiColon => after_semicolon = true,
            _ if after_semicolon && begun == index => {
                let start = token.span.start;
                return format!("line {}, column {}", start.line, start.column);
            }
            _ if after_semicolon => {
                after_semicolon = false;
                begun += 1;
            }
            _ => {}
        }
    }
    "the end of the text".into()
}
