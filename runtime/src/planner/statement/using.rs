//! The columns that joins with USING merge.
//!
//! DataFusion reads such a column from the left table, which has NULL for rows of the right one alone. Here each
//! unqualified name of it below `RIGHT` and `FULL JOIN … USING` becomes the value that SQL gives it: `coalesce(left.k,
//! right.k)`. Below the other joins the left table is right, but DataFusion takes the name for one of several tables in WHERE, and
//! everywhere if there is another join: there it becomes `left.k`.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident, Join,
    JoinConstraint, JoinOperator, ObjectName, ObjectNamePart, OrderByKind, Query, ReplaceSelectElement,
    ReplaceSelectItem, Select, SelectItem, SetExpr, Spanned, TableAlias, TableFactor, VisitMut, VisitorMut,
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
    let left = left_columns(select);
    let is_chain = select.from.iter().any(|tables| tables.joins.len() > 1);
    if is_chain && !left.is_empty() {
        return substitute(query, &left, InQueries::Stay);
    }
    visit(&mut select.selection, &left, InQueries::Stay)?;
    let merged = merged_columns(select)?;
    if merged.is_empty() {
        return Ok(());
    }
    for item in &mut select.projection {
        replace_in_wildcard(item, &merged)?;
    }
    substitute(query, &merged, InQueries::Refused)
}

/// Puts the values of merged columns in the places of their names.
fn substitute(query: &mut Query, merged: &Merged, in_queries: InQueries) -> Checked {
    let SetExpr::Select(select) = query.body.as_mut() else {
        return Ok(());
    };
    let outputs: Vec<Ident> = select.projection.iter().filter_map(output_name).collect();
    let all = select
        .projection
        .iter()
        .any(|item| matches!(item, SelectItem::Wildcard(_)));
    for item in &mut select.projection {
        name_item(item, merged);
    }
    visit(&mut select.projection, merged, in_queries)?;
    visit(&mut select.selection, merged, in_queries)?;
    visit(&mut select.group_by, merged, in_queries)?;
    visit(&mut select.having, merged, in_queries)?;
    visit(&mut select.qualify, merged, in_queries)?;
    visit(&mut select.named_window, merged, in_queries)?;
    visit(&mut select.distinct, merged, in_queries)?;
    let Some(order) = &mut query.order_by else {
        return Ok(());
    };
    // A name of the result comes first in ORDER BY.
    let mut rest = merged.clone();
    rest.retain(|name, _| !all && !outputs.iter().any(|output| normal(output) == *name));
    match &mut order.kind {
        OrderByKind::All(_) => Ok(()),
        OrderByKind::Expressions(keys) => visit(keys, &rest, in_queries),
    }
}

/// Gives a name to each subquery without one beside such a join: the merged column is written with the names of both sides.
fn name_derived_tables(select: &mut Select) {
    let mut unnamed = 0;
    for tables in &mut select.from {
        if !tables.joins.iter().any(|join| using(join).is_some()) {
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

fn visit(part: &mut impl VisitMut, merged: &Merged, in_queries: InQueries) -> Checked {
    let mut substitute = Substitute {
        merged,
        queries: 0,
        in_queries,
    };
    match part.visit(&mut substitute) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(refusal) => Err(refusal),
    }
}

/// The name of one part.
pub(super) fn single(name: &ObjectName) -> Option<&Ident> {
    match name.0.as_slice() {
        [part] => ObjectNamePart::as_ident(part),
        _ => None,
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
fn name_item(item: &mut SelectItem, merged: &Merged) {
    if let SelectItem::UnnamedExpr(Expr::Identifier(name)) = item
        && merged.contains_key(&normal(name))
    {
        *item = SelectItem::ExprWithAlias {
            expr: Expr::Identifier(name.clone()),
            alias: name.clone(),
        };
    }
}

/// The merged columns of `*` have their values.
fn replace_in_wildcard(item: &mut SelectItem, merged: &Merged) -> Checked {
    let SelectItem::Wildcard(options) = item else {
        return Ok(());
    };
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
        for column in columns.iter().filter_map(single) {
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

/// The columns that all joins merge, with the value of the leftmost table. Of another column a table may have one more.
fn left_columns(select: &Select) -> Merged {
    let [tables] = select.from.as_slice() else {
        return Merged::new();
    };
    let lists = tables.joins.iter().map(|join| match keeps_right(join) {
        None => using(join),
        Some(_) => None,
    });
    let lists: Option<Vec<_>> = lists.collect();
    let (Some(lists), Some(left)) = (lists, relation_name(&tables.relation)) else {
        return Merged::new();
    };
    let has = |list: &[ObjectName], name: &str| {
        list.iter()
            .filter_map(single)
            .any(|column| normal(column) == name)
    };
    let first = lists
        .first()
        .into_iter()
        .flat_map(|list| list.iter())
        .filter_map(single);
    let of_all = first.filter(|column| lists.iter().all(|list| has(list, &normal(column))));
    of_all
        .map(|column| {
            let value = Expr::CompoundIdentifier(vec![left.clone(), column.clone()]);
            (normal(column), value)
        })
        .collect()
}

/// The columns of a join with USING that keeps all rows of its right side, and whether it keeps those of the left too.
fn keeps_right(join: &Join) -> Option<(bool, &[ObjectName])> {
    let full = match &join.join_operator {
        JoinOperator::Right(_) | JoinOperator::RightOuter(_) => false,
        JoinOperator::FullOuter(_) => true,
        _ => return None,
    };
    Some((full, using(join)?))
}

/// The columns of a join with USING.
fn using(join: &Join) -> Option<&[ObjectName]> {
    match constraint(&join.join_operator)? {
        JoinConstraint::Using(columns) => Some(columns),
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

/// What becomes of a name in a subquery. Whose column it is depends on the tables there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum InQueries {
    /// It is left as it is.
    Stay,
    /// The query is refused.
    Refused,
}

/// Puts the values in the places of the names.
struct Substitute<'a> {
    merged: &'a Merged,
    /// How many subqueries the walk is in.
    queries: usize,
    in_queries: InQueries,
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
        if self.queries > 0 && self.in_queries == InQueries::Stay {
            return ControlFlow::Continue(());
        }
        if self.queries > 0 {
            let what = format!(
                "the unqualified column {name} in a subquery below RIGHT or FULL JOIN … USING ({name})"
            );
            return ControlFlow::Break(Refusal::new(what, name.span, "write its table before it"));
        }
        *expr = value.clone();
        ControlFlow::Continue(())
    }
}
