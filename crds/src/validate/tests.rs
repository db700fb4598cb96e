//! The table of cases, and that no pattern of the schema goes unchecked.

use std::collections::BTreeSet;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};

use super::patterns::SHAPES;
use super::schema::{POOL, QUERY};
use super::{validate_pool, validate_query, validate_query_update};
use crate::cases::{cases, update_cases};
use crate::parse::{Resource, parse_documents};
use crate::{ShuffleQuery, ShuffleQuerySpec};

fn reported(yaml: &str) -> BTreeSet<String> {
    let problems = match parse_documents(yaml) {
        Ok(resources) => resources
            .iter()
            .flat_map(|resource| match resource {
                Resource::Query(query) => validate_query(query),
                Resource::Pool(pool) => validate_pool(pool),
            })
            .collect(),
        Err(error) => {
            assert!(!error.problems().is_empty(), "no field is named: {error}");
            error.problems().to_vec()
        }
    };
    problems.into_iter().map(|problem| problem.field).collect()
}

#[test]
fn every_case_gets_its_verdict() {
    let cases = cases().unwrap();
    assert!(cases.len() > 80);
    for case in cases {
        let expected: BTreeSet<String> = case.local.iter().cloned().collect();
        assert_eq!(
            reported(&case.yaml),
            expected,
            "case `{}`:\n{}",
            case.title,
            case.yaml
        );
        assert!(
            case.server_accepts || !case.local.is_empty(),
            "`{}`: local mode takes what a cluster refuses",
            case.title
        );
    }
}

#[test]
fn every_change_gets_its_verdict() {
    let cases = update_cases().unwrap();
    assert!(cases.len() > 40);
    for case in cases {
        let [old, new] = [&case.old, &case.new].map(|query| {
            let query: ShuffleQuery = serde_json::from_value(query.clone()).unwrap();
            assert_eq!(validate_query(&query), [], "case `{}`", case.title);
            query
        });
        let problems = validate_query_update(&old, &new);
        let found: BTreeSet<String> = problems.into_iter().map(|problem| problem.field).collect();
        let expected: BTreeSet<String> = case.local.iter().cloned().collect();
        assert_eq!(found, expected, "case `{}`", case.title);
        assert_eq!(
            case.server_accepts,
            case.local.is_empty(),
            "`{}`: both have one opinion of changes",
            case.title
        );
    }
}

#[test]
fn every_field_of_a_query_either_stays_or_may_change() {
    let free = [
        "suspend",
        "deadlineSeconds",
        "ttlSecondsAfterFinished",
        "priority",
    ];
    let crd = serde_json::to_value(&*QUERY).unwrap();
    let spec = &crd["properties"]["spec"];
    let rules = spec["x-kubernetes-validations"].to_string();
    for field in spec["properties"].as_object().unwrap().keys() {
        assert_eq!(
            rules.contains(&format!("has(oldSelf.{field})")),
            !free.contains(&field.as_str()),
            "{field}"
        );
    }
}

#[test]
fn titles_are_unique_within_a_kind() {
    let cases = cases().unwrap();
    let titles: BTreeSet<(bool, &str)> = cases
        .iter()
        .map(|case| (case.yaml.contains("kind: WorkerPool"), case.title.as_str()))
        .collect();
    assert_eq!(titles.len(), cases.len());
}

#[test]
fn a_problem_names_field_problem_and_fix() {
    let query = ShuffleQuery::new(
        "q",
        ShuffleQuerySpec {
            sql: Some(String::new()),
            ..Default::default()
        },
    );
    let texts: Vec<String> = validate_query(&query).iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        ["spec.sql is empty: write a value, or remove the field if it is optional"]
    );
}

#[test]
fn sql_is_bounded_in_bytes() {
    let sql = |text: &str, times: usize| {
        let query = ShuffleQuery::new(
            "q",
            ShuffleQuerySpec {
                sql: Some(text.repeat(times)),
                ..Default::default()
            },
        );
        validate_query(&query).len()
    };
    assert_eq!(sql("x", 65_536), 0);
    assert_eq!(sql("x", 65_537), 1);
    assert_eq!(sql("é", 32_768), 0);
    assert_eq!(sql("é", 32_769), 1);
}

fn patterns(schema: &JSONSchemaProps, found: &mut BTreeSet<String>) {
    found.extend(schema.pattern.clone());
    for property in schema
        .properties
        .iter()
        .flat_map(|properties| properties.values())
    {
        patterns(property, found);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(item)) = &schema.items {
        patterns(item, found);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(value)) = &schema.additional_properties {
        patterns(value, found);
    }
}

#[test]
fn every_pattern_of_a_spec_has_its_predicate_and_every_predicate_its_pattern() {
    let mut found = BTreeSet::new();
    for root in [&*QUERY, &*POOL] {
        patterns(&root.properties.as_ref().unwrap()["spec"], &mut found);
    }
    let known: BTreeSet<String> = SHAPES.iter().map(|shape| shape.pattern.to_owned()).collect();
    assert_eq!(found, known);
}
