//! The command line: exit codes, messages and exact outputs.

use rustix::process::Signal;
use sluice_crds::shuffle_query::status::{QueryPhase, ShuffleQueryStatus, StageState};

use super::program::{Folder, Program, run, sluice, wait_until};
use super::query::{by_part, query, tpch};

pub(super) const TINY: &str = "select * from (values (1, 'a,b'), (2, null)) as t(n, s) order by n";

fn tiny() -> String {
    query(TINY, &[], &[])
}

/// What is wrong, a file that has it, and what the message must say.
type Case = (&'static str, String, &'static [&'static str]);

fn bad_yaml() -> Vec<Case> {
    vec![
        (
            "no YAML",
            "spec: [1,\n".into(),
            &["query.yaml", "document 1 is not valid YAML", "line"],
        ),
        ("a tab", "kind:\t{\n\tx".into(), &["document 1 is not valid YAML"]),
        ("nothing", String::new(), &["the file has no content"]),
        (
            "another kind",
            "apiVersion: v1\nkind: Pod\n".into(),
            &["apiVersion `v1` is not known", "sluice.dev/v1alpha1"],
        ),
        (
            "an unknown field",
            query(TINY, &[], &["shufle: {}"]),
            &["spec.shufle is not a field", "shuffle"],
        ),
        (
            "an unknown nested field",
            query(TINY, &[], &["shuffle: {partition: 3}"]),
            &["spec.shuffle.partition is not a field", "partitions"],
        ),
        (
            "a wrong type",
            query(TINY, &[], &["shuffle: {partitions: many}"]),
            &["spec.shuffle.partitions"],
        ),
        (
            "out of bounds",
            query(TINY, &[], &["shuffle: {partitions: 0}"]),
            &["spec.shuffle.partitions"],
        ),
        (
            "no table source",
            query(TINY, &["{name: t}"], &[]),
            &["spec.tables[0]", "set location, locations or tpch"],
        ),
        (
            "two queries",
            format!("{}---\n{}", tiny(), tiny()),
            &["it holds 2 ShuffleQuery documents; give exactly one"],
        ),
    ]
}

fn bad_sql() -> Vec<Case> {
    let table = "{name: t, location: rows.csv, format: csv}";
    let over_t = |sql| query(sql, &[table], &[]);
    let reference = "spec:\n  sqlFrom: {configMapKeyRef: {name: texts, key: report}}\n";
    let tiny = tiny();
    let (head, _) = tiny.split_once("spec:\n").expect("a query has a spec");
    vec![
        (
            "a text in a ConfigMap",
            format!("{head}{reference}"),
            &["spec.sqlFrom needs a cluster", "write the text to spec.sql"],
        ),
        (
            "no SQL",
            over_t("selct n from t"),
            &["line 1, column 1", "write SELECT"],
        ),
        (
            "two statements",
            over_t("select 1; select 2"),
            &["2 statements", "line 1, column 11"],
        ),
        (
            "DDL",
            over_t("create table x as select 1"),
            &["CREATE TABLE", "line 1, column 1", "write a SELECT query"],
        ),
        (
            "COPY",
            over_t("copy t to '/tmp/x.csv'"),
            &["COPY", "is not allowed"],
        ),
        (
            "SET",
            over_t("set datafusion.execution.batch_size = 1"),
            &["SET", "is not allowed"],
        ),
        (
            "INSERT",
            over_t("insert into t values (1)"),
            &["INSERT", "is not allowed"],
        ),
        (
            "EXPLAIN",
            over_t("explain select 1"),
            &["EXPLAIN", "sluice explain"],
        ),
    ]
}

fn bad_names() -> Vec<Case> {
    let over_t = |sql| query(sql, &["{name: t, location: rows.csv, format: csv}"], &[]);
    vec![
        (
            "an unknown table",
            over_t("select *\n      from u"),
            &["table u at line 2, column", "is not declared: write t"],
        ),
        (
            "an unknown column",
            over_t("select m from t"),
            &["column m", "write n"],
        ),
        (
            "a missing file",
            query(
                "select * from t",
                &["{name: t, location: gone.csv, format: csv}"],
                &[],
            ),
            &["table t", "gone.csv", "cannot be opened"],
        ),
        (
            "a wrong sink",
            query(TINY, &[], &["sink: {location: 's3://b/x', format: csv}"]),
            &["spec.sink.location", "s3"],
        ),
    ]
}

#[test]
fn bad_input_ends_with_2_and_names_the_place_and_the_fix() {
    let folder = Folder::new();
    folder.write("rows.csv", "n\n1\n");
    for (case, yaml, said) in bad_yaml().into_iter().chain(bad_sql()).chain(bad_names()) {
        eprintln!("{case}");
        let ended = folder.run(&yaml, &["--local-workers", "1"]).expect(2, said);
        assert_eq!(ended.stdout, "", "{case}");
        assert!(ended.stderr.starts_with("error: "), "{case}: {}", ended.stderr);
        assert!(ended.stderr.lines().count() <= 8, "{case}: {}", ended.stderr);
    }
}

#[test]
fn a_bad_command_line_ends_with_2() {
    let folder = Folder::new();
    let file = folder.write("query.yaml", tiny());
    let file = file.to_string_lossy();
    let cases: [(&[&str], &[&str]); 9] = [
        (&["run", &file, "--outptu", "csv"], &["--outptu", "--output"]),
        (&["run", &file, "--output", "xml"], &["xml", "table, json, csv"]),
        (&["run", &file, "--local-workers", "0"], &["--local-workers", "0"]),
        (&["run", &file, "--memory", "lots"], &["--memory", "lots"]),
        (
            &["run", &file, "--processes", "--workers", "127.0.0.1:1"],
            &["--processes", "--workers"],
        ),
        (&["run"], &["FILE"]),
        (
            &["run", "/no/such/file.yaml"],
            &["/no/such/file.yaml", "No such file"],
        ),
        (&["worker", "--listen", "nowhere"], &["--listen", "nowhere"]),
        (&["fly"], &["fly"]),
    ];
    for (arguments, said) in cases {
        let mut command = sluice();
        command.args(arguments);
        run(command).expect(2, said);
    }
}

#[test]
fn a_worker_that_cannot_listen_says_so() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    let mut command = sluice();
    command.args(["worker", "--listen", &address]);
    run(command).expect(2, &["--listen", &address]);
}

#[test]
fn help_teaches() {
    let mut command = sluice();
    command.arg("--help");
    let ended = run(command).expect(0, &[]);
    for word in [
        "run",
        "explain",
        "validate",
        "worker",
        "coordinator",
        "data",
        "130  the query was cancelled",
    ] {
        assert!(ended.stdout.contains(word), "no `{word}` in {}", ended.stdout);
    }
    for command_name in ["run", "explain", "validate", "worker", "coordinator", "data"] {
        let mut command = sluice();
        command.args([command_name, "--help"]);
        let ended = run(command).expect(0, &[]);
        assert!(ended.stdout.contains("Usage: sluice"), "{}", ended.stdout);
    }
}

#[test]
fn rows_are_printed_as_asked() {
    let folder = Folder::new();
    let table = "\
+---+------+
| n | s    |
+---+------+
| 1 | a,b  |
| 2 | NULL |
+---+------+
";
    let json = "{\"n\":1,\"s\":\"a,b\"}\n{\"n\":2,\"s\":null}\n";
    for (format, expected) in [("table", table), ("json", json), ("csv", "n,s\n1,\"a,b\"\n2,\n")] {
        let arguments = ["--local-workers", "2", "--output", format];
        assert_eq!(
            folder.run(&tiny(), &arguments).expect(0, &[]).stdout,
            expected,
            "{format}"
        );
    }
    let empty = query("select 1 as n where false", &[], &[]);
    for (format, expected) in [
        ("table", "+---+\n| n |\n+---+\n+---+\n"),
        ("json", ""),
        ("csv", "n\n"),
    ] {
        let arguments = ["--local-workers", "1", "--output", format];
        assert_eq!(
            folder.run(&empty, &arguments).expect(0, &[]).stdout,
            expected,
            "no rows as {format}"
        );
    }
}

#[test]
fn a_quiet_run_says_nothing_and_others_tell_stages_and_a_total() {
    let folder = Folder::new();
    let yaml = by_part(0.01, &[]);
    let arguments = ["--local-workers", "2", "--output", "csv"];
    let told = folder
        .run(&yaml, &arguments)
        .expect(0, &["stage 0 ", "stage 1 ", "stages, ", "first row after"]);
    let quiet = folder
        .run(&yaml, &[&arguments[..], &["--quiet"]].concat())
        .expect(0, &[]);
    assert_eq!(quiet.stderr, "");
    assert_eq!(quiet.stdout, told.stdout);
}

#[test]
fn how_each_stage_ran_is_told_beside_the_plan() {
    let folder = Folder::new();
    let yaml = by_part(0.01, &[]);
    for more in [&[][..], &["--processes"]] {
        let arguments = [&["--local-workers", "2", "--quiet", "--explain-analyze"], more].concat();
        let said = ["stage s0", "layout: 6 tasks of 6 planned", "query: "];
        let ended = folder.run(&yaml, &arguments).expect(0, &said);
        let lines = |start: &str| {
            ended
                .stderr
                .lines()
                .filter(|line| line.starts_with(start))
                .count()
        };
        assert!(lines("stage s") >= 2, "{}", ended.stderr);
        assert!(lines("  ran: ") >= lines("stage s"), "{}", ended.stderr);
    }
    // The words before the query do the same; its rows are printed too.
    let worded = yaml.replacen("select", "explain analyze select", 1);
    assert_ne!(worded, yaml);
    let arguments = ["--local-workers", "2", "--quiet", "--output", "csv"];
    let ended = folder
        .run(&worded, &arguments)
        .expect(0, &["stage s0", "query: "]);
    assert!(ended.stdout.starts_with("lines,parts,"), "{}", ended.stdout);
    let arguments = [&arguments[..], &["--processes"]].concat();
    folder
        .run(&worded, &arguments)
        .expect(2, &["write --explain-analyze"]);
}

#[test]
fn processes_of_their_own_print_the_same_rows() {
    let folder = Folder::new();
    let yaml = by_part(0.01, &[]);
    let arguments = ["--local-workers", "2", "--output", "csv"];
    let here = folder.run(&yaml, &arguments).expect(0, &[]);
    let processes = folder
        .run(&yaml, &[&arguments[..], &["--processes"]].concat())
        .expect(0, &[]);
    assert_eq!(processes.stdout, here.stdout);
    assert!(
        here.stdout.starts_with("lines,parts,quantity,comment\n"),
        "{}",
        here.stdout
    );
    assert_eq!(folder.files_below("spill"), Vec::<std::path::PathBuf>::new());
}

#[test]
fn standard_input_is_a_file_too() {
    for arguments in [
        &["run", "-", "--local-workers", "1", "--output", "csv"][..],
        &["validate", "-"],
    ] {
        let mut command = sluice();
        command.args(arguments);
        let ended = Program::start_with_input(command, &tiny()).end().expect(0, &[]);
        let expected = match arguments {
            ["validate", ..] => "ShuffleQuery test is valid\n",
            _ => "n,s\n1,\"a,b\"\n2,\n",
        };
        assert_eq!(ended.stdout, expected);
    }
    let mut command = sluice();
    command.args(["run", "-", "--processes", "--local-workers", "1"]);
    Program::start_with_input(command, &tiny())
        .end()
        .expect(2, &["--processes", "standard input"]);
}

#[test]
fn the_status_file_is_what_the_resource_would_carry() {
    let folder = Folder::new();
    let status_of = |yaml: &str, code: i32| -> ShuffleQueryStatus {
        let path = folder.at("status.json");
        let ended = folder.run(
            yaml,
            &["--local-workers", "2", "--status", &path.to_string_lossy()],
        );
        ended.expect(code, &[]);
        let text = std::fs::read_to_string(path).expect("it was written");
        serde_json::from_str(&text).expect("it is a status")
    };
    let status = status_of(&by_part(0.1, &[]), 0);
    assert_eq!(status.phase, QueryPhase::Succeeded);
    assert!(status.error.is_none());
    assert!(status.stages.len() >= 3, "{:#?}", status.stages);
    assert!(status.stages.iter().all(|stage| stage.state == StageState::Done));
    assert!(
        status
            .stages
            .iter()
            .all(|stage| stage.tasks_done == stage.tasks_planned && stage.attempts_failed == 0)
    );
    assert_eq!(status.tasks.done, status.tasks.planned);
    assert_eq!(status.stages_done, Some(format!("{0}/{0}", status.stages.len())));
    // TPC-H has 600,572 lines of orders at scale 0.1.
    assert_eq!(status.totals.rows_read, 600_572);
    assert!(
        status.totals.rows_shuffled > 20_000 && status.totals.bytes_shuffled > 0,
        "{:?}",
        status.totals
    );
    let preview = status.preview.expect("a query without a sink has a preview");
    assert_eq!(preview.columns, ["lines", "parts", "quantity", "comment"]);
    let rows = status.totals.rows_written;
    assert!(
        rows > 0 && preview.rows.len() as u64 == rows.min(20),
        "{rows} rows: {preview:?}"
    );
    let (start, first, end) = (status.start_time, status.first_row_time, status.end_time);
    let (start, first, end) = (
        start.expect("started"),
        first.expect("had rows"),
        end.expect("ended"),
    );
    assert!(start.0 <= first.0 && first.0 <= end.0);

    let status = status_of(
        &query("select 1 / (n - n) from (values (1)) as t(n)", &[], &[]),
        3,
    );
    assert_eq!(status.phase, QueryPhase::Failed);
    let error = status.error.expect("a failed query has an error");
    assert!(
        error.message.to_lowercase().contains("division by zero"),
        "{}",
        error.message
    );
    assert_eq!(error.task, Some(0));
}

#[test]
fn a_query_that_fails_ends_with_3_and_its_first_cause() {
    let folder = Folder::new();
    let sql = "select max(1 / (l_linenumber - 3)) from lineitem";
    let yaml = query(sql, &[&tpch("lineitem", 0.01)], &[]);
    for extra in [&[][..], &["--processes"]] {
        let arguments = [&["--local-workers", "2", "--output", "csv"], extra].concat();
        let ended = folder
            .run(&yaml, &arguments)
            .expect(3, &["error: the query failed", "division by zero"]);
        assert_eq!(ended.stdout, "", "no header of rows that never came");
    }
}

#[test]
fn a_status_file_that_cannot_be_written_is_told() {
    let folder = Folder::new();
    let ended = folder.run(
        &tiny(),
        &["--local-workers", "1", "--status", "/no/such/folder/status.json"],
    );
    let ended = ended.expect(2, &["--status: cannot write /no/such/folder/status.json"]);
    assert_eq!(ended.stdout, "", "it is told before the query runs");
}

#[test]
fn a_spill_folder_that_cannot_be_made_is_told() {
    let folder = Folder::new();
    let file = folder.write("file", "");
    let mut command = sluice();
    command
        .arg("run")
        .arg(folder.write("query.yaml", tiny()))
        .arg("--spill-dir")
        .arg(file.join("below"));
    run(command).expect(2, &["--spill-dir"]);
}

#[test]
fn generated_data_can_be_queried_and_are_not_overwritten() {
    let folder = Folder::new();
    let generate = || {
        let mut command = sluice();
        command
            .args(["data", "tpch", "--scale", "0.01", "--out"])
            .arg(folder.at("tpch"));
        run(command)
    };
    generate().expect(0, &["rows in", "files"]);
    let table = |name| format!("{{name: {name}, location: tpch/{name}, format: parquet}}");
    let sql = "select n_name, count(*) as customers from customer join nation on c_nationkey = n_nationkey \
               group by n_name order by n_name";
    let yaml = query(sql, &[&table("customer"), &table("nation")], &[]);
    let from_files = folder
        .run(&yaml, &["--local-workers", "2", "--output", "csv"])
        .expect(0, &[]);
    let yaml = query(sql, &[&tpch("customer", 0.01), &tpch("nation", 0.01)], &[]);
    let generated = folder
        .run(&yaml, &["--local-workers", "2", "--output", "csv"])
        .expect(0, &[]);
    assert_eq!(from_files.stdout, generated.stdout);
    assert_eq!(generated.stdout.lines().count(), 26, "{}", generated.stdout);
    generate().expect(2, &["tpch"]);
}

#[test]
fn generating_data_can_be_stopped_and_leaves_nothing() {
    for signal in [Signal::INT, Signal::TERM] {
        let folder = Folder::new();
        let mut command = sluice();
        command
            .args(["data", "tpch", "--scale", "10", "--out"])
            .arg(folder.at("tpch"));
        let program = Program::start(command);
        wait_until("bytes on disk", || {
            folder.names().iter().any(|name| folder.has_bytes(name))
        });
        program.signal(signal);
        program.end().expect(130, &["cancelled"]);
        assert_eq!(folder.names(), Vec::<String>::new());
    }
}
