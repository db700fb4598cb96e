//! The columns that `RIGHT` and `FULL JOIN … USING` merge.
//!
//! DataFusion reads such a column from the left table, which has NULL for rows of the right one alone. Here each
//! unqualified name of it becomes the value that SQL gives it: `coalesce(left.k, right.k)`.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident, Join,
    JoinConstraint, JoinOperator, ObjectName, OrderByKind, Query, ReplaceSelectElement, ReplaceSelectItem,
    Select, SelectItem, SetExpr, Spanned, TableAlias, TableFactor, VisitMut, VisitorMut,
};

use super::refusal::{Checked, Refusal};

/// Column to its value.
type Merged = BTreeMap<String, Expr>;

/// Rewrites the SELECT of a query and its ORDER BY; subqueries are visited on their own.
pub(super) fn merge_columns(query: &mut Query) -> Checked {
    let SetExpr::Select(select) = query.body.as_mut() else {
        return Ok(());
    };
    name_derived_tables(select);
    let merged = merged_columns(select)?;
    if merged.is_empty() {
        return Ok(());
    }
    let outputs: Vec<Ident> = select.projection.iter().filter_map(output_name).collect();
    let all = select
        .projection
        .iter()
        .any(|item| matches!(item, SelectItem::Wildcard(_)));
    for item in &mut select.projection {
        name_item(item, &merged)?;
    }
    let mut whole = Substitute {
        merged: &merged,
        queries: 0,
    };
    visit(&mut select.projection, &mut whole)?;
    visit(&mut select.selection, &mut whole)?;
    visit(&mut select.group_by, &mut whole)?;
    visit(&mut select.having, &mut whole)?;
    visit(&mut select.qualify, &mut whole)?;
    visit(&mut select.named_window, &mut whole)?;
    visit(&mut select.distinct, &mut whole)?;
    let Some(order) = &mut query.order_by else {
        return Ok(());
    };
    // A name of the result comes first in ORDER BY.
    let mut rest = merged.clone();
    rest.retain(|name, _| !all && !outputs.iter().any(|output| normal(output) == *name));
    match &mut order.kind {
        OrderByKind::All(_) => Ok(()),
        OrderByKind::Expressions(keys) => visit(
            keys,
            &mut Substitute {
                merged: &rest,
                queries: 0,
            },
        ),
    }
}

/// Gives a name to each subquery without one beside such a join: the merged column is written with the names of both sides.
fn name_derived_tables(select: &mut Select) {
    let mut unnamed = 0;
    for tables in &mut select.from {
        if !tables.joins.iter().any(|join| keeps_right(join).is_some()) {
            continue;
        }
        let joined = tables.joins.iter_mut().map(|join| &mut join.relation);
        for relation in std::iter::once(&mut tables.relation).chain(joined) {
            if let TableFactor::Derived { alias, .. } = relation
                && alias.is_none()
            {
                unnamed += 1;
                *alias = Some(TableAlias {
                    explicit: true,
                    name: Ident::with_quote('"', format!("__unnamed_{unnamed}")),
                    columns: Vec::new(),
                    at: None,
                });
            }
        }
    }
}

fn visit(part: &mut impl VisitMut, substitute: &mut Substitute<'_>) -> Checked {
    match part.visit(substitute) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(refusal) => Err(refusal),
    }
}

/// A name as DataFusion compares it.
pub(super) fn normal(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_ascii_lowercase(),
    }
}

fn output_name(item: &SelectItem) -> Option<Ident> {
    match item {
        SelectItem::UnnamedExpr(Expr::Identifier(name)) => Some(name.clone()),
        SelectItem::UnnamedExpr(Expr::CompoundIdentifier(names)) => names.last().cloned(),
        SelectItem::ExprWithAlias { expr: _, alias } => Some(alias.clone()),
        SelectItem::UnnamedExpr(_)
        | SelectItem::ExprWithAliases { .. }
        | SelectItem::QualifiedWildcard(_, _)
        | SelectItem::Wildcard(_) => None,
    }
}

/// A merged column keeps its name in the result.
fn name_item(item: &mut SelectItem, merged: &Merged) -> Checked {
    match item {
        SelectItem::UnnamedExpr(Expr::Identifier(name)) if merged.contains_key(&normal(name)) => {
            *item = SelectItem::ExprWithAlias {
                expr: Expr::Identifier(name.clone()),
                alias: name.clone(),
            };
            Ok(())
        }
        SelectItem::Wildcard(options) => {
            let chosen = options.opt_exclude.is_some()
                || options.opt_except.is_some()
                || options.opt_replace.is_some()
                || options.opt_ilike.is_some();
            if chosen {
                let at = options.wildcard_token.0.span;
                let what = "a choice of columns of * over RIGHT or FULL JOIN … USING";
                return Err(Refusal::new(what, at, "name the columns"));
            }
            let items = merged.iter().map(|(name, value)| {
                Box::new(ReplaceSelectElement {
                    expr: value.clone(),
                    column_name: Ident::with_quote('"', name),
                    as_keyword: true,
                })
            });
            options.opt_replace = Some(ReplaceSelectItem {
                items: items.collect(),
            });
            Ok(())
        }
        SelectItem::UnnamedExpr(_)
        | SelectItem::ExprWithAlias { .. }
        | SelectItem::ExprWithAliases { .. }
        | SelectItem::QualifiedWildcard(_, _) => Ok(()),
    }
}

