//! Tokens, over real sockets: who has none, a wrong one, an old one or another query's is let into nothing.

use std::time::Duration;

use sluice_core::ids::{CoordinatorEpoch, QueryId};
use sluice_proto::auth::{Bearer, Claims, Token, TokenSigner};
use sluice_proto::wire;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Status};
use wire::coordinator_message::Message as ToWorker;
use wire::worker_client::WorkerClient;
use wire::worker_message::Message as FromWorker;

use super::program::{Folder, Program, Worker, list};
use super::query::{by_part, plain_csv};
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

fn claims(query: &str, epoch: u64) -> Claims {
    let query = QueryId::new(query).expect("a legal id");
    Claims::query(query, CoordinatorEpoch(epoch), HOUR)
}

fn token(query: &str, epoch: u64) -> Option<Token> {
    Some(signer(0).sign(&claims(query, epoch)).expect("it signs"))
}

fn operator() -> Option<Token> {
    Some(signer(0).sign(&Claims::operator(HOUR)).expect("it signs"))
}

/// A worker that trusts the first key.
fn guarded(folder: &Folder) -> Worker {
    let key = folder.write("public.pem", signer(0).public_pem());
    let key = key.to_string_lossy();
    Worker::start_with("127.0.0.1:0", "512MiB", &["--verify-key-file", &key])
}

type Client = WorkerClient<InterceptedService<Channel, Bearer>>;

async fn client(worker: &Worker, token: Option<Token>) -> Client {
    let endpoint = Channel::from_shared(format!("http://{}", worker.address)).expect("an address");
    let channel = endpoint.connect().await.expect("the worker listens");
    WorkerClient::with_interceptor(channel, Bearer(token))
}

/// Opens a session and answers with the worker's first message; the session stays while the sender does.
async fn session(
    worker: &Worker,
    token: Option<Token>,
    query: &str,
    epoch: u64,
) -> Result<
    (
        FromWorker,
        tokio::sync::mpsc::UnboundedSender<wire::CoordinatorMessage>,
    ),
    Status,
> {
    let (outbound, messages) = tokio::sync::mpsc::unbounded_channel();
    let hello = ToWorker::Hello(wire::Hello {
        query: query.into(),
        coordinator_epoch: epoch,
        build_id: sluice::worker::build_id(),
        lease_millis: 60_000,
        liveness_timeout_millis: 60_000,
        input_roots: Vec::new(),
    });
    outbound
        .send(wire::CoordinatorMessage::of(hello))
        .expect("the receiver is here");
    let mut client = client(worker, token).await;
    let answer = client.session(UnboundedReceiverStream::new(messages)).await?;
    let first = answer.into_inner().message().await?;
    let first = first.and_then(|message| message.message);
    Ok((first.expect("a first message"), outbound))
}

async fn fetch(worker: &Worker, token: Option<Token>, query: &str, epoch: u64) -> Code {
    let request = wire::FetchRequest {
        query: query.into(),
        coordinator_epoch: epoch,
        max_bytes: 1,
        ..wire::FetchRequest::default()
    };
    match client(worker, token).await.fetch(request).await {
        Err(status) => status.code(),
        Ok(response) => match response.into_inner().message().await {
            Err(status) => status.code(),
            Ok(_) => Code::Ok,
        },
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_tokens_open_nothing() {
    let folder = Folder::new();
    let worker = guarded(&folder);
    let wrong_key = signer(1).sign(&claims("q", 1)).expect("it signs");
    let expired = Claims {
        expires: std::time::SystemTime::now() - HOUR,
        ..claims("q", 1)
    };
    let expired = signer(0).sign(&expired).expect("it signs");
    let noise = Token::new("no.token.atall").expect("text");
    let refused = [
        (None, Code::Unauthenticated),
        (Some(wrong_key), Code::Unauthenticated),
        (Some(expired), Code::Unauthenticated),
        (Some(noise), Code::Unauthenticated),
        (token("other", 1), Code::PermissionDenied),
        (token("q", 2), Code::PermissionDenied),
        (operator(), Code::PermissionDenied),
    ];
    for (token, code) in refused {
        let opened = session(&worker, token.clone(), "q", 1).await;
        assert_eq!(
            opened.map(|_| ()).map_err(|status| status.code()),
            Err(code),
            "{token:?}"
        );
        assert_eq!(fetch(&worker, token, "q", 1).await, code);
    }
    for token in [None, token("q", 1)] {
        let code = if token.is_none() {
            Code::Unauthenticated
        } else {
            Code::PermissionDenied
        };
        let mut client = client(&worker, token).await;
        let status = client.get_worker_status(wire::WorkerStatusRequest {}).await;
        assert_eq!(status.map(|_| ()).map_err(|status| status.code()), Err(code));
        let drained = client.drain(wire::DrainRequest {}).await;
        assert_eq!(drained.map(|_| ()).map_err(|status| status.code()), Err(code));
    }
    let mut client = client(&worker, operator()).await;
    let status = client.get_worker_status(wire::WorkerStatusRequest {}).await;
    assert!(!status.expect("the operator may ask").into_inner().draining);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_an_older_epoch_is_good_for_nothing_once_a_later_one_was_here() {
    let folder = Folder::new();
    let worker = guarded(&folder);
    let (first, _one) = session(&worker, token("q", 1), "q", 1).await.expect("it opens");
    assert!(matches!(first, FromWorker::Welcome(_)), "{first:?}");
    // Nothing of that kind is held, but the reader is let in.
    assert_eq!(
        fetch(&worker, token("q", 1), "q", 1).await,
        Code::FailedPrecondition
    );
    let (second, _two) = session(&worker, token("q", 2), "q", 2).await.expect("it opens");
    assert!(matches!(second, FromWorker::Welcome(_)), "{second:?}");
    let (late, _three) = session(&worker, token("q", 1), "q", 1).await.expect("it is told");
    match late {
        FromWorker::Refused(refused) => {
            assert_eq!(refused.reason(), wire::RefusedReason::StaleCoordinator);
        }
        other => panic!("it was let in: {other:?}"),
    }
    assert_eq!(
        fetch(&worker, token("q", 1), "q", 1).await,
        Code::PermissionDenied
    );
    assert_eq!(
        fetch(&worker, token("q", 1), "q", 2).await,
        Code::PermissionDenied
    );
    assert_eq!(
        fetch(&worker, token("q", 2), "q", 2).await,
        Code::FailedPrecondition
    );
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
    let run = |epoch, token: Option<Token>| {
        let mut command = command(&folder, &list(&workers), "q-1", epoch);
        command.env_remove("SLUICE_TERMINATION_LOG");
        command.env("SLUICE_VERIFY_KEY_FILE", folder.at("public.pem"));
        if let Some(token) = token {
            let file = folder.write("token", format!("{}\n", token.as_text()));
            command.env("SLUICE_TOKEN_FILE", file);
        }
        Program::start(command).end()
    };
    run(1, None).expect(4, &["has no token"]);
    run(1, token("q-2", 1)).expect(4, &["the token is for query q-2"]);
    run(1, token("q-1", 1)).expect(0, &[]);
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
