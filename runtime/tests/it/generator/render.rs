//! From the tree to SQL. What differs between the dialects is here and in [`Form::duckdb`] alone:
//!
//! - `a / b` of integers is a DOUBLE in DuckDB; `//` divides whole numbers.
//! - IGNORE NULLS stands inside the parentheses of a window function in DuckDB, behind them in DataFusion.
//! - `sum` of BIGINT is a HUGEINT in DuckDB, `sum` of DECIMAL is wider; numbers are compared by value.
//! - LEFT SEMI JOIN and LEFT ANTI JOIN have no LEFT in DuckDB.
//! - The order of NULLs differs: it is always written.
//! - The fields of a STRUCT stand in parentheses in DuckDB.
//! - `1 + 1` of literals is narrower in DuckDB than BIGINT; literals are small.

use std::fmt::Write;

use super::ast::{Body, Expr, Form, From, GroupKind, Key, On, Query, Select, Type, Value, Window};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    DataFusion,
    DuckDb,
}

pub fn sql(query: &Query, dialect: Dialect) -> String {
    Renderer(dialect).query(query)
}

struct Renderer(Dialect);

impl Renderer {
    fn query(&self, query: &Query) -> String {
        let mut text = String::new();
        if !query.ctes.is_empty() {
            let ctes = query.ctes.iter();
            let ctes: Vec<String> = ctes
                .map(|(name, query)| format!("{name} AS ({})", self.query(query)))
                .collect();
            let _ = write!(text, "WITH {} ", ctes.join(", "));
        }
        match &query.body {
            Body::Select(select) => text.push_str(&self.select(select)),
            Body::Set {
                operator,
                left,
                right,
            } => {
                let (left, right) = (self.query(left), self.query(right));
                let _ = write!(text, "({left}) {operator} ({right})");
            }
        }
        if !query.order.is_empty() {
            let _ = write!(text, " ORDER BY {}", self.keys(&query.order));
        }
        if let Some(limit) = query.limit {
            let _ = write!(text, " LIMIT {limit}");
        }
        if let Some(offset) = query.offset {
            let _ = write!(text, " OFFSET {offset}");
        }
        text
    }

    fn keys(&self, keys: &[Key]) -> String {
        let keys = keys.iter().map(|key| {
            let direction = if key.descending { "DESC" } else { "ASC" };
            let nulls = if key.nulls_first { "FIRST" } else { "LAST" };
            format!("{} {direction} NULLS {nulls}", self.expr(&key.expr))
        });
        keys.collect::<Vec<_>>().join(", ")
    }

    fn window(&self, window: &Window) -> String {
        let mut parts = Vec::new();
        if !window.partitions.is_empty() {
            let partitions: Vec<String> = window.partitions.iter().map(|key| self.expr(key)).collect();
            parts.push(format!("PARTITION BY {}", partitions.join(", ")));
        }
        if !window.order.is_empty() {
            parts.push(format!("ORDER BY {}", self.keys(&window.order)));
        }
        if !window.frame.is_empty() {
            parts.push(window.frame.clone());
        }
        let function = self.form(&window.function, &window.args);
        format!("{function} OVER ({})", parts.join(" "))
    }

    fn select(&self, select: &Select) -> String {
        let distinct = if select.distinct { "DISTINCT " } else { "" };
        let columns = select.columns.iter();
        let columns: Vec<String> = columns
            .map(|column| format!("{} AS {}", self.expr(&column.expr), column.name))
            .collect();
        let mut text = format!("SELECT {distinct}{}", columns.join(", "));
        if let Some(from) = &select.from {
            let _ = write!(text, " FROM {}", self.from(from));
        }
        if let Some(filter) = &select.filter {
            let _ = write!(text, " WHERE {}", self.expr(filter));
        }
        if let Some(group) = &select.group {
            let keys: Vec<String> = group.keys.iter().map(|key| self.expr(key)).collect();
            let all = keys.join(", ");
            let _ = match &group.kind {
                GroupKind::Plain => write!(text, " GROUP BY {all}"),
                GroupKind::Rollup => write!(text, " GROUP BY ROLLUP ({all})"),
                GroupKind::Cube => write!(text, " GROUP BY CUBE ({all})"),
                GroupKind::Sets(sets) => {
                    let sets = sets.iter().map(|set| {
                        let keys = set.iter().filter_map(|place| keys.get(*place).cloned());
                        format!("({})", keys.collect::<Vec<_>>().join(", "))
                    });
                    let sets = sets.collect::<Vec<_>>().join(", ");
                    write!(text, " GROUP BY GROUPING SETS ({sets})")
                }
            };
        }
        if let Some(having) = &select.having {
            let _ = write!(text, " HAVING {}", self.expr(having));
        }
        text
    }