fn merged_columns(select: &Select) -> Result<Merged, Refusal> {
    let mut merged = Merged::new();
    for tables in &select.from {
        let joins = &tables.joins;
        let Some(first) = joins.iter().position(|join| keeps_right(join).is_some()) else {
            continue;
        };
        let chain = |join: &Join| {
            let fix = "join with ON and write coalesce(…) where the merged column is meant";
            let what = "RIGHT or FULL JOIN … USING beside another join with USING or NATURAL";
            Refusal::new(what, join.relation.span(), fix)
        };
        for (place, join) in joins.iter().enumerate() {
            let merges = matches!(
                constraint(&join.join_operator),
                Some(JoinConstraint::Using(_) | JoinConstraint::Natural)
            );
            // The table of the left column is known if there is but one.
            if merges && (place != first || place != 0) {
                return Err(chain(join));
            }
        }
        let Some(join) = joins.get(first) else { continue };
        let (Some((full, columns)), Some(left), Some(right)) = (
            keeps_right(join),
            relation_name(&tables.relation),
            relation_name(&join.relation),
        ) else {
            let fix = "give both tables an alias";
            let what = "RIGHT or FULL JOIN … USING of a table without a name";
            return Err(Refusal::new(what, join.relation.span(), fix));
        };
        for column in columns {
            let Some(column) = column.0.last().and_then(|part| part.as_ident()) else {
                continue;
            };
            let of = |table: &Ident| Expr::CompoundIdentifier(vec![table.clone(), column.clone()]);
            let value = if full {
                coalesce(of(&left), of(&right))
            } else {
                of(&right)
            };
            merged.insert(normal(column), value);
        }
    }
    Ok(merged)
}

/// The columns of a join with USING that keeps all rows of its right side, and whether it keeps those of the left too.
fn keeps_right(join: &Join) -> Option<(bool, &[ObjectName])> {
    let (full, constraint) = match &join.join_operator {
        JoinOperator::Right(constraint) | JoinOperator::RightOuter(constraint) => (false, constraint),
        JoinOperator::FullOuter(constraint) => (true, constraint),
        _ => return None,
    };
    match constraint {
        JoinConstraint::Using(columns) => Some((full, columns)),
        JoinConstraint::On(_) | JoinConstraint::Natural | JoinConstraint::None => None,
    }
}

/// The constraint of a join that may have one with USING.
pub(super) fn constraint(join: &JoinOperator) -> Option<&JoinConstraint> {
    match join {
        JoinOperator::Join(constraint)
        | JoinOperator::Inner(constraint)
        | JoinOperator::Left(constraint)
        | JoinOperator::LeftOuter(constraint)
        | JoinOperator::Right(constraint)
        | JoinOperator::RightOuter(constraint)
        | JoinOperator::FullOuter(constraint) => Some(constraint),
        _ => None,
    }
}

pub(super) fn relation_name(factor: &TableFactor) -> Option<Ident> {
    match factor {
        TableFactor::Table { name, alias, .. } => match alias {
            Some(alias) => Some(alias.name.clone()),
            None => name.0.last().and_then(|part| part.as_ident()).cloned(),
        },
        TableFactor::Derived { alias, .. } => alias.as_ref().map(|alias| alias.name.clone()),
        _ => None,
    }
}

fn coalesce(left: Expr, right: Expr) -> Expr {
    let argument = |expr| FunctionArg::Unnamed(FunctionArgExpr::Expr(expr));
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new("coalesce")]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args: vec![argument(left), argument(right)],
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

/// Puts the values in the places of the names.
struct Substitute<'a> {
    merged: &'a Merged,
    /// How many subqueries the walk is in.
    queries: usize,
}

impl VisitorMut for Substitute<'_> {
    type Break = Refusal;

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<Refusal> {
        self.queries += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<Refusal> {
        self.queries = self.queries.saturating_sub(1);
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Refusal> {
        let Expr::Identifier(name) = expr else {
            return ControlFlow::Continue(());
        };
        let Some(value) = self.merged.get(&normal(name)) else {
            return ControlFlow::Continue(());
        };
        if self.queries > 0 {
            // Whose column it is depends on the tables of the subquery.
            let what = format!(
                "the unqualified column {name} in a subquery below RIGHT or FULL JOIN … USING ({name})"
            );
            return ControlFlow::Break(Refusal::new(what, name.span, "write its table before it"));
        }
        *expr = value.clone();
        ControlFlow::Continue(())
    }
}
