//! What our own encoders write.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Int64Array, ListBuilder, RecordBatch, StringArray, StringDictionaryBuilder, StringViewBuilder,
};
use arrow::datatypes::Int32Type;
use arrow_ipc::writer::IpcWriteContext;
use prost::Message;
use sluice::query::{WorkerCapacity, load, plan_only};
use sluice::shuffle::frame::FrameEncoder;
use sluice_core::ids::{CoordinatorEpoch, QueryId};
use sluice_core::key_filter::KeyFilter;
use sluice_crds::shuffle_query::Compression;
use sluice_proto::auth::{Claims, Folders, PoolId};
use sluice_proto::{refuse_fetch, wire};
use wire::coordinator_message::Message as ToWorker;
use wire::worker_message::Message as FromWorker;

use super::targets;

const COMPRESSIONS: [Compression; 3] = [Compression::None, Compression::Lz4, Compression::Zstd];

/// Samples of a target.
pub fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "frames" => frames(),
        "payloads" => frames().iter().map(|frame| targets::payload_of(frame)).collect(),
        "stages" => stages(),
        "yaml" => yaml(),
        "sql" => sql(),
        "tokens" => tokens(),
        "session" => session(),
        "fetch" => fetch(),
        other => panic!("{other} has no samples"),
    }
}

fn batch(rows: i64) -> RecordBatch {
    let text: StringArray = (0..rows)
        .map(|row| (row % 3 != 0).then(|| format!("text {row}")))
        .collect();
    let (mut words, mut lists) = (
        StringDictionaryBuilder::<Int32Type>::new(),
        ListBuilder::new(StringViewBuilder::new()),
    );
    for row in 0..rows {
        words.append_value(["red", "green"][usize::from(row % 2 == 0)]);
        for item in 0..row % 3 {
            lists
                .values()
                .append_value(format!("a longer item {item} of {row}"));
        }
        lists.append(row % 4 != 0);
    }
    let numbers: Int64Array = (0..rows).map(|row| (row % 5 != 0).then_some(row)).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(numbers),
        Arc::new(text),
        Arc::new(words.finish()),
        Arc::new(lists.finish()),
    ];
    RecordBatch::try_new(targets::schema(), columns).expect("a sample is made")
}

fn frames() -> Vec<Vec<u8>> {
    let of = |compression: Compression, rows: i64| {
        let mut encoder = FrameEncoder::new(targets::format(compression));
        let frame = encoder
            .encode(&batch(rows), &mut IpcWriteContext::default())
            .expect("a sample is made");
        frame.to_vec()
    };
    let sizes = [0, 1, 100];
    sizes
        .iter()
        .flat_map(|rows| COMPRESSIONS.map(|compression| of(compression, *rows)))
        .collect()
}

fn samples_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/samples")
}

fn stages() -> Vec<Vec<u8>> {
    let runtime = tokio::runtime::Runtime::new().expect("a sample is made");
    let mut all = Vec::new();
    for name in ["tpch-join", "tpch-pricing-summary", "csv"] {
        let loaded = load(&samples_folder().join(format!("{name}.yaml"))).expect("a sample is made");
        let capacity = WorkerCapacity {
            slots: 4,
            slot_memory_bytes: Some(64 << 20),
        };
        let query = QueryId::new("q").expect("a sample is made");
        let prepared = runtime
            .block_on(plan_only(&loaded, &query, capacity))
            .expect("a sample is made");
        let options = prepared
            .into_options(CoordinatorEpoch(1), vec!["w:1".into()])
            .expect("a sample is made");
        all.extend(options.stages.iter().map(|stage| stage.template.to_vec()));
    }
    all
}

fn files_of(folder: &Path, end: &str, all: &mut Vec<Vec<u8>>) {
    for entry in std::fs::read_dir(folder).expect("a sample is made") {
        let path = entry.expect("a sample is made").path();
        if path.extension().is_some_and(|found| found == end) {
            all.push(std::fs::read(path).expect("a sample is made"));
        }
    }
}

fn yaml() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    files_of(&samples_folder(), "yaml", &mut all);
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds/cases");
    for file in ["queries.yaml", "pools.yaml"] {
        let text = std::fs::read_to_string(cases.join(file)).expect("a sample is made");
        all.extend(text.split("\n---\n").map(|document| document.as_bytes().to_vec()));
    }
    all
}

