//! Where a query's rows go, and what is shown of them.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::location::{
    ENCODED_MESSAGE, ENCODED_RULE, LOCATION_PATTERN, MAX_LOCATION_BYTES, PARENT_MESSAGE, PARENT_RULE,
    SCHEME_MESSAGE, SCHEME_RULE,
};
use super::table::FileFormat;

/// A folder that receives the result. It appears with all files of the query, or not at all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SinkSpec {
    /// Folder to write: a path, or a file:/// URL. No `..` segments.
    #[schemars(length(min = 1, max = MAX_LOCATION_BYTES), regex(pattern = LOCATION_PATTERN))]
    #[x_kube(
        validation = Rule::new(PARENT_RULE).message(PARENT_MESSAGE),
        validation = Rule::new(ENCODED_RULE).message(ENCODED_MESSAGE),
        validation = Rule::new(SCHEME_RULE).message(SCHEME_MESSAGE),
    )]
    pub location: String,
    /// Format of the files: parquet, csv, json (one object a line) or arrow.
    pub format: FileFormat,
    /// What to do when the folder exists: Fail, or Replace it as a whole.
    #[serde(default)]
    pub if_exists: IfExists,
}

/// What the status shows of the rows of a query without a sink: the FirstRows, or None of them.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum PreviewMode {
    /// The first rows, within the bounds of `status.preview`.
    #[default]
    FirstRows,
    /// No row. A cluster counts the rows of the result and keeps none; `sluice run` prints them all the same.
    None,
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
