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
