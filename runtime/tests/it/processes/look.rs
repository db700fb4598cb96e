//! Looking at a query without running it: `validate` and `explain`.

use super::cli::TINY;
use super::program::{Folder, run, sluice};
use super::query::{by_part, query, tpch};

#[test]
fn validate_checks_without_opening_tables() {
    let folder = Folder::new();
    let good = query(
        "select * from t",
        &["{name: t, location: gone.csv, format: csv}"],
        &[],
    );
    let mut command = sluice();
    command.arg("validate").arg(folder.write("good.yaml", good));
    assert_eq!(run(command).expect(0, &[]).stdout, "ShuffleQuery test is valid\n");
    let bad = query(
        TINY,
        &["{name: t, location: a/../b, format: csv}"],
        &["retry: {backoffBase: 2h}"],
    );
    let mut command = sluice();
    command.arg("validate").arg(folder.write("bad.yaml", bad));
    let said = [
        "bad.yaml: not valid",
        "spec.tables[0].location contains a `..` segment",
        "spec.retry.backoffBase",
    ];
    assert_eq!(run(command).expect(2, &said).stdout, "");
}

#[test]
fn explain_tells_stages_tasks_and_reasons() {
    let folder = Folder::new();
    let mut command = sluice();
    command
        .arg("explain")
        .arg(folder.write("query.yaml", by_part(0.1, &[])))
        .args(["--partitions", "3"]);
    let text = run(command).expect(0, &[]).stdout;
    let line = |start: &str| {
        let found = text.lines().find(|line| line.trim_start().starts_with(start));
        found.unwrap_or_else(|| panic!("no line `{start}` in {text}"))
    };
    assert!(line("stage s0 ").contains("scan lineitem"), "{text}");
    assert!(line("stage s1 ").contains("6 tasks"), "{text}");
    assert!(
        line("writes exchange x0 ").contains("(hash, 6 partitions), because "),
        "{text}"
    );
    assert!(
        line("result: exchange").ends_with("rows in the order of the query"),
        "{text}"
    );
    let single = "select count(*) from orders full join lineitem on o_orderkey < l_orderkey";
    let mut command = sluice();
    command.arg("explain").arg(folder.write(
        "single.yaml",
        query(single, &[&tpch("orders", 1.0), &tpch("lineitem", 1.0)], &[]),
    ));
    let text = run(command).expect(0, &[]).stdout;
    assert!(text.contains("single task: "), "{text}");
}

/// What `sluice explain` or `sluice validate` says of a query.
fn look(folder: &Folder, arguments: &[&str], yaml: &str) -> String {
    let mut command = sluice();
    command.args(arguments).arg(folder.write("query.yaml", yaml));
    run(command).expect(0, &[]).stdout
}

#[test]
fn a_query_can_be_looked_at_without_a_trace_and_after_it_has_run() {
    let folder = Folder::new();
    let yaml = by_part(0.01, &["sink: {location: new/folder/out, format: csv}"]);
    for command in ["validate", "explain"] {
        look(&folder, &[command], &yaml);
        assert_eq!(folder.names(), ["query.yaml"], "{command}");
    }
    let before = look(&folder, &["explain"], &yaml);
    folder.run(&yaml, &["--local-workers", "1"]).expect(0, &[]);
    assert!(folder.at("new/folder/out").exists());
    assert_eq!(look(&folder, &["explain"], &yaml), before);
    look(&folder, &["validate"], &yaml);
}

#[test]
fn explain_shows_the_plan_that_run_takes() {
    let folder = Folder::new();
    let sql = "select l_partkey, count(*) as n from lineitem group by l_partkey";
    let workers = "workers: {replicas: 3, slotsPerWorker: 2, memory: 64MiB}";
    let yaml = query(sql, &[&tpch("lineitem", 0.01)], &[workers]);
    let text = look(&folder, &["explain"], &yaml);
    assert!(text.contains("(hash, 6 partitions)"), "{text}");
    let text = look(&folder, &["explain", "--partitions", "4"], &yaml);
    assert!(text.contains("(hash, 4 partitions)"), "{text}");
    let file = folder.at("query.yaml");
    for partitions in ["0", "65537"] {
        let mut command = sluice();
        command.args(["explain", "--partitions", partitions]).arg(&file);
        run(command).expect(2, &["--partitions", partitions]);
    }
}
