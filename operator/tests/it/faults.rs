//! Faults between the operator and the API server: a layer under the client that a script drives.

use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::{self, BoxFuture};
use futures::{Stream, StreamExt, stream};
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use kube::client::{Body, DynBody};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tower::{BoxError, Layer, Service};

/// A fault of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The API server answers with this status and does nothing.
    Refuse(u16),
    /// The request succeeds, and the answer is 504.
    LoseAnswer,
    /// The request is sent after this time.
    Delay(Duration),
    /// The connection breaks before anything is sent.
    Disconnect,
    /// The API server is out of reach for this time, from this request on; open watches break.
    Unreachable(Duration),
    /// The operator crashes before the request is sent.
    CrashBefore,
    /// The operator crashes after the request succeeded, before it receives the answer.
    CrashAfter,
}

/// A request as a script sees it.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: Method,
    /// Path without query.
    pub path: String,
    /// Whether it opens a watch.
    pub watches: bool,
    /// The number of the write, from 0. Leases, events and reads have no number.
    pub write: Option<usize>,
}

/// The frequency of faults of watch events, in percent.
#[derive(Clone, Copy, Debug, Default)]
pub struct WatchFaults {
    /// The event is lost.
    pub drop: u32,
    /// The event is repeated.
    pub repeat: u32,
    /// The connection ends before the event.
    pub cut: u32,
    /// The API server reports expired history (410).
    pub expire: u32,
    /// The event and later ones are delayed by [`STALL`], so that the cache is stale.
    pub stall: u32,
}

/// The beginning of a bookmark event.
const BOOKMARK: &[u8] = br#"{"type":"BOOKMARK""#;
const STALL: Duration = Duration::from_millis(700);

type Script = Box<dyn FnMut(&Call) -> Option<Fault> + Send>;

/// The script of an operator's faults, and the results of its requests.
#[derive(Clone)]
pub struct Faults {
    state: Arc<Mutex<State>>,
    crashed: CancellationToken,
}

struct State {
    script: Script,
    watches: WatchFaults,
    random: SmallRng,
    writes: usize,
    requests: usize,
    away: CancellationToken,
    /// Until when the API server is out of reach.
    back: Option<Instant>,
    /// Until when the history of watches is gone.
    forgotten: Option<Instant>,
    forbidden: Vec<String>,
    faulty: usize,
}

impl State {
    /// Ends running watches. Unlike with [`Faults::disconnect`], later requests succeed.
    fn break_watches(&mut self) {
        if !self.away.is_cancelled() {
            std::mem::take(&mut self.away).cancel();
        }
    }
}

impl Faults {
    pub fn none() -> Self {
        Self::scripted(0, WatchFaults::default(), |_| None)
    }

    /// The faults that `script` selects by request, and random faults of watch events, drawn by `seed`.
    pub fn scripted(
        seed: u64,
        watches: WatchFaults,
        script: impl FnMut(&Call) -> Option<Fault> + Send + 'static,
    ) -> Self {
        let state = State {
            script: Box::new(script),
            watches,
            random: SmallRng::seed_from_u64(seed),
            writes: 0,
            requests: 0,
            away: CancellationToken::new(),
            back: None,
            forgotten: None,
            forbidden: Vec::new(),
            faulty: 0,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            crashed: CancellationToken::new(),
        }
    }

    /// One crash before or after the `n`th write.
    pub fn crash_at(n: usize, fault: Fault) -> Self {
        Self::scripted(0, WatchFaults::default(), move |call| {
            (call.write == Some(n)).then_some(fault)
        })
    }

    /// Makes the API server unreachable; open watches break.
    pub fn disconnect(&self) {
        self.lock().away.cancel();
    }

    /// When the API server is reachable again, if it was not.
    pub fn reachable_at(&self) -> Option<Instant> {
        self.lock().back
    }

    /// The same faults, while the API server stays unreachable until `back`.
    pub fn unreachable_until(self, back: Option<Instant>) -> Self {
        self.lock().back = back;
        self
    }

    /// Breaks every open watch.
    pub fn break_watches(&self) {
        self.lock().break_watches();
    }

