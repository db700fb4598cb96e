//! What users, peers and files can send, each as a function of bytes. It ends, without a panic and without more memory
//! than the bytes pay for, whatever they are. The runner in runtime/tests/it/fuzz and the crate in this folder call them.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::session_state::SessionState;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::prelude::SessionConfig;
use prost::Message;
use sluice::planner::{
    InputProvider, InputStream, TaskSplits, decode_schema, decode_task, session_options, session_state,
    tables_read, task_context,
};
use sluice::shuffle::frame::{FrameDecoder, FrameFormat, HEADER_BYTES};
use sluice::stage_template::StageTemplate;
use sluice_core::ids::{Incarnation, WorkerId};
use sluice_core::key_filter::KeyFilter;
use sluice_core::message::ChunkHead;
use sluice_core::message::{Assignment, FetchRequest, ReaderRange, StageLayout};
use sluice_crds::shuffle_query::Compression;
use sluice_crds::{Resource, parse_documents, validate_pool, validate_query};
use sluice_proto::auth::{Token, TokenSigner, TokenVerifier};
use sluice_proto::{Hello, LeafSplit, MapOutputs, QueryReport, Welcome, fetch_error_of, wire};
use wire::coordinator_message::Message as ToWorker;
use wire::worker_message::Message as FromWorker;

/// A target's name, and what it does with bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 8] = [
    ("frames", frames),
    ("payloads", payloads),
    ("stages", stages),
    ("yaml", yaml),
    ("sql", sql),
    ("tokens", tokens),
    ("session", session),
    ("fetch", fetch),
];

/// The schema of the rows that frames hold here.
pub fn schema() -> Arc<Schema> {
    let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let list = DataType::List(Arc::new(Field::new("item", DataType::Utf8View, true)));
    Arc::new(Schema::new(vec![
        Field::new("number", DataType::Int64, true),
        Field::new("text", DataType::Utf8, true),
        Field::new("word", dictionary, true),
        Field::new("list", list, true),
    ]))
}

/// The format of those frames.
pub fn format(compression: Compression) -> Arc<FrameFormat> {
    let format = FrameFormat::new(schema(), compression);
    Arc::new(format.expect("the schema has a format"))
}

static FORMAT: LazyLock<Arc<FrameFormat>> = LazyLock::new(|| format(Compression::Lz4));

/// A stream of frames, in two pieces.
pub fn frames(bytes: &[u8]) {
    let mut decoder = FrameDecoder::starting_at(Arc::clone(&FORMAT), 0);
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let decoded = decoder.push(first).is_ok() && decoder.push(second).is_ok();
    black_box(decoded && decoder.finish().is_ok());
}

/// The rows (four bytes) and the payload of one frame with a good checksum: what a peer can send that has the key.
pub fn payloads(bytes: &[u8]) {
    let Some((rows, payload)) = bytes.split_first_chunk::<4>() else {
        return;
    };
    let digest = xxhash_rust::xxh3::xxh3_64(payload).to_le_bytes();
    let chain = xxhash_rust::xxh3::xxh3_64_with_seed(&digest, 0).to_le_bytes();
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes();
    let summed = [&length[..], rows, &chain, &digest].concat();
    let checksum = crc32c::crc32c(&summed).to_le_bytes();
    let frame = [&length[..], rows, &checksum, &chain, payload].concat();
    frames(&frame);
}

/// Rows and payload of the first of these frames, for [`payloads`].
pub fn payload_of(frame: &[u8]) -> Vec<u8> {
    let length = u32::from_le_bytes(frame[..4].try_into().expect("a header")) as usize;
    [&frame[4..8], &frame[HEADER_BYTES..HEADER_BYTES + length]].concat()
}

#[derive(Debug)]
struct NoInputs;

impl InputProvider for NoInputs {
    fn open(
        &self,
        _: InputStream,
        _: &Arc<TaskContext>,
    ) -> datafusion::error::Result<SendableRecordBatchStream> {
        Err(datafusion::error::DataFusionError::Execution(
            "nothing is read".into(),
        ))
    }
}

/// What all tasks of a stage share: the fragment, its options, the partitioning and the sink.
pub fn stages(bytes: &[u8]) {
    let Ok(template) = StageTemplate::decode(bytes) else {
        return;
    };
    let runtime = Arc::new(RuntimeEnv::default());
    let Ok(context) = task_context(&template.fragment.options, "fuzz", Arc::clone(&runtime)) else {
        return;
    };
    let inputs: Arc<dyn InputProvider> = Arc::new(NoInputs);
    let splits = TaskSplits::default();
    black_box(decode_task(&template.fragment, &splits, &context, &inputs, &[0]).is_ok());
    if let Ok(schema) = decode_schema(&template.fragment.output) {
        black_box(template.output.sorted_by(&schema, &context).is_ok());
        black_box(template.output.partitioning(&schema, &context).is_ok());
    }
    // Options of its own may make a context useless for keys.
    if let Ok(plain) = task_context(&BTreeMap::new(), "fuzz", runtime) {
        black_box(decode_task(&template.fragment, &splits, &plain, &inputs, &[0]).is_ok());
    }
}

