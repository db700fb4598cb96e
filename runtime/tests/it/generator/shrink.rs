//! Smaller queries and tables that may fail in the same way.

use super::ast::{Body, Expr, From, Group, GroupKind, On, Query, Select, Type, Value, Window};
use super::tables::Database;

/// Queries that are a step smaller.
pub fn queries(query: &Query) -> Vec<Query> {
    let mut smaller = Vec::new();
    for (_, cte) in &query.ctes {
        smaller.push(cte.clone());
    }
    match &query.body {
        Body::Set {
            operator,
            left,
            right,
        } => {
            smaller.extend([left.as_ref().clone(), right.as_ref().clone()]);
            let with = |left: &Query, right: &Query| Query {
                body: Body::Set {
                    operator,
                    left: Box::new(left.clone()),
                    right: Box::new(right.clone()),
                },
                ..query.clone()
            };
            smaller.extend(queries(left).iter().map(|left| with(left, right)));
            smaller.extend(queries(right).iter().map(|right| with(left, right)));
            let (one, two) = (left.columns().len(), right.columns().len());
            if one == two && one > 1 {
                smaller.extend((0..one).filter_map(|place| {
                    let body = with(&without_column(left, place)?, &without_column(right, place)?);
                    Some(without_keys(body, &left.columns().get(place)?.0))
                }));
            }
        }
        Body::Select(select) => {
            for nested in nested_of_from(select.from.as_ref()) {
                smaller.push(nested);
            }
            let columns = 0..select.columns.len();
            smaller.extend(columns.filter_map(|place| without_column(query, place)));
            smaller.extend(selects(select).into_iter().map(|select| Query {
                body: Body::Select(Box::new(select)),
                ..query.clone()
            }));
        }
    }
    for place in 0..query.ctes.len() {
        let mut less = query.clone();
        less.ctes.remove(place);
        smaller.push(less);
        for cte in query
            .ctes
            .get(place)
            .into_iter()
            .flat_map(|(_, cte)| queries(cte))
        {
            let mut other = query.clone();
            if let Some(place) = other.ctes.get_mut(place) {
                place.1 = cte;
            }
            smaller.push(other);
        }
    }
    smaller.extend(less_order(query));
    smaller
}

fn less_order(query: &Query) -> Vec<Query> {
    let mut smaller = Vec::new();
    let mut with = |change: &dyn Fn(&mut Query)| {
        let mut other = query.clone();
        change(&mut other);
        if other != *query {
            smaller.push(other);
        }
    };
    with(&|query| (query.limit, query.offset, query.order) = (None, None, Vec::new()));
    with(&|query| (query.limit, query.offset) = (None, None));
    with(&|query| query.offset = None);
    if query.limit.is_none() && query.offset.is_none() {
        for place in 0..query.order.len() {
            with(&|query| drop(query.order.remove(place)));
        }
    }
    smaller
}

fn without_keys(mut query: Query, name: &str) -> Query {
    let is_of = |expr: &Expr| matches!(expr, Expr::Column { name: of, .. } if of == name);
    query.order.retain(|key| !is_of(&key.expr));
    query
}

fn without_column(query: &Query, place: usize) -> Option<Query> {
    let mut query = query.clone();
    let Body::Select(select) = &mut query.body else {
        return None;
    };
    if select.columns.len() < 2 || place >= select.columns.len() {
        return None;
    }
    let removed = select.columns.remove(place);
    Some(without_keys(query, &removed.name))
}

fn nested_of_from(from: Option<&From>) -> Vec<Query> {
    match from {
        None | Some(From::Table { .. }) => Vec::new(),
        Some(From::Derived { query, .. }) => vec![query.as_ref().clone()],
        Some(From::Join { left, right, .. }) => {
            let mut all = nested_of_from(Some(left));
            all.extend(nested_of_from(Some(right)));
            all
        }
    }
}

fn selects(select: &Select) -> Vec<Select> {
    let mut smaller = Vec::new();
    let mut with = |change: &dyn Fn(&mut Select)| {
        let mut other = select.clone();
        change(&mut other);
        if other != *select {
            smaller.push(other);
        }
    };
    with(&|select| select.distinct = false);
    with(&|select| select.filter = None);
    with(&|select| select.having = None);
    with(&|select| select.group = None);
    for group in select.group.iter().flat_map(groups) {
        with(&|select| select.group = Some(group.clone()));
    }
    for filter in select.filter.iter().flat_map(exprs) {
        with(&|select| select.filter = Some(filter.clone()));
    }
    for having in select.having.iter().flat_map(exprs) {
        with(&|select| select.having = Some(having.clone()));
    }
    for (place, column) in select.columns.iter().enumerate() {
        for expr in exprs(&column.expr) {
            with(&|select| {
                if let Some(column) = select.columns.get_mut(place) {
                    column.expr = expr.clone();
                }
            });
        }
    }
    for from in select.from.iter().flat_map(froms) {
        with(&|select| select.from = Some(from.clone()));
    }
    smaller
}

