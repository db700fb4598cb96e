//! Checks a JSON value against the schema of its CRD, as the API server does, with the path of every problem.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use serde_json::Value;

use super::Problem;
use super::patterns::SHAPES;
use crate::embedded::QUANTITY_PATTERN;
use crate::text::excerpt;
use crate::yaml::{shuffle_query_crd, worker_pool_crd};

/// Schema of a whole `ShuffleQuery`.
pub(crate) static QUERY: LazyLock<JSONSchemaProps> = LazyLock::new(|| schema_of(shuffle_query_crd()));
/// Schema of a whole `WorkerPool`.
pub(crate) static POOL: LazyLock<JSONSchemaProps> = LazyLock::new(|| schema_of(worker_pool_crd()));

/// Most problems that one check reports.
const MAX_PROBLEMS: usize = 50;

fn schema_of(crd: CustomResourceDefinition) -> JSONSchemaProps {
    let schema = crd
        .spec
        .versions
        .into_iter()
        .next()
        .and_then(|version| version.schema);
    schema
        .and_then(|schema| schema.open_api_v3_schema)
        .unwrap_or_default()
}

/// Checks the spec of an object, given as JSON.
pub(crate) fn check_spec(spec: &impl serde::Serialize, root: &JSONSchemaProps, problems: &mut Vec<Problem>) {
    let schema = root
        .properties
        .as_ref()
        .and_then(|properties| properties.get("spec"));
    match (serde_json::to_value(spec), schema) {
        (Ok(value), Some(schema)) => check(&value, schema, "spec", problems),
        (Err(error), _) => problems.push(Problem::new("spec", error.to_string(), "write it anew")),
        (Ok(_), None) => {}
    }
}

/// Checks a value and everything below it.
pub(crate) fn check(value: &Value, schema: &JSONSchemaProps, path: &str, problems: &mut Vec<Problem>) {
    if problems.len() >= MAX_PROBLEMS {
        return;
    }
    let Some(expected) = expected_type(value, schema) else {
        match value {
            Value::Object(fields) => check_object(fields, schema, path, problems),
            Value::Array(items) => check_array(items, schema, path, problems),
            Value::String(text) => check_text(text, schema, path, problems),
            Value::Number(number) => {
                check_number(number.as_f64().unwrap_or(f64::NAN), schema, path, problems);
            }
            Value::Bool(_) | Value::Null => {}
        }
        return;
    };
    let problem = match value {
        Value::Null => "has no value".to_owned(),
        other => format!("is {}", excerpt(&other.to_string())),
    };
    let absent = if matches!(value, Value::Null) {
        ", or remove the field"
    } else {
        ""
    };
    problems.push(Problem::new(path, problem, format!("write {expected}{absent}")));
}

/// What the schema wants, if the value has another type.
fn expected_type(value: &Value, schema: &JSONSchemaProps) -> Option<&'static str> {
    if schema.x_kubernetes_int_or_string == Some(true) {
        let fits = value.is_string() || value.is_i64() || value.is_u64();
        let expected = if schema.pattern.as_deref() == Some(QUANTITY_PATTERN) {
            "a whole number, or a number with a unit as a text, such as 500m or 4Gi"
        } else {
            "a size, such as 512MiB or an integer of bytes"
        };
        return (!fits).then_some(expected);
    }
    let (fits, expected) = match schema.type_.as_deref()? {
        "object" => (value.is_object(), "fields below it"),
        "array" => (value.is_array(), "a list"),
        "string" => (
            value.is_string(),
            "a text (in quotes, if it looks like a number or true)",
        ),
        "boolean" => (value.is_boolean(), "true or false"),
        "integer" => (value.is_i64() || value.is_u64(), "a whole number"),
        "number" => (value.is_number(), "a number"),
        _ => return None,
    };
    (!fits).then_some(expected)
}

fn check_object(
    fields: &serde_json::Map<String, Value>,
    schema: &JSONSchemaProps,
    path: &str,
    problems: &mut Vec<Problem>,
) {
    let Some(properties) = &schema.properties else {
        check_map(fields, schema, path, problems);
        return;
    };
    for required in schema.required.iter().flatten() {
        if !fields.contains_key(required) {
            problems.push(Problem::new(join(path, required), "is missing", "add it"));
        }
    }
    for (name, value) in fields {
        match properties.get(name) {
            Some(property) => check(value, property, &join(path, name), problems),
            None => {
                let known: Vec<&str> = properties.keys().map(String::as_str).collect();
                let fix = format!("remove it; fields here are {}", known.join(", "));
                problems.push(Problem::new(join(path, &excerpt(name)), "is not a field", fix));
            }
        }
    }
}

