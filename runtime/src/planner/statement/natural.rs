//! NATURAL joins as joins with USING, whose columns are merged as SQL asks for. The columns of both sides are told from the
//! text and the tables; where they cannot be, the join is left as it is, and `NATURAL RIGHT` and `FULL JOIN` are refused.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    self, Cte, Expr, Ident, JoinConstraint, JoinOperator, ObjectName, Query, Select, SelectItem,
    SelectItemQualifiedWildcardKind, SetExpr, SetQuantifier, TableAlias, TableFactor, TableWithJoins, Value,
    VisitMut, VisitorMut, WildcardAdditionalOptions,
};
use datafusion::sql::sqlparser::tokenizer::Span;

use super::using::{constraint, normal, relation_name, single};

/// The columns of tables by name.
pub(crate) type TableColumns = BTreeMap<String, Vec<String>>;

/// Names the columns of each such join. Without `tables` only the tables of the statement matter, not their columns.
pub(super) fn name_columns(statement: &mut ast::Statement, tables: Option<&TableColumns>) {
    let mut naming = Naming {
        tables,
        scopes: Vec::new(),
    };
    match statement.visit(&mut naming) {
        ControlFlow::Continue(()) => {}
        ControlFlow::Break(never) => match never {},
    }
}

/// A walk through a statement: what its queries call their WITH queries, of the outer ones first.
struct Naming<'a> {
    tables: Option<&'a TableColumns>,
    scopes: Vec<Scope>,
}

/// The columns of WITH queries; `None` for those that cannot be told.
type Scope = BTreeMap<String, Option<Vec<String>>>;