    /// Breaks every open watch with expired history: lost events come back with the next list.
    pub fn forget_history(&self) {
        let mut state = self.lock();
        state.forgotten = Some(Instant::now() + Duration::from_millis(200));
        state.break_watches();
    }

    /// Waits until the operator has crashed.
    pub async fn crashed(&self) {
        self.crashed.cancelled().await;
    }

    pub fn is_crashed(&self) -> bool {
        self.crashed.is_cancelled()
    }

    /// Sets the faults of watch events from now on.
    pub fn set_watch_faults(&self, watches: WatchFaults) {
        self.lock().watches = watches;
    }

    pub fn fault_count(&self) -> usize {
        self.lock().faulty
    }

    /// The number of writes without leases and events.
    pub fn writes(&self) -> usize {
        self.lock().writes
    }

    /// The number of requests without leases.
    pub fn requests(&self) -> usize {
        self.lock().requests
    }

    /// The requests that were answered with 403.
    pub fn forbidden(&self) -> Vec<String> {
        self.lock().forbidden.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_fault(&self, request: &Request<Body>) -> (Call, Option<Fault>, CancellationToken) {
        let mut state = self.lock();
        let path = request.uri().path().to_owned();
        let aside = path.contains("/leases") || path.contains("/events.k8s.io/");
        let counts = request.method() != Method::GET && !aside;
        let write = counts.then_some(state.writes);
        state.writes += usize::from(counts);
        state.requests += usize::from(!path.contains("/leases"));
        let query = request.uri().query().unwrap_or_default();
        let call = Call {
            method: request.method().clone(),
            watches: query.split('&').any(|part| part == "watch=true"),
            path,
            write,
        };
        let now = Instant::now();
        let gone = state.away.is_cancelled() || state.back.is_some_and(|back| now < back);
        let forgotten = call.watches && state.forgotten.is_some_and(|until| now < until);
        let fault = if gone {
            Some(Fault::Disconnect)
        } else if forgotten {
            Some(Fault::Refuse(410))
        } else {
            (state.script)(&call)
        };
        if let Some(Fault::Unreachable(time)) = fault {
            state.back = Some(now + time);
            state.break_watches();
        }
        let away = state.away.clone();
        (call, fault, away)
    }

    fn note(&self, call: &Call, status: StatusCode) {
        if status == StatusCode::FORBIDDEN {
            self.lock()
                .forbidden
                .push(format!("{} {}", call.method, call.path));
        }
    }

    /// The fault of one watch event: its delay and the events to deliver; `None` ends the watch. Bookmarks have no faults, as
    /// their number is random.
    fn event(&self, line: Bytes) -> Option<(Duration, Vec<Bytes>)> {
        if line.starts_with(BOOKMARK) {
            return Some((Duration::ZERO, vec![line]));
        }
        let mut state = self.lock();
        let watches = state.watches;
        let drawn = state.random.random_range(0..100);
        let dropped = watches.drop;
        let repeated = dropped + watches.repeat;
        let cut = repeated + watches.cut;
        let expired = cut + watches.expire;
        let stalled = expired + watches.stall;
        state.faulty += usize::from(drawn < stalled);
        let (mut wait, mut lines) = (Duration::ZERO, vec![line]);
        if drawn < dropped {
            lines.clear();
        } else if drawn < repeated {
            lines.extend_from_within(..);
        } else if drawn < cut {
            return None;
        } else if drawn < expired {
            let error = json!({"type": "ERROR", "object": status(410)});
            lines = vec![Bytes::from(format!("{error}\n"))];
        } else if drawn < stalled {
            wait = STALL;
        }
        Some((wait, lines))
    }
}

fn status(code: u16) -> serde_json::Value {
    let reason = match code {
        409 => "Conflict",
        410 => "Expired",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "InternalError",
    };
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("a fault of the test: {code}"), "reason": reason, "code": code,
    })
}

type Answer = Response<UnsyncBoxBody<Bytes, BoxError>>;

fn answer(code: u16) -> Result<Answer, BoxError> {
    let body = Full::from(status(code).to_string())
        .map_err(BoxError::from)
        .boxed_unsync();
    let answer = Response::builder()
        .status(code)
        .header("content-type", "application/json");
    Ok(answer.body(body)?)
}

