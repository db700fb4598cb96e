//! Rules of a `ShuffleQuery`.

use super::patterns::is_service_name;
use super::pool::{check_inline, check_locality, check_workers};
use super::schema::{QUERY, check_spec};
use super::{Problem, check_name};
use crate::shuffle_query::{
    AdaptiveSpec, CsvOptions, FileFormat, Location, MAX_BACKOFF_BASE, MAX_KEEP_WHILE_SUSPENDED,
    MAX_NO_WORKERS_GRACE, MAX_QUERY_NAME, MAX_SQL_BYTES, MAX_WORKER_LIVENESS_TIMEOUT,
    MIN_WORKER_LIVENESS_TIMEOUT, RetrySpec, ShuffleQuery, TableSpec, TpchTable,
};
use crate::text::excerpt;
use crate::units::Millis;

/// Everything that is wrong with a query; empty if it is valid. The SQL text is not parsed here.
pub fn validate_query(query: &ShuffleQuery) -> Vec<Problem> {
    let mut problems = Vec::new();
    let spec = &query.spec;
    check_query_name(query, &mut problems);
    check_spec(spec, &QUERY, &mut problems);
    match (&spec.sql, &spec.sql_from) {
        (None, None) => {
            let fix = "write one SELECT statement, or spec.sqlFrom";
            problems.push(Problem::new("spec.sql", "is missing", fix));
        }
        (Some(_), Some(_)) => {
            let problem = "stands beside spec.sql";
            problems.push(Problem::new("spec.sqlFrom", problem, "keep one of the two"));
        }
        (Some(_), None) | (None, Some(_)) => {}
    }
    if let Some(sql) = &spec.sql {
        check_sql(sql, &mut problems);
    }
    for (index, table) in spec.tables.iter().enumerate() {
        check_table(table, &format!("spec.tables[{index}]"), &mut problems);
    }
    if let Some(sink) = &spec.sink {
        check_location(&sink.location, "spec.sink.location", &mut problems);
    }
    check_retry(&spec.retry, &mut problems);
    check_adaptive(&spec.shuffle.adaptive, &mut problems);
    check_keeping(spec.shuffle.keep_while_suspended, &mut problems);
    if let Some(workers) = &spec.workers {
        check_workers(workers, "spec.workers", &mut problems);
        check_inline(workers, "spec.workers", &mut problems);
        if spec.worker_pool_ref.is_some() {
            let problem = "stands beside spec.workerPoolRef";
            problems.push(Problem::new("spec.workers", problem, "keep one of the two"));
        }
    }
    problems
}

/// A name that leaves room for the suffixes of the query's objects; its own workers are a pool, whose name is narrower.
fn check_query_name(query: &ShuffleQuery, problems: &mut Vec<Problem>) {
    check_name(query.metadata.name.as_deref(), problems);
    let Some(name) = query.metadata.name.as_deref().filter(|_| problems.is_empty()) else {
        return;
    };
    if name.len() > MAX_QUERY_NAME {
        let problem = format!("has {} characters", name.len());
        let fix = format!("write at most {MAX_QUERY_NAME}");
        problems.push(Problem::new("metadata.name", problem, fix));
    } else if query.spec.workers.is_some() && !is_service_name(name) {
        let problem = format!(
            "`{}` is no name for a query with workers of its own",
            excerpt(name)
        );
        let fix = "write lower-case letters, digits and `-`, a letter first, or use spec.workerPoolRef";
        problems.push(Problem::new("metadata.name", problem, fix));
    }
}

fn check_sql(sql: &str, problems: &mut Vec<Problem>) {
    let bytes = sql.len();
    let characters = sql.chars().count();
    if bytes > MAX_SQL_BYTES && characters <= MAX_SQL_BYTES {
        let fix = format!("write at most {MAX_SQL_BYTES} bytes");
        problems.push(Problem::new("spec.sql", format!("has {bytes} bytes"), fix));
    }
    if !sql.is_empty() && sql.trim().is_empty() {
        problems.push(Problem::new("spec.sql", "is blank", "write one SELECT statement"));
    }
    if sql.contains('\0') {
        problems.push(Problem::new("spec.sql", "contains a NUL character", "remove it"));
    }
}

