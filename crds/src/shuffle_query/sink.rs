//! Where a query's rows go.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::location::{LOCATION_PATTERN, MAX_LOCATION_BYTES, PARENT_RULE, SCHEME_RULE};
use super::table::FileFormat;

/// A folder that receives the result. It appears with all files of the query, or not at all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SinkSpec {
    /// Folder to write: a path, or a file:// URL. No `..` segments.
    #[schemars(length(min = 1, max = MAX_LOCATION_BYTES), regex(pattern = LOCATION_PATTERN))]
    #[x_kube(
        validation = Rule::new(PARENT_RULE).message("a location must not contain `..` segments"),
        validation = Rule::new(SCHEME_RULE).message("only paths and file:/// URLs are supported yet"),
    )]
    pub location: String,
    /// Format of the files: parquet, csv, json (one object a line) or arrow.
    pub format: FileFormat,
    /// What to do when the folder exists: Fail, or Replace it as a whole.
    #[serde(default)]
    pub if_exists: IfExists,
}

/// What to do when the sink's folder exists.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum IfExists {
    /// The query fails before it runs.
    #[default]
    Fail,
    /// The folder is replaced once the result is complete.
    Replace,
}
