//! TABLESAMPLE: which rows are chosen depends on the seed and their places alone.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::prelude::SessionContext;
use sluice_crds::shuffle_query::TpchTable as Table;

use super::super::{PlanError, PlannedQuery, plan};
use super::harness::{Bench, texts};
use super::stage_runner::run;
use super::survey::register_formats;
use crate::source::tpch::TpchTable;

/// Tables, a column of which no two rows have the same value, and their rows.
const TABLES: &[(&str, &str, usize)] = &[
    ("big", "id", 1200),
    ("of_csv", "id", 3000),
    ("of_json", "id", 3000),
    ("of_arrow", "id", 300),
    ("orders", "o_orderkey", 15_000),
    ("part", "p_partkey", 20_000),
];

struct Tables {
    bench: Bench,
    folder: tempfile::TempDir,
}

impl Tables {
    async fn new() -> Self {
        Self {
            bench: Bench::new().await,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    async fn session(&self, partitions: usize) -> SessionContext {
        let session = self.bench.session(partitions, &[]).await;
        register_formats(&session, self.folder.path().to_str().unwrap()).await;
        for (name, table, scale_factor) in [("orders", Table::Orders, 0.01), ("part", Table::Part, 0.1)] {
            let table = TpchTable::new(table, scale_factor).unwrap();
            session.register_table(name, Arc::new(table)).unwrap();
        }
        session
    }

    async fn planned(&self, sql: &str, partitions: usize) -> (PlannedQuery, SessionContext) {
        let session = self.session(partitions).await;
        let planned = plan(&session.state(), sql).await;
        (planned.unwrap_or_else(|error| panic!("{sql}: {error}")), session)
    }

    /// The values of a column of numbers, in order.
    async fn numbers(&self, sql: &str, partitions: usize) -> Vec<i64> {
        let (planned, session) = self.planned(sql, partitions).await;
        numbers(&planned, &session).await
    }
}

async fn numbers(planned: &PlannedQuery, session: &SessionContext) -> Vec<i64> {
    let batches = run(planned, &session.runtime_env()).await.unwrap();
    let rows = texts(&batches).into_iter().flatten();
    let mut numbers: Vec<i64> = rows.map(|text| text.parse().unwrap()).collect();
    numbers.sort_unstable();
    numbers
}

#[tokio::test]
async fn any_number_of_tasks_chooses_the_same_rows() {
    let tables = Tables::new().await;
    for (table, column, rows) in TABLES {
        for method in ["BERNOULLI", "SYSTEM"] {
            let sql = format!("SELECT {column} FROM {table} TABLESAMPLE {method} (30) REPEATABLE (3)");
            let one = tables.numbers(&sql, 1).await;
            let share = one.len() as f64 / *rows as f64;
            // Six standard deviations: the path of a file, another one each time, is a part of chance. A generated table
            // has none; small files have but a few places for SYSTEM.
            let slack = 6.0 * (0.3 * 0.7 / *rows as f64).sqrt();
            let is_known = method == "BERNOULLI" || *table == "part";
            let slack = if method == "SYSTEM" { 0.2 } else { slack };
            assert!(!is_known || (share - 0.3).abs() < slack, "{sql}: {share}");
            let different: BTreeSet<&i64> = one.iter().collect();
            assert_eq!(different.len(), one.len(), "{sql}");
            for partitions in [3, 13] {
                assert_eq!(tables.numbers(&sql, partitions).await, one, "{partitions}: {sql}");
            }
        }
    }
}

#[tokio::test]
async fn a_sample_is_a_part_of_the_table_up_to_all_of_it() {
    let tables = Tables::new().await;
    for (table, column, rows) in TABLES {
        let all = tables.numbers(&format!("SELECT {column} FROM {table}"), 3).await;
        assert_eq!(all.len(), *rows, "{table}");
        for method in ["", "BERNOULLI", "SYSTEM"] {
            let of = |percent: &str| format!("SELECT {column} FROM {table} TABLESAMPLE {method} ({percent})");
            assert_eq!(tables.numbers(&of("100"), 3).await, all, "{method} {table}");
            assert_eq!(tables.numbers(&of("0"), 3).await, [0; 0], "{method} {table}");
            let some = tables.numbers(&of("40.5"), 3).await;
            let all: BTreeSet<&i64> = all.iter().collect();
            assert!(some.iter().all(|row| all.contains(row)), "{method} {table}");
        }
    }
}

#[tokio::test]
async fn system_chooses_rows_that_lie_together() {
    let tables = Tables::new().await;
    // Row groups of 100 rows are smaller than what is chosen together.
    let rows = tables
        .numbers("SELECT id FROM big TABLESAMPLE SYSTEM (50) REPEATABLE (1)", 3)
        .await;
    for group in 0..12 {
        let chosen = rows.iter().filter(|row| **row / 100 == group).count();
        assert!([0, 100].contains(&chosen), "{chosen} of row group {group}");
    }
    let rows = tables
        .numbers("SELECT id FROM of_csv TABLESAMPLE SYSTEM (50) REPEATABLE (1)", 3)
        .await;
    let blocks: BTreeSet<i64> = rows.iter().map(|row| row / 1024).collect();
    let whole: i64 = blocks.iter().map(|block| 1024.min(3000 - block * 1024)).sum();
    assert_eq!(rows.len() as i64, whole);
}

#[tokio::test]
async fn a_seed_is_drawn_once_for_a_query() {
    let tables = Tables::new().await;
    let sql = "SELECT id FROM big TABLESAMPLE BERNOULLI (50)";
    let (planned, session) = tables.planned(sql, 3).await;
    // Each run decodes the fragments anew, as attempts do.
    let once = numbers(&planned, &session).await;
    assert_eq!(numbers(&planned, &session).await, once);
    let (other, session) = tables.planned(sql, 3).await;
    assert_ne!(numbers(&other, &session).await, once);
    let seeded = |seed: &str| format!("{sql} REPEATABLE ({seed})");
    assert_ne!(
        tables.numbers(&seeded("1"), 3).await,
        tables.numbers(&seeded("2"), 3).await
    );
    assert_eq!(
        tables.numbers(&seeded("1.5"), 1).await,
        tables.numbers(&seeded("1.5"), 3).await
    );
}

#[tokio::test]
async fn samples_are_tables_of_queries() {
    let tables = Tables::new().await;
    for (sql, expected) in [
        ("SELECT count(*) FROM big TABLESAMPLE BERNOULLI (100) WHERE big.id < 10", "10"),
        ("SELECT count(*) FROM big AS b TABLESAMPLE SYSTEM (100) WHERE b.id < 10", "10"),
        (
            "SELECT count(*) FROM big b TABLESAMPLE (100) JOIN mid m TABLESAMPLE (100 PERCENT) ON b.id = m.id",
            "300",
        ),
        ("SELECT count(*) FROM none TABLESAMPLE (50)", "0"),
        ("SELECT count(*) FROM (SELECT id FROM tiny TABLESAMPLE (100)) t", "7"),
        ("SELECT count(*) FROM tiny WHERE id IN (SELECT id FROM big TABLESAMPLE (100))", "7"),
        ("WITH s AS (SELECT id FROM tiny TABLESAMPLE (50)) SELECT count(*) FROM s a FULL JOIN s b ON a.id = b.id
          WHERE a.id IS NULL OR b.id IS NULL", "0"),
        (
            "WITH RECURSIVE n(v) AS (SELECT 1 UNION ALL SELECT v + 1 FROM n JOIN tiny TABLESAMPLE (100) ON id = v)
             SELECT max(v) FROM n",
            "7",
        ),
    ] {
        for partitions in [1, 3] {
            let (planned, session) = tables.planned(sql, partitions).await;
            let batches = run(&planned, &session.runtime_env()).await.unwrap();
            assert_eq!(texts(&batches), [[expected]], "{sql}");
        }
    }
    // Statistics of the table do not answer for its sample.
    let some = tables
        .numbers("SELECT count(*) FROM big TABLESAMPLE (50) REPEATABLE (1)", 3)
        .await;
    let rows = tables
        .numbers("SELECT id FROM big TABLESAMPLE (50) REPEATABLE (1)", 3)
        .await;
    assert_eq!(some, [rows.len() as i64]);
}

#[tokio::test]
async fn other_samples_are_refused_by_name() {
    let tables = Tables::new().await;
    let session = tables.session(2).await;
    session.sql("CREATE VIEW v AS SELECT id FROM big").await.unwrap();
    for (sql, clause) in [
        ("SELECT id FROM big TABLESAMPLE (10 ROWS)", "ROWS"),
        ("SELECT id FROM big TABLESAMPLE BERNOULLI (101)", "101"),
        ("SELECT id FROM big TABLESAMPLE BERNOULLI (-1)", "-1"),
        ("SELECT id FROM big TABLESAMPLE BERNOULLI (id)", "id"),
        ("SELECT id FROM big TABLESAMPLE (BUCKET 1 OUT OF 4)", "BUCKET"),
        (
            "SELECT id FROM (SELECT id FROM big) t TABLESAMPLE (10)",
            "subquery",
        ),
        (
            "WITH t AS (SELECT id FROM big) SELECT id FROM t TABLESAMPLE (10)",
            "subquery",
        ),
        ("SELECT id FROM v TABLESAMPLE (10)", "TABLESAMPLE"),
    ] {
        let error = plan(&session.state(), sql).await.err();
        let error = error.unwrap_or_else(|| panic!("accepted: {sql}"));
        assert!(error.to_string().contains(clause), "{sql}: {error}");
        assert_ne!(
            error.reason(),
            PlanError::internal("", "").reason(),
            "{sql}: {error:?}"
        );
    }
}
