//! Bytes and messages that no coordinator sends: a worker refuses them, with a reason where it can, and keeps serving.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use sluice_core::failure::FetchError;
use sluice_core::ids::QueryId;
use sluice_proto::{RefusedReason, fetch_error_of, wire};
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tonic::Status;
use tonic::transport::Channel;
use wire::coordinator_message::Message as ToWorker;
use wire::worker_client::WorkerClient;
use wire::worker_message::Message as FromWorker;

use super::program::{Folder, TIMEOUT, Worker};
use super::query::{by_part, plain_csv};

mod stages;

async fn client(address: &str) -> WorkerClient<Channel> {
    WorkerClient::connect(format!("http://{address}"))
        .await
        .expect("the worker listens")
}

fn hello(query: &str) -> wire::Hello {
    wire::Hello {
        query: query.into(),
        coordinator_epoch: 1,
        build_id: sluice::build_id::build_id(),
        lease_millis: 1,
        liveness_timeout_millis: 10_000,
        input_roots: Vec::new(),
        query_name: "q".to_owned(),
        plan_fingerprint: 1,
    }
}

fn message(message: Option<ToWorker>) -> wire::CoordinatorMessage {
    wire::CoordinatorMessage { message }
}

/// Sends these messages as one session. Returns the answers until the worker closes the session or `enough` holds.
async fn talk(
    address: &str,
    messages: Vec<wire::CoordinatorMessage>,
    enough: impl Fn(&FromWorker) -> bool,
) -> (Vec<FromWorker>, Option<Status>) {
    let mut client = client(address).await;
    // The coordinator's side stays open, as a living coordinator's does.
    let messages = tokio_stream::iter(messages).chain(tokio_stream::pending());
    let session = timeout(TIMEOUT, client.session(messages))
        .await
        .expect("the worker answers");
    let mut answers = match session {
        Ok(session) => session.into_inner(),
        Err(status) => return (Vec::new(), Some(status)),
    };
    let mut heard = Vec::new();
    loop {
        match timeout(TIMEOUT, answers.message())
            .await
            .expect("the worker answers")
        {
            Ok(Some(answer)) => {
                heard.extend(answer.message);
                if heard.last().is_some_and(&enough) {
                    return (heard, None);
                }
            }
            Ok(None) => return (heard, None),
            Err(status) => return (heard, Some(status)),
        }
    }
}

fn fetch(query: &str, incarnation: u64) -> wire::FetchRequest {
    wire::FetchRequest {
        next_streams: Vec::new(),
        query: query.into(),
        stage: 0,
        stage_epoch: 0,
        map_task: 0,
        attempt: 0,
        reduce_partition: 0,
        start_offset: 0,
        max_bytes: 1,
        min_stream_epoch: 0,
        coordinator_epoch: 1,
        worker_incarnation: incarnation,
    }
}

/// How a worker welcomes a coordinator of a new query.
pub(super) async fn welcome(address: &str) -> wire::Welcome {
    let welcomed = |answer: &FromWorker| matches!(answer, FromWorker::Welcome(_));
    let query = uuid::Uuid::new_v4().to_string();
    let (heard, _) = talk(
        address,
        vec![message(Some(ToWorker::Hello(hello(&query))))],
        welcomed,
    )
    .await;
    match heard.into_iter().next() {
        Some(FromWorker::Welcome(welcome)) => welcome,
        other => panic!("no welcome: {other:?}"),
    }
}

pub(super) async fn incarnation(address: &str) -> u64 {
    let worker = welcome(address).await.worker;
    worker.expect("it names itself").incarnation
}

/// The first chunk that a worker serves, or why it serves none.
async fn answer(address: &str, request: wire::FetchRequest) -> Result<wire::FetchChunk, Status> {
    let mut client = client(address).await;
    let chunks = timeout(TIMEOUT, client.fetch(request))
        .await
        .expect("the worker answers")?;
    let first = timeout(TIMEOUT, chunks.into_inner().message())
        .await
        .expect("the worker answers")?;
    Ok(first.expect("a response has a chunk"))
}

async fn refusal(address: &str, request: wire::FetchRequest) -> Option<Status> {
    answer(address, request).await.err()
}

/// What a worker has of an attempt's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    None,
    Begun,
    Finished,
}