fn sql() -> Vec<Vec<u8>> {
    let queries = [
        "SELECT a, count(*) FROM t JOIN u USING (k) WHERE a > 1 AND b IN (1, 2) GROUP BY ROLLUP (a) HAVING count(*) > 1 ORDER BY 1 LIMIT 5",
        "WITH RECURSIVE x AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM x WHERE n < 5) SELECT * FROM x",
        "SELECT sum(a) FILTER (WHERE b) OVER (PARTITION BY c ORDER BY d ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM t",
        "SELECT CASE a WHEN 1 THEN 'x' ELSE \"Y y\" END, CAST(b AS DECIMAL(10, 2)), x'00ff', -1e5, [1, 2][1] FROM t -- end",
        "SELECT * FROM t TABLESAMPLE BERNOULLI (10) REPEATABLE (3) WHERE EXISTS (SELECT 1 FROM u WHERE u.a = t.a) /* c */",
        "VALUES (1, DATE '2020-01-01', INTERVAL '1 day'), (NULL, NULL, NULL)",
    ];
    let mut all: Vec<Vec<u8>> = queries.iter().map(|query| query.as_bytes().to_vec()).collect();
    files_of(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src/planner/tests"),
        "sql",
        &mut all,
    );
    all
}

fn tokens() -> Vec<Vec<u8>> {
    let folders = Folders {
        read: vec!["/data/t".into(), "/data/u".into()],
        write: vec!["/out".into()],
    };
    let pool = PoolId {
        namespace: "n".into(),
        name: "p".into(),
    };
    let query = QueryId::new("q").expect("a sample is made");
    let claims = [
        Claims::query(query.clone(), CoordinatorEpoch(3), pool.clone(), folders),
        Claims::renewal(query, CoordinatorEpoch(3), pool),
    ];
    let signer = targets::signer();
    let sign = |claims: &Claims| {
        signer
            .sign(claims)
            .expect("a sample is made")
            .as_text()
            .as_bytes()
            .to_vec()
    };
    claims.iter().map(sign).collect()
}

fn attempt() -> wire::AttemptRef {
    wire::AttemptRef {
        stage: 3,
        stage_epoch: 1,
        task: 7,
        attempt: 2,
    }
}

fn assignment() -> wire::AssignAttempt {
    let bound = |key: &[u8]| wire::Bound {
        key: key.to_vec().into(),
        map_task: 2,
    };
    let file = wire::InputFile {
        path: "/data/t/a.parquet".into(),
        size: 1000,
        modified_nanos: 5,
        etag: Some("x".into()),
    };
    let ranges = vec![wire::FileRange {
        file: Some(file),
        start: 0,
        end: 1000,
    }];
    wire::AssignAttempt {
        attempt: Some(attempt()),
        stream_epoch: 4,
        output_partitions: 8,
        inputs: vec![wire::AssignedInput {
            writers: vec![wire::Writer {
                stage: 1,
                tasks: 5,
                only: Some(wire::TaskSet { tasks: vec![0, 4] }),
            }],
            assigned_reduce_partitions: vec![1, 2, 3],
            range: Some(wire::AssignedRange {
                keys: Some(wire::KeyRange {
                    lower: Some(bound(b"a")),
                    upper: Some(bound(b"b")),
                }),
                runs: vec![run()],
            }),
        }],
        splits: vec![wire::LeafSplit {
            leaf: 1,
            split: Some(wire::leaf_split::Split::Files(wire::FileRanges { ranges })),
        }],
        layout_version: 1,
        ..wire::AssignAttempt::default()
    }
}

fn run() -> wire::RunBytes {
    wire::RunBytes {
        map_attempt: Some(attempt()),
        bytes: Some(wire::ByteRange { start: 1, end: 2 }),
    }
}

fn update() -> wire::InputUpdate {
    wire::InputUpdate {
        map_attempt: Some(attempt()),
        stream_epoch: 4,
        worker: 0,
        state: wire::InputState::Won.into(),
        filled_partitions: Some(vec![2, 0, 9]),
    }
}

