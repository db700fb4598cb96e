//! How long the coordinator takes for a decision, and how many bytes it keeps for a task: `cargo bench --bench scheduler`.
//!
//! A decision is an attempt assigned, with everything that the coordinator does for it: the grant of its slot, its success
//! and the requests of slots that follow. The workers are simulated and take no time.

#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a benchmark reads the clock, its arguments and what the system says of its memory"
)]

use std::collections::VecDeque;
use std::process::Command;
use std::time::{Duration, Instant as Clock};

use sluice_core::coordinator::{Action, Coordinator, Event, Policy};
use sluice_core::ids::{AttemptId, CoordinatorEpoch, ExchangeId, Incarnation, StageId, WorkerId};
use sluice_core::layout::LayoutId;
use sluice_core::locality::{DataLocality, LocalityPolicy, NodeLocation};
use sluice_core::message::MapOutputPartitionMeta;
use sluice_core::message::Recovered;
use sluice_core::metrics::AttemptMetrics;
use sluice_core::plan::{Determinism, Exchange, ExchangeKind, ReadKind, Stage, StageGraph, StageInput};
use sluice_core::time::Instant;
use sluice_crds::shuffle_query::ShuffleRetention;

/// What is measured.
#[derive(Debug, Clone, Copy)]
struct Size {
    workers: u32,
    slots: u32,
    /// Tasks that scan.
    maps: u32,
    /// Tasks that read what those write, one partition each; none: the scan writes the result.
    reduces: u32,
    /// Partitions that each scanning task fills.
    fills: u32,
}

const FULL: [Size; 4] = [
    Size {
        workers: 100,
        slots: 8,
        maps: 100_000,
        reduces: 0,
        fills: 1,
    },
    Size {
        workers: 1_000,
        slots: 8,
        maps: 1_000_000,
        reduces: 0,
        fills: 1,
    },
    Size {
        workers: 1_000,
        slots: 8,
        maps: 100,
        reduces: 10_000,
        fills: 10_000,
    },
    Size {
        workers: 1_000,
        slots: 8,
        maps: 100_000,
        reduces: 10_000,
        fills: 50,
    },
];

/// Sizes at which every path runs and which take no time.
const SMOKE: [Size; 3] = [
    Size {
        workers: 20,
        slots: 2,
        maps: 2_000,
        reduces: 0,
        fills: 1,
    },
    Size {
        workers: 20,
        slots: 2,
        maps: 10,
        reduces: 200,
        fills: 200,
    },
    Size {
        workers: 20,
        slots: 2,
        maps: 500,
        reduces: 1_000,
        fills: 5,
    },
];

fn graph(size: Size) -> StageGraph {
    let stage = |id: u32, tasks: u32, inputs: Vec<StageInput>| Stage {
        id: StageId(id),
        label: "stage".to_owned(),
        tasks,
        inputs,
        output: ExchangeId(id),
        determinism: Determinism::Unordered,
        coalesces: true,
        has_sortable_join: false,
        swappable_joins: Vec::new(),
        data: DataLocality::default(),
        files: Vec::new(),
    };
    let exchange = |id: u32, kind, partitions: u32| Exchange {
        id: ExchangeId(id),
        kind,
        partitions,
        writers: vec![StageId(id)],
        fetch: None,
    };
    let mut graph = StageGraph {
        stages: vec![stage(0, size.maps, Vec::new())],
        exchanges: vec![exchange(0, ExchangeKind::Forward, 1)],
        result: ExchangeId(0),
        filters: Vec::new(),
        ordered: false,
    };
    if size.reduces > 0 {
        let own = StageInput {
            exchange: ExchangeId(0),
            read: ReadKind::OwnPartition,
            empty_ends: false,
            may_split: false,
        };
        graph.exchanges = vec![
            exchange(0, ExchangeKind::Hash, size.reduces),
            exchange(1, ExchangeKind::Forward, 1),
        ];
        graph.stages.push(stage(1, size.reduces, vec![own]));
        graph.result = ExchangeId(1);
    }
    graph
}

fn policy() -> Policy {
    Policy {
        max_task_attempts: 3,
        retry_backoff_base: Duration::from_millis(250),
        exclude_worker_after_failures: 3,
        worker_liveness_timeout: Duration::from_secs(3_600),
        coordinator_epoch: CoordinatorEpoch(1),
        recovery_wait: Duration::ZERO,
        no_workers_grace: Duration::from_secs(30),
        attempt_stall_timeout: Duration::from_secs(600),
        deadline: None,
        reduce_fetch_window_partitions: 4,
        min_range_bytes: 1 << 20,
        adaptive: None,
        joins: None,
        speculation: None,
        locality: LocalityPolicy {
            min_bytes: 1 << 20,
            max_wait: Duration::from_millis(100),
        },
        retention: ShuffleRetention::UntilEnd,
        sink: true,
    }
}

/// The partitions that a scanning task fills: others than the next one.
fn filled(size: Size, task: u32) -> Vec<u32> {
    let all = size.reduces.max(1);
    let step = (all / size.fills.max(1)).max(1);
    let filled = (0..size.fills).map(|number| (u64::from(task) + u64::from(number * step)) % u64::from(all));
    filled
        .filter_map(|partition| u32::try_from(partition).ok())
        .collect()
}

/// The coordinator and what its workers are about to say.
struct Query {
    machine: Coordinator,
    events: VecDeque<Event>,
    /// Attempts that run; the first one ends next.
    running: VecDeque<(WorkerId, AttemptId, LayoutId)>,
    size: Size,
    assigned: u64,
    committed: bool,
    /// The time spent in the coordinator.
    spent: Duration,
    now: u64,
}

