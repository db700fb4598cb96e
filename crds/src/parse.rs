//! Parses YAML files of users: several documents, each of them one resource.

mod value;

use std::cell::Cell;

use serde::de::DeserializeSeed;
use serde_json::Value;
use thiserror::Error;

use self::value::Bounded;
use crate::shuffle_query::ShuffleQuery;
use crate::text::excerpt;
use crate::validate::{Problem, schema};
use crate::worker_pool::WorkerPool;
use crate::{GROUP, VERSION};

/// Most bytes of one YAML file.
pub const MAX_YAML_BYTES: usize = 512 << 10;
/// Most `[` and `{` in one YAML file, wherever they stand. The YAML reader's time grows with the depth of brackets
/// times the length of the file, and how deep they nest cannot be known without reading.
pub const MAX_BRACKETS: usize = 4096;
/// Most bytes of one YAML file with all its aliases expanded; every value counts as one byte more than its text.
pub const MAX_EXPANDED_BYTES: usize = 2 << 20;
/// Most documents of one YAML file.
pub const MAX_DOCUMENTS: usize = 256;

/// One resource of a YAML file.
#[derive(Clone, Debug, PartialEq)]
pub enum Resource {
    /// A query.
    Query(Box<ShuffleQuery>),
    /// A pool of workers.
    Pool(Box<WorkerPool>),
}

/// Why a YAML file was rejected.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ParseError {
    /// Too long.
    #[error("the file has {0} bytes: write at most {MAX_YAML_BYTES}")]
    TooLong(usize),
    /// More brackets than allowed.
    #[error(
        "the file has more than {MAX_BRACKETS} `[` and `{{`: write lists and fields on lines of their own"
    )]
    TooManyBrackets,
    /// More documents than allowed.
    #[error("the file has more than {MAX_DOCUMENTS} documents: split it")]
    TooManyDocuments,
    /// No document with content.
    #[error("the file has no content: write a ShuffleQuery, and a WorkerPool if it needs one")]
    Empty,
    /// Not YAML. The message ends with line and column where the reader knows them.
    #[error("document {document} is not valid YAML: {message}")]
    Syntax {
        /// Number of the document within the file, from 1.
        document: usize,
        /// What the YAML reader says.
        message: String,
    },
    /// YAML, but not one of our resources, or with fields that do not fit it.
    #[error("document {document}: {}", join(problems))]
    Fields {
        /// Number of the document within the file, from 1.
        document: usize,
        /// What is wrong, field by field; at least one.
        problems: Vec<Problem>,
    },
}

fn join(problems: &[Problem]) -> String {
    problems
        .iter()
        .map(Problem::to_string)
        .collect::<Vec<_>>()
        .join("\n  ")
}

impl ParseError {
    /// The fields that are wrong, if the text was YAML.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Fields { problems, .. } => problems,
            Self::TooLong(_)
            | Self::TooManyBrackets
            | Self::TooManyDocuments
            | Self::Empty
            | Self::Syntax { .. } => &[],
        }
    }
}

/// Reads all resources of a YAML text, in their order. Empty documents are skipped, and so is a `status`: a user
/// cannot write one, in a cluster neither. Unknown fields, wrong types and everything else that the schema refuses is
/// an error; rules between fields are those of `validate_query` and `validate_pool`.
///
/// # Errors
///
/// If the text is not YAML, or a document is not a resource of ours that fits its schema. The first such document
/// is reported with all its problems.
pub fn parse_documents(yaml: &str) -> Result<Vec<Resource>, ParseError> {
    if yaml.len() > MAX_YAML_BYTES {
        return Err(ParseError::TooLong(yaml.len()));
    }
    if yaml.bytes().filter(|byte| matches!(byte, b'[' | b'{')).count() > MAX_BRACKETS {
        return Err(ParseError::TooManyBrackets);
    }
    let budget = Cell::new(MAX_EXPANDED_BYTES);
    let mut resources = Vec::new();
    for (index, document) in serde_yaml::Deserializer::from_str(yaml).enumerate() {
        if index >= MAX_DOCUMENTS {
            return Err(ParseError::TooManyDocuments);
        }
        let document_number = index + 1;
        let fields = |problems| ParseError::Fields {
            document: document_number,
            problems,
        };
        let value = Bounded { budget: &budget }
            .deserialize(document)
            .map_err(|error| ParseError::Syntax {
                document: document_number,
                message: error.to_string(),
            })?;
        if !value.is_null() {
            resources.push(to_resource(value).map_err(fields)?);
        }
    }
    if resources.is_empty() {
        Err(ParseError::Empty)
    } else {
        Ok(resources)
    }
}

fn to_resource(mut value: Value) -> Result<Resource, Vec<Problem>> {
    let kind = check_head(&value).map_err(|problem| vec![problem])?;
    if let Some(fields) = value.as_object_mut() {
        fields.remove("status");
    }
    let resource = match kind {
        Kind::Query => {
            check_body(&value, &schema::QUERY)?;
            serde_json::from_value(value).map(|query| Resource::Query(Box::new(query)))
        }
        Kind::Pool => {
            check_body(&value, &schema::POOL)?;
            serde_json::from_value(value).map(|pool| Resource::Pool(Box::new(pool)))
        }
    };
    // What passed the schema fits the types; only metadata, which has no schema of ours, can still be malformed.
    resource.map_err(|error| {
        vec![Problem::new(
            "metadata",
            error.to_string(),
            "write name, namespace and labels only",
        )]
    })
}

enum Kind {
    Query,
    Pool,
}

/// The kind that a document declares.
fn check_head(value: &Value) -> Result<Kind, Problem> {
    let Some(fields) = value.as_object() else {
        return Err(Problem::new(
            "the document",
            "has no fields",
            "start with apiVersion, kind, metadata and spec",
        ));
    };
    let text = |field: &str| fields.get(field).and_then(Value::as_str);
    let version = format!("{GROUP}/{VERSION}");
    match text("apiVersion") {
        Some(found) if found == version => {}
        Some(found) => {
            let problem = format!("`{}` is not known", excerpt(found));
            return Err(Problem::new("apiVersion", problem, format!("write {version}")));
        }
        None => {
            return Err(Problem::new(
                "apiVersion",
                "is missing",
                format!("write {version}"),
            ));
        }
    }
    match text("kind") {
        Some("ShuffleQuery") => Ok(Kind::Query),
        Some("WorkerPool") => Ok(Kind::Pool),
        Some(found) => {
            let problem = format!("`{}` is not known", excerpt(found));
            Err(Problem::new("kind", problem, "write ShuffleQuery or WorkerPool"))
        }
        None => Err(Problem::new(
            "kind",
            "is missing",
            "write ShuffleQuery or WorkerPool",
        )),
    }
}

type Schema = k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;

/// Checks everything below the head against the schema.
fn check_body(value: &Value, schema: &Schema) -> Result<(), Vec<Problem>> {
    let mut problems = Vec::new();
    let mut fields = value.as_object().cloned().unwrap_or_default();
    fields.remove("apiVersion");
    fields.remove("kind");
    match fields.remove("metadata") {
        Some(Value::Object(_)) => {}
        _ => problems.push(Problem::new(
            "metadata",
            "is missing",
            "write metadata with a name below it",
        )),
    }
    schema::check(&Value::Object(fields), schema, "", &mut problems);
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems)
    }
}

#[cfg(test)]
mod tests;
