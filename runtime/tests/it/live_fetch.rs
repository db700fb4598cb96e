//! Fetches over gRPC from a worker, with the test as the coordinator: what a fetch returns while an attempt runs, and
//! the reasons of refusals.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use sluice::build_id::build_id;
use sluice::coordinator::CoordinatorOptions;
use sluice::query::{WorkerCapacity, prepare};
use sluice::shuffle::frame::{FrameDecoder, FrameFormat};
use sluice::worker::{RunningWorker, WorkerOptions};
use sluice_core::failure::FetchError;
use sluice_core::ids::{
    AttemptId, CoordinatorEpoch, Incarnation, LayoutVersion, QueryId, StageEpoch, StageId, StreamEpoch,
    StreamId,
};
use sluice_core::layout::LayoutId;
use sluice_core::message::{Assignment, ChunkHead, FetchRequest, MapOutputPartitionMeta};
use sluice_crds::shuffle_query::Compression;
use sluice_proto::auth::FetchKey;
use sluice_proto::{Hello, RefusedReason, Welcome, fetch_error_of, wire};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;
use wire::coordinator_message::Message as ToWorker;
use wire::worker_client::WorkerClient;
use wire::worker_message::Message as FromWorker;

use crate::harness::{AMPLE_MEMORY, Tables};

/// A worker that is silent this long hangs.
const HANG: Duration = Duration::from_secs(120);
const EPOCH: CoordinatorEpoch = CoordinatorEpoch(2);
const MAX_CHUNK_BYTES: u64 = 1 << 20;

/// A worker of one slot and a query that one stage answers.
struct Fixture {
    worker: RunningWorker,
    options: CoordinatorOptions,
    /// What the worker's last welcome said.
    fetch_key: Arc<Mutex<Option<FetchKey>>>,
    _folder: TempDir,
}