fn groups(group: &Group) -> Vec<Group> {
    let mut smaller = Vec::new();
    if group.kind != GroupKind::Plain {
        let (kind, keys) = (GroupKind::Plain, group.keys.clone());
        smaller.push(Group { kind, keys });
    }
    for place in 0..group.keys.len() {
        let mut less = group.clone();
        less.keys.remove(place);
        if let GroupKind::Sets(sets) = &mut less.kind {
            for set in sets.iter_mut() {
                set.retain(|key| *key != place);
                set.iter_mut()
                    .filter(|key| **key > place)
                    .for_each(|key| *key -= 1);
            }
        }
        smaller.push(less);
    }
    if let GroupKind::Sets(sets) = &group.kind {
        smaller.extend((0..sets.len()).map(|place| {
            let mut sets = sets.clone();
            sets.remove(place);
            let (kind, keys) = (GroupKind::Sets(sets), group.keys.clone());
            Group { kind, keys }
        }));
    }
    for (place, key) in group.keys.iter().enumerate() {
        for key in exprs(key) {
            let mut other = group.clone();
            if let Some(place) = other.keys.get_mut(place) {
                *place = key;
            }
            smaller.push(other);
        }
    }
    smaller
}

fn froms(from: &From) -> Vec<From> {
    match from {
        From::Table { .. } => Vec::new(),
        From::Derived { query, alias } => {
            let queries = queries(query).into_iter();
            queries
                .map(|query| From::Derived {
                    query: Box::new(query),
                    alias: alias.clone(),
                })
                .collect()
        }
        From::Join {
            kind,
            left,
            right,
            on,
        } => {
            let with = |left: &From, right: &From, on: &On| From::Join {
                kind,
                left: Box::new(left.clone()),
                right: Box::new(right.clone()),
                on: on.clone(),
            };
            let mut smaller = vec![left.as_ref().clone(), right.as_ref().clone()];
            smaller.extend(froms(left).iter().map(|left| with(left, right, on)));
            smaller.extend(froms(right).iter().map(|right| with(left, right, on)));
            match on {
                On::Nothing => {}
                On::Expr(expr) => {
                    smaller.extend(exprs(expr).into_iter().map(|on| with(left, right, &On::Expr(on))));
                }
                On::Using(columns) => smaller.extend((0..columns.len()).map(|place| {
                    let mut columns = columns.clone();
                    columns.remove(place);
                    with(left, right, &On::Using(columns))
                })),
            }
            smaller
        }
    }
}

fn exprs(expr: &Expr) -> Vec<Expr> {
    let type_ = expr.type_of();
    match expr {
        // A column that becomes a constant might fail for another reason.
        Expr::Column { .. } | Expr::Literal(..) => Vec::new(),
        Expr::Op { form, args, .. } => {
            // Where another type does not fit, no engine has an answer.
            let mut smaller: Vec<Expr> = args.clone();
            smaller.push(match type_ {
                Type::Bool => Expr::Literal(Value::Bool(true), type_),
                _ => Expr::Literal(Value::Null, type_),
            });
            for (place, arg) in args.iter().enumerate() {
                for arg in exprs(arg) {
                    let mut args = args.clone();
                    if let Some(place) = args.get_mut(place) {
                        *place = arg;
                    }
                    let form = form.clone();
                    smaller.push(Expr::Op { form, args, type_ });
                }
            }
            smaller
        }
        Expr::Window(window) => {
            let args = window.args.iter().filter(|arg| arg.type_of() == type_);
            let mut smaller: Vec<Expr> = args.cloned().collect();
            smaller.push(Expr::Literal(Value::Null, type_));
            smaller.extend(
                windows(window)
                    .into_iter()
                    .map(|window| Expr::Window(Box::new(window))),
            );
            smaller
        }
        Expr::Scalar(query, _) => {
            let queries = queries(query).into_iter();
            let smaller = queries.map(|query| Expr::Scalar(Box::new(query), type_));
            smaller.chain([Expr::Literal(Value::Null, type_)]).collect()
        }
        Expr::In { expr, query, negated } => {
            let with = |expr: &Expr, query: &Query| Expr::In {
                expr: Box::new(expr.clone()),
                query: Box::new(query.clone()),
                negated: *negated,
            };
            let mut smaller = vec![Expr::Literal(Value::Bool(true), type_)];
            smaller.extend(exprs(expr).iter().map(|expr| with(expr, query)));
            smaller.extend(queries(query).iter().map(|query| with(expr, query)));
            smaller
        }
        Expr::Exists { query, negated } => {
            let mut smaller = vec![Expr::Literal(Value::Bool(true), type_)];
            smaller.extend(queries(query).into_iter().map(|query| Expr::Exists {
                query: Box::new(query),
                negated: *negated,
            }));
            smaller
        }
    }
}

