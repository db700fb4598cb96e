//! Random queries over random tables: SELECTs, joins, set operations, common table expressions.
//!
//! A query has one right answer: LIMIT and OFFSET follow a total order, and so do window functions whose value depends
//! on the order of rows.

mod relations;

use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};

use super::ast::{Body, Expr, Group, GroupKind, Key, Output, Query, Select, Type};
use super::tables::Database;

/// How deep subqueries nest.
const DEPTH: u32 = 2;

/// Makes the query of one seed.
pub struct Grammar<'a> {
    pub(super) random: SmallRng,
    database: &'a Database,
    /// Names given so far: each is used once.
    named: usize,
    ctes: Vec<(String, Vec<(String, Type)>)>,
}

/// What may stand in an expression: columns, keys of groups, aggregates, window functions.
pub type Scope = Vec<Expr>;

/// The query of a seed over these tables.
pub fn query_of_seed(database: &Database, seed: u64) -> Query {
    let mut grammar = Grammar {
        random: SmallRng::seed_from_u64(seed),
        database,
        named: 0,
        ctes: Vec::new(),
    };
    let mut ctes = Vec::new();
    if grammar.chance(15) {
        for _ in 0..grammar.random.random_range(1..=2) {
            let query = grammar.query(1, None);
            let name = grammar.name("w");
            grammar.ctes.push((name.clone(), query.columns()));
            ctes.push((name, query));
        }
    }
    let mut query = grammar.query(DEPTH, None);
    query.ctes = ctes;
    query
}

