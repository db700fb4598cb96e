//! The generated files are those of the types, small enough, and say the defaults that the code has.

use std::path::Path;

use super::{GENERATE_COMMAND, MAX_FILE_BYTES, files, shuffle_query_crd, worker_pool_crd};
use crate::shuffle_query::{ColumnSpec, CsvOptions, RetrySpec, ShuffleSpec, SinkSpec};
use crate::worker_pool::PlacementSpec;
use crate::{ShuffleQuerySpec, WorkerPoolSpec};
use serde_json::{Value, json};

#[test]
fn generated_files_are_up_to_date() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("yaml");
    let mut expected = Vec::new();
    for (name, text) in files().unwrap() {
        let found = std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        assert!(
            found == text,
            "crds/yaml/{name} differs from the types: run `{GENERATE_COMMAND}`"
        );
        expected.push(name.to_owned());
    }
    let entries = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut entries: Vec<String> = entries.collect();
    entries.sort();
    assert_eq!(
        entries, expected,
        "crds/yaml holds generated files alone: run `{GENERATE_COMMAND}`"
    );
}

#[test]
fn generated_files_are_small() {
    for (name, text) in files().unwrap() {
        assert!(text.len() < MAX_FILE_BYTES, "{name} has {} bytes", text.len());
    }
}

fn spec_schema(crd: &impl serde::Serialize) -> Value {
    let crd = serde_json::to_value(crd).unwrap();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
}

/// What the API server would fill into an empty object of that schema.
fn filled(schema: &Value) -> Value {
    let mut object = serde_json::Map::new();
    for (name, property) in schema["properties"].as_object().unwrap() {
        if let Some(default) = property.get("default") {
            object.insert(name.clone(), default.clone());
        }
    }
    Value::Object(object)
}

/// The defaults of schema, serde and `Default` are one.
fn assert_defaults<T>(schema: &Value, given: &Value)
where
    T: serde::Serialize + serde::de::DeserializeOwned + Default,
{
    let mut expected = filled(schema);
    for (name, value) in given.as_object().unwrap() {
        expected[name] = value.clone();
    }
    let parsed: T = serde_json::from_value(given.clone()).unwrap();
    assert_eq!(serde_json::to_value(&parsed).unwrap(), expected);
    if *given == json!({}) {
        assert_eq!(serde_json::to_value(T::default()).unwrap(), expected);
    }
}

#[test]
fn schema_serde_and_code_have_the_same_defaults() {
    let query = spec_schema(&shuffle_query_crd());
    let pool = spec_schema(&worker_pool_crd());
    let table = &query["properties"]["tables"]["items"]["properties"];
    assert_defaults::<ShuffleQuerySpec>(&query, &json!({ "sql": "SELECT 1" }));
    assert_defaults::<RetrySpec>(&query["properties"]["retry"], &json!({}));
    assert_defaults::<ShuffleSpec>(&query["properties"]["shuffle"], &json!({}));
    assert_defaults::<CsvOptions>(&table["options"], &json!({}));
    assert_defaults::<WorkerPoolSpec>(&pool, &json!({}));
    assert_defaults::<PlacementSpec>(&pool["properties"]["placement"], &json!({}));
    assert_defaults::<WorkerPoolSpec>(&query["properties"]["workers"], &json!({}));

    let sink: SinkSpec = serde_json::from_value(json!({ "location": "out", "format": "csv" })).unwrap();
    let sink_schema = filled(&query["properties"]["sink"]);
    assert_eq!(
        serde_json::to_value(sink.if_exists).unwrap(),
        sink_schema["ifExists"]
    );
    let column: ColumnSpec = serde_json::from_value(json!({ "name": "a", "type": "Utf8" })).unwrap();
    assert_eq!(
        json!(column.nullable),
        filled(&table["schema"]["items"])["nullable"]
    );
}

/// Every field explains itself, and every list, text and number has its bounds.
fn assert_documented_and_bounded(schema: &Value, path: &str) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        assert!(
            property["description"]
                .as_str()
                .is_some_and(|text| text.len() > 10),
            "{path} has no description"
        );
        assert!(property.get("nullable").is_none(), "{path} is nullable");
        assert_bounded(property, &path);
        assert_documented_and_bounded(property, &path);
    }
}

fn assert_bounded(schema: &Value, path: &str) {
    match schema["type"].as_str() {
        Some("string") => {
            let bounded = ["maxLength", "enum"].iter().any(|key| schema.get(key).is_some());
            assert!(bounded || schema["format"] == "date-time", "{path} is unbounded");
        }
        Some("array") => {
            assert!(schema.get("maxItems").is_some(), "{path} is unbounded");
            assert_bounded(&schema["items"], &format!("{path}[]"));
            assert_documented_and_bounded(&schema["items"], &format!("{path}[]"));
        }
        Some("object") if schema.get("additionalProperties").is_some() => {
            assert!(schema.get("maxProperties").is_some(), "{path} is unbounded");
            assert_bounded(&schema["additionalProperties"], &format!("{path}[]"));
        }
        None if schema["x-kubernetes-int-or-string"] == true => {
            let bounded = ["maxLength", "pattern"]
                .iter()
                .any(|key| schema.get(key).is_some());
            assert!(bounded && schema.get("minimum").is_some(), "{path} is unbounded");
        }
        _ => {}
    }
}

#[test]
fn every_field_is_documented_and_bounded() {
    for crd in [shuffle_query_crd(), worker_pool_crd()] {
        let crd = serde_json::to_value(crd).unwrap();
        let root = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        assert_documented_and_bounded(root, &crd["spec"]["names"]["kind"].to_string());
    }
}

#[test]
fn absent_options_are_not_written() {
    let spec = ShuffleQuerySpec {
        sql: Some("SELECT 1".to_owned()),
        ..Default::default()
    };
    let json = serde_json::to_string(&spec).unwrap();
    assert!(!json.contains("null"), "{json}");
}
