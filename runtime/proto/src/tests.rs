//! Every domain value survives the wire, and impossible messages are refused.

mod recovered;

use sluice_core::failure::{AttemptFailure, BadInputKind, FetchError, Resource};
use sluice_core::ids::{
    AttemptId, CoordinatorEpoch, Incarnation, LayoutVersion, QueryId, StageEpoch, StageId, StreamEpoch,
    StreamId, WorkerId,
};
use sluice_core::layout::LayoutId;
use sluice_core::limits::{MAX_PARTITIONS, MAX_STREAMS_PER_ATTEMPT};
use sluice_core::message::{
    AssignedInput, AssignedRange, Assignment, ChunkHead, FetchRequest, InputState, InputUpdate, NextStream,
    ReaderRange, RunBytes, Writer,
};
use sluice_core::metrics::AttemptMetrics;
use sluice_core::partition_set::PartitionSet;
use sluice_core::plan::{FileRange, InputFile, Split};
use sluice_core::ranges::{ByteRange, MAX_KEY_BYTES, MAX_SAMPLES, RunSample, SortedRun};
use std::sync::Arc;

use self::recovered::key_range;
use crate::auth::{FetchEndpoint, FetchKey};
use crate::{
    LeafSplit, MAX_TEXT_BYTES, MapOutputs, WireError, fetch_error_of, refuse_fetch, shortened, wire,
};

const FETCH_ERRORS: [FetchError; 8] = [
    FetchError::UnknownStream,
    FetchError::StaleAttempt,
    FetchError::StaleStreamEpoch,
    FetchError::StaleCoordinator,
    FetchError::WrongIncarnation,
    FetchError::Corrupt,
    FetchError::StorageFailed,
    FetchError::Unreachable,
];

fn attempt() -> AttemptId {
    AttemptId {
        stage: StageId(3),
        stage_epoch: StageEpoch(1),
        task: 7,
        attempt: 2,
    }
}

fn file_range(start: u64, end: u64) -> FileRange {
    let file = InputFile {
        path: "/data/a.parquet".into(),
        size: 100,
        modified_nanos: -5,
        etag: Some("x".into()),
    };
    FileRange { file, start, end }
}

#[test]
fn fetch_errors_stay_typed_in_a_status() {
    for error in FETCH_ERRORS {
        assert_eq!(fetch_error_of(&refuse_fetch(error)), error);
    }
    assert_eq!(
        fetch_error_of(&tonic::Status::unavailable("gone")),
        FetchError::Unreachable
    );
    let odd = tonic::Status::with_details(tonic::Code::FailedPrecondition, "", vec![1, 2, 3].into());
    assert_eq!(fetch_error_of(&odd), FetchError::Unreachable);
}

#[test]
fn failures_survive() {
    let mut failures: Vec<AttemptFailure> = FETCH_ERRORS
        .map(|error| AttemptFailure::FetchFailed {
            map_attempt: attempt(),
            error,
        })
        .into_iter()
        .collect();
    let kinds = [
        BadInputKind::InputChanged,
        BadInputKind::InputCorrupt,
        BadInputKind::InvalidValue,
        BadInputKind::ForbiddenPath,
        BadInputKind::UnsupportedPlan,
    ];
    failures.extend(kinds.map(|kind| AttemptFailure::BadInput {
        kind,
        message: "m".into(),
    }));
    failures.extend([
        AttemptFailure::ResourcesExhausted {
            resource: Resource::Memory,
            message: "memory".into(),
        },
        AttemptFailure::ResourcesExhausted {
            resource: Resource::Plans,
            message: "plans".into(),
        },
        AttemptFailure::ResourcesContended {
            resource: Resource::Disk,
            message: "others".into(),
        },
        AttemptFailure::SinkFailed {
            message: "no space".into(),
        },
        AttemptFailure::Refused {
            message: "draining".into(),
        },
        AttemptFailure::Cancelled,
        AttemptFailure::Failed {
            message: "odd".into(),
        },
    ]);
    for failure in failures {
        let wire = wire::attempt_failed::Failure::from(failure.clone());
        assert_eq!(AttemptFailure::try_from(wire), Ok(failure));
    }
}

