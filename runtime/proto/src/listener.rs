//! The bounds of every server: how many connections there are, how long one may be silent, and what one caller may send. All
//! servers of workers, coordinators and the operator listen through here.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use futures::task::AtomicWaker;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};
use tonic::transport::server::Connected;

/// The most connections of one listener, where files may be opened for them.
const MAX_CONNECTIONS: u64 = 4096;
/// Files that a process needs beside its connections are at least as many as these.
const FILES_PER_CONNECTION: u64 = 2;
/// How long a connection may take to its first byte.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may be silent. Our clients send a keep-alive at least every ten seconds.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// A connection that has been silent for so long gives way to a new one where there are too many.
const EVICTABLE_AFTER: Duration = Duration::from_secs(12);
/// How often silent connections are looked for.
const SWEEP_PERIOD: Duration = Duration::from_secs(1);
/// The wait after a connection could not be accepted, for example because no file can be opened.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Lets the process open as many files as the system allows it, and answers how many.
pub fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    current.unwrap_or(u64::MAX)
}

/// A listener that holds a bounded number of connections.
#[derive(Debug)]
pub struct BoundedListener {
    inner: TcpListener,
    table: Arc<Table>,
}

impl BoundedListener {
    /// Bounds a listener by the files that the process may open. Needs a tokio runtime.
    pub fn new(inner: TcpListener) -> Self {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let most = (files / FILES_PER_CONNECTION).clamp(8, MAX_CONNECTIONS);
        Self::with_limit(inner, usize::try_from(most).unwrap_or(usize::MAX))
    }

