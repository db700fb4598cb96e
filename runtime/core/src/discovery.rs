//! Which workers a coordinator dials, and when.
//!
//! A coordinator gets names (`host:port`). A name may stand for several addresses, for none yet, or for others later, so the
//! driver resolves it periodically and reports the result. Each listed address is dialled until a session is up, and again
//! when it ends. An address that no name lists any more keeps its session but is not dialled again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use sluice_crds::ErrorReason;

use crate::failure::RefusedReason;
use crate::ids::WorkerId;
use crate::query_outcome::QueryFailure;
use crate::time::Instant;

/// The first wait before an address is dialled again; it doubles up to [`MAX_REDIAL_BACKOFF`].
pub const MIN_REDIAL_BACKOFF: Duration = Duration::from_millis(100);
/// The longest wait before an address is dialled again.
pub const MAX_REDIAL_BACKOFF: Duration = Duration::from_secs(2);
/// Tolerate DNS failures this long before dropping a name's addresses.
pub const DNS_FAILURE_TOLERANCE: Duration = Duration::from_secs(30);
/// Most addresses and names that a message quotes.
const MAX_QUOTED: usize = 8;

/// Something that happened to a name or an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The name stands for these addresses now (ip:port).
    Resolved {
        /// The name.
        name: String,
        /// Its addresses.
        addresses: BTreeSet<String>,
    },
    /// The name has no address, or could not be resolved.
    NotResolved {
        /// The name.
        name: String,
        /// Why.
        message: String,
    },
    /// A session with the worker at the address is up.
    Joined {
        /// The address.
        address: String,
        /// Who answers there.
        worker: WorkerId,
    },
    /// A dialled address could not be reached, or refused the session.
    NotConnected {
        /// The address.
        address: String,
        /// The worker's reason, if a worker refused.
        refused: Option<RefusedReason>,
        /// What happened, for people.
        message: String,
    },
    /// The session with the address has ended.
    Ended {
        /// The address.
        address: String,
        /// What ended it, for people.
        message: String,
    },
    /// Time has passed.
    Ticked,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Open a session with the address. Answered by `Joined` and later `Ended`, or by `NotConnected`.
    Dial {
        /// The address.
        address: String,
    },
}

/// The worker addresses of one query.
#[derive(Debug)]
pub struct Discovery {
    names: BTreeMap<String, Name>,
    links: BTreeMap<String, Link>,
    /// Whether any session was ever up.
    joined: bool,
}

/// A name that must be resolved.
#[derive(Debug, Default)]
struct Name {
    addresses: BTreeSet<String>,
    /// Since when it does not resolve, if it does not, and why.
    unresolved: Option<(Instant, String)>,
}

#[derive(Debug)]
struct Link {
    state: State,
    redial: Duration,
    /// It was given as an address, so it is always listed.
    given: bool,
    /// The worker's reason and the message of the last failure.
    last_failure: Option<(Option<RefusedReason>, String)>,
}

/// Where a link to one address stands.
///
/// ```text
/// Waiting --> Connecting --> Connected --> Waiting
///    ^ ^_________|          |     (forgotten instead of waiting once no name lists it)
///    |______ Duplicate <____|     its worker has a session through another address
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// To be dialled at this time.
    Waiting {
        /// When.
        until: Instant,
    },
    /// The driver dials.
    Connecting,
    /// A session is up.
    Connected {
        /// With whom.
        worker: WorkerId,
    },
    /// The address leads to a worker that has a session through another address, as both families of a dual-stack name do.
    Duplicate {
        /// The worker.
        worker: WorkerId,
    },
}

impl Discovery {
    /// Knows the names of a query's workers. Those that are addresses already need no resolution.
    pub fn new(names: &[String]) -> Self {
        let mut discovery = Self {
            names: BTreeMap::new(),
            links: BTreeMap::new(),
            joined: false,
        };
        for name in names {
            if name.parse::<SocketAddr>().is_ok() {
                discovery.links.insert(name.clone(), Link::new(true));
            } else {
                discovery.names.insert(name.clone(), Name::default());
            }
        }
        discovery
    }