#[test]
fn texts_of_failures_have_an_end() {
    let long = "é".repeat(10 << 20);
    let failures = |message: String| {
        [
            AttemptFailure::BadInput {
                kind: BadInputKind::InvalidValue,
                message: message.clone(),
            },
            AttemptFailure::ResourcesExhausted {
                resource: Resource::Disk,
                message: message.clone(),
            },
            AttemptFailure::ResourcesContended {
                resource: Resource::Memory,
                message: message.clone(),
            },
            AttemptFailure::SinkFailed {
                message: message.clone(),
            },
            AttemptFailure::Refused {
                message: message.clone(),
            },
            AttemptFailure::Failed { message },
        ]
    };
    let short = failures(format!("{}…", "é".repeat(2046)));
    for (failure, short) in failures(long.clone()).into_iter().zip(short) {
        let sent = wire::attempt_failed::Failure::from(failure);
        assert!(sent.encoded_len() < MAX_TEXT_BYTES + 100);
        assert_eq!(AttemptFailure::try_from(sent), Ok(short));
    }
    // Whoever sends it whole is no worker of ours.
    let sent = wire::attempt_failed::Failure::Failed(long);
    let AttemptFailure::Failed { message } = AttemptFailure::try_from(sent).unwrap() else {
        panic!("another failure");
    };
    assert!(message.len() <= MAX_TEXT_BYTES);
    assert_eq!(shortened("x".repeat(MAX_TEXT_BYTES)), "x".repeat(MAX_TEXT_BYTES));
}

#[test]
fn an_assignment_of_more_streams_or_partitions_than_a_worker_keeps_is_refused() {
    let most = u32::try_from(MAX_STREAMS_PER_ATTEMPT).unwrap();
    let reading = |tasks: &[u32], partitions: u32, output_partitions| {
        let writers = tasks.iter().map(|tasks| wire::Writer {
            stage: 0,
            tasks: *tasks,
            only: None,
        });
        let assign = wire::AssignAttempt {
            attempt: Some(attempt().into()),
            inputs: vec![wire::AssignedInput {
                writers: writers.collect(),
                assigned_reduce_partitions: (0..partitions).collect(),
                range: None,
            }],
            output_partitions,
            ..Default::default()
        };
        <(Assignment, Vec<LeafSplit>)>::try_from(assign)
    };
    assert!(reading(&[most], 1, MAX_PARTITIONS).is_ok());
    assert!(reading(&[most / 2], 2, 1).is_ok());
    let cases: &[(&[u32], u32, u32)] = &[
        (&[most, 1], 1, 1),
        (&[u32::MAX], 1, 1),
        (&[u32::MAX, u32::MAX], 1, 1),
        (&[most / 2 + 1], 2, 1),
        (&[1], MAX_PARTITIONS + 1, 1),
        (&[1], 1, MAX_PARTITIONS + 1),
        (&[1], 1, u32::MAX),
    ];
    for (tasks, partitions, output_partitions) in cases {
        let refused = reading(tasks, *partitions, *output_partitions).unwrap_err();
        assert!(matches!(refused, WireError::TooLarge(_)), "{refused}");
    }
}

fn sorted_run() -> SortedRun {
    let sample = |key: u8, offset| RunSample {
        key: vec![key],
        offset,
    };
    SortedRun {
        samples: vec![sample(1, 0), sample(1, 40), sample(2, 90)],
        end: 100,
    }
}

#[test]
fn sorted_runs_survive_and_wrong_ones_are_refused() {
    for run in [sorted_run(), SortedRun::default()] {
        assert_eq!(SortedRun::try_from(wire::SortedRun::from(run.clone())), Ok(run));
    }
    let spoil = |spoilt: fn(&mut SortedRun)| {
        let mut run = sorted_run();
        spoilt(&mut run);
        let refused = SortedRun::try_from(wire::SortedRun::from(run));
        assert!(
            matches!(refused, Err(WireError::Impossible { .. })),
            "{refused:?}"
        );
    };
    spoil(|run| run.end = 90);
    spoil(|run| run.samples[0].offset = 1);
    spoil(|run| run.samples[1].offset = 0);
    spoil(|run| run.samples[2].key = vec![0]);
    spoil(|run| run.samples[0].key = vec![0; MAX_KEY_BYTES + 1]);
    spoil(|run| run.samples = vec![run.samples[0].clone(); MAX_SAMPLES + 1]);
    spoil(|run| run.samples.clear());
    let backwards = wire::ByteRange { start: 4, end: 3 };
    assert!(ByteRange::try_from(backwards).is_err());
}

