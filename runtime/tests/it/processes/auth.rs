//! Tokens and fetch keys over real sockets: callers without one, or with a wrong, expired or foreign one, are refused.

mod queries;
mod sessions;

use std::time::Duration;

use sluice_core::ids::{CoordinatorEpoch, QueryId};
use sluice_proto::auth::{Audience, Bearer, Claims, FetchKey, Folders, PoolId, Token, TokenSigner, Verb};
use sluice_proto::{Welcome, wire};
use tokio::sync::mpsc::UnboundedSender;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use wire::coordinator_message::Message as ToWorker;
use wire::worker_client::WorkerClient;
use wire::worker_message::Message as FromWorker;

use super::program::{Folder, Worker};

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
        // The worker's answers show whether it has ended the session.
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
        build_id: sluice::build_id::build_id(),
        lease_millis: 60_000,
        liveness_timeout_millis: 600_000,
        input_roots: Vec::new(),
        query_name: "q".to_owned(),
        plan_fingerprint: 1,
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
