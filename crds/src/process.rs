//! What the processes of Sluice and those that start them agree on: exit codes, ports and environment variables.

/// Exit codes of `sluice`, as its `--help` lists them.
pub mod exit_code {
    /// The command did what it was asked.
    pub const SUCCESS: u8 = 0;
    /// Any failure without a code of its own.
    pub const FAILURE: u8 = 1;
    /// Something that the user gave is wrong.
    pub const INVALID_INPUT: u8 = 2;
    /// The query failed.
    pub const QUERY_FAILED: u8 = 3;
    /// No worker was left.
    pub const NO_WORKERS: u8 = 4;
    /// The query was cancelled (128 + SIGINT).
    pub const CANCELLED: u8 = 130;
    /// Standard output was closed before the last row (128 + SIGPIPE).
    pub const OUTPUT_CLOSED: u8 = 141;
    /// A termination signal stopped the process (128 + SIGTERM), or another coordinator took its query over.
    pub const TERMINATED: u8 = 143;
}

/// Ports of gRPC services in a cluster, and the defaults outside.
pub mod port {
    /// A worker.
    pub const WORKER: u16 = 7400;
    /// A coordinator.
    pub const COORDINATOR: u16 = 7401;
}

/// Environment variables that stand for flags of `sluice`.
pub mod env {
    /// The address that a worker or a coordinator serves at.
    pub const LISTEN: &str = "SLUICE_LISTEN";
    /// Text or JSON.
    pub const LOG_FORMAT: &str = "SLUICE_LOG_FORMAT";
    /// The name of the pool.
    pub const POOL: &str = "SLUICE_POOL";
    /// The namespace of the pool.
    pub const NAMESPACE: &str = "SLUICE_NAMESPACE";
    /// A file with the public keys that tokens are checked with.
    pub const VERIFY_KEY_FILE: &str = "SLUICE_VERIFY_KEY_FILE";
    /// The name of a worker.
    pub const WORKER_NAME: &str = "SLUICE_WORKER_NAME";
    /// The unique id of a worker's pod.
    pub const POD_UID: &str = "SLUICE_POD_UID";
    /// The node of a worker.
    pub const NODE: &str = "SLUICE_NODE";
    /// A file with the zone of that node.
    pub const ZONE_FILE: &str = "SLUICE_ZONE_FILE";
    /// Attempts that a worker runs at once.
    pub const SLOTS: &str = "SLUICE_SLOTS";
    /// Query memory of a worker, bytes.
    pub const MEMORY: &str = "SLUICE_MEMORY";
    /// Folders for spilled data, separated by commas.
    pub const SPILL_DIRS: &str = "SLUICE_SPILL_DIRS";
    /// Most bytes in these folders.
    pub const SPILL_LIMIT: &str = "SLUICE_SPILL_LIMIT";
    /// Folders that tables lie in, separated by commas.
    pub const DATA_DIRS: &str = "SLUICE_DATA_DIRS";
    /// Folders that sinks lie in, separated by commas.
    pub const SINK_DIRS: &str = "SLUICE_SINK_DIRS";
    /// The workers of a coordinator.
    pub const WORKERS: &str = "SLUICE_WORKERS";
    /// A file with the token of a query.
    pub const TOKEN_FILE: &str = "SLUICE_TOKEN_FILE";
    /// A file for the outcome of a query.
    pub const TERMINATION_LOG: &str = "SLUICE_TERMINATION_LOG";
}