#[test]
fn assignments_survive() {
    let assignment = Assignment {
        attempt: attempt(),
        stream_epoch: StreamEpoch(9),
        output_partitions: 4,
        inputs: vec![AssignedInput {
            writers: vec![
                Writer {
                    stage: StageId(1),
                    tasks: 5,
                    only: None,
                },
                Writer {
                    stage: StageId(2),
                    tasks: 9,
                    only: Some(vec![1, 7]),
                },
                Writer {
                    stage: StageId(3),
                    tasks: 2,
                    only: Some(Vec::new()),
                },
            ],
            assigned_reduce_partitions: vec![0, 3],
            range: Some(AssignedRange {
                keys: key_range(),
                runs: vec![RunBytes {
                    map_attempt: attempt(),
                    bytes: ByteRange { start: 1, end: 5 },
                }],
            }),
        }],
        layout: LayoutId {
            version: LayoutVersion(1),
            fingerprint: u64::MAX,
        },
        recommended_reduce_fetch_window_partitions: 4,
        filters: Vec::new(),
        sort_joins: true,
        swapped_joins: vec![0, 3],
    };
    let splits = vec![
        LeafSplit {
            leaf: 0,
            split: Split::Files(vec![file_range(10, 20)]),
        },
        LeafSplit {
            leaf: 1,
            split: Split::Tpch { part: 2, parts: 3 },
        },
        LeafSplit {
            leaf: 2,
            split: Split::Whole,
        },
    ];
    let wire = wire::AssignAttempt::new(assignment.clone(), splits.clone());
    assert_eq!(
        <(Assignment, Vec<LeafSplit>)>::try_from(wire),
        Ok((assignment, splits))
    );
}

#[test]
fn counters_survive() {
    let metrics = AttemptMetrics {
        rows_read: 1,
        bytes_read: 2,
        rows_filtered: 13,
        shuffle_rows_in: 3,
        shuffle_bytes_in: 4,
        rows_out: 5,
        bytes_out: 6,
        bytes_spilled: 7,
        shuffle_bytes_spilled: 8,
        backpressure_events: 9,
        first_chunk_ms: Some(0),
        first_reduce_row_ms: None,
        activity: 12,
    };
    assert_eq!(AttemptMetrics::from(wire::AttemptMetrics::from(metrics)), metrics);
}

fn update(state: InputState) -> InputUpdate {
    let worker = WorkerId {
        name: "w-0".into(),
        incarnation: Incarnation(77),
    };
    InputUpdate {
        map_attempt: attempt(),
        stream_epoch: StreamEpoch(2),
        worker: Arc::new(worker),
        state,
        filled_partitions: (state == InputState::Won)
            .then(|| PartitionSet::from_bytes(&[2, 0, 1, 0, 0, 0, 0, 0, 9])),
    }
}

fn map_outputs() -> MapOutputs {
    let states = [InputState::Won, InputState::Superseded, InputState::Lost];
    let mut updates: Vec<InputUpdate> = states.into_iter().map(update).collect();
    let other = WorkerId {
        name: "v-1".into(),
        incarnation: Incarnation(1),
    };
    updates[1].worker = Arc::new(other);
    let endpoint = |update: &InputUpdate| FetchEndpoint {
        address: format!("{}:1", update.worker.name),
        key: (update.state == InputState::Won).then(|| FetchKey::new([7; 32])),
    };
    let endpoints = updates.iter().take(2);
    let endpoints = endpoints.map(|update| (Arc::clone(&update.worker), endpoint(update)));
    MapOutputs {
        endpoints: endpoints.collect(),
        updates,
    }
}

#[test]
fn map_outputs_survive_and_name_a_worker_once() {
    let outputs = map_outputs();
    assert_eq!(wire::MapOutputs::from(outputs.clone()).workers.len(), 2);
    assert_eq!(MapOutputs::decode(outputs.clone().encode()), Ok(outputs));
    let bytes = ByteRange { start: 3, end: 9 };
    let range = ReaderRange {
        reader: attempt(),
        run: RunBytes {
            map_attempt: attempt(),
            bytes,
        },
    };
    assert_eq!(ReaderRange::try_from(wire::ReaderRange::from(range)), Ok(range));
}