fn disconnected() -> BoxError {
    std::io::Error::new(
        std::io::ErrorKind::ConnectionReset,
        "a fault of the test: no connection",
    )
    .into()
}

impl<S> Layer<S> for Faults {
    type Service = Faulty<S>;

    fn layer(&self, inner: S) -> Faulty<S> {
        Faulty {
            inner,
            faults: self.clone(),
        }
    }
}

/// The service below the client, with faults.
pub struct Faulty<S> {
    inner: S,
    faults: Faults,
}

impl<S> Service<Request<Body>> for Faulty<S>
where
    S: Service<Request<Body>, Response = Response<Box<DynBody>>, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = Answer;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Answer, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let faults = self.faults.clone();
        let (call, fault, away) = faults.next_fault(&request);
        // Nothing is sent before the first poll.
        let sending = self.inner.call(request);
        Box::pin(async move {
            tokio::select! {
                answer = inject(&faults, &call, fault, sending) => {
                    let answer = answer?;
                    faults.note(&call, answer.status());
                    Ok(if call.watches { faults.watch(answer, away) } else { answer })
                }
                () = away.cancelled() => Err(disconnected()),
            }
        })
    }
}

async fn inject(
    faults: &Faults,
    call: &Call,
    fault: Option<Fault>,
    sending: impl Future<Output = Result<Response<Box<DynBody>>, BoxError>>,
) -> Result<Answer, BoxError> {
    match fault {
        // A crashed operator sends nothing.
        _ if faults.crashed.is_cancelled() => return pending().await,
        Some(Fault::Refuse(code)) => return answer(code),
        Some(Fault::Disconnect | Fault::Unreachable(_)) => return Err(disconnected()),
        Some(Fault::CrashBefore) => {
            faults.crashed.cancel();
            return pending().await;
        }
        Some(Fault::Delay(time)) => tokio::time::sleep(time).await,
        Some(Fault::LoseAnswer | Fault::CrashAfter) | None => {}
    }
    let answered = sending.await?;
    match fault {
        Some(Fault::LoseAnswer) => answer(504),
        Some(Fault::CrashAfter) => {
            tracing::debug!(?call, status = %answered.status(), "the operator dies");
            faults.crashed.cancel();
            pending().await
        }
        Some(
            Fault::Refuse(_)
            | Fault::Delay(_)
            | Fault::Disconnect
            | Fault::Unreachable(_)
            | Fault::CrashBefore,
        )
        | None => Ok(answered.map(BodyExt::boxed_unsync)),
    }
}

impl Faults {
    /// The answer to a watch, with faults.
    fn watch(&self, answer: Answer, away: CancellationToken) -> Answer {
        let faults = self.clone();
        answer.map(|body| {
            let lines = lines(body).take_until(away.cancelled_owned());
            let events = lines
                .map(move |line| line.map(|line| faults.event(line)))
                .take_while(|event| future::ready(!matches!(event, Ok(None))))
                .then(async |event| {
                    let frames: Vec<_> = match event {
                        Ok(event) => {
                            let (wait, lines) = event.unwrap_or_default();
                            tokio::time::sleep(wait).await;
                            lines.into_iter().map(|line| Ok(Frame::data(line))).collect()
                        }
                        Err(error) => vec![Err(error)],
                    };
                    stream::iter(frames)
                })
                .flatten();
            UnsyncBoxBody::new(StreamBody::new(events))
        })
    }
}

/// The lines of a body, each with its end.
fn lines(body: UnsyncBoxBody<Bytes, BoxError>) -> impl Stream<Item = Result<Bytes, BoxError>> + Send {
    let start = (body.into_data_stream(), Vec::<u8>::new());
    stream::unfold(start, |(mut data, mut rest)| async move {
        loop {
            if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let tail = rest.split_off(end + 1);
                return Some((Ok(Bytes::from(rest)), (data, tail)));
            }
            match data.next().await? {
                Ok(chunk) => rest.extend_from_slice(&chunk),
                Err(error) => return Some((Err(error), (data, rest))),
            }
        }
    })
}
