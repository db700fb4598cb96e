//! Tables that a query may read.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::column_type::{COLUMN_TYPE_PATTERN, MAX_COLUMN_TYPE};
use super::location::{
    ENCODED_MESSAGE, ENCODED_RULE, LOCATION_PATTERN, MAX_LOCATION_BYTES, PARENT_MESSAGE, PARENT_RULE,
    SCHEME_MESSAGE, SCHEME_RULE, every,
};
use crate::worker_pool::LocalityHint;

/// Most locations of one table.
pub const MAX_LOCATIONS: usize = 64;
/// Most columns of a declared schema.
pub const MAX_COLUMNS: usize = 2048;
/// Most locality hints of one table.
pub const MAX_TABLE_LOCALITY: usize = 8;
/// Largest TPC-H scale factor.
pub const MAX_SCALE_FACTOR: f64 = 100_000.0;
/// What the name of a table looks like; 63 characters at most.
pub const TABLE_NAME_PATTERN: &str = "^[A-Za-z_][A-Za-z0-9_]*$";
/// One printable ASCII character or a tab.
pub const CSV_CHARACTER_PATTERN: &str = "^[\\t\\x20-\\x7E]$";

/// One table: files of one format, or TPC-H rows generated on the fly.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.location), has(self.locations), has(self.tpch)].filter(x, x).size() == 1")
        .message("exactly one of location, locations and tpch must be set"),
    validation = Rule::new("has(self.tpch) || has(self.format)")
        .message("format must be set for a table of files"),
    validation = Rule::new("!has(self.tpch) || !(has(self.format) || has(self.options) || has(self.schema))")
        .message("a tpch table has no format, options or schema"),
    validation = Rule::new("!has(self.options) || (has(self.format) && self.format == 'csv')")
        .message("options are for format csv only"),
    validation = Rule::new("!has(self.tpch) || has(self.tpch.table) || self.name in ['customer', 'lineitem', 'nation', 'orders', 'part', 'partsupp', 'region', 'supplier']")
        .message("tpch.table must be set unless the table is named after one of the eight"),
)]
pub struct TableSpec {
    /// Name of the table in the SQL: a letter or underscore, then letters, digits and underscores. SQL folds an
    /// unquoted name to lower case, so a name with capitals must be quoted there.
    #[schemars(length(min = 1, max = 63), regex(pattern = TABLE_NAME_PATTERN))]
    pub name: String,
    /// A file, or a folder whose files are all read: a path, or a file:/// URL. No `..` segments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_LOCATION_BYTES), regex(pattern = LOCATION_PATTERN))]
    #[x_kube(
        validation = Rule::new(PARENT_RULE).message(PARENT_MESSAGE),
        validation = Rule::new(ENCODED_RULE).message(ENCODED_MESSAGE),
        validation = Rule::new(SCHEME_RULE).message(SCHEME_MESSAGE),
    )]
    pub location: Option<String>,
    /// Several files or folders of the same format, instead of one location.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_LOCATIONS), inner(length(min = 1, max = MAX_LOCATION_BYTES), regex(pattern = LOCATION_PATTERN)))]
    #[x_kube(
        validation = Rule::new(every(PARENT_RULE)).message(PARENT_MESSAGE),
        validation = Rule::new(every(ENCODED_RULE)).message(ENCODED_MESSAGE),
        validation = Rule::new(every(SCHEME_RULE)).message(SCHEME_MESSAGE),
    )]
    pub locations: Option<Vec<String>>,
    /// Format of the files: parquet, csv, json (one object a line) or arrow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "FileFormat")]
    pub format: Option<FileFormat>,
    /// How to read CSV files. Only with format csv.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<CsvOptions>,
    /// Columns of the table, in order. Without it they are taken from the files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = MAX_COLUMNS),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub schema: Option<Vec<ColumnSpec>>,
    /// Rows of the TPC-H benchmark, generated while they are read; no files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpch: Option<TpchSpec>,
    /// Zones and nodes where the files are: inline workers and the coordinator are placed near them, and tasks that
    /// scan the table run on workers near them as long as these have free slots. It has an effect only for workers that
    /// know their node, as those of a cluster do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_TABLE_LOCALITY))]
    pub locality: Vec<LocalityHint>,
}

/// What a valid [`TableSpec`] reads.
#[derive(Clone, Debug, PartialEq)]
pub enum TableSource<'a> {
    /// Files of one format.
    Files {
        /// Files and folders, at least one.
        locations: Vec<&'a str>,
        /// Their format.
        format: FileFormat,
        /// How to read CSV files; only with [`FileFormat::Csv`].
        options: Option<&'a CsvOptions>,
        /// Declared columns; `None` takes them from the files.
        schema: Option<&'a [ColumnSpec]>,
    },
    /// Generated rows.
    Tpch {
        /// Scale factor; 1 is about 1 GB of raw data over all tables.
        scale_factor: f64,
        /// Which of the eight tables.
        table: TpchTable,
    },
}

