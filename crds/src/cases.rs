//! Two tables, `crds/cases/*.yaml`: good and bad objects ([`cases`]), and allowed and forbidden changes of a query
//! ([`update_cases`]). The tests of this crate run them through `parse_documents` and `validate_*`, a test against a
//! real API server does the same there.
//!
//! A case is one YAML document with a header of three comments:
//!
//! ```yaml
//! # case: what it shows
//! # local: good, or the fields that are reported, separated by commas
//! # server: good or refused (with strict field validation)
//! ```
//!
//! A change has the same header; its document holds `old` and `new`, of each the spec of a query and, if it matters,
//! its status.

use serde_json::{Value, json};

use crate::{GROUP, VERSION};

/// One object and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// What it shows.
    pub title: String,
    /// Fields that parsing or validation report, in any order; none for a good object.
    pub local: Vec<String>,
    /// Whether the API server takes the object, with strict field validation.
    pub server_accepts: bool,
    /// The object.
    pub yaml: String,
}

/// One change of a query and what becomes of it. The server is asked so: create `old`, write its status through the
/// status subresource; then replace the object by `new`, where the specs differ, and its status, where those differ.
#[derive(Clone, Debug, PartialEq)]
pub struct UpdateCase {
    /// What it shows.
    pub title: String,
    /// Fields that `validate_query_update` reports, in any order; none for an allowed change.
    pub local: Vec<String>,
    /// Whether the API server takes the change.
    pub server_accepts: bool,
    /// A whole query.
    pub old: Value,
    /// The same query after the change.
    pub new: Value,
}

const FILES: [&str; 2] = [
    include_str!("../cases/queries.yaml"),
    include_str!("../cases/pools.yaml"),
];
const UPDATES: &str = include_str!("../cases/updates.yaml");

/// All objects.
///
/// # Errors
///
/// If a header is malformed; the message names the case.
pub fn cases() -> Result<Vec<Case>, String> {
    FILES
        .iter()
        .flat_map(|file| file.split("\n---\n"))
        .map(case)
        .collect()
}

/// All changes of a query.
///
/// # Errors
///
/// If a header or a document is malformed; the message names the case.
pub fn update_cases() -> Result<Vec<UpdateCase>, String> {
    UPDATES.split("\n---\n").map(update_case).collect()
}

fn update_case(text: &str) -> Result<UpdateCase, String> {
    let case = case(text)?;
    let document: Value =
        serde_yaml::from_str(text).map_err(|error| format!("case `{}`: {error}", case.title))?;
    let query = |side: &str| {
        let given = document.get(side).and_then(Value::as_object);
        let mut query = given
            .cloned()
            .ok_or_else(|| format!("case `{}` has no `{side}`", case.title))?;
        query.insert("apiVersion".to_owned(), json!(format!("{GROUP}/{VERSION}")));
        query.insert("kind".to_owned(), json!("ShuffleQuery"));
        query.insert("metadata".to_owned(), json!({ "name": "q" }));
        Ok::<_, String>(Value::Object(query))
    };
    Ok(UpdateCase {
        old: query("old")?,
        new: query("new")?,
        title: case.title,
        local: case.local,
        server_accepts: case.server_accepts,
    })
}

fn case(text: &str) -> Result<Case, String> {
    let header = |key: &str| {
        let prefix = format!("# {key}: ");
        let line = text.lines().find_map(|line| line.strip_prefix(prefix.as_str()));
        line.ok_or_else(|| format!("a case has no line `{prefix}`:\n{text}"))
    };
    let local = match header("local")? {
        "good" => Vec::new(),
        fields => fields.split(',').map(|field| field.trim().to_owned()).collect(),
    };
    let server_accepts = match header("server")? {
        "good" => true,
        "refused" => false,
        other => return Err(format!("`server: {other}` is neither good nor refused")),
    };
    Ok(Case {
        title: header("case")?.to_owned(),
        local,
        server_accepts,
        yaml: text.to_owned(),
    })
}
