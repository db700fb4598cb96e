//! How rows move between stages.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most partitions of one exchange.
pub const MAX_PARTITIONS: u32 = 65_536;
/// Largest reduce fetch window, in partitions.
pub const MAX_FETCH_WINDOW_PARTITIONS: u32 = 65_536;

/// How rows move between stages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ShuffleSpec {
    /// Partitions of every exchange. Without it, the number of slots of all workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_PARTITIONS))]
    pub partitions: Option<u32>,
    /// Compression of shuffle data. The schema tells what the type says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
    /// Partitions that a reduce attempt fetches at the same time.
    #[serde(default = "default_reduce_fetch_window_partitions")]
    #[schemars(range(min = 1, max = MAX_FETCH_WINDOW_PARTITIONS))]
    pub reduce_fetch_window_partitions: u32,
}

/// Compression of shuffle data, in memory, on disk and on the wire: None, Lz4 (fast) or Zstd (small). Without it, None if
/// coordinator and workers run on one machine, else Lz4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Compression {
    /// Bytes as they are.
    None,
    /// Fast, about half the size.
    Lz4,
    /// Smaller, costs more CPU.
    Zstd,
}

fn default_reduce_fetch_window_partitions() -> u32 {
    4
}

impl Default for ShuffleSpec {
    fn default() -> Self {
        Self {
            partitions: None,
            compression: None,
            reduce_fetch_window_partitions: default_reduce_fetch_window_partitions(),
        }
    }
}
