//! What is refused, with the place and the fix.

use super::super::{PlanError, TASK_STACK_BYTES, plan, tables_read};
use super::harness::Bench;

async fn error_of(bench: &Bench, sql: &str) -> PlanError {
    let session = bench.session(2, &[]).await;
    match plan(&session.state(), sql).await {
        Err(error) => error,
        Ok(_) => panic!("accepted: {sql}"),
    }
}

#[tokio::test]
async fn only_queries_are_planned() {
    let bench = Bench::new().await;
    for sql in [
        "CREATE TABLE x AS SELECT 1",
        "CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'",
        "CREATE VIEW x AS SELECT 1",
        "DROP TABLE big",
        "INSERT INTO big SELECT * FROM big",
        "DELETE FROM big",
        "UPDATE big SET k = 1",
        "COPY big TO '/tmp/x.csv'",
        "SET datafusion.execution.batch_size = 1",
        "RESET datafusion.execution.batch_size",
        "SHOW TABLES",
        "EXPLAIN SELECT 1",
        "EXPLAIN ANALYZE SELECT 1",
        "DESCRIBE big",
        "PREPARE p AS SELECT 1",
        "BEGIN",
        "SELECT 1 AS one INTO x",
        "TRUNCATE TABLE big",
    ] {
        let error = error_of(&bench, sql).await;
        let refused = matches!(
            error,
            PlanError::NotAQuery { .. } | PlanError::Explain { .. } | PlanError::Syntax { .. }
        );
        assert!(refused, "{sql}: {error:?}");
    }
    let error = error_of(&bench, "\n  COPY big TO '/tmp/x.csv'").await;
    assert!(
        error
            .to_string()
            .starts_with("COPY at line 2, column 3 is not allowed"),
        "{error}"
    );
}

#[tokio::test]
async fn one_statement() {
    let bench = Bench::new().await;
    let error = error_of(&bench, "SELECT ';' AS a;\nSELECT 2").await;
    assert!(
        matches!(&error, PlanError::SeveralStatements { count: 2, position } if position == "line 2, column 1"),
        "{error:?}"
    );
    assert!(matches!(
        error_of(&bench, " -- nothing\n ; ").await,
        PlanError::Empty
    ));
    assert!(matches!(error_of(&bench, "").await, PlanError::Empty));
    bench.same("SELECT count(*) FROM tiny;", 2, &[]).await;
}

#[tokio::test]
async fn mistakes_name_their_place() {
    let bench = Bench::new().await;
    let error = error_of(&bench, "SELECT id\nFROM big WHEER k = 1").await;
    assert!(
        matches!(&error, PlanError::Syntax { message } if message.contains("line 2, column 10")),
        "{error}"
    );
    let error = error_of(&bench, "SELECT nothing FROM big").await;
    assert!(
        matches!(&error, PlanError::Query { .. }) && error.to_string().contains("nothing"),
        "{error}"
    );
    let error = error_of(&bench, "SELECT * FROM '/etc/passwd'").await;
    assert!(matches!(&error, PlanError::Query { .. }), "{error}");
    let error = error_of(&bench, "SELECT id FROM big LIMIT 5000000000").await;
    assert!(
        matches!(&error, PlanError::Unsupported { what, .. } if what.contains("5000000000")),
        "{error}"
    );
}

/// Runs `test` on a thread with the stack that tasks are promised.
fn on_task_stack<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::Builder::new()
        .stack_size(TASK_STACK_BYTES)
        .spawn(move || {
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .thread_stack_size(TASK_STACK_BYTES)
                .enable_all()
                .build()
                .unwrap()
                .block_on(test());
        });
    thread.unwrap().join().unwrap();
}

#[test]
fn deep_queries_end_with_a_typed_error() {
    on_task_stack(|| async {
        let bench = Bench::new().await;
        for sql in [
            format!("SELECT {}1{}", "(".repeat(5000), ")".repeat(5000)),
            format!("SELECT {}g FROM tiny", "- ".repeat(3000)),
            format!(
                "{}SELECT id FROM tiny{}",
                "SELECT * FROM (".repeat(2000),
                ")".repeat(2000)
            ),
            format!("SELECT {} FROM tiny", vec!["g"; 30_000].join("+")),
            format!("SELECT id FROM tiny WHERE {}", vec!["g=k"; 10_000].join(" OR ")),
        ] {
            let error = error_of(&bench, &sql).await;
            assert!(
                matches!(error, PlanError::TooDeep { .. }),
                "{}… {error}",
                &sql[..40]
            );
        }
        let functions = format!("SELECT {}s{} FROM tiny", "upper(".repeat(45), ")".repeat(45));
        let session = bench.session(2, &[]).await;
        match plan(&session.state(), &functions).await {
            Ok(_) | Err(PlanError::TooDeep { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
    });
}

#[test]
fn long_queries_run() {
    on_task_stack(|| async {
        let bench = Bench::new().await;
        let sum = format!("SELECT {} FROM tiny", vec!["g"; 900].join(" + "));
        bench.same(&sum, 2, &[]).await;
        let any: Vec<String> = (0..900).map(|number| format!("k = {number}")).collect();
        bench
            .same(&format!("SELECT id FROM tiny WHERE {}", any.join(" OR ")), 2, &[])
            .await;
        let union = vec!["SELECT g FROM tiny"; 120].join(" UNION ALL ");
        bench
            .same(&format!("SELECT count(*) FROM ({union})"), 2, &[])
            .await;
    });
}

#[tokio::test]
async fn a_text_tells_which_tables_it_reads_before_any_is_known() {
    let bench = Bench::new().await;
    let session = bench.session(2, &[]).await;
    for (sql, expected) in [
        ("SELECT 1", &[][..]),
        (
            "SELECT * FROM Big b JOIN \"Odd Name\" USING (k), public.mid",
            &["Odd Name", "big", "mid"],
        ),
        (
            "WITH big AS (SELECT * FROM big), x AS (SELECT 1) SELECT * FROM big, x",
            &["big"],
        ),
        (
            "SELECT (SELECT max(k) FROM a) FROM b WHERE EXISTS (SELECT 1 FROM c UNION SELECT 1 FROM d) AND k IN \
             (SELECT k FROM e ORDER BY (SELECT min(k) FROM f))",
            &["a", "b", "c", "d", "e", "f"],
        ),
    ] {
        let read = tables_read(&session.state(), sql).await.unwrap();
        assert_eq!(read.iter().collect::<Vec<_>>(), expected, "{sql}");
    }
    let long = format!("SELECT k FROM big WHERE k = {}", vec!["1"; 30_000].join("+"));
    let error = tables_read(&session.state(), &long).await.unwrap_err();
    assert!(matches!(error, PlanError::TooDeep { .. }), "{error}");
    assert!(tables_read(&session.state(), "DROP TABLE big").await.is_err());
}
