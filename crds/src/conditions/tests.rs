//! Reasons are one flat string on the wire, so no two may share a name.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{ConditionReason, ErrorReason, ProgressReason};
use crate::yaml::shuffle_query_crd;

/// The names of an enum of units, from its schema.
fn names<T: schemars::JsonSchema>() -> Vec<String> {
    let schema = serde_json::to_value(schemars::schema_for!(T)).unwrap();
    let alone = schema["enum"].as_array().into_iter().flatten();
    let described = schema["oneOf"].as_array().into_iter().flatten();
    let listed = alone.chain(described.map(|variant| &variant["const"]));
    listed.filter_map(Value::as_str).map(str::to_owned).collect()
}

#[test]
fn every_reason_is_read_back_as_what_it_was() {
    let (progress, errors) = (names::<ProgressReason>(), names::<ErrorReason>());
    assert!(
        progress.len() > 20 && errors.len() > 15,
        "{progress:?} {errors:?}"
    );
    let all: BTreeSet<&String> = progress.iter().chain(&errors).collect();
    assert_eq!(
        all.len(),
        progress.len() + errors.len(),
        "a name stands for two reasons"
    );
    for name in all {
        let reason: ConditionReason = serde_json::from_value(json!(name)).unwrap();
        assert_eq!(
            matches!(reason, ConditionReason::Error(_)),
            errors.contains(name),
            "{name}"
        );
        assert_eq!(serde_json::to_value(reason).unwrap(), json!(name));
    }
}

/// Whether somebody who sees it asks what to do. What only tells how far a query is needs no row in a page.
const fn is_asked_about(reason: ProgressReason) -> bool {
    match reason {
        ProgressReason::WaitingForWorkers
        | ProgressReason::PoolNotFound
        | ProgressReason::WaitingForPool
        | ProgressReason::Queued
        | ProgressReason::NamespaceQuotaReached
        | ProgressReason::CoordinatorUnreachable
        | ProgressReason::SqlNotFound
        | ProgressReason::ResultLost
        | ProgressReason::CoordinatorRestarting
        | ProgressReason::ImagePullFailed
        | ProgressReason::ContainerFailed
        | ProgressReason::QuotaExceeded
        | ProgressReason::PodRefused
        | ProgressReason::VolumeUnavailable
        | ProgressReason::VolumesUnmountable
        | ProgressReason::Tainted
        | ProgressReason::Unschedulable
        | ProgressReason::NameTaken => true,
        ProgressReason::Pending
        | ProgressReason::Valid
        | ProgressReason::Planned
        | ProgressReason::WorkersRegistered
        | ProgressReason::Running
        | ProgressReason::Completed
        | ProgressReason::Admitted
        | ProgressReason::CoordinatorStarting
        | ProgressReason::CoordinatorServing
        | ProgressReason::Suspended
        | ProgressReason::WorkersStarting
        | ProgressReason::WorkersDraining
        | ProgressReason::WorkersReady
        | ProgressReason::ScaledToZero => false,
    }
}

/// The page for who runs Sluice has a row for each of them, and none for what does not exist.
#[test]
fn operations_tell_what_to_do_about_every_reason() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, table) = page.split_once("| the query is | reason |").unwrap();
    let (table, _) = table.split_once("\n\n").unwrap();
    let column = |row: &str| row.split('|').nth(2).unwrap_or_default().to_owned();
    let told: Vec<String> = table.lines().map(column).collect();
    let told: BTreeSet<&str> = told
        .iter()
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .collect();
    let mut wanted = names::<ErrorReason>();
    for name in names::<ProgressReason>() {
        let reason: ProgressReason = serde_json::from_value(json!(name)).unwrap();
        if is_asked_about(reason) {
            wanted.push(name);
        }
    }
    let wanted: BTreeSet<&str> = wanted.iter().map(String::as_str).collect();
    assert_eq!(told, wanted, "docs/operations.md on the left");
}

#[test]
fn the_reason_of_an_error_and_of_a_status_fit_each_other() {
    let crd = serde_json::to_value(shuffle_query_crd()).unwrap();
    let status =
        &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"];
    let listed: Vec<String> =
        serde_json::from_value(status["error"]["properties"]["reason"]["enum"].clone()).unwrap();
    assert_eq!(listed, names::<ErrorReason>());
    assert_eq!(status["reason"]["pattern"], "^[A-Z][A-Za-z]*$");
}