fn session() -> Vec<Vec<u8>> {
    let hello = wire::Hello {
        query_name: "orders".to_owned(),
        plan_fingerprint: 1,
        query: "q".into(),
        coordinator_epoch: 1,
        build_id: "b".into(),
        lease_millis: 60_000,
        liveness_timeout_millis: 15_000,
        input_roots: vec!["/data/t".into()],
    };
    let outputs = wire::MapOutputs {
        workers: vec![wire::WorkerEndpoint {
            worker: Some(wire::WorkerRef {
                name: "w".into(),
                incarnation: 9,
            }),
            address: "10.0.0.1:7400".into(),
            fetch_key: vec![7; 32].into(),
        }],
        updates: vec![update(), update()],
    };
    let mut to_worker = vec![
        ToWorker::Hello(hello),
        ToWorker::AssignAttempt(assignment()),
        ToWorker::UpdateInputs(wire::UpdateInputs {
            outputs: outputs.encode_to_vec().into(),
            ranges: vec![wire::ReaderRange {
                reader: Some(attempt()),
                run: Some(run()),
            }],
        }),
        ToWorker::CancelAttempt(attempt()),
        ToWorker::DefineFilter(wire::DefineFilter {
            filter: 1,
            keys: Some((&KeyFilter::of(vec![1, 2, 3])).into()),
        }),
    ];
    to_worker.extend(stages().into_iter().take(2).map(|template| {
        ToWorker::DefineStage(wire::DefineStage {
            stage: 1,
            template: template.into(),
        })
    }));
    let to_worker = to_worker.into_iter();
    let to_worker = to_worker.map(|message| wire::CoordinatorMessage::of(message).encode_to_vec());
    let from_worker = from_worker().into_iter();
    let from_worker = from_worker.map(|message| wire::WorkerMessage::of(message).encode_to_vec());
    to_worker.chain(from_worker).collect()
}

fn from_worker() -> Vec<FromWorker> {
    let run = wire::SortedRun {
        samples: vec![wire::RunSample {
            key: b"key".to_vec().into(),
            offset: 10,
        }],
        end: 20,
    };
    let output = wire::MapOutputPartitionMeta {
        partition: 1,
        bytes: 100,
        rows: 10,
    };
    let lost = wire::FetchFailed {
        map_attempt: Some(attempt()),
        error: wire::FetchErrorCode::Corrupt.into(),
    };
    vec![
        FromWorker::Welcome(wire::Welcome {
            worker: Some(wire::WorkerRef {
                name: "w".into(),
                incarnation: 9,
            }),
            slots: 4,
            held: vec![attempt()],
            ..wire::Welcome::default()
        }),
        FromWorker::AttemptSucceeded(wire::AttemptSucceeded {
            attempt: Some(attempt()),
            outputs: vec![output],
            run: Some(run),
            filters: vec![(&KeyFilter::of(vec![4, 5])).into()],
            ..wire::AttemptSucceeded::default()
        }),
        FromWorker::AttemptFailed(wire::AttemptFailed {
            attempt: Some(attempt()),
            failure: Some(wire::attempt_failed::Failure::FetchFailed(lost)),
        }),
    ]
}

fn fetch() -> Vec<Vec<u8>> {
    let request = wire::FetchRequest {
        query: "q".into(),
        stage: 1,
        max_bytes: 1 << 20,
        worker_incarnation: 9,
        next_streams: vec![wire::NextStreams {
            map_attempt: Some(attempt()),
            min_stream_epoch: 1,
            reduce_partitions: vec![2, 300],
        }],
        ..wire::FetchRequest::default()
    };
    let chunks = frames().into_iter().map(|frame| wire::FetchChunk {
        end_offset: frame.len() as u64,
        watermark_offset: frame.len() as u64,
        finalized: true,
        data: frame.into(),
        ..wire::FetchChunk::default()
    });
    let mut all: Vec<Vec<u8>> = chunks.map(|chunk| chunk.encode_to_vec()).collect();
    all.push(request.encode_to_vec());
    all.push(
        refuse_fetch(sluice_core::failure::FetchError::Corrupt)
            .details()
            .to_vec(),
    );
    all
}
