//! What users read of a query that is refused: one sentence with what, where and the fix.

use std::fmt::Write;

use super::super::plan;
use super::harness::Bench;

/// No user knows these.
const NEVER: [&str; 14] = [
    "datafusion",
    "bug",
    "Error during",
    "error:",
    "backtrace",
    "caused by",
    "Arrow",
    "Span(",
    "Utf8",
    "Int64",
    "type_coercion",
    "Optimizer",
    "configuration",
    "\n",
];

#[tokio::test]
async fn a_refused_query_is_told_in_one_sentence() {
    let bench = Bench::new().await;
    let session = bench.session(2, &[]).await;
    let state = session.state();
    let (mut table, mut refused, mut planned) = (String::new(), 0, Vec::new());
    let faulty = concat!(env!("CARGO_MANIFEST_DIR"), "/src/planner/tests/faulty.sql");
    for line in std::fs::read_to_string(faulty).unwrap().lines() {
        if line.starts_with("--") {
            writeln!(table, "{line}").unwrap();
            continue;
        }
        let sql = line.replace("\\n", "\n");
        let Err(error) = plan(&state, &sql).await else {
            planned.push(line.to_owned());
            continue;
        };
        refused += 1;
        let message = error.to_string();
        for word in NEVER {
            assert!(
                !message.to_lowercase().contains(&word.to_lowercase()),
                "{sql}\n{message}"
            );
        }
        assert!(
            message.contains(": ") && message.len() < 420,
            "no fix, or no sentence: {sql}\n{message}"
        );
        writeln!(table, "{line}\n    {message}").unwrap();
    }
    assert!(planned.is_empty(), "not faulty:\n{}", planned.join("\n"));
    assert!(refused > 100, "{refused} faulty statements");
    insta::assert_snapshot!(table);
}