fn windows(window: &Window) -> Vec<Window> {
    let mut smaller = Vec::new();
    let mut with = |change: &dyn Fn(&mut Window)| {
        let mut other = window.clone();
        change(&mut other);
        if other != *window {
            smaller.push(other);
        }
    };
    with(&|window| window.frame.clear());
    for place in 0..window.partitions.len() {
        with(&|window| drop(window.partitions.remove(place)));
    }
    let order = if window.total { 0 } else { window.order.len() };
    for place in 0..order {
        with(&|window| drop(window.order.remove(place)));
    }
    for (place, arg) in window.args.iter().enumerate() {
        for arg in exprs(arg) {
            with(&|window| {
                if let Some(place) = window.args.get_mut(place) {
                    *place = arg.clone();
                }
            });
        }
    }
    smaller
}

/// Tables that are a step smaller: fewer rows first, then fewer files.
pub fn databases(database: &Database) -> Vec<Database> {
    let mut smaller = Vec::new();
    for (place, table) in database.tables.iter().enumerate() {
        let mut with = |rows: Vec<Vec<Value>>, files: usize| {
            let mut other = database.clone();
            if let Some(table) = other.tables.get_mut(place) {
                (table.rows, table.files) = (rows, files);
            }
            smaller.push(other);
        };
        let rows = &table.rows;
        if !rows.is_empty() {
            with(Vec::new(), table.files);
        }
        let mut part = rows.len() / 2;
        while part > 0 {
            for start in (0..rows.len()).step_by(part) {
                let kept = rows.iter().enumerate();
                let kept = kept.filter(|(row, _)| *row < start || *row >= start + part);
                with(kept.map(|(_, row)| row.clone()).collect(), table.files);
            }
            part /= 2;
        }
        if table.files > 1 {
            with(rows.clone(), 1);
            with(rows.clone(), table.files - 1);
        }
    }
    smaller
}

#[cfg(test)]
mod tests {
    use super::super::grammar::query_of_seed;
    use super::super::render::{Dialect, sql};
    use super::*;

    /// Takes the first smaller case that still fails, until there is none.
    fn shrunk(mut query: Query, fails: impl Fn(&Query) -> bool) -> Query {
        while let Some(smaller) = queries(&query).into_iter().find(|query| fails(query)) {
            assert!(
                sql(&smaller, Dialect::DataFusion).len() <= sql(&query, Dialect::DataFusion).len() + 24,
                "a step is no detour"
            );
            query = smaller;
        }
        query
    }

    #[test]
    fn a_query_is_shrunk_to_what_fails() {
        let text = |query: &Query| sql(query, Dialect::DataFusion);
        let mut found = 0;
        for seed in 0..300 {
            let query = query_of_seed(&Database::of_seed(seed), seed);
            for what in ["FULL JOIN", "IGNORE NULLS", "EXCEPT", "GROUPING SETS"] {
                if text(&query).contains(what) {
                    found += 1;
                    let small = text(&shrunk(query.clone(), |query| text(query).contains(what)));
                    assert!(small.contains(what) && small.len() < 900, "{what}: {small}");
                }
            }
        }
        assert!(found > 40, "{found}");
    }

    #[test]
    fn tables_are_shrunk_to_the_rows_that_fail() {
        let mut database = (0..)
            .map(Database::of_seed)
            .find(|database| database.tables.iter().all(|table| table.rows.len() > 7));
        let fails = |database: &Database| {
            let has = |table: usize, id: i64| {
                let rows = database.tables.get(table).map(|table| &table.rows);
                rows.is_some_and(|rows| rows.iter().any(|row| row.first() == Some(&Value::Int(id))))
            };
            has(0, 5) && has(2, 6)
        };
        let mut last = database.take().expect("some seed has such tables");
        while let Some(smaller) = databases(&last).into_iter().find(fails) {
            last = smaller;
        }
        let rows: Vec<usize> = last.tables.iter().map(|table| table.rows.len()).collect();
        assert_eq!(rows, [1, 0, 1]);
        assert!(last.tables.iter().all(|table| table.files == 1));
    }
}
