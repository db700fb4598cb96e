//! One session with the worker at one address: dial, handshake, forward messages until it breaks.

use std::collections::BTreeSet;
use std::time::Duration;

use sluice_core::coordinator::Event;
use sluice_core::ids::WorkerId;
use sluice_core::message::Recovered;
use sluice_proto::auth::Token;
use sluice_proto::{Hello, RefusedReason, Welcome, WireError, shortened, wire};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;
use wire::coordinator_message::Message as ToWorker;
use wire::worker_message::Message as FromWorker;

use crate::net;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// What links and helper tasks send to the query driver.
pub(crate) enum LinkEvent {
    /// The handshake is done. Messages for the worker go into `outbound`; dropping it closes the session.
    Joined {
        welcome: Welcome,
        /// What the worker holds of attempts of earlier coordinators.
        recovered: Recovered,
        address: String,
        outbound: mpsc::UnboundedSender<wire::CoordinatorMessage>,
    },
    /// The worker at the address sent a message.
    MessageReceived { address: String, event: Event },
    SessionEnded {
        address: String,
        worker: WorkerId,
        message: String,
    },
    /// The connection or the handshake failed.
    ConnectFailed { address: String, error: ConnectError },
    /// The addresses of a name, or the error of its resolution.
    Resolved {
        name: String,
        found: Result<BTreeSet<String>, String>,
    },
    /// An event of a helper task.
    Event(Event),
}

/// Why there is no session.
pub(crate) struct ConnectError {
    /// The worker's reason, if it refused.
    pub(crate) refused: Option<RefusedReason>,
    pub(crate) message: String,
}

impl From<String> for ConnectError {
    fn from(message: String) -> Self {
        Self {
            refused: None,
            message,
        }
    }
}

/// Authenticates sessions with workers.
pub(crate) struct Credentials {
    /// The query's token; `None` for workers that check none.
    pub(crate) token: Option<Token>,
    /// Its newest renewal.
    pub(crate) renewals: watch::Receiver<Option<Token>>,
}

/// Dials the worker at `address` once and keeps the session until it ends.
pub(crate) async fn dial(
    address: String,
    (hello, credentials): (Hello, Credentials),
    events: mpsc::UnboundedSender<LinkEvent>,
) {
    match open(&address, &hello, credentials).await {
        Ok(session) => pump(session, &address, &hello, &events).await,
        // The receiver is gone once the coordinator has ended.
        Err(error) => drop(events.send(LinkEvent::ConnectFailed { address, error })),
    }
}

struct Session {
    welcome: Welcome,
    recovered: Recovered,
    outbound: mpsc::UnboundedSender<wire::CoordinatorMessage>,
    inbound: Streaming<wire::WorkerMessage>,
}

async fn open(address: &str, hello: &Hello, credentials: Credentials) -> Result<Session, ConnectError> {
    let client = net::session_client(address, credentials.token).await;
    let mut client = client.map_err(|error| error.to_string())?;
    let (outbound, messages) = mpsc::unbounded_channel();
    let greeting = wire::CoordinatorMessage::of(ToWorker::Hello(hello.clone().into()));
    outbound
        .send(greeting)
        .map_err(|_| "the session closed".to_owned())?;
    let mut request = tonic::Request::new(UnboundedReceiverStream::new(messages));
    if let Some(renewal) = &*credentials.renewals.borrow() {
        renewal.attach_renewal(request.metadata_mut());
    }
    let call = client.session(request);
    let response = timeout(HANDSHAKE_TIMEOUT, call)
        .await
        .map_err(|_| "no answer to the hello".to_owned())?;
    let mut inbound = response
        .map_err(|status| format!("the session was refused: {}", status.message()))?
        .into_inner();
    let (welcome, recovered) = read_welcome(&mut inbound).await?;
    Ok(Session {
        welcome,
        recovered,
        outbound,
        inbound,
    })
}