impl Query {
    fn handle(&mut self, event: Event) {
        self.now += 1;
        let begun = Clock::now();
        let actions = self.machine.handle(Instant(self.now), event);
        let deadline = self.machine.next_deadline();
        self.spent += begun.elapsed();
        assert!(deadline.is_some(), "a query that runs has a deadline");
        for action in actions {
            match action {
                Action::RequestSlots { worker, slots, .. } if slots > 0 => {
                    self.events.push_back(Event::SlotsGranted { worker, slots });
                }
                Action::AssignAttempt { worker, assignment } => {
                    self.assigned += 1;
                    self.running
                        .push_back((worker, assignment.attempt, assignment.layout));
                }
                Action::CommitSink { .. } => self.committed = true,
                Action::RequestSlots { .. }
                | Action::ReleaseSlots { .. }
                | Action::DefineLayout { .. }
                | Action::UpdateInputs { .. }
                | Action::CancelAttempt { .. }
                | Action::RetireAttempt { .. }
                | Action::DropWorker { .. }
                | Action::UpdateResult { .. }
                | Action::SetResultTasks { .. }
                | Action::AbortSink
                | Action::EndQuery { .. } => {}
            }
        }
    }

    /// Whether one attempt is left to end.
    fn is_about_to_end(&self, tasks: u64) -> bool {
        self.assigned == tasks && self.running.len() == 1 && self.events.is_empty()
    }

    /// What comes next: a grant, or the end of the attempt that runs longest.
    fn next(&mut self) -> Option<Event> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        let (worker, attempt, layout) = self.running.pop_front()?;
        let partitions = if attempt.stage == StageId(0) {
            filled(self.size, attempt.task)
        } else {
            vec![0]
        };
        let output = |partition| MapOutputPartitionMeta {
            partition,
            bytes: 1_000,
            rows: 10,
        };
        Some(Event::AttemptSucceeded {
            worker,
            attempt,
            layout,
            outputs: partitions.into_iter().map(output).collect(),
            run: None,
            filters: Vec::new(),
            metrics: AttemptMetrics {
                rows_out: 10,
                ..AttemptMetrics::default()
            },
        })
    }
}

/// Resident bytes of this process, where the system tells.
fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

fn measure(size: Size, most: u64) {
    let tasks = u64::from(size.maps) + u64::from(size.reduces);
    let before = resident_bytes();
    let machine = Coordinator::new(graph(size), policy(), Instant(0)).expect("the graph can be executed");
    let mut query = Query {
        machine,
        events: VecDeque::new(),
        running: VecDeque::new(),
        size,
        assigned: 0,
        committed: false,
        spent: Duration::ZERO,
        now: 0,
    };
    for number in 0..size.workers {
        query.handle(Event::WorkerJoined {
            worker: WorkerId {
                name: format!("worker-{number:05}"),
                incarnation: Incarnation(1),
            },
            slots: size.slots,
            location: NodeLocation::default(),
            held: Vec::new(),
            recovered: Recovered::default(),
        });
    }
    let joins = query.spent;
    query.spent = Duration::ZERO;
    let mut resident = None;
    while query.assigned < most && !query.committed {
        if query.is_about_to_end(tasks) {
            resident = resident_bytes();
        }
        let Some(event) = query.next() else { break };
        query.handle(event);
    }
    assert!(
        query.committed || query.assigned >= most,
        "the query came to an end"
    );
    let resident = resident.or_else(resident_bytes).zip(before);
    let bytes = resident.map(|(after, before)| after.saturating_sub(before));
    let each = |total: f64, count: u64| total / count.max(1) as f64;
    let begun = Clock::now();
    let snapshot = query.machine.snapshot(Instant(query.now));
    let took = begun.elapsed();
    assert_eq!(snapshot.workers, size.workers);
    println!(
        "{:>7} {:>9} {:>11} {:>7} {:>10} {:>12.2} {:>9.0} {:>12.2} {:>11}",
        size.workers,
        tasks,
        size.reduces.max(1),
        size.fills,
        query.assigned,
        each(query.spent.as_secs_f64() * 1e6, query.assigned),
        each(joins.as_secs_f64() * 1e6, size.workers.into()),
        took.as_secs_f64() * 1e3,
        bytes.map_or_else(
            || "-".to_owned(),
            |bytes| format!("{:.0}", each(bytes as f64, tasks))
        ),
    );
}

/// The value after an argument of this name.
fn value_of(arguments: &[String], name: &str) -> Option<u64> {
    let mut rest = arguments.iter().skip_while(|argument| *argument != name).skip(1);
    rest.next().and_then(|value| value.parse().ok())
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let smoke = arguments.iter().any(|argument| argument == "--smoke");
    let sizes: &[Size] = if smoke { &SMOKE } else { &FULL };
    if let Some(size) = value_of(&arguments, "--size").and_then(|size| sizes.get(size as usize)) {
        return measure(*size, value_of(&arguments, "--decisions").unwrap_or(u64::MAX));
    }
    println!(
        "workers     tasks  partitions  filled  decisions  us/decision  us/join  ms/snapshot  bytes/task"
    );
    // Each in a process of its own: memory that one has freed would hide what the next one takes.
    let program = std::env::current_exe().expect("the benchmark has a path");
    for size in 0..sizes.len() {
        let mut command = Command::new(&program);
        command.args(&arguments).args(["--size", &size.to_string()]);
        let status = command.status().expect("the benchmark can start itself");
        assert!(status.success(), "size {size}: {status}");
    }
}
