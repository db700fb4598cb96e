//! Layouts: which part of its inputs each task of a stage reads, and how many tasks there are.
//!
//! A layout is a pure function of the stage and of what is known of its inputs. It is decided once in a stage epoch, before
//! the first assignment, and holds until the epoch ends.

mod adaptive;
mod broadcast;
mod skew;

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::ids::LayoutVersion;
use crate::joins::JoinPolicy;
use crate::plan::{ReadKind, Stage, StageGraph};
use crate::ranges::{KeyRange, SortedRun, divide};

pub use adaptive::{AdaptivePolicy, MapTaskOutput, Observed, ObservedInput};
pub use skew::MapTaskBytes;

/// The version of layouts that are made as this build makes them.
const VERSION: LayoutVersion = LayoutVersion(1);

/// Which part of its inputs each task of a stage reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// How it was made.
    pub version: LayoutVersion,
    /// A hash of everything that it depends on (FNV-1a, 64 bits).
    pub fingerprint: u64,
    /// What each task reads, by its number; at least one.
    pub tasks: Vec<TaskLayout>,
}

/// What one task reads of the inputs that the tasks of its stage divide among them. Every task reads the others whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskLayout {
    /// Its partitions of inputs that are divided by partition.
    pub partitions: Range<u32>,
    /// Its rows of the input that is divided by ranges of keys.
    pub range: Option<Box<KeyRange>>,
    /// Its part of its partitions, if other tasks read those too.
    pub shard: Option<Shard>,
}

/// A part of the partitions of one input. Its task reads the others' whole partitions. It is a part of a hot partition, or of
/// all partitions, so that its task reads all rows of the other inputs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// The input of the stage that is split.
    pub input: u32,
    /// The map tasks of which it is read, ascending. All tasks of all writers of the input are counted, in their order. What a
    /// map task wrote to a partition is read by one task as a whole: another attempt of it may write other bytes.
    pub map_tasks: Vec<u32>,
}

/// Names a layout. An assignment says it, and so does the report of a success: a report of another layout is refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayoutId {
    /// [`Layout::version`].
    pub version: LayoutVersion,
    /// [`Layout::fingerprint`].
    pub fingerprint: u64,
}

impl fmt::Display for LayoutId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:016x}", self.version, self.fingerprint)
    }
}

impl Shard {
    /// Whether it is read of the map task of this number.
    pub fn contains(&self, map_task: u32) -> bool {
        self.map_tasks.binary_search(&map_task).is_ok()
    }
}

impl TaskLayout {
    /// Whether it reads all rows of every input but one.
    fn is_broadcast(&self) -> bool {
        self.shard.is_some() && self.partitions.len() > 1
    }
}

impl Layout {
    /// The layout in which task `i` reads partition `i`, for as many tasks as were planned.
    pub fn identity(stage: &Stage, graph: &StageGraph) -> Self {
        let task = |task| TaskLayout {
            partitions: task..task.saturating_add(1),
            range: None,
            shard: None,
        };
        Self::new(stage, graph, (0..stage.tasks).map(task).collect())
    }

    /// The layout in which each task reads neighbouring partitions or a shard of one, or in which all of them read small inputs
    /// whole, as the policies have it: see `layout/README.md`.
    pub fn adaptive(
        stage: &Stage,
        graph: &StageGraph,
        observed: &Observed<'_>,
        policy: &AdaptivePolicy,
        joins: Option<&JoinPolicy>,
    ) -> Self {
        let shuffled = adaptive::divide(observed, policy);
        let broadcast = joins.and_then(|joins| broadcast::divide(observed, &shuffled, policy, joins));
        let tasks = broadcast.unwrap_or(shuffled).into_iter();
        Self::new(stage, graph, tasks.map(|task| task.layout).collect())
    }

    /// The layout in which the tasks divide sorted runs, which are in the order of their map tasks, into ranges of at least
    /// `min_bytes`: see [`divide`].
    pub fn by_ranges(stage: &Stage, graph: &StageGraph, runs: &[&SortedRun], min_bytes: u64) -> Self {
        let ranges = divide(runs, stage.tasks, min_bytes);
        let task = |(task, range): (u32, KeyRange)| TaskLayout {
            partitions: task..task.saturating_add(1),
            range: Some(Box::new(range)),
            shard: None,
        };
        Self::new(stage, graph, (0..).zip(ranges).map(task).collect())
    }