impl VisitorMut for Naming<'_> {
    type Break = Infallible;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Infallible> {
        self.enter(query);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<Infallible> {
        self.scopes.pop();
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Infallible> {
        for from in &mut select.from {
            self.name(from);
        }
        ControlFlow::Continue(())
    }
}

impl Naming<'_> {
    fn enter(&mut self, query: &Query) {
        self.scopes.push(Scope::new());
        for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
            let columns = self.of_cte(cte);
            if let Some(scope) = self.scopes.last_mut() {
                scope.insert(normal(&cte.alias.name), columns);
            }
        }
    }

    fn name(&mut self, from: &mut TableWithJoins) {
        // Of a chain of joins nobody knows which column is meant, see `using`.
        let [join] = from.joins.as_mut_slice() else {
            return;
        };
        let (JoinOperator::Join(constraint)
        | JoinOperator::Inner(constraint)
        | JoinOperator::Left(constraint)
        | JoinOperator::LeftOuter(constraint)
        | JoinOperator::Right(constraint)
        | JoinOperator::RightOuter(constraint)
        | JoinOperator::FullOuter(constraint)) = &mut join.join_operator
        else {
            return;
        };
        if *constraint != JoinConstraint::Natural {
            return;
        }
        let common = match self.tables {
            None => Some(Vec::new()),
            Some(_) => self
                .of_factor(&from.relation)
                .zip(self.of_factor(&join.relation))
                .and_then(|(left, right)| common(&left, &right)),
        };
        match common {
            None => {}
            Some(common) if common.is_empty() => {
                let every = Value::Boolean(true).with_span(Span::empty());
                *constraint = JoinConstraint::On(Expr::Value(every));
            }
            Some(common) => {
                let names = common.iter().map(|name| Ident::with_quote('"', name));
                *constraint = JoinConstraint::Using(names.map(ObjectName::from).collect());
            }
        }
    }

    fn of_cte(&mut self, cte: &Cte) -> Option<Vec<String>> {
        let columns = self.of_query(&cte.query);
        renamed(columns, Some(&cte.alias))
    }

    fn of_query(&mut self, query: &Query) -> Option<Vec<String>> {
        self.enter(query);
        let columns = self.of_set(&query.body);
        self.scopes.pop();
        columns
    }

    fn of_set(&mut self, body: &SetExpr) -> Option<Vec<String>> {
        match body {
            SetExpr::Select(select) => self.of_select(select),
            SetExpr::Query(query) => self.of_query(query),
            SetExpr::SetOperation {
                set_quantifier:
                    SetQuantifier::ByName | SetQuantifier::AllByName | SetQuantifier::DistinctByName,
                ..
            } => None,
            SetExpr::SetOperation { left, .. } => self.of_set(left),
            SetExpr::Values(values) => {
                let width = values.rows.first()?.len();
                Some((1..=width).map(|number| format!("column{number}")).collect())
            }
            _ => None,
        }
    }

    fn of_select(&mut self, select: &Select) -> Option<Vec<String>> {
        if select.projection.is_empty() {
            return None;
        }
        let mut names = Vec::new();
        for item in &select.projection {
            match item {
                SelectItem::UnnamedExpr(Expr::Identifier(name)) => names.push(normal(name)),
                SelectItem::UnnamedExpr(Expr::CompoundIdentifier(path)) => names.push(normal(path.last()?)),
                SelectItem::ExprWithAlias { alias, .. } => names.push(normal(alias)),
                SelectItem::Wildcard(options) if takes_all(options) => {
                    for from in &select.from {
                        names.extend(self.of_factor(&from.relation)?);
                        for join in &from.joins {
                            keeps_columns(&join.join_operator).then_some(())?;
                            names.extend(self.of_factor(&join.relation)?);
                        }
                    }
                }
                SelectItem::QualifiedWildcard(
                    SelectItemQualifiedWildcardKind::ObjectName(table),
                    options,
                ) if takes_all(options) => {
                    let table = normal(single(table)?);
                    let joined = |from: &'_ TableWithJoins| {
                        let joins = from.joins.iter().map(|join| join.relation.clone());
                        std::iter::once(from.relation.clone())
                            .chain(joins)
                            .collect::<Vec<_>>()
                    };
                    let mut factors = select.from.iter().flat_map(joined);
                    let named = factors
                        .find(|factor| relation_name(factor).is_some_and(|name| normal(&name) == table))?;
                    names.extend(self.of_factor(&named)?);
                }
                // What DataFusion calls an expression is not for a join to know.
                _ => return None,
            }
        }
        Some(names)
    }

    fn of_factor(&mut self, factor: &TableFactor) -> Option<Vec<String>> {
        match factor {
            TableFactor::Table {
                name,
                alias,
                args: None,
                ..
            } => {
                let table = normal(single(name)?);
                let within = self.scopes.iter().rev().find_map(|scope| scope.get(&table));
                let columns = match within {
                    Some(columns) => columns.clone(),
                    None => self.tables?.get(&table).cloned(),
                };
                renamed(columns, alias.as_ref())
            }
            TableFactor::Derived {
                lateral: false,
                subquery,
                alias,
                ..
            } => {
                let columns = self.of_query(subquery);
                renamed(columns, alias.as_ref())
            }
            _ => None,
        }
    }
}

/// The columns that both sides have, in the order of the left one; `None` where a side has one of them twice.
fn common(left: &[String], right: &[String]) -> Option<Vec<String>> {
    let common: Vec<String> = left.iter().filter(|name| right.contains(name)).cloned().collect();
    let once = |side: &[String]| {
        let is_once = |name: &String| side.iter().filter(|other| *other == name).count() == 1;
        common.iter().all(is_once)
    };
    (once(left) && once(right)).then_some(common)
}

/// The columns under the names of an alias: `AS t (a, b)`.
fn renamed(columns: Option<Vec<String>>, alias: Option<&TableAlias>) -> Option<Vec<String>> {
    let mut columns = columns?;
    for (column, name) in columns
        .iter_mut()
        .zip(alias.iter().flat_map(|alias| &alias.columns))
    {
        *column = normal(&name.name);
    }
    Some(columns)
}

fn takes_all(options: &WildcardAdditionalOptions) -> bool {
    options.opt_exclude.is_none()
        && options.opt_except.is_none()
        && options.opt_replace.is_none()
        && options.opt_rename.is_none()
        && options.opt_ilike.is_none()
}

/// Whether the rows of a join have the columns of both sides.
fn keeps_columns(join: &JoinOperator) -> bool {
    let found = match join {
        JoinOperator::CrossJoin(constraint) => Some(constraint),
        other => constraint(other),
    };
    matches!(found, Some(JoinConstraint::On(_) | JoinConstraint::None))
}