/// A file of queries and pools.
pub fn yaml(bytes: &[u8]) {
    for resource in parse_documents(&String::from_utf8_lossy(bytes))
        .into_iter()
        .flatten()
    {
        let problems = match &resource {
            Resource::Query(query) => validate_query(query),
            Resource::Pool(pool) => validate_pool(pool),
        };
        black_box(problems.len());
    }
}

static STATE: LazyLock<SessionState> = LazyLock::new(|| {
    let config: SessionConfig = session_options(2);
    session_state(config, Arc::new(RuntimeEnv::default()))
});

/// The text of a query, parsed and checked.
pub fn sql(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let read = futures::executor::block_on(tables_read(&STATE, &text));
    match read {
        Ok(tables) => black_box(tables.len()),
        Err(error) => black_box(error.to_string().len()),
    };
}

/// A key that everybody knows.
const PEM: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8g\n-----END PRIVATE KEY-----\n";

/// Signs tokens for samples.
pub fn signer() -> TokenSigner {
    TokenSigner::from_pem(PEM).expect("it is a key")
}

static VERIFIER: LazyLock<TokenVerifier> =
    LazyLock::new(|| TokenVerifier::from_pem(&signer().public_pem()).expect("it is a key"));

/// The text of a token.
pub fn tokens(bytes: &[u8]) {
    let Ok(token) = Token::new(&String::from_utf8_lossy(bytes)) else {
        return;
    };
    let verified = VERIFIER.verify(&token, SystemTime::now());
    black_box(verified.is_ok());
}

/// Messages of a session, of both sides, and what a coordinator reports.
pub fn session(bytes: &[u8]) {
    if let Ok(message) = wire::CoordinatorMessage::decode(bytes) {
        match message.message {
            Some(ToWorker::Hello(hello)) => drop(black_box(Hello::try_from(hello))),
            Some(ToWorker::AssignAttempt(assign)) => {
                drop(black_box(<(Assignment, Vec<LeafSplit>)>::try_from(assign)));
            }
            Some(ToWorker::UpdateInputs(inputs)) => {
                drop(black_box(MapOutputs::decode(inputs.outputs)));
                for range in inputs.ranges {
                    black_box(ReaderRange::try_from(range).is_ok());
                }
            }
            Some(ToWorker::DefineStage(stage)) => stages(&stage.template),
            Some(ToWorker::DefineLayout(layout)) => drop(black_box(StageLayout::try_from(layout))),
            Some(ToWorker::DefineFilter(define)) => {
                let keys = define.keys.map(KeyFilter::try_from);
                drop(black_box(keys.and_then(Result::ok).map(|keys| keys.lookup())));
            }
            Some(
                ToWorker::Heartbeat(_)
                | ToWorker::RequestSlots(_)
                | ToWorker::ReleaseSlots(_)
                | ToWorker::CancelAttempt(_)
                | ToWorker::RetireAttempt(_)
                | ToWorker::EndQuery(_)
                | ToWorker::RenewToken(_),
            )
            | None => {}
        }
    }
    if let Ok(message) = wire::WorkerMessage::decode(bytes) {
        let worker = WorkerId {
            name: "w".to_owned(),
            incarnation: Incarnation(1),
        };
        if let Some(FromWorker::Welcome(welcome)) = message.message.clone() {
            drop(black_box(Welcome::try_from(welcome)));
        }
        drop(black_box(message.into_event(&worker)));
    }
    if let Ok(status) = wire::QueryStatus::decode(bytes)
        && let Ok(report) = QueryReport::try_from(status)
    {
        black_box(report.status().phase);
    }
}

/// A fetch, its chunks and its refusal.
pub fn fetch(bytes: &[u8]) {
    if let Ok(request) = wire::FetchRequest::decode(bytes) {
        drop(black_box(FetchRequest::try_from(request)));
    }
    if let Ok(chunk) = wire::FetchChunk::decode(bytes) {
        let chunk = <(ChunkHead, bytes::Bytes)>::try_from(chunk);
        if let Ok((_, data)) = chunk {
            frames(&data);
        }
    }
    let details = bytes::Bytes::copy_from_slice(bytes);
    let status = tonic::Status::with_details(tonic::Code::FailedPrecondition, "", details);
    black_box(fetch_error_of(&status));
}