    /// The same division of outputs that were written by these layouts, in the order of the stage's inputs, for tasks that swap
    /// these joins: shards and bounds of ranges name map tasks by their numbers, and swapped joins give rows another order.
    pub fn after(self, writers: impl IntoIterator<Item = LayoutId>, swapped_joins: &[u32]) -> Self {
        let ids = writers.into_iter();
        let ids = ids.flat_map(|id| [u64::from(id.version.0), id.fingerprint]);
        let words = ids.chain(swapped_joins.iter().copied().map(u64::from));
        Self {
            fingerprint: hash(self.fingerprint, words.flat_map(u64::to_le_bytes)),
            ..self
        }
    }

    /// Whether it is one that an earlier coordinator decided for the stage of this graph, whose inputs were written by these
    /// layouts, and whose tasks swap these joins: its fingerprint tells.
    pub fn is_of(
        &self,
        stage: &Stage,
        graph: &StageGraph,
        writers: impl IntoIterator<Item = LayoutId>,
        swapped_joins: &[u32],
    ) -> bool {
        let within = |task: &TaskLayout| task.partitions.end <= stage.tasks;
        let fits = !self.tasks.is_empty() && self.tasks.iter().all(within);
        let again = || Self::new(stage, graph, self.tasks.clone()).after(writers, swapped_joins);
        fits && again().id() == self.id()
    }

    fn new(stage: &Stage, graph: &StageGraph, tasks: Vec<TaskLayout>) -> Self {
        Self {
            version: VERSION,
            fingerprint: fingerprint(stage, graph, &tasks),
            tasks,
        }
    }

    /// Its name.
    pub fn id(&self) -> LayoutId {
        LayoutId {
            version: self.version,
            fingerprint: self.fingerprint,
        }
    }

    /// How many tasks read a shard of a hot partition.
    pub fn shards(&self) -> u32 {
        self.count(|task| task.shard.is_some() && !task.is_broadcast())
    }

    /// Whether each task reads all rows of an input that is divided by partition.
    pub fn reads_whole(&self, input: u32) -> bool {
        let is_other = |task: &TaskLayout| task.shard.as_ref().is_some_and(|shard| shard.input != input);
        let mut tasks = self.tasks.iter();
        tasks.any(|task| task.is_broadcast() && is_other(task))
    }

    /// How many tasks read all rows of every input but one, and of that one what some map tasks wrote.
    pub fn broadcast_tasks(&self) -> u32 {
        self.count(TaskLayout::is_broadcast)
    }

    fn count(&self, is_so: impl Fn(&TaskLayout) -> bool) -> u32 {
        let tasks = self.tasks.iter().filter(|task| is_so(task)).count();
        u32::try_from(tasks).unwrap_or(u32::MAX)
    }

    /// The bytes that each task reads of partitions of these sizes. Tasks that share partitions have even parts.
    pub fn task_bytes(&self, partitions: &[u64]) -> Vec<u64> {
        let shares = |one: &TaskLayout, other: &TaskLayout| one.partitions == other.partitions;
        let sharing = self.tasks.chunk_by(shares);
        let bytes = |tasks: &[TaskLayout]| {
            let read = tasks
                .first()
                .map(|task| task.partitions.clone())
                .unwrap_or_default();
            let sizes = partitions.get(read.start as usize..read.end as usize);
            let sum = sizes.into_iter().flatten().copied().fold(0, u64::saturating_add);
            let part = sum / (tasks.len() as u64).max(1);
            vec![part; tasks.len()]
        };
        sharing.flat_map(bytes).collect()
    }

    /// The bytes of sorted runs that each task reads; zeros if the stage reads no ranges.
    pub fn range_bytes(&self, runs: &[&SortedRun]) -> Vec<u64> {
        let bytes = |task: &TaskLayout| {
            let range = task.range.as_deref().into_iter();
            let parts = range.flat_map(|range| {
                let runs = (0..).zip(runs);
                runs.map(|(map_task, run)| range.bytes_of(run, map_task))
            });
            let sizes = parts.map(|part| part.end - part.start);
            sizes.fold(0, u64::saturating_add)
        };
        self.tasks.iter().map(bytes).collect()
    }
}

