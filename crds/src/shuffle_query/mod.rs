//! The `ShuffleQuery` resource: one SQL statement, its tables, its sink and its policies.

mod column_type;
mod location;
mod retry;
mod shuffle;
mod sink;
mod spec;
pub mod status;
mod status_bounds;
mod table;

pub use column_type::{
    COLUMN_TYPE_PATTERN, ColumnType, ColumnTypeError, MAX_COLUMN_TYPE, MAX_COLUMN_TYPE_DEPTH, TimeUnit,
};
pub use location::{
    LOCATION_PATTERN, Location, LocationError, MAX_LOCATION_BYTES, SYSTEM_FOLDERS, system_folder,
};
pub use retry::{
    MAX_BACKOFF_BASE, MAX_NO_WORKERS_GRACE, MAX_WORKER_LIVENESS_TIMEOUT, MIN_WORKER_LIVENESS_TIMEOUT,
    RetrySpec,
};
pub use shuffle::{
    AdaptiveJoins, AdaptiveMode, AdaptiveSpec, Compression, JoinOrderMode, MAX_FETCH_WINDOW_PARTITIONS,
    MAX_KEEP_WHILE_SUSPENDED, MAX_P95_MULTIPLIER, MAX_PARTITIONS, RuntimeFilters, ShuffleRetention,
    ShuffleSpec, SpeculationMode, SpeculationSpec,
};
pub use sink::{IfExists, PreviewMode, SinkSpec};
pub use spec::{
    ConfigMapKeyRef, MAX_QUERY_NAME, MAX_SQL_BYTES, MAX_TABLES, ShuffleQuery, ShuffleQuerySpec, SqlSource,
    WorkerPoolRef,
};
pub use status_bounds::{
    HARD_STATUS_BYTES, HISTOGRAM_CLASSES, MAX_SHORT_MESSAGE, MAX_STAGES, PREVIEW_MAX_BYTES,
    PREVIEW_MAX_COLUMNS, PREVIEW_MAX_ROWS, PREVIEW_MAX_TEXT, TERMINAL_STATUS_BYTES, TYPICAL_STATUS_BYTES,
    bound, bound_preview, shrink_lists,
};
pub use table::{
    CSV_CHARACTER_PATTERN, ColumnSpec, CsvOptions, FileFormat, MAX_COLUMNS, MAX_LOCATIONS, MAX_SCALE_FACTOR,
    MAX_TABLE_LOCALITY, TABLE_NAME_PATTERN, TableSource, TableSpec, TpchSpec, TpchTable,
};
