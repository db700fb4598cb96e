//! Tokens and keys of fetches, over real sockets: who has none, a wrong one, an old one or another query's is let into
//! nothing.

use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use sluice_core::ids::{CoordinatorEpoch, QueryId};
use sluice_proto::auth::{Audience, Bearer, Claims, FetchKey, Folders, PoolId, Token, TokenSigner, Verb};
use sluice_proto::{Welcome, wire};
use tokio::sync::mpsc::UnboundedSender;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use wire::coordinator_client::CoordinatorClient;
use wire::coordinator_message::Message as ToWorker;
use wire::worker_client::WorkerClient;
use wire::worker_message::Message as FromWorker;

use super::program::{Folder, Program, Worker, list};
use super::query::{by_part, plain_csv, query};
use super::successor::command;

/// Two Ed25519 keys that are good for tests only: their secrets are 32 ones, and 32 twos.
const KEYS: [&str; 2] = [
    "MC4CAQAwBQYDK2VwBCIEIAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB",
    "MC4CAQAwBQYDK2VwBCIEIAICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgIC",
];
const HOUR: Duration = Duration::from_secs(3600);

fn signer(key: usize) -> TokenSigner {
    let pem = format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        KEYS[key]
    );
    TokenSigner::from_pem(&pem).expect("a key")
}

fn id(query: &str) -> QueryId {
    QueryId::new(query).expect("a legal id")
}

fn pool() -> PoolId {
    PoolId {
        namespace: "n".into(),
        name: "p".into(),
    }
}

fn claims(query: &str, epoch: u64) -> Claims {
    Claims::query(id(query), CoordinatorEpoch(epoch), pool(), Folders::default())
}

fn sign(claims: &Claims) -> Option<Token> {
    Some(signer(0).sign(claims).expect("it signs"))
}

fn token(query: &str, epoch: u64) -> Option<Token> {
    sign(&claims(query, epoch))
}

/// The operator's token for the worker of this name.
fn operator(worker: &str, verb: Verb) -> Option<Token> {
    sign(&Claims::operator(
        Audience::Worker(worker.into()),
        verb,
        pool(),
        HOUR,
    ))
}

/// A worker of the pool that trusts the first key.
fn guarded(folder: &Folder) -> Worker {
    guarded_with(folder, &[])
}

fn guarded_with(folder: &Folder, more: &[&str]) -> Worker {
    let key = folder.write("public.pem", signer(0).public_pem());
    let key = key.to_string_lossy();
    let own = [
        "--verify-key-file",
        &key,
        "--pool",
        "p",
        "--namespace",
        "n",
        "--pod-uid",
        "w",
    ];
    Worker::start_with("127.0.0.1:0", "512MiB", &[&own, more].concat())
}

type Client = WorkerClient<InterceptedService<Channel, Bearer>>;

async fn channel(address: &str) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{address}")).expect("an address");
    endpoint.connect().await.expect("it listens")
}

async fn client(worker: &Worker, token: Option<Token>) -> Client {
    WorkerClient::with_interceptor(channel(&worker.address.to_string()).await, Bearer(token))
}

/// An open session, which stays while this does.
struct Session {
    first: FromWorker,
    outbound: UnboundedSender<wire::CoordinatorMessage>,
    inbound: Streaming<wire::WorkerMessage>,
}

impl Session {
    fn welcome(&self) -> Welcome {
        match &self.first {
            FromWorker::Welcome(welcome) => Welcome::try_from(welcome.clone()).expect("it holds together"),
            other => panic!("not let in: {other:?}"),
        }
    }

    fn send(&self, message: ToWorker) {
        // A session that the worker has ended is seen by what it says.
        let _ = self.outbound.send(wire::CoordinatorMessage::of(message));
    }

    /// How the worker ends it.
    async fn end(&mut self) -> Status {
        loop {
            match self.inbound.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended without a word"),
                Err(status) => return status,
            }
        }
    }
}

/// Opens a session and takes the worker's first message.
async fn session(worker: &Worker, token: Option<Token>, query: &str, epoch: u64) -> Result<Session, Status> {
    let (outbound, messages) = tokio::sync::mpsc::unbounded_channel();
    let hello = ToWorker::Hello(wire::Hello {
        query: query.into(),
        coordinator_epoch: epoch,
        build_id: sluice::worker::build_id(),
        lease_millis: 60_000,
        liveness_timeout_millis: 600_000,
        input_roots: Vec::new(),
        query_name: "q".to_owned(),
    });
    outbound
        .send(wire::CoordinatorMessage::of(hello))
        .expect("the receiver is here");
    let mut client = client(worker, token).await;
    let answer = client.session(UnboundedReceiverStream::new(messages)).await?;
    let mut inbound = answer.into_inner();
    let first = inbound.message().await?.and_then(|message| message.message);
    Ok(Session {
        first: first.expect("a first message"),
        outbound,
        inbound,
    })
}