impl Fixture {
    async fn start(sql: &str) -> Self {
        let query = Tables::generated_tpch(0.1).query(sql, Some(1));
        let id = QueryId::new("live-fetch").expect("a legal id");
        let capacity = WorkerCapacity {
            slots: 1,
            slot_memory_bytes: None,
        };
        let prepared = prepare(&query, &id, capacity)
            .await
            .unwrap_or_else(|failure| panic!("{failure:?}"));
        let options = prepared
            .into_options(EPOCH, Vec::new())
            .expect("the stages can be encoded");
        assert_eq!(options.stages.len(), 1, "one stage answers the query");
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let worker = RunningWorker::start(WorkerOptions {
            name: "worker".into(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            slots: 1,
            memory_bytes: AMPLE_MEMORY,
            spill_dirs: vec![folder.path().to_owned()],
            spill_limit_bytes: 1 << 30,
            authorizer: sluice_proto::auth::Authorizer::default(),
            data_dirs: None,
            sink_dirs: None,
            node: None,
            zone_file: None,
        });
        Self {
            worker: worker.await.expect("a worker starts on loopback"),
            options,
            fetch_key: Arc::default(),
            _folder: folder,
        }
    }

    async fn client(&self) -> WorkerClient<Channel> {
        let address = format!("http://{}", self.worker.address);
        WorkerClient::connect(address).await.expect("the worker listens")
    }

    fn request(&self, attempt: AttemptId, start_offset: u64) -> FetchRequest {
        FetchRequest {
            query: self.options.query.clone(),
            stream: StreamId {
                attempt,
                partition: 0,
            },
            next_streams: Vec::new().into(),
            start_offset,
            max_bytes: 4 * MAX_CHUNK_BYTES,
            min_stream_epoch: StreamEpoch(1),
            coordinator_epoch: EPOCH,
            worker_incarnation: self.worker.id.incarnation,
        }
    }

    /// All chunks of one response.
    async fn fetch(&self, request: FetchRequest) -> Result<Vec<(ChunkHead, Bytes)>, FetchError> {
        let mut request = tonic::Request::new(wire::FetchRequest::from(request));
        if let Some(key) = &*self.fetch_key.lock().expect("nobody panicked") {
            key.attach(request.metadata_mut());
        }
        let response = self.client().await.fetch(request).await;
        let mut response = response.map_err(|status| fetch_error_of(&status))?.into_inner();
        let mut chunks = Vec::new();
        loop {
            match response.message().await {
                Ok(Some(chunk)) => chunks.push(chunk.try_into().expect("a chunk holds together")),
                Ok(None) => return Ok(chunks),
                Err(status) => return Err(fetch_error_of(&status)),
            }
        }
    }

    /// Asks again until the answer is `error`: a worker handles messages and fetches concurrently.
    async fn until_refused(&self, request: FetchRequest, error: FetchError) {
        let refused = async {
            while self.fetch(request.clone()).await != Err(error) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let ended = tokio::time::timeout(HANG, refused).await;
        assert!(
            ended.is_ok(),
            "never refused as {error:?}: {:?}",
            self.fetch(request).await
        );
    }

    async fn session(&self, epoch: CoordinatorEpoch) -> Session {
        let (outbound, messages) = mpsc::unbounded_channel();
        let hello = Hello {
            query: self.options.query.clone(),
            coordinator_epoch: epoch,
            build_id: build_id(),
            lease: HANG,
            liveness_timeout: HANG,
            input_roots: self.options.input_roots.clone(),
            query_name: "q".to_owned(),
            // Each coordinator has a plan of its own.
            plan_fingerprint: epoch.0,
        };
        let mut session = Session {
            outbound,
            inbound: None,
            fetch_key: Arc::clone(&self.fetch_key),
        };
        session.send(ToWorker::Hello(hello.into()));
        let response = self
            .client()
            .await
            .session(UnboundedReceiverStream::new(messages))
            .await;
        session.inbound = Some(response.expect("the worker opens a session").into_inner());
        session
    }

    /// Gets a slot for an attempt of task 0 and assigns it.
    async fn assign(&self, session: &mut Session, attempt: AttemptId, stream_epoch: u64) {
        let stage = self.options.stages.first().expect("there is one stage");
        let template = stage.template.clone();
        session.send(ToWorker::DefineStage(wire::DefineStage {
            stage: attempt.stage.0,
            template,
        }));
        session.send(ToWorker::RequestSlots(wire::RequestSlots {
            slots: 1,
            speculative_slots: 0,
        }));
        session
            .next(|message| matches!(message, FromWorker::SlotsGranted(_)).then_some(()))
            .await;
        let assignment = Assignment {
            attempt,
            stream_epoch: StreamEpoch(stream_epoch),
            output_partitions: 1,
            inputs: Vec::new(),
            layout: LayoutId {
                version: LayoutVersion(1),
                fingerprint: 7,
            },
            recommended_reduce_fetch_window_partitions: 1,
            filters: Vec::new(),
            sort_joins: false,
            swapped_joins: Vec::new(),
        };
        let splits = stage.splits.first().cloned().unwrap_or_default();
        session.send(ToWorker::AssignAttempt(wire::AssignAttempt::new(
            assignment, splits,
        )));
    }
}

struct Session {
    outbound: mpsc::UnboundedSender<wire::CoordinatorMessage>,
    inbound: Option<Streaming<wire::WorkerMessage>>,
    fetch_key: Arc<Mutex<Option<FetchKey>>>,
}

impl Session {
    fn send(&self, message: ToWorker) {
        self.outbound
            .send(wire::CoordinatorMessage::of(message))
            .expect("the session is open");
    }

    /// The first message that `wanted` takes.
    async fn next<T>(&mut self, wanted: impl Fn(FromWorker) -> Option<T>) -> T {
        let inbound = self.inbound.as_mut().expect("the session is open");
        loop {
            let message = tokio::time::timeout(HANG, inbound.message())
                .await
                .expect("the worker says something");
            let message = message
                .expect("the session holds")
                .and_then(|message| message.message);
            let message = message.expect("the session goes on");
            if let FromWorker::AttemptFailed(failed) = &message {
                panic!("{failed:?}");
            }
            if let Some(found) = wanted(message) {
                return found;
            }
        }
    }

    async fn welcome(&mut self) -> Welcome {
        let welcome = |message| match message {
            FromWorker::Welcome(welcome) => Welcome::try_from(welcome).ok(),
            _ => None,
        };
        let welcome = self.next(welcome).await;
        *self.fetch_key.lock().expect("nobody panicked") = Some(welcome.fetch_key.clone());
        welcome
    }

    async fn succeeded(&mut self, attempt: AttemptId) -> Vec<MapOutputPartitionMeta> {
        let succeeded = |message| match message {
            FromWorker::AttemptSucceeded(succeeded) if succeeded.attempt == Some(attempt.into()) => {
                Some(succeeded)
            }
            _ => None,
        };
        let outputs = self.next(succeeded).await.outputs;
        outputs.into_iter().map(MapOutputPartitionMeta::from).collect()
    }
}

fn attempt(stage_epoch: u32, attempt: u32) -> AttemptId {
    AttemptId {
        stage: StageId(0),
        stage_epoch: StageEpoch(stage_epoch),
        task: 0,
        attempt,
    }
}

/// What was seen of a stream that was read while it was written.
#[derive(Default)]
struct Watched {
    offset: u64,
    watermark: u64,
    advances: u32,
    empty_below_end: u32,
    ended: bool,
    data: Vec<Bytes>,
}

impl Watched {
    fn see(&mut self, head: ChunkHead, data: Bytes) {
        assert!(!self.ended, "nothing comes after the end: {head:?}");
        assert_eq!(head.start_offset, self.offset, "chunks follow each other");
        assert_eq!(head.end_offset - head.start_offset, data.len() as u64);
        assert!(
            data.len() as u64 <= MAX_CHUNK_BYTES,
            "a chunk of {} bytes",
            data.len()
        );
        assert!(
            head.watermark_offset >= self.watermark,
            "the watermark went back: {head:?}"
        );
        assert!(
            head.end_offset <= head.watermark_offset,
            "more than is committed: {head:?}"
        );
        assert_eq!(head.stream_epoch, StreamEpoch(1));
        if head.watermark_offset > self.watermark && !head.finalized {
            self.advances += 1;
        }
        if data.is_empty() {
            assert_eq!(
                head.start_offset, head.watermark_offset,
                "empty below the watermark: {head:?}"
            );
            self.ended = head.finalized;
            self.empty_below_end += u32::from(!head.finalized);
        }
        self.offset = head.end_offset;
        self.watermark = head.watermark_offset;
        self.data.push(data);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_attempt_is_read_as_it_writes() {
    // On a busy machine the reader may get its turn only after everything is written: try again.
    for _ in 0..5 {
        let watched = read_while_written().await;
        if watched.advances >= 2 && watched.empty_below_end >= 1 {
            return;
        }
    }
    panic!("a reader never saw the watermark advance twice, and came up with the writer, before the end");
}

/// Reads all that an attempt writes, from before its beginning to its end.
async fn read_while_written() -> Watched {
    let fixture = Fixture::start("select * from lineitem").await;
    let mut session = fixture.session(EPOCH).await;
    assert_eq!(session.welcome().await.worker, fixture.worker.id);
    let attempt = attempt(0, 0);
    fixture.assign(&mut session, attempt, 1).await;
    let mut watched = Watched::default();
    let read = async {
        while !watched.ended {
            match fixture.fetch(fixture.request(attempt, watched.offset)).await {
                Ok(chunks) => chunks
                    .into_iter()
                    .for_each(|(head, data)| watched.see(head, data)),
                Err(error) => assert_eq!(
                    (error, watched.offset),
                    (FetchError::UnknownStream, 0),
                    "not open yet"
                ),
            }
        }
    };
    tokio::time::timeout(HANG, read).await.expect("the stream ends");
    let outputs = session.succeeded(attempt).await;
    let [output] = outputs.as_slice() else {
        panic!("one partition was written: {outputs:?}")
    };
    assert_eq!(output.bytes, watched.offset);
    let format =
        FrameFormat::new(fixture.options.schema.clone(), Compression::None).expect("the schema has a form");
    let mut decoder = FrameDecoder::starting_at(Arc::new(format), 0);
    let mut rows = 0;
    for data in &watched.data {
        let batches = decoder.push(data).expect("the frames are whole");
        rows += batches.iter().map(|batch| batch.num_rows() as u64).sum::<u64>();
    }
    decoder.finish().expect("the stream ends with a frame");
    assert_eq!(rows, output.rows);
    fixture.worker.stop().await;
    watched
}

/// A fixture in which attempt 0 has succeeded, the session, and a request that is answered.
async fn after_one_attempt() -> (Fixture, Session, FetchRequest) {
    let fixture = Fixture::start("select * from nation").await;
    let mut session = fixture.session(EPOCH).await;
    session.welcome().await;
    let first = attempt(0, 0);
    fixture.assign(&mut session, first, 1).await;
    session.succeeded(first).await;
    let good = fixture.request(first, 0);
    assert!(fixture.fetch(good.clone()).await.is_ok());
    (fixture, session, good)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stale_is_refused_by_its_reason() {
    let (fixture, _session, good) = after_one_attempt().await;
    let other_worker = Incarnation(fixture.worker.id.incarnation.0 + 1);
    let other_query = QueryId::new("another").expect("a legal id");
    let other_stream = StreamId {
        partition: 1,
        ..good.stream
    };
    for (request, error) in [
        (
            FetchRequest {
                worker_incarnation: other_worker,
                ..good.clone()
            },
            FetchError::WrongIncarnation,
        ),
        (
            FetchRequest {
                coordinator_epoch: CoordinatorEpoch(1),
                ..good.clone()
            },
            FetchError::StaleCoordinator,
        ),
        (
            FetchRequest {
                min_stream_epoch: StreamEpoch(2),
                ..good.clone()
            },
            FetchError::StaleStreamEpoch,
        ),
        (
            FetchRequest {
                query: other_query,
                ..good.clone()
            },
            FetchError::UnknownStream,
        ),
        (
            FetchRequest {
                stream: other_stream,
                ..good.clone()
            },
            FetchError::UnknownStream,
        ),
        (fixture.request(attempt(0, 1), 0), FetchError::UnknownStream),
    ] {
        assert_eq!(fixture.fetch(request.clone()).await, Err(error), "{request:?}");
    }
    fixture.worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retired_attempts_and_those_of_an_earlier_stage_epoch_are_stale() {
    let (fixture, mut session, good) = after_one_attempt().await;
    session.send(ToWorker::RetireAttempt(good.stream.attempt.into()));
    fixture
        .until_refused(good.clone(), FetchError::StaleAttempt)
        .await;

    let second = attempt(0, 1);
    fixture.assign(&mut session, second, 2).await;
    session.succeeded(second).await;
    let second_good = FetchRequest {
        min_stream_epoch: StreamEpoch(2),
        ..fixture.request(second, 0)
    };
    assert!(fixture.fetch(second_good.clone()).await.is_ok());
    assert_eq!(fixture.fetch(good).await, Err(FetchError::StaleAttempt));

    // The stage starts over: attempts of its earlier epoch are stale.
    let third = attempt(1, 2);
    fixture.assign(&mut session, third, 3).await;
    session.succeeded(third).await;
    let third_good = FetchRequest {
        min_stream_epoch: StreamEpoch(3),
        ..fixture.request(third, 0)
    };
    assert!(fixture.fetch(third_good.clone()).await.is_ok());
    assert_eq!(fixture.fetch(second_good).await, Err(FetchError::StaleAttempt));
    fixture.worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_with_another_plan_starts_over_with_the_same_numbers() {
    let (fixture, _session, good) = after_one_attempt().await;
    // The predecessor's data is gone. Its readers are refused, and so is it.
    let mut successor = fixture.session(CoordinatorEpoch(3)).await;
    let welcome = successor.welcome().await;
    assert_eq!((welcome.held.as_slice(), welcome.discarded), (&[][..], 1));
    fixture
        .until_refused(good.clone(), FetchError::StaleCoordinator)
        .await;
    let late = FetchRequest {
        coordinator_epoch: CoordinatorEpoch(3),
        ..good
    };
    assert_eq!(fixture.fetch(late.clone()).await, Err(FetchError::UnknownStream));
    let again = late.stream.attempt;
    fixture.assign(&mut successor, again, 1).await;
    successor.succeeded(again).await;
    assert!(fixture.fetch(late.clone()).await.is_ok());
    let refused = |message| match message {
        FromWorker::Refused(refused) => wire::RefusedReason::try_from(refused.reason).ok(),
        _ => None,
    };
    let reason = fixture.session(EPOCH).await.next(refused).await;
    assert_eq!(reason, RefusedReason::StaleCoordinator.into());

    successor.send(ToWorker::EndQuery(wire::EndQuery {}));
    fixture.until_refused(late, FetchError::UnknownStream).await;
    fixture.worker.stop().await;
}
