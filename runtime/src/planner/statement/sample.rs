//! `TABLESAMPLE`: the table is marked, and what is asked of it is kept beside the statement.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Ident, ObjectName, SetExpr, Spanned, TableAlias, TableFactor, TableSample, TableSampleKind,
    TableSampleMethod, TableSampleQuantity, TableSampleUnit, TableWithJoins, Value, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::Span;
use uuid::Uuid;

use super::super::error::PlanError;
use super::super::sample::{Method, Sample};
use super::refusal::Refusal;

/// What is asked of a table.
#[derive(Debug, Clone)]
pub(crate) struct Sampled {
    /// The alias of the table in the rewritten statement.
    pub(crate) marker: String,
    pub(crate) sample: Sample,
    at: Span,
}

impl Sampled {
    /// The refusal of a sample of something that is no table.
    pub(crate) fn no_table(&self) -> PlanError {
        let fix = "sample the tables that it reads: the rows of a subquery have no places";
        Refusal::new("TABLESAMPLE of a subquery", self.at, fix).into()
    }
}

/// Takes the samples out of a statement: `t TABLESAMPLE …` becomes a subquery over `t` with a marker.
pub(super) fn take(statement: &mut impl VisitMut) -> Result<Vec<Sampled>, Refusal> {
    let mut tables = Tables { samples: Vec::new() };
    match statement.visit(&mut tables) {
        ControlFlow::Continue(()) => Ok(tables.samples),
        ControlFlow::Break(refusal) => Err(refusal),
    }
}

struct Tables {
    samples: Vec<Sampled>,
}

impl VisitorMut for Tables {
    type Break = Refusal;

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Refusal> {
        let at = factor.span();
        let TableFactor::Table {
            name, alias, sample, ..
        } = factor
        else {
            return ControlFlow::Continue(());
        };
        let Some(TableSampleKind::BeforeTableAlias(asked) | TableSampleKind::AfterTableAlias(asked)) =
            sample.take()
        else {
            return ControlFlow::Continue(());
        };
        let sample = match sample_of(&asked, at) {
            Ok(sample) => sample,
            Err(refusal) => return ControlFlow::Break(refusal),
        };
        let Some(outside) = alias.take().or_else(|| alias_of(name)) else {
            return ControlFlow::Break(Refusal::new("TABLESAMPLE", at, "sample a table"));
        };
        let marker = format!("TABLESAMPLE {}", self.samples.len());
        *alias = Some(plain_alias(Ident::with_quote('"', &marker)));
        self.samples.push(Sampled { marker, sample, at });
        match all_of(factor.clone(), outside) {
            Ok(all) => *factor = all,
            Err(error) => return ControlFlow::Break(Refusal::new("TABLESAMPLE", at, error.to_string())),
        }
        ControlFlow::Continue(())
    }
}

fn alias_of(name: &ObjectName) -> Option<TableAlias> {
    let last = name.0.last().and_then(|part| part.as_ident())?;
    Some(plain_alias(last.clone()))
}

fn plain_alias(name: Ident) -> TableAlias {
    TableAlias {
        explicit: true,
        name,
        columns: Vec::new(),
        at: None,
    }
}

/// `(SELECT * FROM table) AS alias`
fn all_of(table: TableFactor, alias: TableAlias) -> Result<TableFactor, ParserError> {
    let mut all = Parser::new(&GenericDialect {})
        .try_with_sql("SELECT * FROM x")?
        .parse_query()?;
    if let SetExpr::Select(select) = all.body.as_mut() {
        select.from = vec![TableWithJoins {
            relation: table,
            joins: Vec::new(),
        }];
    }
    Ok(TableFactor::Derived {
        lateral: false,
        subquery: all,
        alias: Some(alias),
        sample: None,
    })
}

fn sample_of(asked: &TableSample, at: Span) -> Result<Sample, Refusal> {
    let TableSample {
        // SAMPLE is another word for it.
        modifier: _,
        name,
        quantity,
        seed,
        bucket,
        offset,
    } = asked;
    let by_percent = "write TABLESAMPLE BERNOULLI (percent) or SYSTEM (percent)";
    if bucket.is_some() {
        return Err(Refusal::new("TABLESAMPLE (BUCKET …)", at, by_percent));
    }
    if offset.is_some() {
        return Err(Refusal::new("TABLESAMPLE … OFFSET", at, by_percent));
    }
    let Some(TableSampleQuantity {
        parenthesized: _,
        value,
        unit,
    }) = quantity
    else {
        return Err(Refusal::new("TABLESAMPLE without a percentage", at, by_percent));
    };
    match unit {
        None | Some(TableSampleUnit::Percent) => {}
        Some(TableSampleUnit::Rows) => {
            let fix = "write a percentage, or ORDER BY random() LIMIT n in a subquery";
            return Err(Refusal::new("TABLESAMPLE (n ROWS)", at, fix));
        }
    }
    let percent = number(value).filter(|percent| (0.0..=100.0).contains(percent));
    let percent = percent.ok_or_else(|| {
        let what = format!("TABLESAMPLE of {value} percent");
        Refusal::new(what, at, "write a number from 0 to 100")
    })?;
    let method = match name {
        None | Some(TableSampleMethod::Bernoulli | TableSampleMethod::Row) => Method::Bernoulli,
        Some(TableSampleMethod::System | TableSampleMethod::Block) => Method::System,
    };
    let seed = match seed {
        // Drawn once: all tasks and attempts are given the same.
        None => Uuid::new_v4().as_u64_pair().0,
        Some(seed) => seed_of(&seed.value.value).ok_or_else(|| {
            Refusal::new(
                format!("{} ({})", seed.modifier, seed.value),
                at,
                "write a number",
            )
        })?,
    };
    Ok(Sample {
        method,
        percent,
        seed,
    })
}

fn number(value: &Expr) -> Option<f64> {
    match value {
        Expr::Value(value) => match &value.value {
            Value::Number(text, _) => text.parse().ok(),
            _ => None,
        },
        Expr::Nested(inner) => number(inner),
        _ => None,
    }
}

fn seed_of(value: &Value) -> Option<u64> {
    let Value::Number(text, _) = value else {
        return None;
    };
    let whole = text.parse().ok();
    whole.or_else(|| text.parse::<f64>().ok().map(f64::to_bits))
}
