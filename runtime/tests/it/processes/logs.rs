//! Log lines of coordinators and workers name the query, as text and as JSON.

use std::collections::BTreeSet;

use serde_json::Value;

use super::program::{Folder, run};
use super::query::by_part;

/// Messages that only one of the two processes logs.
const OF_COORDINATOR: &str = "worker joined";
const OF_WORKER: &str = "session opened";

fn said(format: &str) -> String {
    let folder = Folder::new();
    let mut command = folder.run_command(&by_part(0.001, &[]), &[]);
    command.env("SLUICE_LOG", "info").env("SLUICE_LOG_FORMAT", format);
    run(command).expect(0, &[OF_COORDINATOR, OF_WORKER]).stderr
}

#[test]
fn lines_of_json_name_the_query_and_its_uid() {
    let stderr = said("json");
    let lines = stderr
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut uids = BTreeSet::new();
    let mut told = BTreeSet::new();
    for line in lines {
        let message = line["message"].as_str().unwrap_or_default();
        if [OF_COORDINATOR, OF_WORKER].contains(&message) {
            assert_eq!(line["span"]["query"], "test", "{line}");
            uids.insert(line["span"]["uid"].to_string());
            told.insert(message.to_owned());
        }
    }
    assert_eq!(told.len(), 2, "{stderr}");
    assert_eq!(
        uids.len(),
        1,
        "the same for the coordinator and its workers: {uids:?}"
    );
    assert_ne!(uids.first().map(String::as_str), Some("null"));
}

#[test]
fn lines_of_text_name_the_query_and_have_no_colours() {
    let stderr = said("text");
    for message in [OF_COORDINATOR, OF_WORKER] {
        let line = stderr.lines().find(|line| line.contains(message));
        let line = line.expect("it is told");
        assert!(line.contains("query=\"test\"") && line.contains("uid="), "{line}");
        assert!(!line.contains('\u{1b}'), "{line}");
    }
}