    fn from(&self, from: &From) -> String {
        match from {
            From::Table { name, alias } => format!("{name} AS {alias}"),
            From::Derived { query, alias } => format!("({}) AS {alias}", self.query(query)),
            From::Join {
                kind,
                left,
                right,
                on,
            } => {
                let (left, right) = (self.from(left), self.joined(right));
                let kind = match (self.0, *kind) {
                    (Dialect::DuckDb, "LEFT SEMI JOIN") => "SEMI JOIN",
                    (Dialect::DuckDb, "LEFT ANTI JOIN") => "ANTI JOIN",
                    (Dialect::DataFusion | Dialect::DuckDb, kind) => kind,
                };
                match on {
                    On::Nothing => format!("{left} {kind} {right}"),
                    On::Expr(expr) => format!("{left} {kind} {right} ON {}", self.expr(expr)),
                    On::Using(columns) => format!("{left} {kind} {right} USING ({})", columns.join(", ")),
                }
            }
        }
    }

    /// The right side of a join.
    fn joined(&self, from: &From) -> String {
        match from {
            From::Join { .. } => format!("({})", self.from(from)),
            From::Table { .. } | From::Derived { .. } => self.from(from),
        }
    }

    fn expr(&self, expr: &Expr) -> String {
        match expr {
            Expr::Column { table, name, .. } => match table {
                Some(table) => format!("{table}.{name}"),
                None => name.clone(),
            },
            Expr::Literal(value, type_) => literal(value, *type_, self.0),
            Expr::Op { form, args, .. } => self.form(form, args),
            Expr::Window(window) => self.window(window),
            Expr::Scalar(query, _) => format!("({})", self.query(query)),
            Expr::In { expr, query, negated } => {
                let not = if *negated { "NOT " } else { "" };
                format!("({} {not}IN ({}))", self.expr(expr), self.query(query))
            }
            Expr::Exists { query, negated } => {
                let not = if *negated { "NOT " } else { "" };
                format!("({not}EXISTS ({}))", self.query(query))
            }
        }
    }

    fn form(&self, form: &Form, args: &[Expr]) -> String {
        let sql = match (&form.duckdb, self.0) {
            (Some(duckdb), Dialect::DuckDb) => duckdb,
            (_, Dialect::DataFusion | Dialect::DuckDb) => &form.sql,
        };
        let mut args = args.iter();
        let mut parts = sql.split("{}");
        let mut text = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            text.push_str(&args.next().map(|arg| self.expr(arg)).unwrap_or_default());
            text.push_str(part);
        }
        text
    }
}

fn literal(value: &Value, type_: Type, dialect: Dialect) -> String {
    let text = match value {
        Value::Null => "NULL".to_owned(),
        Value::Int(number) => number.to_string(),
        Value::Float(number) if number.is_finite() => format!("'{number:?}'"),
        Value::Float(number) if number.is_nan() => "'NaN'".to_owned(),
        Value::Float(number) if *number > 0.0 => "'Infinity'".to_owned(),
        Value::Float(_) => "'-Infinity'".to_owned(),
        Value::Text(text) => format!("'{text}'"),
        Value::Decimal(hundredths) => format!("'{}'", decimal(*hundredths)),
        Value::Date(days) => format!("'{}'", date(*days)),
        Value::Time(seconds) => format!("'{}'", time(*seconds)),
        Value::Bool(yes) => return yes.to_string(),
        Value::List(items) => {
            let items = items.iter();
            let items = items.map(|item| literal(&item.map_or(Value::Null, Value::Int), Type::Int, dialect));
            format!("[{}]", items.collect::<Vec<_>>().join(", "))
        }
        Value::Struct(x, y) => {
            let (x, y) = (Value::Float(*x), Value::Text(y.clone()));
            let (x, y) = (
                literal(&x, Type::Float, dialect),
                literal(&y, Type::Text, dialect),
            );
            format!("{{'x': {x}, 'y': {y}}}")
        }
    };
    match value {
        Value::Int(_) | Value::Text(_) => text,
        _ => format!("CAST({text} AS {})", type_name(type_, dialect)),
    }
}

fn type_name(type_: Type, dialect: Dialect) -> String {
    match dialect {
        Dialect::DataFusion => type_.sql().to_owned(),
        Dialect::DuckDb => type_.sql().replace('<', "(").replace('>', ")"),
    }
}

pub fn decimal(hundredths: i64) -> String {
    let sign = if hundredths < 0 { "-" } else { "" };
    let whole = hundredths.unsigned_abs();
    format!("{sign}{}.{:02}", whole / 100, whole % 100)
}

pub fn date(days: i32) -> String {
    let epoch = jiff::civil::date(1970, 1, 1);
    let day = epoch.checked_add(jiff::Span::new().days(days));
    day.expect("a day of this era").to_string()
}

pub fn time(seconds: i64) -> String {
    let stamp = jiff::Timestamp::from_second(seconds).expect("a second of this era");
    stamp.strftime("%Y-%m-%d %H:%M:%S").to_string()
}
