//! How many coordinators may start at the same time. Pure: time is an argument.
//!
//! The start of a pod costs the API server, the scheduler and a kubelet far more than a small query costs its workers. A thousand
//! that start together wait for each other: the report of each is late, and none ends earlier than if they had started in turn.
//! So starts have a window, adjusted as TCP adjusts its own (Jacobson: Congestion Avoidance and Control, SIGCOMM 1988). It is
//! grown by half by a window of fast starts, up to the size at which one was slow; from there it grows by one. A slow start takes
//! half of it.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::admission::Rank;

/// The window before anything is known of the cluster.
const FIRST_WINDOW: f64 = 4.0;
/// The smallest and the largest window.
const WINDOWS: (f64, f64) = (4.0, 256.0);
/// What a fast start adds to a window that no slow start has narrowed. It shows only seconds later that a window is too wide.
const FAST_GROWTH: f64 = 0.5;
/// What a slow start leaves of the window.
const SHRINK: f64 = 0.5;
/// A start is slow if its pod does not run after this time. On a cluster with idle processors most take half of it.
const SLOW: Duration = Duration::from_secs(2);
/// A pod that does not run after this time waits for something else, such as a node or an image, and takes no place any more.
const LONGEST: Duration = Duration::from_secs(5);
/// When a query asks again that is not among the next to start.
const FAR_BEHIND: Duration = Duration::from_secs(60);

/// The starts of coordinators.
///
/// ```text
/// (unknown) --request--> waiting --request in its turn--> starting --started, or 5 s--> (unknown)
/// ```
#[derive(Debug)]
pub(super) struct StartLimit {
    window: f64,
    /// The window from which it grows slowly.
    slow_growth: f64,
    /// When the window last shrank. Starts that were granted before say nothing about the smaller window.
    shrank: Option<Instant>,
    /// Unique ids of queries, in the order of admission.
    waiting: BTreeMap<PoolKey, BTreeMap<Rank, String>>,
    /// By the unique id of the query.
    starting: HashMap<String, Start>,
}

/// Namespace and name of a pool.
pub(super) type PoolKey = (String, String);

#[derive(Debug)]
struct Start {
    pool: PoolKey,
    granted: Instant,
}

/// The answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Granted,
    /// Not yet. The query asks again after this time, or when it is among the [`StartLimit::next`].
    Later(Duration),
}

impl Default for StartLimit {
    fn default() -> Self {
        Self {
            window: FIRST_WINDOW,
            slow_growth: WINDOWS.1,
            shrank: None,
            waiting: BTreeMap::new(),
            starting: HashMap::new(),
        }
    }
}

impl StartLimit {
    /// Asks for the start of the query `uid` of `pool`. A turn that was granted is kept until the start is over.
    pub fn request(&mut self, uid: &str, pool: &PoolKey, rank: Rank, now: Instant) -> Turn {
        self.expire(now);
        if self.starting.contains_key(uid) {
            return Turn::Granted;
        }
        self.remove_waiting(uid);
        let queries = self.waiting.entry(pool.clone()).or_default();
        queries.insert(rank, uid.to_owned());
        let first = self.first(2 * self.places());
        let place = first.iter().position(|(.., next)| *next == uid);
        if place.is_some_and(|place| place < self.room()) {
            self.remove_waiting(uid);
            let pool = pool.clone();
            self.starting.insert(uid.to_owned(), Start { pool, granted: now });
            return Turn::Granted;
        }
        let oldest = self.starting.values().map(|start| start.granted).min();
        let age = oldest.map_or(Duration::ZERO, |granted| now.saturating_duration_since(granted));
        Turn::Later(match place {
            // It may take the place of a start that takes too long, which nobody reports.
            Some(_) => LONGEST.saturating_sub(age),
            None => FAR_BEHIND,
        })
    }

    /// Whether the query waits for its turn.
    pub fn is_waiting(&self, uid: &str) -> bool {
        let mut queries = self.waiting.values().flat_map(BTreeMap::values);
        queries.any(|waiting| waiting == uid)
    }