fn check_table(table: &TableSpec, path: &str, problems: &mut Vec<Problem>) {
    let kinds = [
        table.location.is_some(),
        table.locations.is_some(),
        table.tpch.is_some(),
    ];
    match kinds.iter().filter(|set| **set).count() {
        0 => problems.push(Problem::new(
            path,
            "has no rows",
            "set location, locations or tpch",
        )),
        1 => {}
        _ => problems.push(Problem::new(
            path,
            "has several sources",
            "keep one of location, locations and tpch",
        )),
    }
    if table.tpch.is_some() {
        check_tpch(table, path, problems);
    } else if table.format.is_none() {
        let field = format!("{path}.format");
        problems.push(Problem::new(
            field,
            "is missing",
            "write parquet, csv, json or arrow",
        ));
    }
    if table.options.is_some() && table.tpch.is_none() && table.format != Some(FileFormat::Csv) {
        let fix = "remove them, or set format: csv";
        problems.push(Problem::new(
            format!("{path}.options"),
            "are for format csv only",
            fix,
        ));
    }
    if let Some(location) = &table.location {
        check_location(location, &format!("{path}.location"), problems);
    }
    for (index, location) in table.locations.iter().flatten().enumerate() {
        check_location(location, &format!("{path}.locations[{index}]"), problems);
    }
    check_locality(&table.locality, &format!("{path}.locality"), problems);
    if let Some(options) = &table.options {
        check_csv(options, &format!("{path}.options"), problems);
    }
}

fn check_tpch(table: &TableSpec, path: &str, problems: &mut Vec<Problem>) {
    let set = [
        ("format", table.format.is_some()),
        ("options", table.options.is_some()),
        ("schema", table.schema.is_some()),
    ];
    for (field, _) in set.into_iter().filter(|(_, set)| *set) {
        let field = format!("{path}.{field}");
        problems.push(Problem::new(
            field,
            "is not for a tpch table",
            "remove it: the rows are generated",
        ));
    }
    let Some(tpch) = &table.tpch else { return };
    if tpch.scale_factor == 0.0 || tpch.scale_factor.is_nan() {
        let field = format!("{path}.tpch.scaleFactor");
        problems.push(Problem::new(
            field,
            format!("is {}", tpch.scale_factor),
            "write a number above 0",
        ));
    }
    if tpch.table.is_none() && TpchTable::from_name(&table.name).is_none() {
        let names = TpchTable::ALL.map(TpchTable::name).join(", ");
        let problem = format!(
            "is missing, and `{}` is not a table of TPC-H",
            excerpt(&table.name)
        );
        problems.push(Problem::new(
            format!("{path}.tpch.table"),
            problem,
            format!("write {names}"),
        ));
    }
}

/// A location, unless the schema has refused it already.
fn check_location(location: &str, field: &str, problems: &mut Vec<Problem>) {
    if problems.iter().any(|problem| problem.field == field) {
        return;
    }
    if let Err(error) = location.parse::<Location>() {
        problems.push(Problem::new(field, error.to_string(), error.fix()));
    }
}

fn check_csv(options: &CsvOptions, path: &str, problems: &mut Vec<Problem>) {
    let mut differ = |field: &str, value: &str| {
        if value == options.delimiter {
            let field = format!("{path}.{field}");
            problems.push(Problem::new(
                field,
                "equals the delimiter",
                "use another character",
            ));
        }
    };
    differ("quote", &options.quote);
    if let Some(escape) = &options.escape {
        differ("escape", escape);
    }
}

fn check_adaptive(adaptive: &AdaptiveSpec, problems: &mut Vec<Problem>) {
    let (least, most) = (adaptive.min_reduce_tasks, adaptive.max_reduce_tasks);
    if most > 0 && least > most {
        problems.push(Problem::new(
            "spec.shuffle.adaptive.minReduceTasks",
            format!("is {least}, and maxReduceTasks is {most}"),
            format!("write at most {most}"),
        ));
    }
}

fn check_keeping(keep: Millis, problems: &mut Vec<Problem>) {
    if keep > MAX_KEEP_WHILE_SUSPENDED {
        problems.push(Problem::new(
            "spec.shuffle.keepWhileSuspended",
            format!("is {keep}"),
            format!("write at most {MAX_KEEP_WHILE_SUSPENDED}"),
        ));
    }
}

fn check_retry(retry: &RetrySpec, problems: &mut Vec<Problem>) {
    let bounds = [
        (
            "backoffBase",
            retry.backoff_base,
            Millis::default(),
            MAX_BACKOFF_BASE,
        ),
        (
            "workerLivenessTimeout",
            retry.worker_liveness_timeout,
            MIN_WORKER_LIVENESS_TIMEOUT,
            MAX_WORKER_LIVENESS_TIMEOUT,
        ),
        (
            "noWorkersGrace",
            retry.no_workers_grace,
            Millis::default(),
            MAX_NO_WORKERS_GRACE,
        ),
    ];
    for (field, span, least, most) in bounds {
        if span < least || span > most {
            let field = format!("spec.retry.{field}");
            problems.push(Problem::new(
                field,
                format!("is {span}"),
                format!("write {least} to {most}"),
            ));
        }
    }
}