/// A map of free keys, such as labels.
fn check_map(
    fields: &serde_json::Map<String, Value>,
    schema: &JSONSchemaProps,
    path: &str,
    problems: &mut Vec<Problem>,
) {
    let count = i64::try_from(fields.len()).unwrap_or(i64::MAX);
    if let Some(most) = schema.max_properties.filter(|most| count > *most) {
        let fix = format!("write at most {most}");
        problems.push(Problem::new(path, format!("has {count} keys"), fix));
    }
    if let Some(JSONSchemaPropsOrBool::Schema(of_value)) = &schema.additional_properties {
        for (key, value) in fields {
            check(value, of_value, &format!("{path}[{}]", excerpt(key)), problems);
        }
    }
}

fn join(path: &str, field: &str) -> String {
    if path.is_empty() {
        field.to_owned()
    } else {
        format!("{path}.{field}")
    }
}

fn check_array(items: &[Value], schema: &JSONSchemaProps, path: &str, problems: &mut Vec<Problem>) {
    let count = i64::try_from(items.len()).unwrap_or(i64::MAX);
    if schema.max_items.is_some_and(|most| count > most) {
        let most = schema.max_items.unwrap_or_default();
        problems.push(Problem::new(
            path,
            format!("has {count} items"),
            format!("write at most {most}"),
        ));
    }
    if schema.min_items.is_some_and(|least| count < least) {
        problems.push(Problem::new(
            path,
            "is an empty list",
            "add an item, or remove the field",
        ));
    }
    if let Some(JSONSchemaPropsOrArray::Schema(item)) = &schema.items {
        for (index, value) in items.iter().enumerate() {
            check(value, item, &format!("{path}[{index}]"), problems);
        }
    }
    for key in schema.x_kubernetes_list_map_keys.iter().flatten() {
        let mut seen = BTreeSet::new();
        for (index, value) in items.iter().enumerate() {
            let name = value.get(key).map(Value::to_string);
            if let Some(name) = name.filter(|name| !seen.insert(name.clone())) {
                let problem = format!("{} occurs twice", excerpt(&name));
                problems.push(Problem::new(
                    format!("{path}[{index}].{key}"),
                    problem,
                    "use each name once",
                ));
            }
        }
    }
}

fn check_text(text: &str, schema: &JSONSchemaProps, path: &str, problems: &mut Vec<Problem>) {
    if let Some(choices) = &schema.enum_ {
        if !choices.iter().any(|choice| choice.0 == text) {
            let known: Vec<&str> = choices.iter().filter_map(|choice| choice.0.as_str()).collect();
            let fix = format!("write {}", known.join(", "));
            problems.push(Problem::new(
                path,
                format!("`{}` is not known", excerpt(text)),
                fix,
            ));
        }
        return;
    }
    let length = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
    if schema.min_length.is_some_and(|least| length < least) {
        problems.push(Problem::new(
            path,
            "is empty",
            "write a value, or remove the field if it is optional",
        ));
        return;
    }
    if let Some(most) = schema.max_length.filter(|most| length > *most) {
        let problem = format!("has {length} characters");
        problems.push(Problem::new(path, problem, format!("write at most {most}")));
        return;
    }
    let shape = SHAPES
        .iter()
        .find(|shape| schema.pattern.as_deref() == Some(shape.pattern));
    if let Some(shape) = shape
        && let Err(problem) = (shape.check)(text)
    {
        problems.push(Problem::new(
            path,
            format!("`{}` {problem}", excerpt(text)),
            shape.fix,
        ));
    }
}

fn check_number(number: f64, schema: &JSONSchemaProps, path: &str, problems: &mut Vec<Problem>) {
    let (least, most) = (schema.minimum, schema.maximum);
    if least.is_some_and(|least| number < least) || most.is_some_and(|most| number > most) {
        let fix = match (least, most) {
            (Some(least), Some(most)) => format!("write {least} to {most}"),
            (Some(least), None) => format!("write at least {least}"),
            (None, Some(most)) => format!("write at most {most}"),
            (None, None) => return,
        };
        problems.push(Problem::new(path, format!("is {number}"), fix));
    }
}
