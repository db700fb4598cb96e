//! Every clause of a query is planned, or refused by name: none is dropped without a word.
//!
//! The structs of the parser are taken apart without `..`: a field that a new version of it adds must be decided here.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    self, Cte, Distinct, GroupByExpr, GroupByWithModifier, Join, JoinConstraint, JoinOperator, LimitClause,
    OrderBy, OrderByExpr, OrderByKind, Query, Select, SelectItem, SetExpr, SetOperator, SetQuantifier,
    Spanned, TableAlias, TableFactor, TableFunctionArgs, TableWithJoins, Top, Visit, Visitor,
    WildcardAdditionalOptions, With,
};
use datafusion::sql::sqlparser::tokenizer::{Span, TokenWithSpan};

use super::super::error::PlanError;
use super::expressions;
use super::refusal::{Checked, Refusal, absent};

/// Refuses what is not planned of a statement with these tokens. `scalars` are the names of functions that give a value for each
/// row.
pub(super) fn check(
    statement: &ast::Statement,
    tokens: &[TokenWithSpan],
    scalars: &BTreeSet<&str>,
) -> Result<(), PlanError> {
    match statement.visit(&mut Clauses { scalars }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(refusal) => Err(refusal.into_error(tokens)),
    }
}

struct Clauses<'a> {
    scalars: &'a BTreeSet<&'a str>,
}

fn flow(checked: Checked) -> ControlFlow<Refusal> {
    match checked {
        Ok(()) => ControlFlow::Continue(()),
        Err(refusal) => ControlFlow::Break(refusal),
    }
}