impl TableSpec {
    /// What the table reads; `None` if the spec is not valid in itself (`validate_query` says why).
    pub fn source(&self) -> Option<TableSource<'_>> {
        match (&self.location, &self.locations, &self.tpch) {
            (None, None, Some(tpch)) => Some(TableSource::Tpch {
                scale_factor: tpch.scale_factor,
                table: tpch.table.or_else(|| TpchTable::from_name(&self.name))?,
            }),
            (Some(location), None, None) => self.files(vec![location.as_str()]),
            (None, Some(locations), None) if !locations.is_empty() => {
                self.files(locations.iter().map(String::as_str).collect())
            }
            _ => None,
        }
    }

    fn files<'a>(&'a self, locations: Vec<&'a str>) -> Option<TableSource<'a>> {
        Some(TableSource::Files {
            locations,
            format: self.format?,
            options: self.options.as_ref(),
            schema: self.schema.as_deref(),
        })
    }
}

/// Format of files: parquet, csv, json (one object a line) or arrow (the IPC file format).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FileFormat {
    /// Apache Parquet.
    Parquet,
    /// Comma-separated values.
    Csv,
    /// One JSON object a line.
    Json,
    /// Arrow IPC file format.
    Arrow,
}

/// How CSV files are read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.delimiter != self.quote").message("delimiter and quote must differ"),
    validation = Rule::new("!has(self.escape) || self.escape != self.delimiter")
        .message("escape and delimiter must differ"),
)]
pub struct CsvOptions {
    /// Whether the first line of each file names the columns.
    #[serde(default = "default_header")]
    pub header: bool,
    /// Separates the values of a line: one ASCII character.
    #[serde(default = "default_delimiter")]
    #[schemars(length(min = 1, max = 1), regex(pattern = CSV_CHARACTER_PATTERN))]
    pub delimiter: String,
    /// Surrounds a value that contains a delimiter: one ASCII character.
    #[serde(default = "default_quote")]
    #[schemars(length(min = 1, max = 1), regex(pattern = CSV_CHARACTER_PATTERN))]
    pub quote: String,
    /// Precedes a quote inside a quoted value: one ASCII character. Without it, the quote is doubled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1), regex(pattern = CSV_CHARACTER_PATTERN))]
    pub escape: Option<String>,
    /// Whether quoted values may contain line breaks. Then each file is read by one task; with false large files are
    /// divided among tasks, and a line break within quotes is an error.
    #[serde(default = "default_newlines_in_values")]
    pub newlines_in_values: bool,
    /// Values that match this regular expression are NULL. Without it, empty values are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub null_regex: Option<String>,
}

fn default_header() -> bool {
    true
}

fn default_newlines_in_values() -> bool {
    true
}

fn default_delimiter() -> String {
    ",".to_owned()
}

fn default_quote() -> String {
    "\"".to_owned()
}

impl Default for CsvOptions {
    fn default() -> Self {
        Self {
            header: default_header(),
            delimiter: default_delimiter(),
            quote: default_quote(),
            escape: None,
            newlines_in_values: default_newlines_in_values(),
            null_regex: None,
        }
    }
}

/// One column of a declared schema.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ColumnSpec {
    /// Name of the column, as in the files.
    #[schemars(length(min = 1, max = 255))]
    pub name: String,
    /// Type of the column: Boolean, Int8, Int16, Int32, Int64, UInt8, UInt16, UInt32, UInt64, Float32, Float64, Utf8,
    /// Binary, Date32, Decimal128(precision, scale), Timestamp(unit) or Timestamp(unit, zone) with the unit Second,
    /// Millisecond, Microsecond or Nanosecond; List(type), and Struct(name: type, ...), whose fields are found by name: one
    /// that a file does not have is NULL.
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = MAX_COLUMN_TYPE), regex(pattern = COLUMN_TYPE_PATTERN))]
    pub type_: String,
    /// Whether the column may hold NULL.
    #[serde(default = "default_nullable")]
    pub nullable: bool,
}

fn default_nullable() -> bool {
    true
}

/// A generated table of the TPC-H benchmark.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.scaleFactor > 0.0").message("scaleFactor must be above 0"))]
pub struct TpchSpec {
    /// Size of the data set; 1 is about 1 GB of raw data over all eight tables. Above 0, at most 100000.
    #[schemars(range(min = 0, max = MAX_SCALE_FACTOR))]
    pub scale_factor: f64,
    /// Which of the eight tables. Without it, the one that the table is named after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "TpchTable")]
    pub table: Option<TpchTable>,
}

/// The eight tables of TPC-H.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TpchTable {
    /// Customers.
    Customer,
    /// Lines of orders, the largest table.
    Lineitem,
    /// 25 nations.
    Nation,
    /// Orders.
    Orders,
    /// Parts.
    Part,
    /// Parts by supplier.
    Partsupp,
    /// 5 regions.
    Region,
    /// Suppliers.
    Supplier,
}

impl TpchTable {
    /// All eight, by name.
    pub const ALL: [Self; 8] = [
        Self::Customer,
        Self::Lineitem,
        Self::Nation,
        Self::Orders,
        Self::Part,
        Self::Partsupp,
        Self::Region,
        Self::Supplier,
    ];

    /// The table's name in lower case, as TPC-H spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Customer => "customer",
            Self::Lineitem => "lineitem",
            Self::Nation => "nation",
            Self::Orders => "orders",
            Self::Part => "part",
            Self::Partsupp => "partsupp",
            Self::Region => "region",
            Self::Supplier => "supplier",
        }
    }

    /// The table of that lower-case name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.name() == name)
    }
}