/// FNV-1a, 64 bits, from a hash on.
fn hash(from: u64, bytes: impl Iterator<Item = u8>) -> u64 {
    const PRIME: u64 = 0x0100_0000_01b3;
    bytes.fold(from, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

fn fingerprint(stage: &Stage, graph: &StageGraph, tasks: &[TaskLayout]) -> u64 {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    let inputs = stage.inputs.iter().flat_map(|input| {
        let read = match input.read {
            ReadKind::AllPartitions => 0,
            ReadKind::OwnPartition => 1,
            ReadKind::OwnRange => 2,
        };
        let exchange = graph.exchanges.get(input.exchange.0 as usize);
        let partitions = exchange.map_or(0, |exchange| exchange.partitions);
        [input.exchange.0, read, partitions]
    });
    let count = u32::try_from(tasks.len()).unwrap_or(u32::MAX);
    let partitions = tasks
        .iter()
        .flat_map(|task| [task.partitions.start, task.partitions.end]);
    let words = [VERSION.0, stage.id.0, count].into_iter();
    let shards = tasks.iter().filter_map(|task| task.shard.as_ref());
    let shards = shards.flat_map(|shard| {
        let count = u32::try_from(shard.map_tasks.len()).unwrap_or(u32::MAX);
        [shard.input, count]
            .into_iter()
            .chain(shard.map_tasks.iter().copied())
    });
    let words = words.chain(inputs).chain(partitions).chain(shards);
    let ranges = tasks.iter().filter_map(|task| task.range.as_deref());
    let bounds = ranges.filter_map(|range| range.upper.as_ref());
    let bounds = bounds.flat_map(|bound| {
        let key = bound.key.iter().copied();
        key.chain(bound.map_task.to_le_bytes())
    });
    let bytes = words.flat_map(u32::to_le_bytes).chain(bounds);
    hash(OFFSET_BASIS, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ExchangeId, StageId};
    use crate::locality::DataLocality;
    use crate::plan::{Determinism, Exchange, ExchangeKind, StageInput};
    use crate::ranges::RunSample;

    fn reader(tasks: u32, kind: ExchangeKind, read: ReadKind, partitions: u32) -> (Stage, StageGraph) {
        let exchange = |id, kind, partitions, writer| Exchange {
            id: ExchangeId(id),
            kind,
            partitions,
            writers: vec![StageId(writer)],
            fetch: None,
        };
        let stage = |id, tasks, inputs, output| Stage {
            id: StageId(id),
            label: String::new(),
            tasks,
            inputs,
            output: ExchangeId(output),
            determinism: Determinism::Unordered,
            coalesces: true,
            has_sortable_join: false,
            swappable_joins: Vec::new(),
            data: DataLocality::default(),
            files: Vec::new(),
        };
        let input = StageInput {
            exchange: ExchangeId(0),
            read,
            empty_ends: false,
            may_split: true,
        };
        let reader = stage(1, tasks, vec![input], 1);
        let graph = StageGraph {
            stages: vec![stage(0, 2, Vec::new(), 0), reader.clone()],
            exchanges: vec![
                exchange(0, kind, partitions, 0),
                exchange(1, ExchangeKind::Forward, 1, 1),
            ],
            result: ExchangeId(1),
            ordered: false,
            filters: Vec::new(),
        };
        (reader, graph)
    }

    #[test]
    fn in_the_identity_each_task_reads_the_partition_of_its_number() {
        let (stage, graph) = reader(3, ExchangeKind::Hash, ReadKind::OwnPartition, 3);
        let layout = Layout::identity(&stage, &graph);
        let partitions: Vec<_> = layout.tasks.iter().map(|task| task.partitions.clone()).collect();
        assert_eq!(partitions, [0..1, 1..2, 2..3]);
        assert!(layout.tasks.iter().all(|task| task.range.is_none()));
        assert_eq!(layout, Layout::identity(&stage, &graph), "it is a pure function");
        let (wider, graph) = reader(4, ExchangeKind::Hash, ReadKind::OwnPartition, 4);
        assert_ne!(Layout::identity(&wider, &graph).fingerprint, layout.fingerprint);
    }

    #[test]
    fn the_adaptive_layout_has_the_tasks_of_its_ranges_and_is_named_by_them() {
        let (stage, graph) = reader(4, ExchangeKind::Hash, ReadKind::OwnPartition, 4);
        let policy = AdaptivePolicy {
            target_bytes: 10,
            min_tasks: 1,
            max_tasks: 0,
            max_partitions_per_task: 0,
            min_task_bytes: 100,
        };
        let of = |partition_bytes: &[u64]| {
            let input = ObservedInput {
                input: 0,
                partition_bytes: partition_bytes.to_vec(),
                map_tasks: vec![MapTaskOutput::default(); 2],
                may_split: true,
            };
            let observed = Observed {
                partitions: 4,
                inputs: &[input],
                slots: 1,
            };
            Layout::adaptive(&stage, &graph, &observed, &policy, None)
        };
        let layout = of(&[5, 5, 5, 5]);
        let partitions: Vec<_> = layout.tasks.iter().map(|task| task.partitions.clone()).collect();
        assert_eq!(partitions, [0..2, 2..4]);
        assert_eq!(layout, of(&[5, 5, 5, 5]), "it is a pure function");
        let other = of(&[9, 5, 5, 1]);
        assert_eq!(other.tasks.len(), 3);
        let moved = of(&[9, 1, 5, 5]);
        assert_eq!(moved.tasks.len(), 2);
        assert_eq!(layout.fingerprint, moved.fingerprint, "the same division");
        assert_ne!(layout.fingerprint, other.fingerprint);
        let uneven = of(&[3, 3, 3, 9]);
        assert_eq!(uneven.tasks.len(), layout.tasks.len());
        assert_ne!(
            layout.fingerprint, uneven.fingerprint,
            "as many tasks, other ranges"
        );
        let split_of = |partitions: Range<u32>, map_tasks: Range<u32>| {
            let shard = Shard {
                input: 0,
                map_tasks: map_tasks.collect(),
            };
            let mut tasks = layout.tasks.clone();
            tasks[0].partitions = partitions;
            tasks[0].shard = Some(shard);
            Layout::new(&stage, &graph, tasks)
        };
        let split = |map_tasks| split_of(0..1, map_tasks);
        assert_ne!(split(0..1).fingerprint, layout.fingerprint);
        assert_ne!(split(0..1).fingerprint, split(1..2).fingerprint);
        assert_eq!((split(0..1).shards(), layout.shards()), (1, 0));
        let broadcast = split_of(0..4, 0..1);
        assert_eq!((broadcast.shards(), broadcast.broadcast_tasks()), (0, 1));
        assert!(broadcast.reads_whole(1) && !broadcast.reads_whole(0));
    }

    #[test]
    fn ranges_divide_runs_and_other_runs_have_another_fingerprint() {
        let run = |keys: &[u8]| SortedRun {
            samples: (0..)
                .zip(keys)
                .map(|(frame, key)| RunSample {
                    key: vec![*key],
                    offset: frame * 100,
                })
                .collect(),
            end: 100 * keys.len() as u64,
        };
        let (stage, graph) = reader(2, ExchangeKind::Range, ReadKind::OwnRange, 1);
        let (first, second) = (run(&[1, 3, 5, 7]), run(&[2, 4, 6, 8]));
        let layout = Layout::by_ranges(&stage, &graph, &[&first, &second], 1);
        assert_eq!(layout.tasks.len(), 2);
        let [low, high] = [0, 1].map(|task| layout.tasks[task].range.clone().expect("a range"));
        assert_eq!(low.upper, high.lower);
        assert_eq!(layout.range_bytes(&[&first, &second]), [500, 500]);
        let other = Layout::by_ranges(&stage, &graph, &[&first, &run(&[12, 14, 16, 18])], 1);
        assert_eq!(other.version, layout.version);
        assert_ne!(other.fingerprint, layout.fingerprint);
    }
}