    /// The pod of the query runs, or has ended. True if that makes room.
    pub fn started(&mut self, uid: &str, now: Instant) -> bool {
        let Some(start) = self.starting.remove(uid) else {
            return false;
        };
        self.adjust(start.granted, now);
        true
    }

    /// The query does not wait for its start, nor starts. True if that makes room.
    pub fn forget(&mut self, uid: &str) -> bool {
        self.remove_waiting(uid) | self.starting.remove(uid).is_some()
    }

    /// Pools and names of the waiting queries that have their turn.
    pub fn next(&self) -> Vec<(&PoolKey, &str)> {
        let first = self.first(self.room()).into_iter();
        first.map(|(pool, (.., name), _)| (pool, name.as_str())).collect()
    }

    fn places(&self) -> usize {
        self.window as usize
    }

    fn room(&self) -> usize {
        self.places().saturating_sub(self.starting.len())
    }

    /// The first of those that wait. The pool with the fewest starts goes first, and its queries in the order of admission.
    fn first(&self, count: usize) -> Vec<(&PoolKey, &Rank, &str)> {
        let mut starts: BTreeMap<&PoolKey, usize> = BTreeMap::new();
        for start in self.starting.values() {
            *starts.entry(&start.pool).or_default() += 1;
        }
        let queues = self.waiting.iter();
        let mut queues: Vec<_> = queues
            .map(|(pool, queries)| {
                (
                    starts.get(pool).copied().unwrap_or(0),
                    pool,
                    queries.iter().peekable(),
                )
            })
            .collect();
        let mut first = Vec::new();
        while first.len() < count {
            let heads = queues.iter_mut().filter_map(|(starts, pool, queries)| {
                let (rank, _) = queries.peek()?;
                Some(((*starts, *rank), starts, *pool, queries))
            });
            let Some((_, starts, pool, queries)) = heads.min_by(|one, other| one.0.cmp(&other.0)) else {
                break;
            };
            *starts += 1;
            first.extend(queries.next().map(|(rank, uid)| (pool, rank, uid.as_str())));
        }
        first
    }

    fn remove_waiting(&mut self, uid: &str) -> bool {
        let mut found = false;
        self.waiting.retain(|_, queries| {
            queries.retain(|_, waiting| {
                found |= waiting == uid;
                waiting != uid
            });
            !queries.is_empty()
        });
        found
    }

    /// Starts that take too long make room, and were slow. True if there are any.
    pub fn expire(&mut self, now: Instant) -> bool {
        let is_over = |start: &Start| now.saturating_duration_since(start.granted) >= LONGEST;
        let over: Vec<_> = self.starting.extract_if(|_, start| is_over(start)).collect();
        for (_, start) in &over {
            self.adjust(start.granted, now);
        }
        !over.is_empty()
    }