/// Asks the worker that was started as `incarnation` for an attempt's output.
pub(super) async fn output_at(
    address: &str,
    incarnation: u64,
    query: &QueryId,
    attempt: wire::AttemptRef,
) -> Output {
    let request = wire::FetchRequest {
        stage: attempt.stage,
        stage_epoch: attempt.stage_epoch,
        map_task: attempt.task,
        attempt: attempt.attempt,
        ..fetch(query.as_str(), incarnation)
    };
    match answer(address, request).await {
        Ok(chunk) if chunk.finalized => Output::Finished,
        Ok(_) => Output::Begun,
        Err(status) => {
            let error = fetch_error_of(&status);
            assert!(
                matches!(error, FetchError::UnknownStream | FetchError::StaleAttempt),
                "{status:?}"
            );
            Output::None
        }
    }
}

/// A good query still has its rows on the worker.
async fn assert_serves(worker: &mut Worker) {
    let folder = Folder::new();
    let arguments = ["--workers", &worker.address, "--output", "csv"];
    let (ended, expected) = tokio::task::block_in_place(|| {
        let ended = folder.run(&by_part(0.01, &[]), &arguments);
        (
            ended.code,
            std::thread::scope(|scope| {
                let plain = scope.spawn(|| plain_csv(&folder.at("query.yaml")));
                (ended.stdout, plain.join().expect("plain DataFusion runs it"))
            }),
        )
    });
    assert_eq!(ended, Some(0));
    assert_eq!(expected.0, expected.1);
    worker.assert_well();
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_protocol_do_not_hurt() {
    let mut worker = Worker::start();
    let mut random = StdRng::seed_from_u64(7);
    let mut noise = vec![0; 1 << 20];
    random.fill_bytes(&mut noise);
    let mut preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    preface.extend_from_slice(&noise[..4096]);
    let inputs: [&[u8]; 5] = [
        b"",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        &noise,
        &preface,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n",
    ];
    let mut open = Vec::new();
    for input in inputs {
        let mut stream = TcpStream::connect(&worker.address).expect("the worker listens");
        stream
            .set_read_timeout(Some(Duration::from_millis(200)))
            .expect("a socket option");
        // It may hang up in the middle.
        let _ = stream.write_all(input);
        let _ = stream.read(&mut [0; 1024]);
        open.push(stream);
    }
    assert_serves(&mut worker).await;
    drop(open);
    worker.assert_well();
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_do_not_begin_as_they_must_are_refused_with_the_reason() {
    let mut worker = Worker::start();
    let changed = |change: fn(&mut wire::Hello)| {
        let mut hello = hello("noise");
        change(&mut hello);
        message(Some(ToWorker::Hello(hello)))
    };
    let cases = [
        ("nothing", message(None), RefusedReason::BadHello),
        (
            "a heartbeat",
            message(Some(ToWorker::Heartbeat(wire::Heartbeat {}))),
            RefusedReason::BadHello,
        ),
        (
            "no query",
            changed(|hello| hello.query.clear()),
            RefusedReason::BadHello,
        ),
        (
            "a path",
            changed(|hello| hello.query = "../../etc".into()),
            RefusedReason::BadHello,
        ),
        (
            "a long query",
            changed(|hello| hello.query = "q".repeat(1 << 20)),
            RefusedReason::BadHello,
        ),
        (
            "no patience",
            changed(|hello| hello.liveness_timeout_millis = 0),
            RefusedReason::BadHello,
        ),
        (
            "another build",
            changed(|hello| hello.build_id = "0.0.1+x".into()),
            RefusedReason::BuildMismatch,
        ),
        (
            "no build",
            changed(|hello| hello.build_id.clear()),
            RefusedReason::BuildMismatch,
        ),
    ];
    for (case, first, reason) in cases {
        let (heard, status) = talk(&worker.address, vec![first], |_| false).await;
        let [FromWorker::Refused(refused)] = &heard[..] else {
            panic!("{case}: {heard:?} {status:?}")
        };
        assert_eq!(RefusedReason::try_from(refused.reason()), Ok(reason), "{case}");
        assert!(!refused.message.is_empty(), "{case}");
    }
    assert_serves(&mut worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_no_coordinator_sends_end_their_session_only() {
    let mut worker = Worker::start();
    let attempt = wire::AttemptRef {
        stage: 3,
        stage_epoch: 0,
        task: 0,
        attempt: 0,
    };
    let assign = |attempt: Option<wire::AttemptRef>| {
        ToWorker::AssignAttempt(wire::AssignAttempt {
            attempt,
            stream_epoch: 1,
            ..Default::default()
        })
    };
    let unusable = [
        message(None),
        message(Some(ToWorker::Hello(hello("again")))),
        message(Some(assign(None))),
        message(Some(ToWorker::UpdateInputs(wire::UpdateInputs {
            outputs: vec![0xff; 9].into(),
            ranges: Vec::new(),
        }))),
    ];
    for bad in unusable {
        let shown = format!("{bad:?}");
        let messages = vec![message(Some(ToWorker::Hello(hello("noise")))), bad];
        let (heard, status) = talk(&worker.address, messages, |_| false).await;
        assert!(
            matches!(heard.first(), Some(FromWorker::Welcome(_))),
            "{shown}: {heard:?}"
        );
        let status = status.unwrap_or_else(|| panic!("{shown}: the session closed without a word"));
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{shown}: {status:?}");
    }
    // A stage that does not decode, an attempt of it, an attempt without a slot, and words about attempts that are
    // not there.
    let messages = vec![
        message(Some(ToWorker::Hello(hello("noise")))),
        message(Some(ToWorker::DefineStage(wire::DefineStage {
            stage: 3,
            template: vec![0xff; 64].into(),
        }))),
        message(Some(ToWorker::CancelAttempt(attempt))),
        message(Some(ToWorker::RetireAttempt(attempt))),
        message(Some(ToWorker::RequestSlots(wire::RequestSlots {
            slots: u32::MAX,
            speculative_slots: u32::MAX,
        }))),
        message(Some(ToWorker::ReleaseSlots(wire::ReleaseSlots {
            slots: u32::MAX,
        }))),
        message(Some(assign(Some(attempt)))),
    ];
    let ended = |answer: &FromWorker| matches!(answer, FromWorker::AttemptFailed(_));
    let (heard, status) = talk(&worker.address, messages, ended).await;
    assert!(status.is_none(), "{status:?}");
    let Some(FromWorker::AttemptFailed(failed)) = heard.last() else {
        panic!("{heard:?}")
    };
    assert!(
        matches!(failed.failure, Some(wire::attempt_failed::Failure::Refused(_))),
        "{failed:?}"
    );
    assert_serves(&mut worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_with_impossible_times_is_served_or_refused_but_kills_nobody() {
    let mut worker = Worker::start();
    for (lease_millis, liveness_timeout_millis) in [(u64::MAX, u64::MAX), (0, 1), (u64::MAX, 1)] {
        let first = wire::Hello {
            lease_millis,
            liveness_timeout_millis,
            ..hello("noise")
        };
        let (heard, _) = talk(
            &worker.address,
            vec![message(Some(ToWorker::Hello(first)))],
            |_| true,
        )
        .await;
        assert_eq!(heard.len(), 1, "it answers the hello");
        worker.assert_well();
    }
    assert_serves(&mut worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_without_a_hello_is_refused_and_closed() {
    let mut worker = Worker::start();
    let (heard, status) = talk(&worker.address, Vec::new(), |_| false).await;
    let [FromWorker::Refused(refused)] = heard.as_slice() else {
        panic!("{heard:?}");
    };
    assert_eq!(
        RefusedReason::try_from(refused.reason()),
        Ok(RefusedReason::BadHello)
    );
    assert!(refused.message.contains("no hello"), "{refused:?}");
    assert!(status.is_none(), "closed, not broken: {status:?}");
    assert_serves(&mut worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fetches_of_what_is_not_there_are_refused_with_the_reason() {
    let mut worker = Worker::start();
    let own = incarnation(&worker.address).await;
    let unknown = refusal(&worker.address, fetch("nobody", own))
        .await
        .expect("a refusal");
    assert_eq!(fetch_error_of(&unknown), FetchError::UnknownStream);
    let restarted = refusal(&worker.address, fetch("nobody", own + 1))
        .await
        .expect("a refusal");
    assert_eq!(fetch_error_of(&restarted), FetchError::WrongIncarnation);
    for query in ["", "../../etc/passwd", "UPPER"] {
        let bad = refusal(&worker.address, fetch(query, own))
            .await
            .expect("a refusal");
        assert_eq!(bad.code(), tonic::Code::InvalidArgument, "{query}: {bad:?}");
    }
    let largest = wire::FetchRequest {
        stage: u32::MAX,
        map_task: u32::MAX,
        reduce_partition: u32::MAX,
        start_offset: u64::MAX,
        max_bytes: u64::MAX,
        min_stream_epoch: u64::MAX,
        ..fetch("nobody", own)
    };
    let largest = refusal(&worker.address, largest).await.expect("a refusal");
    assert_eq!(fetch_error_of(&largest), FetchError::UnknownStream);
    assert_serves(&mut worker).await;
}
