//! The queries that are made: a small tree with types, so that what is rendered from it is well-typed.

/// The type of a column or an expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Type {
    Int,
    Float,
    Text,
    Decimal,
    Date,
    Time,
    Bool,
    /// A list of integers, some of them NULL.
    List,
    /// A struct of a float `x` and a text `y`, neither of them NULL.
    Struct,
}

impl Type {
    pub const ALL: [Self; 9] = [
        Self::Int,
        Self::Float,
        Self::Text,
        Self::Decimal,
        Self::Date,
        Self::Time,
        Self::Bool,
        Self::List,
        Self::Struct,
    ];

    /// Whether its values have the same order in all engines. They place NULL within a list in different ways.
    pub fn is_ordered(self) -> bool {
        self != Self::List
    }

    /// Its name in SQL.
    pub fn sql(self) -> &'static str {
        match self {
            Self::Int => "BIGINT",
            Self::Float => "DOUBLE",
            Self::Text => "VARCHAR",
            Self::Decimal => "DECIMAL(10,2)",
            Self::Date => "DATE",
            Self::Time => "TIMESTAMP",
            Self::Bool => "BOOLEAN",
            Self::List => "BIGINT[]",
            Self::Struct => "STRUCT<x DOUBLE, y VARCHAR>",
        }
    }
}

/// A value of a table or a literal.
#[derive(Debug, Clone)]
pub enum Value {
    Null,
    Int(i64),
    Float(f64),
    Text(String),
    /// Hundredths.
    Decimal(i64),
    /// Days since 1970.
    Date(i32),
    /// Seconds since 1970.
    Time(i64),
    Bool(bool),
    List(Vec<Option<i64>>),
    Struct(f64, String),
}

impl PartialEq for Value {
    /// NaN is itself here: a query that holds it is no smaller than itself.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Int(one), Self::Int(two))
            | (Self::Decimal(one), Self::Decimal(two))
            | (Self::Time(one), Self::Time(two)) => one == two,
            (Self::Float(one), Self::Float(two)) => one.to_bits() == two.to_bits(),
            (Self::Text(one), Self::Text(two)) => one == two,
            (Self::Date(one), Self::Date(two)) => one == two,
            (Self::Bool(one), Self::Bool(two)) => one == two,
            (Self::List(one), Self::List(two)) => one == two,
            (Self::Struct(x, y), Self::Struct(other_x, other_y)) => {
                x.to_bits() == other_x.to_bits() && y == other_y
            }
            _ => false,
        }
    }
}

/// A text with arguments: each `{}` stands for the next one.
#[derive(Debug, Clone, PartialEq)]
pub struct Form {
    pub sql: String,
    /// The form of DuckDB, where that differs.
    pub duckdb: Option<String>,
}

impl Form {
    pub fn new(sql: &str) -> Self {
        Self {
            sql: sql.to_owned(),
            duckdb: None,
        }
    }

    pub fn of_both(sql: &str, duckdb: &str) -> Self {
        Self {
            sql: sql.to_owned(),
            duckdb: Some(duckdb.to_owned()),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Expr {
    Column {
        table: Option<String>,
        name: String,
        type_: Type,
    },
    Literal(Value, Type),
    /// Operators, functions, CASE, aggregates, windows.
    Op {
        form: Form,
        args: Vec<Expr>,
        type_: Type,
    },
    /// A window function and its window.
    Window(Box<Window>),
    /// `(SELECT one value)`.
    Scalar(Box<Query>, Type),
    /// `expr [NOT] IN (query)`.
    In {
        expr: Box<Expr>,
        query: Box<Query>,
        negated: bool,
    },
    Exists {
        query: Box<Query>,
        negated: bool,
    },
}

impl Expr {
    pub fn op(form: &str, args: Vec<Self>, type_: Type) -> Self {
        Self::Op {
            form: Form::new(form),
            args,
            type_,
        }
    }

    pub fn type_of(&self) -> Type {
        match self {
            Self::Column { type_, .. }
            | Self::Literal(_, type_)
            | Self::Op { type_, .. }
            | Self::Scalar(_, type_) => *type_,
            Self::Window(window) => window.type_,
            Self::In { .. } | Self::Exists { .. } => Type::Bool,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    pub function: Form,
    pub args: Vec<Expr>,
    pub partitions: Vec<Expr>,
    pub order: Vec<Key>,
    /// The value depends on the order, which is by all columns.
    pub total: bool,
    /// `ROWS BETWEEN …`, or nothing.
    pub frame: String,
    pub type_: Type,
}

/// A column of a SELECT list.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    pub expr: Expr,
    pub name: String,
}

/// A key of ORDER BY.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    pub expr: Expr,
    pub descending: bool,
    pub nulls_first: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    pub ctes: Vec<(String, Query)>,
    pub body: Body,
    pub order: Vec<Key>,
    pub limit: Option<u32>,
    pub offset: Option<u32>,
}

impl Query {
    pub fn of(body: Body) -> Self {
        Self {
            ctes: Vec::new(),
            body,
            order: Vec::new(),
            limit: None,
            offset: None,
        }
    }

    /// The names and types of its columns.
    pub fn columns(&self) -> Vec<(String, Type)> {
        let mut body = &self.body;
        loop {
            match body {
                Body::Set { left, .. } => body = &left.body,
                Body::Select(select) => {
                    let columns = select.columns.iter();
                    return columns
                        .map(|column| (column.name.clone(), column.expr.type_of()))
                        .collect();
                }
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    Select(Box<Select>),
    Set {
        operator: &'static str,
        left: Box<Query>,
        right: Box<Query>,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Select {
    pub distinct: bool,
    pub columns: Vec<Output>,
    pub from: Option<From>,
    pub filter: Option<Expr>,
    pub group: Option<Group>,
    pub having: Option<Expr>,
}

/// GROUP BY.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    pub kind: GroupKind,
    pub keys: Vec<Expr>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum GroupKind {
    Plain,
    Rollup,
    Cube,
    /// Each set, by the indexes of its keys.
    Sets(Vec<Vec<usize>>),
}

#[derive(Debug, Clone, PartialEq)]
pub enum From {
    /// A table or a common table expression.
    Table {
        name: String,
        alias: String,
    },
    Derived {
        query: Box<Query>,
        alias: String,
    },
    Join {
        kind: &'static str,
        left: Box<From>,
        right: Box<From>,
        on: On,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub enum On {
    Nothing,
    Expr(Expr),
    Using(Vec<String>),
}