    fn adjust(&mut self, granted: Instant, now: Instant) {
        let (smallest, largest) = WINDOWS;
        if now.saturating_duration_since(granted) < SLOW {
            let step = if self.window < self.slow_growth {
                FAST_GROWTH
            } else {
                1.0 / self.window
            };
            self.window = (self.window + step).min(largest);
        } else if self.shrank.is_none_or(|shrank| granted >= shrank) {
            self.window = (self.window * SHRINK).max(smallest);
            self.slow_growth = self.window;
            self.shrank = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};

    use super::*;
    use std::cmp::Reverse;

    struct Bench {
        limit: StartLimit,
        now: Instant,
    }

    impl Bench {
        fn new(window: f64) -> Self {
            Self {
                limit: StartLimit {
                    window,
                    ..StartLimit::default()
                },
                now: Instant::now(),
            }
        }

        fn pass(&mut self, millis: u64) {
            self.now += Duration::from_millis(millis);
        }

        /// Query `second` of `pool`, by its time of creation, asks.
        fn request(&mut self, pool: &str, second: i64) -> Turn {
            let uid = format!("{pool}-{second}");
            let created = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(second);
            let pool = ("n".to_owned(), pool.to_owned());
            self.limit
                .request(&uid, &pool, (Reverse(0), created, uid.clone()), self.now)
        }

        fn next(&self) -> Vec<&str> {
            self.limit.next().into_iter().map(|(_, name)| name).collect()
        }

        /// So many queries start one after the other, each within `millis`.
        fn start(&mut self, count: i64, millis: u64) {
            for query in 0..count {
                assert_eq!(self.request("own", query), Turn::Granted);
                self.pass(millis);
                self.limit.started(&format!("own-{query}"), self.now);
            }
        }
    }

    #[test]
    fn a_turn_is_granted_while_there_is_room_and_kept() {
        let mut bench = Bench::new(8.0);
        for query in 0..8 {
            assert_eq!(bench.request("p", query), Turn::Granted);
        }
        assert_eq!(bench.request("p", 3), Turn::Granted, "it was granted before");
        bench.pass(1_000);
        assert_eq!(bench.request("p", 9), Turn::Later(Duration::from_secs(4)));
        assert_eq!(bench.request("p", 8), Turn::Later(Duration::from_secs(4)));
        assert!(bench.next().is_empty());
        for query in 10..30 {
            bench.request("p", query);
        }
        assert_eq!(bench.request("p", 23), Turn::Later(Duration::from_secs(4)));
        assert_eq!(bench.request("p", 24), Turn::Later(FAR_BEHIND));
        assert!(bench.limit.is_waiting("p-24") && !bench.limit.is_waiting("p-7"));
        assert!(bench.limit.forget("p-0"));
        assert_eq!(
            bench.next(),
            ["p-8"],
            "the first in order of admission, not of requests"
        );
        assert_ne!(bench.request("p", 9), Turn::Granted);
        assert_eq!(bench.request("p", 8), Turn::Granted);
        assert!(bench.limit.forget("p-9"));
        assert!(!bench.limit.forget("p-9"));
    }

    #[test]
    fn pools_take_turns() {
        let mut bench = Bench::new(8.0);
        for query in 0..20 {
            bench.request("busy", query);
        }
        bench.request("quiet", 90);
        bench.request("quiet", 91);
        bench.limit.forget("busy-0");
        bench.limit.forget("busy-1");
        bench.limit.forget("busy-2");
        assert_eq!(bench.next(), ["quiet-90", "quiet-91", "busy-8"]);
    }

    #[test]
    fn fast_starts_widen_the_window_and_a_slow_one_narrows_it_once() {
        let mut bench = Bench::new(FIRST_WINDOW);
        bench.start(24, 500);
        assert_eq!(bench.limit.window, 16.0);
        for query in 100..110 {
            bench.request("p", query);
        }
        bench.pass(2_000);
        for query in 100..110 {
            bench.limit.started(&format!("p-{query}"), bench.now);
        }
        assert_eq!(bench.limit.window, 8.0, "all were granted in the wider window");
        bench.start(8, 500);
        let wider = bench.limit.window;
        assert!((8.9..9.0).contains(&wider), "{wider}");
        bench.start(50, 3_000);
        assert_eq!(bench.limit.window, 4.0);
        bench.start(10_000, 500);
        let widest = bench.limit.window;
        assert!((140.0..150.0).contains(&widest), "{widest}");
    }

    #[test]
    fn starts_that_wait_for_something_else_make_room() {
        let mut bench = Bench::new(8.0);
        for query in 0..9 {
            bench.request("p", query);
        }
        bench.pass(4_999);
        assert_eq!(bench.request("p", 8), Turn::Later(Duration::from_millis(1)));
        assert!(!bench.limit.expire(bench.now));
        bench.pass(1);
        assert!(bench.limit.expire(bench.now));
        assert_eq!(bench.next(), ["p-8"], "nobody has to ask for that");
        assert_eq!(bench.request("p", 8), Turn::Granted);
        assert_eq!(bench.limit.window, 4.0);
    }
}
