//! Random expressions: predicates, functions, aggregates, window functions.

use rand::Rng;
use rand::seq::SliceRandom;

use super::ast::{Expr, Form, Key, Type, Window};
use super::grammar::{Grammar, Scope};

impl Grammar<'_> {
    /// An expression of a type over what stands in `scope`.
    pub(super) fn expr(&mut self, type_: Type, scope: &Scope, depth: u32) -> Expr {
        let of_type: Scope = scope.iter().filter(|e| e.type_of() == type_).cloned().collect();
        if !of_type.is_empty() && (depth == 0 || self.chance(60)) {
            return self.pick(&of_type);
        }
        if depth == 0 || self.chance(20) {
            return self.literal(type_);
        }
        if type_ == Type::Bool {
            return self.predicate(scope, 0);
        }
        self.function(type_, scope, depth - 1)
    }

    fn function(&mut self, type_: Type, scope: &Scope, depth: u32) -> Expr {
        match self.random.random_range(0..10) {
            0 | 1 => {
                let condition = self.predicate(scope, 0);
                let (one, two) = (self.expr(type_, scope, depth), self.expr(type_, scope, depth));
                if self.chance(30) {
                    return Expr::op("(CASE WHEN {} THEN {} END)", vec![condition, one], type_);
                }
                let args = vec![condition, one, two];
                return Expr::op("(CASE WHEN {} THEN {} ELSE {} END)", args, type_);
            }
            2 => {
                let (one, two) = (self.expr(type_, scope, depth), self.expr(type_, scope, depth));
                let form = self.pick(&["coalesce({}, {})", "nullif({}, {})"]);
                return Expr::op(form, vec![one, two], type_);
            }
            _ => {}
        }
        let (form, types) = self.function_form(type_);
        let args = types.iter().map(|type_| self.expr(*type_, scope, depth));
        Expr::Op {
            form,
            args: args.collect(),
            type_,
        }
    }

    /// A function or an operator with values of a type, and the types of its arguments.
    fn function_form(&mut self, type_: Type) -> (Form, &'static [Type]) {
        match type_ {
            Type::Int => self.pick(&[
                (Form::new("({} + {})"), &[Type::Int, Type::Int][..]),
                (Form::new("({} - {})"), &[Type::Int, Type::Int]),
                (Form::new("({} * {})"), &[Type::Int, Type::Int]),
                (
                    Form::of_both("({} / nullif({}, 0))", "({} // nullif({}, 0))"),
                    &[Type::Int, Type::Int],
                ),
                (Form::new("({} % nullif({}, 0))"), &[Type::Int, Type::Int]),
                (Form::new("abs({})"), &[Type::Int]),
                (Form::new("(- {})"), &[Type::Int]),
                (Form::new("CAST(length({}) AS BIGINT)"), &[Type::Text]),
                (Form::new("CAST({} AS BIGINT)"), &[Type::Bool]),
                (Form::new("CAST(extract(day FROM {}) AS BIGINT)"), &[Type::Date]),
                (
                    Form::of_both("array_element({}, 1)", "list_extract({}, 1)"),
                    &[Type::List],
                ),
            ]),
            Type::Float => self.pick(&[
                (Form::new("({} + {})"), &[Type::Float, Type::Float][..]),
                (Form::new("({} - {})"), &[Type::Float, Type::Float]),
                (Form::new("({} * {})"), &[Type::Float, Type::Float]),
                (Form::new("CAST({} AS DOUBLE)"), &[Type::Int]),
                (Form::new("CAST({} AS DOUBLE)"), &[Type::Decimal]),
                (Form::new("abs({})"), &[Type::Float]),
                (
                    Form::of_both("get_field({}, 'x')", "struct_extract({}, 'x')"),
                    &[Type::Struct],
                ),
            ]),
            Type::Text => self.pick(&[
                (Form::new("({} || {})"), &[Type::Text, Type::Text][..]),
                (Form::new("upper({})"), &[Type::Text]),
                (Form::new("substr({}, 1, 1)"), &[Type::Text]),
                (Form::new("concat({}, '-', {})"), &[Type::Text, Type::Text]),
                (Form::new("CAST({} AS VARCHAR)"), &[Type::Int]),
                (
                    Form::of_both("get_field({}, 'y')", "struct_extract({}, 'y')"),
                    &[Type::Struct],
                ),
            ]),
            Type::Decimal => self.pick(&[
                (Form::new("({} + {})"), &[Type::Decimal, Type::Decimal][..]),
                (Form::new("({} - {})"), &[Type::Decimal, Type::Decimal]),
                (Form::new("abs({})"), &[Type::Decimal]),
            ]),
            Type::Date => (Form::new("CAST({} AS DATE)"), &[Type::Time]),
            Type::Time => self.pick(&[
                (Form::new("CAST({} AS TIMESTAMP)"), &[Type::Date][..]),
                (
                    Form::new("CAST(date_trunc('day', {}) AS TIMESTAMP)"),
                    &[Type::Time],
                ),
            ]),
            Type::Bool => (Form::new("(NOT {})"), &[Type::Bool]),
            Type::List => (Form::new("[{}, {}]"), &[Type::Int, Type::Int]),
            Type::Struct => (
                Form::of_both(
                    "named_struct('x', coalesce({}, CAST('0.5' AS DOUBLE)), 'y', coalesce({}, 'c'))",
                    "struct_pack(x := coalesce({}, CAST('0.5' AS DOUBLE)), y := coalesce({}, 'c'))",
                ),
                &[Type::Float, Type::Text],
            ),
        }
    }

    /// A condition. It contains subqueries while `depth` is above 0.
    pub(super) fn predicate(&mut self, scope: &Scope, depth: u32) -> Expr {
        if depth > 0 && self.chance(22) {
            return self.subquery(scope, depth - 1);
        }
        match self.random.random_range(0..24) {
            0..=3 => self.both("({} AND {})", scope, depth),
            4 | 5 => self.both("({} OR {})", scope, depth),
            6 => {
                let inner = self.predicate(scope, depth);
                let forms = ["(NOT {})", "({} IS TRUE)", "({} IS NOT FALSE)", "({} IS NULL)"];
                Expr::op(self.pick(&forms), vec![inner], Type::Bool)
            }
            7 => {
                let text = self.expr(Type::Text, scope, 0);
                let forms = ["({} LIKE 'a%')", "({} LIKE '%b%')", "({} NOT LIKE '_')"];
                Expr::op(self.pick(&forms), vec![text], Type::Bool)
            }
            8 => self.expr(Type::Bool, scope, 0),
            choice => self.comparison(scope, choice),
        }
    }

    fn both(&mut self, form: &str, scope: &Scope, depth: u32) -> Expr {
        let (one, two) = (self.predicate(scope, depth), self.predicate(scope, 0));
        Expr::op(form, vec![one, two], Type::Bool)
    }

    fn comparison(&mut self, scope: &Scope, choice: u32) -> Expr {
        let type_ = match scope.is_empty() {
            true => self.pick(&Type::ALL),
            false => self.pick(scope).type_of(),
        };
        let depth = u32::from(self.chance(25));
        let one = self.expr(type_, scope, depth);
        match choice {
            9..=11 => {
                let value = self.literal(type_);
                Expr::op("({} = {})", vec![one, value], Type::Bool)
            }
            13 => Expr::op("({} IS NULL)", vec![one], Type::Bool),
            14 => Expr::op("({} IS NOT NULL)", vec![one], Type::Bool),
            15 if type_.is_ordered() => {
                let args = vec![one, self.literal(type_), self.literal(type_)];
                Expr::op("({} BETWEEN {} AND {})", args, Type::Bool)
            }
            16 | 17 => {
                let args = vec![one, self.literal(type_), self.literal(type_), self.literal(type_)];
                let form = self.pick(&["({} IN ({}, {}, {}))", "({} NOT IN ({}, {}, {}))"]);
                Expr::op(form, args, Type::Bool)
            }
            18 | 19 => {
                let two = self.expr(type_, scope, 1);
                let forms = ["({} IS DISTINCT FROM {})", "({} IS NOT DISTINCT FROM {})"];
                Expr::op(self.pick(&forms), vec![one, two], Type::Bool)
            }
            _ => {
                let two = self.expr(type_, scope, 1);
                let forms = [
                    "({} = {})",
                    "({} <> {})",
                    "({} < {})",
                    "({} <= {})",
                    "({} > {})",
                    "({} >= {})",
                ];
                let count = if type_.is_ordered() { forms.len() } else { 2 };
                let form = self.pick(forms.get(..count).unwrap_or(&forms));
                Expr::op(form, vec![one, two], Type::Bool)
            }
        }
    }

    pub(super) fn subquery(&mut self, scope: &Scope, depth: u32) -> Expr {
        let negated = self.chance(45);
        let types = [Type::Int, Type::Int, Type::Text, Type::Float, Type::Date];
        match self.random.random_range(0..6) {
            0 | 1 => {
                let type_ = self.pick(&types);
                Expr::In {
                    expr: Box::new(self.expr(type_, scope, 0)),
                    query: Box::new(self.query(depth, Some(&[type_]))),
                    negated,
                }
            }
            2 => {
                let type_ = self.pick(&types);
                let (select, inner) = self.correlated(scope);
                let column = self.expr(type_, &inner, 0);
                Expr::In {
                    expr: Box::new(self.expr(type_, scope, 0)),
                    query: self.of_one(select, column),
                    negated,
                }
            }
            3 | 4 => {
                let (select, inner) = self.correlated(scope);
                let column = if self.chance(15) {
                    self.aggregate(&inner)
                } else {
                    self.pick(&inner)
                };
                Expr::Exists {
                    query: self.of_one(select, column),
                    negated,
                }
            }
            _ => {
                let (select, inner) = self.correlated(scope);
                let aggregate = self.aggregate(&inner);
                let type_ = aggregate.type_of();
                let scalar = Expr::Scalar(self.of_one(select, aggregate), type_);
                let other = self.expr(type_, scope, 0);
                let form = self.pick(&["({} = {})", "({} < {})", "({} IS DISTINCT FROM {})"]);
                let form = if type_.is_ordered() { form } else { "({} = {})" };
                Expr::op(form, vec![other, scalar], Type::Bool)
            }
        }
    }

    /// An aggregate, sometimes of distinct values or with a FILTER.
    pub(super) fn aggregate(&mut self, scope: &Scope) -> Expr {
        let (form, argument, type_) = self.aggregated(scope);
        let mut args: Vec<Expr> = argument.into_iter().collect();
        if self.chance(20) {
            args.push(self.predicate(scope, 0));
            return Expr::op(&format!("{form} FILTER (WHERE {{}})"), args, type_);
        }
        Expr::op(&form, args, type_)
    }

    fn aggregated(&mut self, scope: &Scope) -> (String, Option<Expr>, Type) {
        if self.chance(15) {
            return ("count(*)".to_owned(), None, Type::Int);
        }
        let argument = if self.chance(80) {
            self.pick(scope)
        } else {
            let type_ = self.pick(&[Type::Int, Type::Float, Type::Text]);
            self.expr(type_, scope, 1)
        };
        let type_ = argument.type_of();
        let mut choices = vec![("count({})", Type::Int), ("count(DISTINCT {})", Type::Int)];
        if type_.is_ordered() {
            choices.extend([("min({})", type_), ("max({})", type_)]);
        }
        match type_ {
            Type::Int | Type::Decimal => {
                choices.extend([("sum({})", type_), ("sum(DISTINCT {})", type_)]);
                choices.push(("avg(CAST({} AS DOUBLE))", Type::Float));
            }
            Type::Float => choices.extend([("sum({})", type_), ("avg({})", type_)]),
            Type::Bool => choices.extend([("bool_and({})", type_), ("bool_or({})", type_)]),
            Type::Text | Type::Date | Type::Time | Type::List | Type::Struct => {}
        }
        let (form, type_) = self.pick(&choices);
        (form.to_owned(), Some(argument), type_)
    }

    /// A window function with its window.
    pub(super) fn window(&mut self, scope: &Scope) -> Expr {
        let columns: Scope = scope
            .iter()
            .filter(|e| !matches!(e, Expr::Literal(..)))
            .cloned()
            .collect();
        // Rows that differ in a list alone have no order.
        let has_order = scope.iter().all(|e| e.type_of().is_ordered());
        let function = loop {
            let function = self.window_function(scope);
            if has_order || !function.total {
                break function;
            }
        };
        let partitions = self.pick(&[0, 0, 1, 1, 2]);
        let partitions: Scope = (0..partitions).map(|_| self.pick(&columns)).collect();
        let total = function.total || (has_order && function.frames && self.chance(40));
        let mut keys = columns.clone();
        keys.retain(|key| key.type_of().is_ordered());
        keys.shuffle(&mut self.random);
        if !total {
            keys.truncate(self.pick(&[0, 1, 1, 2]));
        }
        if function.ordered && keys.is_empty() {
            let mut ordered = columns.iter().filter(|e| e.type_of().is_ordered());
            keys.push(match ordered.next() {
                Some(column) => column.clone(),
                None => self.literal(Type::Text),
            });
        }
        let frame = if function.frames && self.chance(60) {
            self.frame(&keys, total)
        } else {
            String::new()
        };
        let order = keys.into_iter().map(|expr| Key {
            expr,
            descending: self.random.random_bool(0.5),
            nulls_first: self.random.random_bool(0.5),
        });
        Expr::Window(Box::new(Window {
            order: order.collect(),
            function: Form::of_both(&function.sql, &function.duckdb),
            args: function.args,
            partitions,
            total,
            frame,
            type_: function.type_,
        }))
    }

    /// A frame in the order of these keys, of which rows are counted only in a total order.
    fn frame(&mut self, keys: &Scope, total: bool) -> String {
        let one_number = keys.len() == 1 && keys.iter().all(|key| key.type_of() == Type::Int);
        let unit = match () {
            () if total => self.pick(&["ROWS", "GROUPS"]),
            () if one_number => self.pick(&["RANGE", "GROUPS"]),
            () if !keys.is_empty() => "GROUPS",
            () => return String::new(),
        };
        let (start, end) = self.pick(&[
            ("UNBOUNDED PRECEDING", "CURRENT ROW"),
            ("UNBOUNDED PRECEDING", "UNBOUNDED FOLLOWING"),
            ("1 PRECEDING", "1 FOLLOWING"),
            ("2 PRECEDING", "CURRENT ROW"),
            ("CURRENT ROW", "UNBOUNDED FOLLOWING"),
            ("1 FOLLOWING", "2 FOLLOWING"),
            ("3 PRECEDING", "1 PRECEDING"),
        ]);
        format!("{unit} BETWEEN {start} AND {end}")
    }

    fn window_function(&mut self, scope: &Scope) -> WindowFunction {
        if self.chance(45) {
            let Expr::Op { form, args, type_ } = self.aggregate(scope) else {
                unreachable!("an aggregate is an operator");
            };
            // Neither engine has frames of distinct values in every form.
            let sql = form.sql.replace("DISTINCT ", "");
            return WindowFunction {
                duckdb: sql.clone(),
                sql,
                args,
                type_,
                total: false,
                ordered: false,
                frames: true,
            };
        }
        let ranks = [
            ("row_number()", Type::Int, true),
            ("rank()", Type::Int, false),
            ("dense_rank()", Type::Int, false),
            ("percent_rank()", Type::Float, false),
            ("cume_dist()", Type::Float, false),
            ("ntile(3)", Type::Int, true),
        ];
        if self.chance(45) {
            let (sql, type_, total) = self.pick(&ranks);
            return WindowFunction {
                sql: sql.to_owned(),
                duckdb: sql.to_owned(),
                args: Vec::new(),
                type_,
                total,
                ordered: true,
                frames: false,
            };
        }
        let argument = self.pick(scope);
        let type_ = argument.type_of();
        let (sql, frames) = self.pick(&[
            ("lag({}", false),
            ("lead({}", false),
            ("lag({}, 2", false),
            ("first_value({}", true),
            ("last_value({}", true),
            ("nth_value({}, 2", true),
        ]);
        let ignore = self.chance(40);
        WindowFunction {
            sql: format!("{sql}){}", if ignore { " IGNORE NULLS" } else { "" }),
            duckdb: format!("{sql}{})", if ignore { " IGNORE NULLS" } else { "" }),
            args: vec![argument],
            type_,
            total: true,
            ordered: true,
            frames,
        }
    }
}

/// A window function without its window.
struct WindowFunction {
    sql: String,
    duckdb: String,
    args: Vec<Expr>,
    type_: Type,
    /// Whether its value depends on the order of rows with equal keys.
    total: bool,
    /// Whether it means anything without an order.
    ordered: bool,
    /// Whether it has frames.
    frames: bool,
}
