//! The `ShuffleQuery` resource: one SQL statement, its tables, its sink and its policies.

mod column_type;
mod retry;
mod shuffle;
mod sink;
mod spec;
pub mod status;
mod table;

pub use column_type::{ColumnType, ColumnTypeError, TimeUnit};
pub use retry::RetrySpec;
pub use shuffle::{Compression, MAX_FETCH_WINDOW_PARTITIONS, MAX_PARTITIONS, ShuffleSpec};
pub use sink::{IfExists, SinkSpec};
pub use spec::{MAX_SQL_BYTES, MAX_TABLES, ShuffleQuery, ShuffleQuerySpec, WorkerPoolRef};
pub use table::{
    ColumnSpec, CsvOptions, FileFormat, MAX_COLUMNS, MAX_LOCATION_BYTES, MAX_LOCATIONS, MAX_SCALE_FACTOR,
    TableSource, TableSpec, TpchSpec, TpchTable,
};