async fn fetch(worker: &Worker, welcome: &Welcome, key: Option<&FetchKey>, query: &str, epoch: u64) -> Code {
    let mut request = tonic::Request::new(wire::FetchRequest {
        query: query.into(),
        coordinator_epoch: epoch,
        worker_incarnation: welcome.worker.incarnation.0,
        max_bytes: 1,
        ..wire::FetchRequest::default()
    });
    if let Some(key) = key {
        key.attach(request.metadata_mut());
    }
    match client(worker, None).await.fetch(request).await {
        Err(status) => status.code(),
        Ok(response) => match response.into_inner().message().await {
            Err(status) => status.code(),
            Ok(_) => Code::Ok,
        },
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_tokens_open_no_session() {
    let folder = Folder::new();
    let worker = guarded(&folder);
    let wrong_key = signer(1).sign(&claims("q", 1)).expect("it signs");
    let expired = Claims {
        expires: SystemTime::now() - HOUR,
        ..claims("q", 1)
    };
    let elsewhere = |namespace: &str, name: &str| Claims {
        pool: PoolId {
            namespace: namespace.into(),
            name: name.into(),
        },
        ..claims("q", 1)
    };
    let noise = Token::new("no.token.atall").expect("text");
    let renewal = Claims::renewal(id("q"), CoordinatorEpoch(1), pool());
    for (token, code, said) in [
        (None, Code::Unauthenticated, "has no token"),
        (Some(wrong_key), Code::Unauthenticated, "not signed by a key"),
        (sign(&expired), Code::Unauthenticated, "expired"),
        (Some(noise), Code::Unauthenticated, "malformed"),
        (token("other", 1), Code::PermissionDenied, "query other"),
        (token("q", 2), Code::PermissionDenied, "epoch 2"),
        (sign(&elsewhere("n", "x")), Code::PermissionDenied, "pool n/x"),
        (sign(&elsewhere("m", "p")), Code::PermissionDenied, "pool m/p"),
        (sign(&renewal), Code::PermissionDenied, "openSession"),
        (
            operator("w", Verb::ReadStatus),
            Code::PermissionDenied,
            "openSession",
        ),
    ] {
        let text = token.as_ref().map(|token| token.as_text().to_owned());
        let Err(status) = session(&worker, token, "q", 1).await else {
            panic!("let in: {said}")
        };
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(said), "{status:?}");
        assert!(text.is_none_or(|text| !status.message().contains(&text)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_the_operator_is_for_one_kind_of_call_to_one_worker() {
    let folder = Folder::new();
    let worker = guarded(&folder);
    for (token, code) in [
        (None, Code::Unauthenticated),
        (token("q", 1), Code::PermissionDenied),
        (operator("another", Verb::ReadStatus), Code::PermissionDenied),
        (operator("another", Verb::Drain), Code::PermissionDenied),
    ] {
        let mut client = client(&worker, token).await;
        let status = client.get_worker_status(wire::WorkerStatusRequest {}).await;
        assert_eq!(status.map(|_| ()).map_err(|status| status.code()), Err(code));
        let drained = client.drain(wire::DrainRequest {}).await;
        assert_eq!(drained.map(|_| ()).map_err(|status| status.code()), Err(code));
    }
    let mut reads = client(&worker, operator("w", Verb::ReadStatus)).await;
    let drained = reads.drain(wire::DrainRequest {}).await;
    assert_eq!(
        drained.expect_err("it may only read").code(),
        Code::PermissionDenied
    );
    let status = reads.get_worker_status(wire::WorkerStatusRequest {}).await;
    assert!(!status.expect("the operator may ask").into_inner().draining);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_a_fetch_is_of_one_querys_session_at_one_worker() {
    let folder = Folder::new();
    let (worker, another) = (guarded(&folder), guarded(&folder));
    let one = session(&worker, token("q", 1), "q", 1).await.expect("it opens");
    let (welcome, key) = (one.welcome(), one.welcome().fetch_key);
    // Nothing of that kind is held, but the reader is let in.
    assert_eq!(
        fetch(&worker, &welcome, Some(&key), "q", 1).await,
        Code::FailedPrecondition
    );
    let other = session(&worker, token("other", 1), "other", 1)
        .await
        .expect("it opens");
    let there = session(&another, token("q", 1), "q", 1).await.expect("it opens");
    for key in [
        None,
        Some(&other.welcome().fetch_key),
        Some(&there.welcome().fetch_key),
    ] {
        assert_eq!(
            fetch(&worker, &welcome, key, "q", 1).await,
            Code::PermissionDenied
        );
    }
    // A key that was sent to one worker is of no use at the other.
    let replayed = fetch(&another, &there.welcome(), Some(&key), "q", 1).await;
    assert_eq!(replayed, Code::PermissionDenied);

    let two = session(&worker, token("q", 2), "q", 2).await.expect("it opens");
    let late = session(&worker, token("q", 1), "q", 1).await.expect("it is told");
    match late.first {
        FromWorker::Refused(refused) => {
            assert_eq!(refused.reason(), wire::RefusedReason::StaleCoordinator);
        }
        other => panic!("it was let in: {other:?}"),
    }
    let later = two.welcome().fetch_key;
    assert_eq!(
        fetch(&worker, &welcome, Some(&key), "q", 2).await,
        Code::PermissionDenied
    );
    assert_eq!(
        fetch(&worker, &welcome, Some(&later), "q", 2).await,
        Code::FailedPrecondition
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_its_token_unless_that_is_renewed() {
    let folder = Folder::new();
    let worker = guarded(&folder);
    // Over already, but for what clocks may differ by: it ends in a moment.
    let ends = || Claims {
        expires: SystemTime::now() - sluice_proto::auth::CLOCK_SKEW + Duration::from_secs(3),
        ..claims("q", 1)
    };
    let mut left = session(&worker, sign(&ends()), "q", 1).await.expect("it opens");
    let status = left.end().await;
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unauthenticated, "the token has expired")
    );

    let mut renewed = session(&worker, sign(&ends()), "q", 1).await.expect("it opens");
    let renewal = |query: &str| {
        let renewal = Claims::renewal(id(query), CoordinatorEpoch(1), pool());
        ToWorker::RenewToken(sign(&renewal).expect("it signs").as_text().to_owned())
    };
    renewed.send(renewal("q"));
    let beyond = tokio::time::timeout(Duration::from_secs(6), renewed.end()).await;
    assert!(beyond.is_err(), "it ended: {beyond:?}");
    // The renewal of another query's token prolongs nothing.
    renewed.send(renewal("other"));
    assert_eq!(renewed.end().await.code(), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_change_while_a_worker_runs() {
    let folder = Folder::new();
    let worker = guarded(&folder);
    let new = || Some(signer(1).sign(&claims("q", 1)).expect("it signs"));
    let refused = session(&worker, new(), "q", 1).await;
    assert_eq!(
        refused.map(|_| ()).map_err(|status| status.code()),
        Err(Code::Unauthenticated)
    );
    folder.write("public.pem", signer(0).public_pem() + &signer(1).public_pem());
    let begun = std::time::Instant::now();
    loop {
        match session(&worker, new(), "q", 1).await {
            Ok(opened) => break drop(opened.welcome()),
            Err(status) => assert_eq!(status.code(), Code::Unauthenticated),
        }
        assert!(
            begun.elapsed() < super::program::PATIENCE,
            "the new key is not read"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    session(&worker, token("q", 1), "q", 1)
        .await
        .expect("the old key is trusted still");
}

/// A coordinator of query `q-1` over the file of the folder, guarded as workers are.
fn run(folder: &Folder, workers: &[Worker], epoch: u64, token: Option<Token>) -> Program {
    let mut command = command(folder, &list(workers), "q-1", epoch);
    command.env_remove("SLUICE_TERMINATION_LOG");
    command.env("SLUICE_VERIFY_KEY_FILE", folder.at("public.pem"));
    command.args(["--pool", "p", "--namespace", "n"]);
    if let Some(token) = token {
        let file = folder.write("token", format!("{}\n", token.as_text()));
        command.env("SLUICE_TOKEN_FILE", file);
    }
    Program::start(command)
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn a_query_with_its_token_runs_and_shuffles_and_without_it_does_not() {
    let folder = Folder::new();
    let workers = [guarded(&folder), guarded(&folder)];
    let yaml = by_part(
        0.05,
        &[
            "sink: {location: out, format: csv}",
            "retry: {noWorkersGrace: 2s}",
        ],
    );
    folder.write("query.yaml", yaml);
    let writes = |query: &str| {
        let folders = Folders {
            write: vec![text(&folder.at("out"))],
            ..Folders::default()
        };
        sign(&Claims {
            folders,
            ..claims(query, 1)
        })
    };
    run(&folder, &workers, 1, None).end().expect(4, &["has no token"]);
    run(&folder, &workers, 1, writes("q-2"))
        .end()
        .expect(4, &["the token is for query q-2"]);
    run(&folder, &workers, 1, writes("q-1")).end().expect(0, &[]);
    let written: usize = folder
        .files_below("out")
        .iter()
        .filter(|file| file.extension().is_some_and(|extension| extension == "csv"))
        .map(|file| std::fs::read_to_string(file).expect("text").lines().count() - 1)
        .sum();
    let expected = plain_csv(&folder.at("query.yaml")).lines().count() - 1;
    assert_eq!(written, expected);
    // A key file that is none ends the start, not in silence.
    let mut command = command(&folder, "127.0.0.1:1", "q-3", 1);
    command.args(["--verify-key-file", "/no/such.pem"]);
    Program::start(command)
        .end()
        .expect(1, &["--verify-key-file", "/no/such.pem"]);
}

#[test]
fn a_query_reads_and_writes_what_its_token_and_the_workers_folders_allow() {
    let folder = Folder::new();
    folder.write("data/t.csv", "a\n1\n");
    folder.write("passwd/t.csv", "a\nroot\n");
    std::os::unix::fs::symlink(folder.at("passwd/t.csv"), folder.at("data/link.csv"))
        .expect("it can be linked");
    let data = text(&folder.at("data"));
    let sinks = text(&folder.at("out"));
    std::fs::create_dir_all(&sinks).expect("it can be made");
    let bounded = [guarded_with(
        &folder,
        &["--data-dirs", &data, "--sink-dirs", &sinks],
    )];
    let by_token = [guarded(&folder)];
    let attempt = |workers: &[Worker], table: &str, sink: &str, read: &str, write: &str| {
        let table = format!("{{name: t, location: {table}, format: csv}}");
        let sink = format!("sink: {{location: {sink}, format: csv}}");
        folder.write("query.yaml", query("select a from t", &[&table], &[&sink]));
        let folders = Folders {
            read: vec![text(&folder.at(read))],
            write: vec![text(&folder.at(write))],
        };
        let token = sign(&Claims {
            folders,
            ..claims("q-1", 1)
        });
        run(&folder, workers, 1, token).end()
    };
    let outside = "outside the declared tables";
    attempt(&by_token, "passwd/t.csv", "out/a", "data", "out/a").expect(2, &[outside]);
    attempt(&by_token, "data/link.csv", "out/b", "data", "out/b").expect(2, &[outside]);
    attempt(&by_token, "data/t.csv", "out/c", "data", "out/d").expect(2, &["out/c is outside the folders"]);
    // The token would allow it, the worker does not.
    attempt(&bounded, "passwd/t.csv", "out/e", ".", "out/e").expect(2, &[outside]);
    attempt(&bounded, "data/t.csv", "f", "data", "f").expect(2, &["is outside the folders"]);
    attempt(&bounded, "data/t.csv", "out/g", "data", "out/g").expect(0, &[]);
}

/// One tenant tells a worker that another worker is at an address of its own, again and again, while the query of another
/// tenant runs: nobody comes there.
#[test]
fn what_one_session_says_of_a_worker_is_not_believed_by_another() {
    let folder = Folder::new();
    let workers = [guarded(&folder), guarded(&folder)];
    let trap = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = trap.local_addr().expect("it is bound").to_string();
    let caught = Arc::new(AtomicU32::new(0));
    let visits = Arc::clone(&caught);
    std::thread::spawn(move || {
        for visit in trap.incoming() {
            visits.fetch_add(1, Ordering::Relaxed);
            let _ = visit.and_then(|mut visit| visit.read(&mut [0; 64]));
        }
    });
    let lying = Arc::new(AtomicBool::new(true));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (sessions, lies) = runtime.block_on(async {
        let mut sessions = Vec::new();
        for worker in &workers {
            sessions.push(
                session(worker, token("liar", 1), "liar", 1)
                    .await
                    .expect("it opens"),
            );
        }
        let lies: Vec<_> = sessions
            .iter()
            .map(Session::welcome)
            .map(|welcome| wire::InputUpdate {
                map_attempt: Some(wire::AttemptRef::default()),
                worker: Some(welcome.worker.into()),
                address: address.clone(),
                state: wire::InputState::Won.into(),
                ..wire::InputUpdate::default()
            })
            .collect();
        (sessions, lies)
    });
    let goes_on = Arc::clone(&lying);
    let liar = runtime.spawn(async move {
        while goes_on.load(Ordering::Relaxed) {
            for session in &sessions {
                session.send(ToWorker::UpdateInputs(wire::UpdateInputs {
                    attempt: Some(wire::AttemptRef::default()),
                    updates: lies.clone(),
                }));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        sessions.len()
    });
    folder.write(
        "query.yaml",
        by_part(0.05, &["sink: {location: out, format: csv}"]),
    );
    let folders = Folders {
        write: vec![text(&folder.at("out"))],
        ..Folders::default()
    };
    let token = sign(&Claims {
        folders,
        ..claims("q-1", 1)
    });
    run(&folder, &workers, 1, token).end().expect(0, &[]);
    lying.store(false, Ordering::Relaxed);
    assert_eq!(runtime.block_on(liar).expect("it did not panic"), 2);
    assert_eq!(
        caught.load(Ordering::Relaxed),
        0,
        "a fetch went where a liar said"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_answers_the_operator_call_by_call_and_gives_it_no_rows() {
    let folder = Folder::new();
    let workers = [guarded(&folder)];
    folder.write("query.yaml", query("select 1 as a", &[], &[]));
    let mut command = command(&folder, &list(&workers), "q-1", 1);
    command.env("SLUICE_VERIFY_KEY_FILE", folder.at("public.pem"));
    command.args(["--pool", "p", "--namespace", "n", "--results", "client"]);
    let mut program = Program::start(command);
    program.wait_for("serves on ");
    let said = program.said();
    let (_, address) = said.split_once("serves on ").expect("it was waited for");
    let address = address.lines().next().expect("an address").trim().to_owned();
    let channel = channel(&address).await;
    let call = |query: &str, verb| {
        let token = sign(&Claims::operator(
            Audience::Coordinator(id(query)),
            verb,
            pool(),
            HOUR,
        ));
        CoordinatorClient::with_interceptor(channel.clone(), Bearer(token))
    };
    let reference = || wire::QueryRef { query: "q-1".into() };
    let code = |status: Status| status.code();
    let denied = Some(Code::PermissionDenied);
    let mut reads = call("q-1", Verb::ReadStatus);
    assert!(reads.get_query_status(reference()).await.is_ok());
    assert_eq!(reads.read_result(reference()).await.err().map(code), denied);
    assert_eq!(reads.cancel_query(reference()).await.err().map(code), denied);
    let mut elsewhere = call("q-2", Verb::ReadStatus);
    assert_eq!(
        elsewhere.get_query_status(reference()).await.err().map(code),
        denied
    );
    // The renewal reaches the workers: what is none of the query's ends the session there, as they say.
    let renewal = sign(&Claims::renewal(id("q-1"), CoordinatorEpoch(1), pool())).expect("it signs");
    let renewal = || wire::TokenRenewal {
        query: "q-1".into(),
        renewal: renewal.as_text().to_owned(),
    };
    assert_eq!(reads.renew_token(renewal()).await.err().map(code), denied);
    assert!(call("q-1", Verb::Renew).renew_token(renewal()).await.is_ok());
    assert!(call("q-1", Verb::Cancel).cancel_query(reference()).await.is_ok());
}

/// A coordinator whose token was over before it began, as that of a pod that waited long for a node, gets in with a renewal.
#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_with_a_token_that_is_over_gets_in_once_it_is_renewed() {
    let folder = Folder::new();
    let workers = [guarded(&folder)];
    folder.write(
        "query.yaml",
        query("select 1 as a", &[], &["sink: {location: out, format: csv}"]),
    );
    let over = Claims {
        expires: SystemTime::now() - HOUR,
        folders: Folders {
            write: vec![text(&folder.at("out"))],
            ..Folders::default()
        },
        ..claims("q-1", 1)
    };
    let mut program = run(&folder, &workers, 1, sign(&over));
    program.wait_for("the token has expired");
    program.wait_for("serves on ");
    let said = program.said();
    let (_, address) = said.split_once("serves on ").expect("it was waited for");
    let address = address.lines().next().expect("an address").trim().to_owned();
    let token = sign(&Claims::operator(
        Audience::Coordinator(id("q-1")),
        Verb::Renew,
        pool(),
        HOUR,
    ));
    let mut client = CoordinatorClient::with_interceptor(channel(&address).await, Bearer(token));
    let renewal = sign(&Claims::renewal(id("q-1"), CoordinatorEpoch(1), pool())).expect("it signs");
    let renewal = wire::TokenRenewal {
        query: "q-1".into(),
        renewal: renewal.as_text().to_owned(),
    };
    client.renew_token(renewal).await.expect("the operator may");
    program.end().expect(0, &[]);
}