/// Reads the answer to a hello: what the worker holds of earlier coordinators' attempts, then the welcome.
async fn read_welcome(
    inbound: &mut Streaming<wire::WorkerMessage>,
) -> Result<(Welcome, Recovered), ConnectError> {
    let impossible = |error: WireError| format!("it sent a message that cannot be: {error}");
    let mut recovered = Recovered::default();
    loop {
        let message = timeout(HANDSHAKE_TIMEOUT, inbound.message()).await;
        let message = message.map_err(|_| "no answer to the hello".to_owned())?;
        let message = message.map_err(|status| status.message().to_owned())?;
        match message.and_then(|message| message.message) {
            Some(FromWorker::RecoveredLayout(layout)) => {
                recovered.layouts.push(layout.try_into().map_err(impossible)?);
            }
            Some(FromWorker::RecoveredOutput(output)) => {
                recovered.outputs.push(output.try_into().map_err(impossible)?);
            }
            Some(FromWorker::Welcome(welcome)) => {
                let welcome = Welcome::try_from(welcome).map_err(impossible)?;
                recovered.discarded = welcome.discarded;
                return Ok((welcome, recovered));
            }
            Some(FromWorker::Refused(refused)) => return Err(refusal(&refused)),
            Some(_) | None => {
                return Err("the worker did not answer the hello with a welcome"
                    .to_owned()
                    .into());
            }
        }
    }
}

fn refusal(refused: &wire::Refused) -> ConnectError {
    let reason = RefusedReason::try_from(refused.reason()).ok();
    let told = shortened(refused.message.clone());
    let message = match reason {
        Some(RefusedReason::BuildMismatch) => {
            format!("it runs another build of sluice: {told}")
        }
        Some(RefusedReason::StaleCoordinator | RefusedReason::Draining | RefusedReason::BadHello) | None => {
            told
        }
    };
    ConnectError {
        refused: reason,
        message,
    }
}

async fn pump(session: Session, address: &str, hello: &Hello, events: &mpsc::UnboundedSender<LinkEvent>) {
    let Session {
        welcome,
        recovered,
        outbound,
        mut inbound,
    } = session;
    let worker = welcome.worker.clone();
    let beat = tokio::spawn(heartbeat(
        outbound.clone().downgrade(),
        hello.liveness_timeout / 3,
    ));
    let joined = LinkEvent::Joined {
        welcome,
        recovered,
        address: address.to_owned(),
        outbound,
    };
    if events.send(joined).is_ok() {
        let from = (address, &worker);
        let message = receive(&mut inbound, from, hello.liveness_timeout, events).await;
        let _ = events.send(LinkEvent::SessionEnded {
            address: address.to_owned(),
            worker,
            message,
        });
    }
    beat.abort();
}

/// Forwards messages until the session ends. Returns why it ended.
async fn receive(
    inbound: &mut Streaming<wire::WorkerMessage>,
    (address, worker): (&str, &WorkerId),
    liveness_timeout: Duration,
    events: &mpsc::UnboundedSender<LinkEvent>,
) -> String {
    loop {
        let message = match timeout_at(Instant::now() + liveness_timeout, inbound.message()).await {
            Err(_) => return format!("nothing heard for {liveness_timeout:?}"),
            Ok(Err(status)) => return format!("the session broke: {}", status.message()),
            Ok(Ok(None)) => return "the worker closed the session".to_owned(),
            Ok(Ok(Some(message))) => message,
        };
        let event = match message.into_event(worker) {
            Ok(Some(event)) => event,
            Ok(None) => Event::WorkerHeard {
                worker: worker.clone(),
            },
            Err(error) => return format!("it sent a message that cannot be: {error}"),
        };
        let heard = LinkEvent::MessageReceived {
            address: address.to_owned(),
            event,
        };
        if events.send(heard).is_err() {
            return "the query is over".to_owned();
        }
    }
}

async fn heartbeat(outbound: mpsc::WeakUnboundedSender<wire::CoordinatorMessage>, period: Duration) {
    loop {
        sleep(period).await;
        let Some(outbound) = outbound.upgrade() else {
            return;
        };
        let beat = wire::CoordinatorMessage::of(ToWorker::Heartbeat(wire::Heartbeat {}));
        if outbound.send(beat).is_err() {
            return;
        }
    }
}