    /// The names that the driver must resolve, again and again.
    pub fn to_resolve(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    /// Handles one event and returns whom to dial.
    pub fn handle(&mut self, now: Instant, event: Event) -> Vec<Action> {
        match event {
            Event::Resolved { name, addresses } => {
                if let Some(known) = self.names.get_mut(&name) {
                    known.addresses = addresses;
                    known.unresolved = None;
                }
            }
            Event::NotResolved { name, message } => {
                if let Some(known) = self.names.get_mut(&name) {
                    let since = known.unresolved.as_ref().map_or(now, |(since, _)| *since);
                    known.unresolved = Some((since, message));
                    if since + DNS_FAILURE_TOLERANCE <= now {
                        known.addresses.clear();
                    }
                }
            }
            Event::Joined { address, worker } => self.on_joined(&address, worker),
            Event::NotConnected {
                address,
                refused,
                message,
            } => {
                if let Some(link) = self.links.get_mut(&address) {
                    link.last_failure = Some((refused, message));
                    link.wait(now);
                }
            }
            Event::Ended { address, message } => self.on_ended(now, &address, message),
            Event::Ticked => {}
        }
        self.list();
        self.dial(now)
    }

    /// What was last heard of an address that has no session.
    pub fn last_failure(&self, address: &str) -> Option<&str> {
        let (_, message) = self.links.get(address)?.last_failure.as_ref()?;
        Some(message)
    }

    /// Whether some address is known, and each that is was reached or has failed once.
    pub fn has_tried_all(&self) -> bool {
        let resolved = |name: &Name| !name.addresses.is_empty() || name.unresolved.is_some();
        let tried = |link: &Link| match link.state {
            State::Connected { .. } | State::Duplicate { .. } => true,
            State::Waiting { .. } | State::Connecting => link.last_failure.is_some(),
        };
        !self.links.is_empty() && self.names.values().all(resolved) && self.links.values().all(tried)
    }

    /// When `Ticked` must come at the latest.
    pub fn next_deadline(&self) -> Option<Instant> {
        let waits = self.links.values().filter_map(|link| match link.state {
            State::Waiting { until } => Some(until),
            State::Connecting | State::Connected { .. } | State::Duplicate { .. } => None,
        });
        waits.min()
    }

    fn on_joined(&mut self, address: &str, worker: WorkerId) {
        self.joined = true;
        for (other, link) in &mut self.links {
            let same = matches!(&link.state, State::Connected { worker: met } if *met == worker);
            if same && other != address {
                // The worker has given that session up for this one.
                link.state = State::Duplicate {
                    worker: worker.clone(),
                };
            }
        }
        if let Some(link) = self.links.get_mut(address) {
            link.state = State::Connected { worker };
            link.redial = MIN_REDIAL_BACKOFF;
            link.last_failure = None;
        }
    }

    fn on_ended(&mut self, now: Instant, address: &str, message: String) {
        let Some(link) = self.links.get_mut(address) else {
            return;
        };
        let State::Connected { worker } = link.state.clone() else {
            return;
        };
        link.last_failure = Some((None, message));
        link.wait(now);
        for link in self.links.values_mut() {
            if matches!(&link.state, State::Duplicate { worker: met } if *met == worker) {
                link.wait(now);
            }
        }
    }

    /// Adds links for new addresses, and removes those that no name lists.
    fn list(&mut self) {
        let listed: BTreeSet<&String> = self.names.values().flat_map(|name| &name.addresses).collect();
        self.links.retain(|address, link| match link.state {
            State::Waiting { .. } | State::Duplicate { .. } => link.given || listed.contains(address),
            State::Connecting | State::Connected { .. } => true,
        });
        for address in listed {
            if !self.links.contains_key(address) {
                self.links.insert(address.clone(), Link::new(false));
            }
        }
    }

    fn dial(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        for (address, link) in &mut self.links {
            match link.state {
                State::Waiting { until } if until <= now => {
                    link.state = State::Connecting;
                    actions.push(Action::Dial {
                        address: address.clone(),
                    });
                }
                State::Waiting { .. }
                | State::Connecting
                | State::Connected { .. }
                | State::Duplicate { .. } => {}
            }
        }
        actions
    }

    /// What was last heard of each name and address that is of no use, of the first ones.
    fn failures(&self) -> Vec<String> {
        let unresolved = self.names.iter().filter_map(|(name, known)| {
            let (_, message) = known.unresolved.as_ref()?;
            Some(format!("{name} does not resolve: {message}"))
        });
        let is_empty = |known: &Name| known.unresolved.is_none() && known.addresses.is_empty();
        let empty = self.names.iter().filter(|(_, known)| is_empty(known));
        let empty = empty.map(|(name, _)| format!("{name} stands for no address"));
        let unreachable = self.links.iter().filter_map(|(address, link)| {
            let (_, message) = link.last_failure.as_ref()?;
            Some(format!("{address}: {message}"))
        });
        let mut all: Vec<String> = unresolved.chain(empty).chain(unreachable).collect();
        if let Some(more) = all.len().checked_sub(MAX_QUOTED).filter(|more| *more > 0) {
            all.truncate(MAX_QUOTED);
            all.push(format!("and {more} more"));
        }
        all
    }

    /// Why no worker has a session, as far as names and addresses tell.
    pub fn no_workers_reason(&self) -> Option<String> {
        let all = self.failures();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// Adds to a query's loss of all workers what was last heard of each name and address. If no worker was ever met
    /// but of other builds, that is the reason.
    pub fn explain(&self, failure: &mut QueryFailure) {
        if failure.reason != ErrorReason::WorkersLost {
            return;
        }
        for last_failure in self.failures() {
            failure.message.push_str("; ");
            failure.message.push_str(&last_failure);
        }
        let other_build = |link: &Link| {
            link.last_failure
                .as_ref()
                .is_some_and(|(refused, _)| *refused == Some(RefusedReason::BuildMismatch))
        };
        if !self.joined && !self.links.is_empty() && self.links.values().all(other_build) {
            failure.reason = ErrorReason::BuildMismatch;
        }
    }
}

impl Link {
    fn new(given: bool) -> Self {
        Self {
            state: State::Waiting {
                until: Instant::default(),
            },
            redial: MIN_REDIAL_BACKOFF,
            given,
            last_failure: None,
        }
    }

    fn wait(&mut self, now: Instant) {
        self.state = State::Waiting {
            until: now + self.redial,
        };
        self.redial = (self.redial * 2).min(MAX_REDIAL_BACKOFF);
    }
}

#[cfg(test)]
mod tests;
