//! Clauses that DataFusion's planner does not know or drops, written with those that it plans.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    self, BinaryOperator, Expr, Fetch, GroupByExpr, GroupByWithModifier, LimitClause, SelectFlavor, VisitMut,
    VisitorMut,
};
use datafusion::sql::sqlparser::tokenizer::Span;

use super::like::escape_with_backslash;
use super::numbers::keep_digits;
use super::refusal::{Checked, Refusal};
use super::using;

/// Rewrites a statement in place.
pub(super) fn rewrite(statement: &mut ast::Statement) -> Checked {
    match statement.visit(&mut Rewrite) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(refusal) => Err(refusal),
    }
}

struct Rewrite;

impl VisitorMut for Rewrite {
    type Break = Refusal;

    fn pre_visit_query(&mut self, query: &mut ast::Query) -> ControlFlow<Refusal> {
        if query.limit_clause.is_none()
            && let Some(fetch) = query.fetch.take_if(|fetch| !fetch.with_ties && !fetch.percent)
        {
            query.limit_clause = Some(limit_of(fetch));
        }
        if let ast::SetExpr::Select(select) = query.body.as_mut()
            && select.flavor == SelectFlavor::FromFirstNoSelect
        {
            select.projection = vec![ast::SelectItem::Wildcard(
                ast::WildcardAdditionalOptions::default(),
            )];
            select.flavor = SelectFlavor::Standard;
        }
        match using::merge_columns(query) {
            Ok(()) => ControlFlow::Continue(()),
            Err(refusal) => ControlFlow::Break(refusal),
        }
    }

    fn pre_visit_select(&mut self, select: &mut ast::Select) -> ControlFlow<Refusal> {
        if let GroupByExpr::Expressions(keys, modifiers) = &mut select.group_by {
            group_with_modifier(keys, modifiers);
            keys.iter_mut().for_each(name_empty_set);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Refusal> {
        if let Some(scalar) = compare_tuples(expr) {
            *expr = scalar;
        }
        match escape_with_backslash(expr).and_then(|()| keep_digits(expr)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(refusal) => ControlFlow::Break(refusal),
        }
    }
}

/// `FETCH FIRST n ROWS ONLY` is `LIMIT n`.
fn limit_of(fetch: Fetch) -> LimitClause {
    let one = || Expr::Value(ast::Value::Number("1".into(), false).with_span(Span::empty()));
    LimitClause::LimitOffset {
        limit: Some(fetch.quantity.unwrap_or_else(one)),
        offset: None,
        limit_by: Vec::new(),
    }
}

/// `GROUP BY a, b WITH ROLLUP` is `GROUP BY ROLLUP (a, b)`; the same for CUBE.
fn group_with_modifier(keys: &mut Vec<Expr>, modifiers: &mut Vec<GroupByWithModifier>) {
    let make: fn(Vec<Vec<Expr>>) -> Expr = match modifiers.as_slice() {
        [GroupByWithModifier::Rollup] => Expr::Rollup,
        [GroupByWithModifier::Cube] => Expr::Cube,
        _ => return,
    };
    let nested = |key: &Expr| matches!(key, Expr::Rollup(_) | Expr::Cube(_) | Expr::GroupingSets(_));
    if keys.iter().any(nested) {
        return;
    }
    modifiers.clear();
    let sets = keys.drain(..).map(|key| vec![key]).collect();
    keys.push(make(sets));
}

/// `GROUP BY ()` is `GROUP BY GROUPING SETS (())`.
fn name_empty_set(key: &mut Expr) {
    if tuple(key).is_some_and(<[_]>::is_empty) {
        *key = Expr::GroupingSets(vec![Vec::new()]);
    }
}

/// Comparisons of rows field by field, as SQL defines them for NULL: DataFusion compares structs, of which a field may
/// be NULL without the comparison being so.
fn compare_tuples(expr: &Expr) -> Option<Expr> {
    match expr {
        Expr::BinaryOp { left, op, right } => {
            let (left, right) = (tuple(left)?, tuple(right)?);
            let equal = all_equal(left, right)?;
            match op {
                BinaryOperator::Eq => Some(equal),
                BinaryOperator::NotEq => Some(not(equal)),
                _ => None,
            }
        }
        Expr::InList { expr, list, negated } => {
            let left = tuple(expr)?;
            let equals = list.iter().map(|right| all_equal(left, tuple(right)?));
            let any = equals
                .collect::<Option<Vec<_>>>()?
                .into_iter()
                .reduce(|one, two| binary(one, BinaryOperator::Or, two))?;
            let any = Expr::Nested(Box::new(any));
            Some(if *negated { not(any) } else { any })
        }
        _ => None,
    }
}

fn tuple(expr: &Expr) -> Option<&[Expr]> {
    match expr {
        Expr::Tuple(fields) => Some(fields),
        Expr::Nested(inner) => tuple(inner),
        _ => None,
    }
}

fn all_equal(left: &[Expr], right: &[Expr]) -> Option<Expr> {
    if left.len() != right.len() {
        return None;
    }
    let equals = left
        .iter()
        .zip(right)
        .map(|(left, right)| binary(left.clone(), BinaryOperator::Eq, right.clone()));
    let all = equals.reduce(|one, two| binary(one, BinaryOperator::And, two))?;
    Some(Expr::Nested(Box::new(all)))
}

fn binary(left: Expr, op: BinaryOperator, right: Expr) -> Expr {
    Expr::BinaryOp {
        left: Box::new(left),
        op,
        right: Box::new(right),
    }
}

fn not(expr: Expr) -> Expr {
    Expr::UnaryOp {
        op: ast::UnaryOperator::Not,
        expr: Box::new(expr),
    }
}
