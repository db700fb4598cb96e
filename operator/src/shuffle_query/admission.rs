//! The admission of queries to a pool: by priority, then age.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::config::Quota;

/// A query that is admitted to a pool or waits for admission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub uid: String,
    pub name: String,
    /// Higher goes first.
    pub priority: i32,
    pub created: Timestamp,
    pub admitted: bool,
    /// Whether it cannot be admitted now for a cause of its own. It then holds back no other query.
    pub blocked: bool,
    pub pool: String,
    /// Most slots of the pool.
    pub slots: u32,
    pub waits_for: WaitsFor,
}

/// What a query waits for, as far as the quota of its namespace is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitsFor {
    Unknown,
    Quota,
    /// Something else, such as its pool.
    Other,
}

/// Whether a query may be admitted now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    Granted,
    /// The pool is full, or other queries go first.
    Queued {
        /// Waiting queries that go first.
        ahead: usize,
        /// Admitted queries.
        running: usize,
    },
    /// As many coordinators start as may start at the same time. The query asks again after this time.
    Delayed(Duration),
}

/// The place of a query in the order of admission: priority, creation, name.
pub type Rank = (Reverse<i32>, Timestamp, String);

/// The order of admission. Names are unique in a namespace, which settles ties.
fn rank(candidate: &Candidate) -> (Reverse<i32>, Timestamp, &str) {
    (
        Reverse(candidate.priority),
        candidate.created,
        candidate.name.as_str(),
    )
}

impl Candidate {
    /// Its place in the order of admission.
    pub fn rank(&self) -> Rank {
        let (priority, created, name) = rank(self);
        (priority, created, name.to_owned())
    }
}

/// Whether `query` may be admitted to a pool that runs at most `limit` queries. `all` are the queries of the pool that have not
/// ended; `query` may be among them.
pub fn admission(query: &Candidate, all: &[Candidate], limit: u32) -> Admission {
    let others = || all.iter().filter(|other| other.uid != query.uid);
    let running = others().filter(|other| other.admitted).count();
    let waiting = others().filter(|other| !other.admitted && !other.blocked);
    let ahead = waiting.filter(|other| rank(other) < rank(query)).count();
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if running.saturating_add(ahead) < limit {
        return Admission::Granted;
    }
    Admission::Queued { ahead, running }
}

/// Why the `quota` of its namespace keeps `query` from admission; `None` if it does not. `all` are the queries of the namespace.
/// Among those that wait for the quota, priority and then age decide. A query that waits for something else, or that the quota
/// can never hold, holds back no other.
pub fn quota_violation(query: &Candidate, all: &[Candidate], quota: Quota) -> Option<String> {
    let most_slots = quota.slots.unwrap_or(u32::MAX);
    let goes_first = |other: &Candidate| {
        let waits = match other.waits_for {
            WaitsFor::Unknown | WaitsFor::Quota => !other.blocked,
            WaitsFor::Other => false,
        };
        waits && other.slots <= most_slots && rank(other) < rank(query)
    };
    let others = all.iter().filter(|other| other.uid != query.uid);
    let others: Vec<_> = others
        .filter(|other| other.admitted || goes_first(other))
        .collect();
    if let Some(most) = quota.queries
        && others.len() >= usize::try_from(most).unwrap_or(usize::MAX)
    {
        let running = others.iter().filter(|other| other.admitted).count();
        let ahead = others.len() - running;
        return Some(format!(
            "{running} queries run in this namespace, which may have {most}, and {ahead} wait before this one"
        ));
    }
    let most = quota.slots?;
    let (pool, slots) = (&query.pool, query.slots);
    if slots > most {
        return Some(format!(
            "pool {pool} has up to {slots} slots, and this namespace may use {most}: make the pool smaller"
        ));
    }
    let in_use: BTreeMap<_, _> = others.iter().map(|other| (&other.pool, other.slots)).collect();
    let in_use = in_use.iter().filter(|(name, _)| **name != pool);
    let used = in_use.fold(0u32, |sum, (_, slots)| sum.saturating_add(*slots));
    (used.saturating_add(slots) > most).then(|| {
        format!(
            "pool {pool} has up to {slots} slots, and queries of other pools use {used} of the {most} that this namespace may \
             use"
        )
    })
}

/// The queries that wait for the quota of their namespace, in order of admission.
pub fn next_waiting_for_quota(all: &[Candidate]) -> Vec<&Candidate> {
    let waits = |candidate: &&Candidate| !candidate.admitted && candidate.waits_for == WaitsFor::Quota;
    let mut waiting: Vec<_> = all.iter().filter(waits).collect();
    waiting.sort_by(|one, other| rank(one).cmp(&rank(other)));
    waiting
}