#[test]
fn impossible_map_outputs_are_refused() {
    let spoil = |spoilt: fn(&mut wire::MapOutputs)| {
        let mut wire = wire::MapOutputs::from(map_outputs());
        spoilt(&mut wire);
        assert!(MapOutputs::try_from(wire.clone()).is_err(), "{wire:?}");
    };
    spoil(|wire| wire.workers[0].fetch_key = vec![7; 31].into());
    spoil(|wire| wire.workers[1].worker = None);
    spoil(|wire| wire.updates[0].worker = 2);
    spoil(|wire| wire.updates[0].state = 9);
    spoil(|wire| wire.updates[0].map_attempt = None);
    spoil(|wire| {
        let bytes = usize::try_from(MAX_PARTITIONS / 8).unwrap() + 2;
        wire.updates[0].filled_partitions = Some(vec![0; bytes]);
    });
    assert!(MapOutputs::decode(vec![255; 9].into()).is_err());
    let backwards = wire::ReaderRange {
        reader: Some(attempt().into()),
        run: Some(wire::RunBytes {
            map_attempt: Some(attempt().into()),
            bytes: Some(wire::ByteRange { start: 2, end: 1 }),
        }),
    };
    assert!(ReaderRange::try_from(backwards).is_err());
}

#[test]
fn fetches_of_several_streams_and_their_chunks_survive() {
    let stream = |task, partition| {
        let attempt = AttemptId { task, ..attempt() };
        StreamId { attempt, partition }
    };
    let next = |(task, partition)| NextStream {
        stream: stream(task, partition),
        min_stream_epoch: StreamEpoch(u64::from(task)),
    };
    let request = FetchRequest {
        query: QueryId::new("q").unwrap(),
        stream: stream(0, 1),
        next_streams: [(0, 3), (0, 9), (4, 1), (0, 2)].map(next).into(),
        start_offset: 5,
        max_bytes: 6,
        min_stream_epoch: StreamEpoch(7),
        coordinator_epoch: CoordinatorEpoch(8),
        worker_incarnation: Incarnation(9),
    };
    let wire = wire::FetchRequest::from(request.clone());
    assert_eq!(
        wire.next_streams.len(),
        3,
        "an attempt is named once for what follows"
    );
    assert_eq!(FetchRequest::try_from(wire), Ok(request));
    let head = ChunkHead {
        stream: stream(4, 1),
        start_offset: 2,
        end_offset: 3,
        watermark_offset: 3,
        finalized: true,
        stream_epoch: StreamEpoch(4),
    };
    let data = prost::bytes::Bytes::from_static(b"x");
    let wire = wire::FetchChunk::new(head, data.clone());
    assert_eq!(
        <(ChunkHead, prost::bytes::Bytes)>::try_from(wire),
        Ok((head, data))
    );
}

#[test]
fn impossible_messages_are_refused() {
    let outside = wire::LeafSplit::from(LeafSplit {
        leaf: 0,
        split: Split::Files(vec![file_range(10, 101)]),
    });
    let part = wire::LeafSplit::from(LeafSplit {
        leaf: 0,
        split: Split::Tpch { part: 3, parts: 3 },
    });
    let empty = wire::LeafSplit { leaf: 0, split: None };
    for (message, field) in [
        (outside, "ranges.end"),
        (part, "splits.tpch.part"),
        (empty, "splits.split"),
    ] {
        let error = LeafSplit::try_from(message).unwrap_err();
        assert!(error.to_string().contains(field), "{error}");
    }
    let unnamed = wire::FetchRequest {
        query: "Not A Name".into(),
        ..Default::default()
    };
    let refused = FetchRequest::try_from(unnamed);
    assert!(matches!(
        refused,
        Err(WireError::Impossible { field: "query", .. })
    ));
    let many = wire::FetchRequest {
        query: "q".into(),
        next_streams: vec![
            wire::NextStreams {
                map_attempt: Some(attempt().into()),
                min_stream_epoch: 1,
                reduce_partitions: vec![0; sluice_core::limits::MAX_STREAMS_PER_FETCH / 2],
            };
            2
        ],
        ..Default::default()
    };
    let refused = FetchRequest::try_from(many);
    assert!(matches!(
        refused,
        Err(WireError::Impossible {
            field: "next_streams",
            ..
        })
    ));
    let short = wire::FetchChunk {
        end_offset: 4,
        watermark_offset: 4,
        data: vec![1].into(),
        ..Default::default()
    };
    assert!(<(ChunkHead, prost::bytes::Bytes)>::try_from(short).is_err());
}