impl Grammar<'_> {
    pub(super) fn chance(&mut self, percent: u32) -> bool {
        self.random.random_ratio(percent, 100)
    }

    pub(super) fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        choices
            .choose(&mut self.random)
            .expect("there are choices")
            .clone()
    }

    fn name(&mut self, letter: &str) -> String {
        self.named += 1;
        format!("{letter}{}", self.named)
    }

    pub(super) fn literal(&mut self, type_: Type) -> Expr {
        let hard = self.chance(10);
        Expr::Literal(super::tables::value(type_, hard, &mut self.random), type_)
    }

    /// A query with columns of these types, or of any.
    pub(super) fn query(&mut self, depth: u32, types: Option<&[Type]>) -> Query {
        let operators = [
            "UNION ALL",
            "UNION ALL",
            "UNION",
            "INTERSECT",
            "EXCEPT",
            "INTERSECT ALL",
            "EXCEPT ALL",
        ];
        let set = depth > 0 && self.chance(20);
        let mut query = if set {
            let left = self.query(depth - 1, types);
            let types: Vec<Type> = left.columns().iter().map(|(_, type_)| *type_).collect();
            let right = self.query(depth - 1, Some(&types));
            Query::of(Body::Set {
                operator: self.pick(&operators),
                left: Box::new(left),
                right: Box::new(right),
            })
        } else {
            Query::of(Body::Select(Box::new(self.select(depth, types))))
        };
        self.order(&mut query, depth);
        query
    }

    fn order(&mut self, query: &mut Query, depth: u32) {
        let columns = query.columns();
        let is_total = columns.iter().all(|(_, type_)| type_.is_ordered());
        let limited = is_total && self.chance(if depth == DEPTH { 25 } else { 10 });
        let ordered = limited || (depth == DEPTH && self.chance(60));
        if !ordered {
            return;
        }
        let mut columns: Vec<_> = columns
            .into_iter()
            .filter(|(_, type_)| type_.is_ordered())
            .collect();
        if columns.is_empty() {
            return;
        }
        columns.shuffle(&mut self.random);
        if !limited {
            columns.truncate(self.random.random_range(1..=columns.len()));
        }
        let keys = columns.into_iter().map(|(name, type_)| Key {
            expr: Expr::Column {
                table: None,
                name,
                type_,
            },
            descending: self.random.random_bool(0.4),
            nulls_first: self.random.random_bool(0.5),
        });
        query.order = keys.collect();
        if limited {
            query.limit = self.chance(80).then(|| self.pick(&[0, 1, 3, 5, 10, 100]));
            query.offset = (query.limit.is_none() || self.chance(30)).then(|| self.pick(&[0, 1, 2, 5]));
        }
    }

    fn select(&mut self, depth: u32, types: Option<&[Type]>) -> Select {
        let (from, scope) = if self.chance(4) {
            (None, Vec::new())
        } else {
            let (from, scope) = self.from(depth);
            (Some(from), scope)
        };
        let filter = self.chance(40).then(|| self.predicate(&scope, depth));
        let mut select = Select {
            distinct: self.chance(12),
            columns: Vec::new(),
            from,
            filter,
            group: None,
            having: None,
        };
        if scope.is_empty() {
            select.distinct = false;
            self.columns(&mut select, &scope, &[], types);
        } else if self.chance(35) {
            self.grouped(&mut select, &scope, types);
        } else {
            let windows = self.windows(&scope, 20);
            self.columns(&mut select, &scope, &windows, types);
        }
        select
    }

    fn windows(&mut self, scope: &Scope, percent: u32) -> Scope {
        if !self.chance(percent) {
            return Vec::new();
        }
        let count = self.random.random_range(1..=2);
        let mut windows: Scope = (0..count).map(|_| self.window(scope)).collect();
        // Rows that are equal in all columns have no order: two functions may pair the values of such rows in any way.
        let mut has_total = false;
        windows.retain(|window| match window {
            Expr::Window(window) if window.total => !std::mem::replace(&mut has_total, true),
            _ => true,
        });
        windows
    }

    /// Fills the SELECT list with required and optional expressions.
    fn columns(&mut self, select: &mut Select, may: &Scope, must: &[Expr], types: Option<&[Type]>) {
        let mut columns: Vec<Expr> = Vec::new();
        match types {
            None => {
                columns.extend_from_slice(must);
                for _ in 0..self.random.random_range(u32::from(must.is_empty())..=3) {
                    let type_ = self.pick(&Type::ALL);
                    let expr = if self.chance(15) {
                        self.literal(type_)
                    } else {
                        self.expr(type_, may, 2)
                    };
                    columns.push(expr);
                }
                columns.shuffle(&mut self.random);
            }
            Some(types) => {
                let mut all = may.clone();
                all.extend_from_slice(must);
                columns.extend(types.iter().map(|type_| {
                    let wanted: Scope = must.iter().filter(|e| e.type_of() == *type_).cloned().collect();
                    let from = if wanted.is_empty() { &all } else { &wanted };
                    self.expr(*type_, from, 1)
                }));
            }
        }
        let columns = columns.into_iter().map(|expr| Output {
            expr,
            name: self.name("c"),
        });
        select.columns = columns.collect();
    }

    fn grouped(&mut self, select: &mut Select, scope: &Scope, types: Option<&[Type]>) {
        let mut keys: Vec<Expr> = Vec::new();
        for _ in 0..self.random.random_range(0..=3) {
            let column = self.pick(scope);
            let key = if self.chance(20) {
                self.expr(column.type_of(), scope, 1)
            } else {
                column.clone()
            };
            let key = if matches!(key, Expr::Literal(..)) {
                column
            } else {
                key
            };
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        let mut must = Vec::new();
        for _ in 0..self.random.random_range(u32::from(keys.is_empty())..=3) {
            must.push(self.aggregate(scope));
        }
        let kind = self.grouping(&keys);
        if kind != GroupKind::Plain {
            let columns = keys.iter().filter(|key| matches!(key, Expr::Column { .. }));
            let columns: Scope = columns.cloned().collect();
            if !columns.is_empty() && self.chance(40) {
                let key = self.pick(&columns);
                must.push(Expr::op("grouping({})", vec![key], Type::Int));
            }
        }
        let mut inside = keys.clone();
        inside.extend_from_slice(&must);
        if self.chance(30) {
            select.having = Some(self.predicate(&inside, 0));
        }
        if kind == GroupKind::Plain {
            let windows = self.windows(&inside, 12);
            must.extend(windows);
        }
        if self.chance(80) {
            must.extend_from_slice(&keys);
        }
        if !keys.is_empty() || kind != GroupKind::Plain {
            select.group = Some(Group { kind, keys });
        }
        self.columns(select, &inside, &must, types);
    }

    fn grouping(&mut self, keys: &[Expr]) -> GroupKind {
        if !self.chance(25) {
            return GroupKind::Plain;
        }
        if keys.is_empty() {
            return if self.chance(30) {
                GroupKind::Sets(vec![Vec::new()])
            } else {
                GroupKind::Plain
            };
        }
        match self.random.random_range(0..3) {
            0 => GroupKind::Rollup,
            1 => GroupKind::Cube,
            _ => {
                let sets = self.random.random_range(1..=3);
                let sets = (0..sets).map(|_| {
                    let places = 0..keys.len();
                    places
                        .filter(|_| self.random.random_bool(0.5))
                        .collect::<Vec<_>>()
                });
                let mut sets: Vec<_> = sets.collect();
                // Every key is in some set: otherwise it would not be a key.
                sets.push((0..keys.len()).collect());
                GroupKind::Sets(sets)
            }
        }
    }

    /// A subquery of one table, correlated with `outer` if that has columns to compare, before its columns are chosen.
    pub(super) fn correlated(&mut self, outer: &Scope) -> (Select, Scope) {
        let (from, scope) = self.relation(0);
        let mut pairs = Vec::new();
        for one in &scope {
            let outer = outer.iter().filter(|other| {
                matches!(other, Expr::Column { table: Some(_), .. }) && other.type_of() == one.type_of()
            });
            pairs.extend(outer.map(|other| (one.clone(), other.clone())));
        }
        let mut filter = None;
        if !pairs.is_empty() && self.chance(80) {
            let (mut one, mut other) = self.pick(&pairs);
            for side in [(&mut one, &scope), (&mut other, outer)] {
                if self.chance(10) {
                    *side.0 = self.expr(side.0.type_of(), side.1, 1);
                }
            }
            filter = Some(Expr::op("({} = {})", vec![one, other], Type::Bool));
        }
        if self.chance(40) {
            let also = self.predicate(&scope, 0);
            filter = Some(match filter {
                Some(filter) => Expr::op("({} AND {})", vec![filter, also], Type::Bool),
                None => also,
            });
        }
        let select = Select {
            distinct: false,
            columns: Vec::new(),
            from: Some(from),
            filter,
            group: None,
            having: None,
        };
        (select, scope)
    }

    /// Ends a subquery with its only column.
    pub(super) fn of_one(&mut self, mut select: Select, expr: Expr) -> Box<Query> {
        let name = self.name("c");
        select.columns = vec![Output { expr, name }];
        Box::new(Query::of(Body::Select(Box::new(select))))
    }
}

fn scope_of(alias: &str, columns: Vec<(String, Type)>) -> Scope {
    let columns = columns.into_iter().map(|(name, type_)| Expr::Column {
        table: Some(alias.to_owned()),
        name,
        type_,
    });
    columns.collect()
}