/// The waiting queries that a pool with this `limit` has room for, in order of admission.
pub fn next(all: &[Candidate], limit: u32) -> Vec<&Candidate> {
    let running = all.iter().filter(|candidate| candidate.admitted).count();
    let free = usize::try_from(limit)
        .unwrap_or(usize::MAX)
        .saturating_sub(running);
    let mut waiting: Vec<_> = all
        .iter()
        .filter(|candidate| !candidate.admitted && !candidate.blocked)
        .collect();
    waiting.sort_by(|one, other| rank(one).cmp(&rank(other)));
    waiting.truncate(free);
    waiting
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(name: &str, priority: i32, second: i64, admitted: bool) -> Candidate {
        Candidate {
            uid: name.to_owned(),
            name: name.to_owned(),
            priority,
            created: Timestamp::from_second(second).unwrap(),
            admitted,
            blocked: false,
            pool: "p".to_owned(),
            slots: 4,
            waits_for: WaitsFor::Unknown,
        }
    }

    fn with(mut candidate: Candidate, pool: &str, slots: u32, waits_for: WaitsFor) -> Candidate {
        (candidate.pool, candidate.slots, candidate.waits_for) = (pool.to_owned(), slots, waits_for);
        candidate
    }

    #[test]
    fn a_namespace_has_as_many_queries_as_it_is_granted() {
        let quota = |queries| Quota {
            queries: Some(queries),
            slots: None,
        };
        let all = [
            candidate("runs", 0, 1, true),
            with(candidate("first", 5, 9, false), "p", 4, WaitsFor::Quota),
            with(candidate("second", 0, 2, false), "q", 4, WaitsFor::Unknown),
            // Its pool is full: it does not wait for the quota.
            with(candidate("elsewhere", 9, 1, false), "full", 4, WaitsFor::Other),
        ];
        let admitted = |most| {
            let may = all[1..3].iter();
            let may = may.filter(|query| quota_violation(query, &all, quota(most)).is_none());
            may.map(|query| query.name.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(admitted(1), [""; 0]);
        assert_eq!(admitted(2), ["first"]);
        assert_eq!(admitted(3), ["first", "second"]);
        assert_eq!(
            quota_violation(&all[2], &all, quota(2)).unwrap(),
            "1 queries run in this namespace, which may have 2, and 1 wait before this one"
        );
        assert_eq!(quota_violation(&all[2], &all, Quota::default()), None);
        let next: Vec<_> = next_waiting_for_quota(&all)
            .iter()
            .map(|query| &query.name)
            .collect();
        assert_eq!(next, ["first"]);
    }

    #[test]
    fn a_namespace_uses_as_many_slots_of_pools_as_it_is_granted() {
        let quota = Quota {
            queries: None,
            slots: Some(10),
        };
        let all = [
            with(candidate("runs", 0, 1, true), "a", 6, WaitsFor::Unknown),
            with(candidate("too-large", 9, 1, false), "huge", 11, WaitsFor::Quota),
            with(candidate("same-pool", 0, 2, false), "a", 6, WaitsFor::Quota),
            with(candidate("fits", 0, 3, false), "b", 4, WaitsFor::Quota),
            with(candidate("waits", 0, 4, false), "c", 1, WaitsFor::Quota),
        ];
        let why = |name: &str| {
            let query = all.iter().find(|query| query.name == name).unwrap();
            quota_violation(query, &all, quota)
        };
        assert!(why("too-large").unwrap().contains("make the pool smaller"));
        assert_eq!(why("same-pool"), None, "its pool is in use anyway");
        assert_eq!(why("fits"), None);
        assert_eq!(
            why("waits").unwrap(),
            "pool c has up to 1 slots, and queries of other pools use 10 of the 10 that this namespace may use"
        );
    }

    fn admitted(all: &[Candidate], limit: u32) -> Vec<&str> {
        let free = all
            .iter()
            .filter(|query| !query.admitted && admission(query, all, limit) == Admission::Granted);
        free.map(|query| query.name.as_str()).collect()
    }

    #[test]
    fn admission_is_by_priority_then_age_then_name() {
        let all = [
            candidate("old", 0, 1, false),
            candidate("young", 0, 9, false),
            candidate("important", 5, 8, false),
            candidate("meek", -1, 0, false),
            candidate("old-too", 0, 1, false),
        ];
        for (limit, expected) in [
            (0, vec![]),
            (1, vec!["important"]),
            (2, vec!["old", "important"]),
            (3, vec!["old", "important", "old-too"]),
            (4, vec!["old", "young", "important", "old-too"]),
            (5, vec!["old", "young", "important", "meek", "old-too"]),
        ] {
            assert_eq!(admitted(&all, limit), expected, "at most {limit}");
            let mut woken: Vec<_> = next(&all, limit)
                .iter()
                .map(|query| query.name.as_str())
                .collect();
            woken.sort_unstable();
            let mut expected = expected;
            expected.sort_unstable();
            assert_eq!(woken, expected, "at most {limit}");
        }
    }

    #[test]
    fn running_queries_take_places_and_blocked_ones_keep_none() {
        let mut all = vec![
            candidate("runs", 0, 1, true),
            candidate("blocked", 9, 1, false),
            candidate("waits", 0, 2, false),
            candidate("waits-too", 0, 3, false),
        ];
        all[1].blocked = true;
        assert_eq!(admitted(&all, 2), ["blocked", "waits"]);
        let last = admission(&all[3], &all, 2);
        assert_eq!(last, Admission::Queued { ahead: 1, running: 1 });
        let woken: Vec<_> = next(&all, 2).iter().map(|query| query.name.as_str()).collect();
        assert_eq!(woken, ["waits"]);
    }
}
