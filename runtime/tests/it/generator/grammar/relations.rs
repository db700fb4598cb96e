//! What a SELECT reads: tables, subqueries, joins and their conditions.

use super::super::ast::{From, On};
use super::*;

impl Grammar<'_> {
    /// What a query reads, with the columns that it sees.
    pub(super) fn from(&mut self, depth: u32) -> (From, Scope) {
        if self.chance(8) {
            return self.using();
        }
        let (mut from, mut scope) = self.relation(depth);
        let joins = self.pick(&[0, 0, 0, 1, 1, 1, 2]);
        for _ in 0..joins {
            let (right, right_scope) = self.relation(depth);
            let kinds = [
                "JOIN",
                "JOIN",
                "LEFT JOIN",
                "RIGHT JOIN",
                "FULL JOIN",
                "LEFT SEMI JOIN",
                "LEFT ANTI JOIN",
                "CROSS JOIN",
            ];
            let kind = self.pick(&kinds);
            let on = if kind == "CROSS JOIN" {
                On::Nothing
            } else {
                On::Expr(self.condition(&scope, &right_scope))
            };
            from = From::Join {
                kind,
                left: Box::new(from),
                right: Box::new(right),
                on,
            };
            if kind != "LEFT SEMI JOIN" && kind != "LEFT ANTI JOIN" {
                scope.extend(right_scope);
            }
        }
        (from, scope)
    }

    pub(super) fn relation(&mut self, depth: u32) -> (From, Scope) {
        let derived = depth > 0 && self.chance(25);
        let alias = self.name("t");
        let (from, columns) = if derived {
            let query = Box::new(self.query(depth - 1, None));
            let columns = query.columns();
            let alias = alias.clone();
            (From::Derived { query, alias }, columns)
        } else {
            let (name, columns) = self.table();
            let alias = alias.clone();
            (From::Table { name, alias }, columns)
        };
        (from, scope_of(&alias, columns))
    }

    /// A table or a common table expression.
    pub(super) fn table(&mut self) -> (String, Vec<(String, Type)>) {
        if !self.ctes.is_empty() && self.chance(50) {
            let ctes = self.ctes.clone();
            return self.pick(&ctes);
        }
        let tables = &self.database.tables;
        let table = tables.choose(&mut self.random).expect("there are tables");
        (table.name.clone(), table.columns.clone())
    }

    /// The condition of a join.
    pub(super) fn condition(&mut self, left: &Scope, right: &Scope) -> Expr {
        let both: Scope = left.iter().chain(right).cloned().collect();
        let mut parts = Vec::new();
        let equalities = self.pick(&[0, 1, 1, 1, 1, 1, 2]);
        for _ in 0..equalities {
            let one = self.pick(left);
            let others = right.iter().filter(|e| e.type_of() == one.type_of());
            let others: Scope = others.cloned().collect();
            if !others.is_empty() {
                let form = if self.chance(10) {
                    "({} IS NOT DISTINCT FROM {})"
                } else {
                    "({} = {})"
                };
                let other = self.pick(&others);
                parts.push(Expr::op(form, vec![one, other], Type::Bool));
            }
        }
        if self.chance(12) {
            let sides = self.pick(&[left, left, right, right, &both]);
            let subquery = self.subquery(sides, 0);
            parts.push(if self.chance(30) {
                let other = self.predicate(&both, 0);
                Expr::op("({} OR {})", vec![subquery, other], Type::Bool)
            } else {
                subquery
            });
        }
        if parts.is_empty() || self.chance(20) {
            parts.push(self.predicate(&both, 0));
        }
        let parts = parts.into_iter();
        parts
            .reduce(|one, two| Expr::op("({} AND {})", vec![one, two], Type::Bool))
            .expect("there is one")
    }

    /// A join by names: `USING` or `NATURAL`.
    pub(super) fn using(&mut self) -> (From, Scope) {
        let kinds = ["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"];
        let natural = [
            "NATURAL JOIN",
            "NATURAL LEFT JOIN",
            "NATURAL RIGHT JOIN",
            "NATURAL FULL JOIN",
        ];
        let shared: Vec<(String, Type)> = if self.chance(30) {
            vec![("u".to_owned(), Type::Int), ("v".to_owned(), Type::Text)]
        } else {
            let type_ = self.pick(&Type::ALL);
            vec![("u".to_owned(), type_)]
        };
        let (left, left_scope) = self.side(&shared);
        let (right, right_scope) = self.side(&shared);
        let (kind, on) = if self.chance(50) {
            (self.pick(&natural), On::Nothing)
        } else {
            let names = shared.iter().map(|(name, _)| name.clone());
            (self.pick(&kinds), On::Using(names.collect()))
        };
        let mut scope: Scope = shared
            .into_iter()
            .map(|(name, type_)| Expr::Column {
                table: None,
                name,
                type_,
            })
            .collect();
        scope.extend(left_scope);
        scope.extend(right_scope);
        let (left, right) = (Box::new(left), Box::new(right));
        (
            From::Join {
                kind,
                left,
                right,
                on,
            },
            scope,
        )
    }

    /// One side of a join by names: the shared columns, and two of its own.
    pub(super) fn side(&mut self, shared: &[(String, Type)]) -> (From, Scope) {
        let (from, inner) = self.relation(0);
        let mut columns = Vec::new();
        for (name, type_) in shared {
            let expr = self.expr(*type_, &inner, 0);
            columns.push(Output {
                expr,
                name: name.clone(),
            });
        }
        let mut own = Vec::new();
        for _ in 0..2 {
            let (expr, name) = (self.pick(&inner), self.name("c"));
            own.push((name.clone(), expr.type_of()));
            columns.push(Output { expr, name });
        }
        let select = Select {
            distinct: false,
            columns,
            from: Some(from),
            filter: None,
            group: None,
            having: None,
        };
        let alias = self.name("t");
        let query = Box::new(Query::of(Body::Select(Box::new(select))));
        let scope = scope_of(&alias, own);
        (From::Derived { query, alias }, scope)
    }
}