    fn with_limit(inner: TcpListener, limit: usize) -> Self {
        let table = Arc::new(Table {
            limit,
            began: Instant::now(),
            entries: Mutex::default(),
        });
        tokio::spawn(sweep(Arc::downgrade(&table)));
        Self { inner, table }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    /// The next connection. If there are too many, a silent one is closed for it; if all are busy, the new one is closed.
    pub async fn accept(&self) -> (Connection, SocketAddr) {
        loop {
            match self.inner.accept().await {
                Ok((stream, peer)) => {
                    let _ = stream.set_nodelay(true);
                    if let Some(connection) = self.table.admit(stream) {
                        return (connection, peer);
                    }
                }
                Err(_) => {
                    self.table.make_room();
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// The connections as a gRPC server takes them.
    pub fn incoming(self) -> impl Stream<Item = io::Result<Connection>> {
        futures::stream::unfold(self, |listener| async move {
            let (connection, _) = listener.accept().await;
            Some((Ok(connection), listener))
        })
    }
}

/// The connections of a listener. The lock guards a list, which is changed in no wait.
#[derive(Debug)]
struct Table {
    limit: usize,
    began: Instant,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    next: u64,
    open: BTreeMap<u64, Arc<Entry>>,
}

#[derive(Debug, Default)]
struct Entry {
    /// When it was last heard, or accepted: milliseconds since the listener began.
    last: AtomicU64,
    /// Whether it has said anything.
    greeted: AtomicBool,
    closed: AtomicBool,
    reader: AtomicWaker,
}

impl Entry {
    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.reader.wake();
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn silence(&self, now: u64) -> Duration {
        Duration::from_millis(now.saturating_sub(self.last.load(Ordering::Relaxed)))
    }
}

impl Table {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(self: &Arc<Self>, stream: TcpStream) -> Option<Connection> {
        if self.lock().open.len() >= self.limit && !self.make_room() {
            return None;
        }
        let entry = Arc::new(Entry {
            last: AtomicU64::new(self.now()),
            ..Entry::default()
        });
        let mut entries = self.lock();
        let number = entries.next;
        entries.next += 1;
        entries.open.insert(number, Arc::clone(&entry));
        drop(entries);
        Some(Connection {
            stream,
            number,
            entry,
            table: Arc::clone(self),
        })
    }

    /// Closes the connection that matters least: the oldest that never sent anything, or the one that has been silent longest
    /// and for some time.
    fn make_room(&self) -> bool {
        let now = self.now();
        let mut entries = self.lock();
        let rank = |entry: &Entry| {
            let last = entry.last.load(Ordering::Relaxed);
            (entry.greeted.load(Ordering::Relaxed), last)
        };
        let least = entries.open.iter().min_by_key(|(_, entry)| rank(entry));
        let Some((number, entry)) = least.map(|(number, entry)| (*number, Arc::clone(entry))) else {
            return false;
        };
        if entry.greeted.load(Ordering::Relaxed) && entry.silence(now) < EVICTABLE_AFTER {
            return false;
        }
        entries.open.remove(&number);
        drop(entries);
        entry.close();
        true
    }

    /// Closes connections that have been silent for too long.
    fn close_silent(&self) {
        let now = self.now();
        let is_silent = |entry: &Entry| {
            let most = if entry.greeted.load(Ordering::Relaxed) {
                IDLE_TIMEOUT
            } else {
                FIRST_BYTE_TIMEOUT
            };
            entry.silence(now) >= most
        };
        let mut entries = self.lock();
        let silent: Vec<_> = entries.open.extract_if(.., |_, entry| is_silent(entry)).collect();
        drop(entries);
        silent.iter().for_each(|(_, entry)| entry.close());
    }
}

async fn sweep(table: Weak<Table>) {
    loop {
        sleep(SWEEP_PERIOD).await;
        let Some(table) = table.upgrade() else { return };
        table.close_silent();
    }
}

/// A connection of a [`BoundedListener`].
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    number: u64,
    entry: Arc<Entry>,
    table: Arc<Table>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.table.lock().open.remove(&self.number);
    }
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.entry.reader.register(cx.waker());
        if self.entry.is_closed() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.entry.last.store(self.table.now(), Ordering::Relaxed);
            self.entry.greeted.store(true, Ordering::Relaxed);
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.entry.is_closed() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn listener(limit: usize) -> (BoundedListener, SocketAddr) {
        let inner = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = inner.local_addr().expect("it listens");
        (BoundedListener::with_limit(inner, limit), address)
    }

    async fn pair(listener: &BoundedListener, address: SocketAddr) -> (TcpStream, Connection) {
        let client = TcpStream::connect(address).await.expect("it listens");
        (client, listener.accept().await.0)
    }

    async fn greet(client: &mut TcpStream, connection: &mut Connection) {
        client.write_all(b"x").await.expect("it is open");
        connection.read_u8().await.expect("it is open");
    }

    #[tokio::test]
    async fn a_new_connection_takes_the_place_of_one_that_says_nothing() {
        let (listener, address) = listener(2).await;
        let (mut speaking, mut heard) = pair(&listener, address).await;
        greet(&mut speaking, &mut heard).await;
        let (_silent, mut unheard) = pair(&listener, address).await;
        let waiting = tokio::spawn(async move { unheard.read_u8().await.map_err(|error| error.kind()) });
        let (_new, _taken) = pair(&listener, address).await;
        // Its reader, which waits, is told.
        assert_eq!(
            waiting.await.expect("no panic"),
            Err(io::ErrorKind::ConnectionAborted)
        );
        greet(&mut speaking, &mut heard).await;
        assert_eq!(listener.table.lock().open.len(), 2);
    }

    #[tokio::test]
    async fn connections_at_work_stay_and_the_new_one_goes() {
        let (listener, address) = listener(1).await;
        let (mut first, mut heard) = pair(&listener, address).await;
        greet(&mut first, &mut heard).await;
        let mut refused = TcpStream::connect(address).await.expect("the system takes it");
        tokio::select! {
            _ = listener.accept() => panic!("there is no room"),
            end = refused.read_u8() => assert!(end.is_err(), "it is closed"),
        }
        greet(&mut first, &mut heard).await;
        drop(heard);
        let (_next, _taken) = pair(&listener, address).await;
    }

    #[tokio::test]
    async fn silence_ends_a_connection() {
        let (listener, address) = listener(8).await;
        let (mut client, mut greeted) = pair(&listener, address).await;
        greet(&mut client, &mut greeted).await;
        let (_other, silent) = pair(&listener, address).await;
        let set_back = |connection: &Connection, by: Duration| {
            let now = connection.table.now() + 1_000_000;
            let then = now - u64::try_from(by.as_millis()).expect("a short time");
            connection.entry.last.store(then, Ordering::Relaxed);
        };
        // The clock of the table is the one that moves: the entries stand still.
        let table = Arc::new(Table {
            limit: 8,
            began: listener.table.began - Duration::from_secs(1000),
            entries: Mutex::new(std::mem::take(&mut *listener.table.lock())),
        });
        set_back(&greeted, FIRST_BYTE_TIMEOUT);
        set_back(&silent, FIRST_BYTE_TIMEOUT);
        table.close_silent();
        assert!(silent.entry.is_closed() && !greeted.entry.is_closed());
        set_back(&greeted, IDLE_TIMEOUT);
        table.close_silent();
        assert!(greeted.entry.is_closed());
    }

    #[test]
    fn the_process_may_open_what_the_system_allows() {
        let most = raise_open_files();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
        assert_eq!(limit.current.unwrap_or(u64::MAX), most);
    }
}
