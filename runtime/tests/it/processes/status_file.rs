//! `--status`: the file holds the status that the custom resource would have, however the query ends.

use std::io::Read;
use std::process::Stdio;

use sluice_core::termination::Termination;
use sluice_crds::shuffle_query::status::{QueryPhase, ShuffleQueryStatus};
use sluice_crds::{ConditionStatus, ErrorReason, QueryConditionType};

use super::program::{Folder, sluice};
use super::query::{by_part, query};

fn read(folder: &Folder) -> ShuffleQueryStatus {
    let text = std::fs::read_to_string(folder.at("status.json")).expect("it was written");
    serde_json::from_str(&text).expect("it is a status")
}

/// Runs a query over the status of one that succeeded.
fn failed(folder: &Folder, yaml: &str, code: i32, extra: &[&str]) -> ShuffleQueryStatus {
    folder.write("status.json", "{\"phase\": \"Succeeded\"}");
    let path = folder.at("status.json");
    let path = path.to_string_lossy();
    let arguments = [&["--local-workers", "1", "--status", &path], extra].concat();
    folder.run(yaml, &arguments).expect(code, &["error: "]);
    let status = read(folder);
    assert_eq!(status.phase, QueryPhase::Failed);
    assert!(
        status.start_time.is_some() && status.end_time.is_some(),
        "{status:#?}"
    );
    status
}

#[test]
fn a_query_that_was_refused_has_failed() {
    let folder = Folder::new();
    let missing = ["{name: t, location: gone.csv, format: csv}"];
    folder.write("out/old.csv", "n\n");
    let cases = [
        ("kind: Pod\n".to_owned(), ErrorReason::InvalidSpec, "apiVersion"),
        (
            query("selct 1", &[], &[]),
            ErrorReason::InvalidSql,
            "write SELECT",
        ),
        (
            query("select * from t", &missing, &[]),
            ErrorReason::TableNotFound,
            "gone.csv",
        ),
        (
            query("select 1 as n", &[], &["sink: {location: out, format: csv}"]),
            ErrorReason::SinkExists,
            "out",
        ),
    ];
    for (yaml, reason, said) in cases {
        let status = failed(&folder, &yaml, 2, &[]);
        let error = status.error.expect("a failed query has an error");
        assert_eq!((error.reason, status.reason), (reason, Some(reason.into())));
        assert!(error.message.contains(said), "{}", error.message);
        let accepted = status
            .conditions
            .iter()
            .find(|seen| seen.type_ == QueryConditionType::Accepted);
        let refused = accepted.expect("it was judged").status == ConditionStatus::False;
        assert_eq!(refused, reason != ErrorReason::SinkExists, "{reason:?}");
    }
}

#[test]
fn a_query_that_ran_too_long_has_failed_by_its_deadline() {
    let folder = Folder::new();
    let yaml = by_part(50.0, &["deadlineSeconds: 1"]);
    for extra in [&[][..], &["--processes"]] {
        let status = failed(&folder, &yaml, 3, extra);
        let error = status.error.expect("a failed query has an error");
        assert_eq!(error.reason, ErrorReason::DeadlineExceeded);
        assert!(error.message.contains("deadlineSeconds"), "{}", error.message);
        let (start, end) = (
            status.start_time.expect("started"),
            status.end_time.expect("ended"),
        );
        assert!(end.0.duration_since(start.0).as_millis() >= 1_000);
    }
}

#[test]
fn a_coordinator_that_refuses_tells_its_parent_why() {
    let folder = Folder::new();
    let mut command = sluice();
    command
        .args(["coordinator", "--attached", "--workers", "127.0.0.1:1"])
        .arg(folder.write(
            "query.yaml",
            query("select m from (values (1)) as t(n)", &[], &[]),
        ))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn().expect("the program starts");
    let mut line = String::new();
    let mut stdout = child.stdout.take().expect("a pipe was asked for");
    stdout.read_to_string(&mut line).expect("it says text");
    assert_eq!(child.wait().expect("it ends").code(), Some(2));
    let words = Termination::decode(&line).expect("last words");
    assert_eq!(
        (words.phase, words.reason),
        (QueryPhase::Failed, Some(ErrorReason::InvalidSql))
    );
}

#[test]
fn rows_stay_out_of_the_status_where_the_query_says_so() {
    let folder = Folder::new();
    let path = folder.at("status.json");
    let path = path.to_string_lossy();
    let of = |more: &[&str], extra: &[&str]| {
        let arguments = [&["--local-workers", "1", "--status", &path], extra].concat();
        let yaml = query("values ('secret'), ('other')", &[], more);
        let ended = folder.run(&yaml, &arguments).expect(0, &[]);
        assert!(
            ended.stdout.contains("secret"),
            "the client gets them: {}",
            ended.stdout
        );
        read(&folder)
    };
    for extra in [&[][..], &["--processes"]] {
        let shown = of(&[], extra);
        assert_eq!(shown.preview.expect("first rows").rows.len(), 2, "{extra:?}");
        let hidden = of(&["preview: None"], extra);
        assert_eq!(
            (hidden.preview, hidden.totals.rows_written),
            (None, 2),
            "{extra:?}"
        );
        let text = std::fs::read_to_string(folder.at("status.json")).expect("it was written");
        assert!(!text.contains("secret"), "{extra:?}: {text}");
    }
}