impl Visitor for Clauses<'_> {
    type Break = Refusal;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Refusal> {
        flow(check_query(query))
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Refusal> {
        flow(check_select(select))
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Refusal> {
        flow(check_factor(factor))
    }

    fn pre_visit_expr(&mut self, expr: &ast::Expr) -> ControlFlow<Refusal> {
        flow(expressions::check(expr, self.scalars))
    }
}

fn check_query(query: &Query) -> Checked {
    let Query {
        with,
        body,
        order_by,
        limit_clause,
        fetch,
        locks,
        for_clause,
        settings,
        format_clause,
        // DataFusion plans the ones that it knows and refuses the others.
        pipe_operators: _,
    } = query;
    let at = query.span();
    if let Some(with) = with {
        let With {
            with_token: _,
            recursive: _,
            cte_tables,
        } = with;
        cte_tables.iter().try_for_each(check_cte)?;
    }
    check_set(body)?;
    order_by.iter().try_for_each(check_order)?;
    match limit_clause {
        None | Some(LimitClause::OffsetCommaLimit { offset: _, limit: _ }) => {}
        Some(LimitClause::LimitOffset {
            limit: _,
            offset: _,
            limit_by,
        }) => absent(!limit_by.is_empty(), "LIMIT … BY", at)?,
    }
    if let Some(fetch) = fetch {
        let what = match (fetch.with_ties, fetch.percent) {
            (true, _) => "FETCH … WITH TIES",
            (false, true) => "FETCH … PERCENT",
            (false, false) => "FETCH beside LIMIT or OFFSET",
        };
        return Err(Refusal::new(what, at, "write LIMIT n OFFSET m"));
    }
    if let Some(lock) = locks.first() {
        let what = format!("FOR {}", lock.lock_type);
        let fix = "remove it: a query only reads, and files are read as they were listed";
        return Err(Refusal::new(what, at, fix));
    }
    absent(for_clause.is_some(), "FOR XML or FOR JSON", at)?;
    absent(settings.is_some(), "SETTINGS", at)?;
    absent(format_clause.is_some(), "FORMAT", at)
}

fn check_cte(cte: &Cte) -> Checked {
    let Cte {
        alias,
        query: _,
        from,
        // A hint about how it is run; the rows are the same.
        materialized: _,
        closing_paren_token: _,
    } = cte;
    check_alias(Some(alias))?;
    absent(from.is_some(), "FROM behind a WITH query", cte.span())
}

fn check_alias(alias: Option<&TableAlias>) -> Checked {
    let Some(TableAlias {
        explicit: _,
        name,
        columns,
        at,
    }) = alias
    else {
        return Ok(());
    };
    let typed = columns.iter().any(|column| column.data_type.is_some());
    absent(typed, "a type in a list of column names", name.span)?;
    absent(at.is_some(), "AT behind a table's alias", name.span)
}

fn check_set(body: &SetExpr) -> Checked {
    match body {
        SetExpr::SetOperation {
            left,
            op,
            set_quantifier,
            right,
        } => {
            let by_name = match set_quantifier {
                SetQuantifier::ByName | SetQuantifier::AllByName | SetQuantifier::DistinctByName => true,
                SetQuantifier::All | SetQuantifier::Distinct | SetQuantifier::None => false,
            };
            let union = match op {
                SetOperator::Union => true,
                SetOperator::Except | SetOperator::Intersect | SetOperator::Minus => false,
            };
            absent(by_name && !union, &format!("{op} BY NAME"), body.span())?;
            check_set(left)?;
            check_set(right)
        }
        // Each is visited, refused before, or planned whole.
        SetExpr::Select(_)
        | SetExpr::Query(_)
        | SetExpr::Values(_)
        | SetExpr::Insert(_)
        | SetExpr::Update(_)
        | SetExpr::Delete(_)
        | SetExpr::Merge(_)
        | SetExpr::Table(_) => Ok(()),
    }
}

fn check_order(order: &OrderBy) -> Checked {
    let OrderBy { kind, interpolate } = order;
    absent(interpolate.is_some(), "INTERPOLATE", order.span())?;
    match kind {
        OrderByKind::All(_) => Ok(()),
        OrderByKind::Expressions(keys) => check_sort_keys(keys),
    }
}

/// Refuses `WITH FILL`.
pub(super) fn check_sort_keys(keys: &[OrderByExpr]) -> Checked {
    keys.iter().try_for_each(|key| {
        let OrderByExpr {
            expr,
            options: _,
            with_fill,
        } = key;
        absent(with_fill.is_some(), "WITH FILL", expr.span())
    })
}

fn check_select(select: &Select) -> Checked {
    let Select {
        select_token: _,
        // Comments.
        optimizer_hints: _,
        distinct,
        select_modifiers,
        top,
        top_before_distinct: _,
        projection,
        exclude,
        into,
        from,
        lateral_views,
        prewhere,
        selection: _,
        connect_by,
        group_by,
        cluster_by,
        distribute_by,
        sort_by,
        having: _,
        // Window definitions hold expressions and nothing else.
        named_window: _,
        qualify: _,
        window_before_qualify: _,
        value_table_mode,
        // The places of FROM and SELECT.
        flavor: _,
    } = select;
    let at = select.select_token.0.span;
    match distinct {
        None | Some(Distinct::All | Distinct::Distinct | Distinct::On(_)) => {}
    }
    absent(select_modifiers.is_some(), "a modifier behind SELECT", at)?;
    if let Some(Top {
        with_ties: _,
        percent: _,
        quantity: _,
    }) = top
    {
        return Err(Refusal::new("TOP", at, "write LIMIT n at the end"));
    }
    projection.iter().try_for_each(check_item)?;
    absent(exclude.is_some(), "EXCLUDE behind the list of columns", at)?;
    absent(into.is_some(), "SELECT INTO", at)?;
    from.iter().try_for_each(check_joins)?;
    absent(!lateral_views.is_empty(), "LATERAL VIEW", at)?;
    if prewhere.is_some() {
        return Err(Refusal::new("PREWHERE", at, "write WHERE"));
    }
    absent(!connect_by.is_empty(), "CONNECT BY", at)?;
    check_group(group_by, at)?;
    absent(!cluster_by.is_empty(), "CLUSTER BY", at)?;
    absent(!distribute_by.is_empty(), "DISTRIBUTE BY", at)?;
    absent(!sort_by.is_empty(), "SORT BY", at)?;
    absent(value_table_mode.is_some(), "SELECT AS", at)
}

fn check_group(group_by: &GroupByExpr, at: Span) -> Checked {
    let modifiers = match group_by {
        GroupByExpr::All(modifiers) | GroupByExpr::Expressions(_, modifiers) => modifiers,
    };
    let Some(modifier) = modifiers.first() else {
        return Ok(());
    };
    let what = match modifier {
        GroupByWithModifier::Rollup => "GROUP BY … WITH ROLLUP beside another grouping",
        GroupByWithModifier::Cube => "GROUP BY … WITH CUBE beside another grouping",
        GroupByWithModifier::Totals => "GROUP BY … WITH TOTALS",
        GroupByWithModifier::GroupingSets(_) => "GROUP BY … GROUPING SETS behind the keys",
    };
    Err(Refusal::new(what, at, "write GROUP BY GROUPING SETS (…)"))
}

fn check_item(item: &SelectItem) -> Checked {
    match item {
        SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { expr: _, alias: _ } => Ok(()),
        SelectItem::ExprWithAliases { expr, aliases: _ } => {
            absent(true, "several aliases of one expression", expr.span())
        }
        SelectItem::QualifiedWildcard(_, options) | SelectItem::Wildcard(options) => {
            let WildcardAdditionalOptions {
                wildcard_token,
                opt_ilike: _,
                opt_exclude: _,
                opt_except: _,
                opt_replace: _,
                opt_rename,
                opt_alias,
            } = options;
            let at = wildcard_token.0.span;
            absent(opt_rename.is_some(), "* RENAME", at)?;
            absent(opt_alias.is_some(), "an alias of *", at)
        }
    }
}

fn check_joins(tables: &TableWithJoins) -> Checked {
    let TableWithJoins { relation: _, joins } = tables;
    joins.iter().try_for_each(|join| {
        let Join {
            relation,
            global,
            join_operator,
        } = join;
        let at = relation.span();
        absent(*global, "GLOBAL JOIN", at)?;
        if let JoinOperator::Right(JoinConstraint::Natural)
        | JoinOperator::RightOuter(JoinConstraint::Natural)
        | JoinOperator::FullOuter(JoinConstraint::Natural) = join_operator
        {
            return Err(Refusal::new("NATURAL RIGHT or FULL JOIN", at, "write USING (…)"));
        }
        match join_operator {
            JoinOperator::Join(_)
            | JoinOperator::Inner(_)
            | JoinOperator::Left(_)
            | JoinOperator::LeftOuter(_)
            | JoinOperator::Right(_)
            | JoinOperator::RightOuter(_)
            | JoinOperator::FullOuter(_)
            | JoinOperator::LeftSemi(_)
            | JoinOperator::RightSemi(_)
            | JoinOperator::LeftAnti(_)
            | JoinOperator::RightAnti(_)
            | JoinOperator::CrossJoin(JoinConstraint::None) => Ok(()),
            JoinOperator::CrossJoin(_) => {
                Err(Refusal::new("a condition of CROSS JOIN", at, "write INNER JOIN"))
            }
            JoinOperator::Semi(_) => Err(Refusal::new("SEMI JOIN", at, "write LEFT SEMI JOIN")),
            JoinOperator::Anti(_) => Err(Refusal::new("ANTI JOIN", at, "write LEFT ANTI JOIN")),
            JoinOperator::CrossApply | JoinOperator::OuterApply => {
                Err(Refusal::new("APPLY", at, "write CROSS JOIN LATERAL (…)"))
            }
            JoinOperator::AsOf {
                match_condition: _,
                constraint: _,
            } => Err(Refusal::new(
                "ASOF JOIN",
                at,
                "join and take the last row with row_number()",
            )),
            JoinOperator::StraightJoin(_) => Err(Refusal::new("STRAIGHT_JOIN", at, "write INNER JOIN")),
            JoinOperator::ArrayJoin | JoinOperator::LeftArrayJoin | JoinOperator::InnerArrayJoin => {
                Err(Refusal::new("ARRAY JOIN", at, "write unnest(…)"))
            }
        }
    })
}

fn check_factor(factor: &TableFactor) -> Checked {
    let at = factor.span();
    match factor {
        TableFactor::Table { .. } => check_table(factor),
        TableFactor::Derived {
            lateral: _,
            subquery: _,
            alias,
            sample,
        } => {
            check_alias(alias.as_ref())?;
            absent(sample.is_some(), "TABLESAMPLE of a subquery", at)
        }
        TableFactor::Function {
            lateral: _,
            name: _,
            args: _,
            with_ordinality,
            alias,
        } => {
            check_alias(alias.as_ref())?;
            absent(*with_ordinality, "WITH ORDINALITY", at)
        }
        TableFactor::UNNEST {
            alias,
            array_exprs: _,
            with_offset,
            with_offset_alias,
            with_ordinality,
        } => {
            check_alias(alias.as_ref())?;
            absent(
                *with_offset || with_offset_alias.is_some(),
                "UNNEST … WITH OFFSET",
                at,
            )?;
            absent(*with_ordinality, "UNNEST … WITH ORDINALITY", at)
        }
        TableFactor::NestedJoin {
            table_with_joins,
            alias,
        } => {
            check_alias(alias.as_ref())?;
            check_merged_in_parentheses(table_with_joins)?;
            check_joins(table_with_joins)
        }
        TableFactor::TableFunction { .. } => absent(true, "TABLE(…)", at),
        TableFactor::JsonTable { .. } => absent(true, "JSON_TABLE", at),
        TableFactor::OpenJsonTable { .. } => absent(true, "OPENJSON", at),
        TableFactor::Pivot { .. } => absent(true, "PIVOT", at),
        TableFactor::Unpivot { .. } => absent(true, "UNPIVOT", at),
        TableFactor::MatchRecognize { .. } => absent(true, "MATCH_RECOGNIZE", at),
        TableFactor::XmlTable { .. } => absent(true, "XMLTABLE", at),
        TableFactor::SemanticView { .. } => absent(true, "SEMANTIC_VIEW", at),
    }
}

fn check_table(factor: &TableFactor) -> Checked {
    let at = factor.span();
    let TableFactor::Table {
        name: _,
        alias,
        args,
        with_hints,
        version,
        with_ordinality,
        partitions,
        json_path,
        sample,
        index_hints,
    } = factor
    else {
        return Ok(());
    };
    check_alias(alias.as_ref())?;
    if let Some(TableFunctionArgs { args: _, settings }) = args {
        absent(settings.is_some(), "SETTINGS of a table function", at)?;
    }
    absent(!with_hints.is_empty(), "WITH (…) behind a table", at)?;
    absent(version.is_some(), "a version of a table (time travel)", at)?;
    absent(*with_ordinality, "WITH ORDINALITY", at)?;
    absent(!partitions.is_empty(), "PARTITION (…) of a table", at)?;
    absent(json_path.is_some(), "a JSON path of a table", at)?;
    absent(sample.is_some(), "TABLESAMPLE", at)?;
    absent(!index_hints.is_empty(), "an index hint", at)
}

fn check_merged_in_parentheses(tables: &TableWithJoins) -> Checked {
    for join in &tables.joins {
        if let JoinOperator::Right(JoinConstraint::Using(_))
        | JoinOperator::RightOuter(JoinConstraint::Using(_))
        | JoinOperator::FullOuter(JoinConstraint::Using(_)) = &join.join_operator
        {
            let what = "RIGHT or FULL JOIN … USING in parentheses";
            let fix = "make it a subquery with an alias, or join with ON";
            return Err(Refusal::new(what, join.relation.span(), fix));
        }
    }
    Ok(())
}
