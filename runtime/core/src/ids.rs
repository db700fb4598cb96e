//! Names of things that exist in a query, as they stand in paths, on the wire and in logs.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

number_id!(
    /// A stage of one query's plan, numbered from 0 in the order in which stages were cut (inputs first).
    StageId(u32), "s"
);
number_id!(
    /// An exchange of one query's plan, numbered from 0.
    ExchangeId(u32), "x"
);
number_id!(
    /// A runtime filter of one query's plan, numbered from 0.
    FilterId(u32), "f"
);
number_id!(
    /// The epoch of a stage. It grows when the stage starts over because an indeterminate input changed. Attempts of an older
    /// stage epoch are stale.
    StageEpoch(u32), "e"
);
number_id!(
    /// The epoch of one map task's output streams, increasing per (stage, map task) over attempts. The coordinator allocates
    /// it.
    StreamEpoch(u64), "v"
);
number_id!(
    /// The epoch of a query's coordinator. A successor of a lost coordinator has a higher one.
    CoordinatorEpoch(u64), "c"
);
number_id!(
    /// The version of a layout: how it was made.
    LayoutVersion(u32), "l"
);
number_id!(
    /// One start of a worker process. Worker names come back after a restart; incarnations never do.
    Incarnation(u64), "i"
);

/// The unique id of a query (its UID in a cluster): at most 64 characters out of `[a-z0-9-]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct QueryId(String);

impl QueryId {
    /// The longest id, in bytes.
    pub const MAX_LEN: usize = 64;

    /// Checks that the text can stand in a path and in a label; `None` if it cannot.
    pub fn new(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        let fits = !text.is_empty() && text.len() <= Self::MAX_LEN;
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        (fits && text.bytes().all(legal)).then_some(Self(text))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for QueryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A worker process: its name, and the start of it that is meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkerId {
    /// The stable name, the pod's in a cluster.
    pub name: String,
    /// The start of the process.
    pub incarnation: Incarnation,
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.name, self.incarnation)
    }
}

/// One slice of a stage's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskId {
    /// The stage.
    pub stage: StageId,
    /// The task's number within the stage, from 0.
    pub task: u32,
}

impl TaskId {
    /// The one that comes before all others.
    pub const FIRST: Self = Self {
        stage: StageId(0),
        task: 0,
    };
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.t{}", self.stage, self.task)
    }
}

/// One numbered try of a task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptId {
    /// The stage.
    pub stage: StageId,
    /// The stage's epoch.
    pub stage_epoch: StageEpoch,
    /// The task's number within the stage.
    pub task: u32,
    /// The attempt's number, from 0. It is never used twice for one task, in any stage epoch.
    pub attempt: u32,
}

impl AttemptId {
    /// The task of the attempt.
    pub fn task_id(&self) -> TaskId {
        TaskId {
            stage: self.stage,
            task: self.task,
        }
    }
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{}.t{}.a{}",
            self.stage, self.stage_epoch, self.task, self.attempt
        )
    }
}

/// One partition of one map attempt's output: a stream of bytes with logical offsets from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StreamId {
    /// The map attempt that writes it.
    pub attempt: AttemptId,
    /// The reduce-side partition.
    pub partition: u32,
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.p{}", self.attempt, self.partition)
    }
}
