//! Who gets a place in a pool: by priority, then age.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use jiff::Timestamp;

/// A query that runs in a pool or waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its unique id.
    pub uid: String,
    /// Its name.
    pub name: String,
    /// Higher is first.
    pub priority: i32,
    /// When it was submitted.
    pub created: Timestamp,
    /// Whether it has its place.
    pub admitted: bool,
    /// Whether something of its own keeps it from taking one, so that it must not keep others from it.
    pub blocked: bool,
    /// Its pool.
    pub pool: String,
    /// Slots that the pool has at most.
    pub slots: u32,
    /// What it waits for, of what concerns the quota of its namespace.
    pub hold: Hold,
}

/// Why a query has no place, as far as a quota matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Nothing that is known.
    Nothing,
    /// The quota of its namespace.
    Quota,
    /// Something that the quota's end would not change, such as its pool.
    Other,
}

/// What an operator grants each namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Queries with a place.
    pub queries: Option<u32>,
    /// Slots of the pools in which these are.
    pub slots: Option<u32>,
}

impl Quota {
    /// Whether there is any.
    pub const fn is_set(self) -> bool {
        self.queries.is_some() || self.slots.is_some()
    }
}

/// Whether a query may take a place now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// One is free, and it is this query's turn.
    Free,
    /// This many of the waiting ones are before it, and no place is left for it.
    Waiting {
        /// Queries that are before it.
        ahead: usize,
        /// Queries with a place.
        running: usize,
    },
}

/// The order in which waiting queries get their places. Names are unique in a namespace, which settles ties.
fn rank(candidate: &Candidate) -> (Reverse<i32>, Timestamp, &str) {
    (
        Reverse(candidate.priority),
        candidate.created,
        candidate.name.as_str(),
    )
}

/// Whether `query` may take one of the pool's `places`. `all` are the queries of the pool that have not ended; `query`
/// may be among them.
pub fn place(query: &Candidate, all: &[Candidate], places: u32) -> Place {
    let others = || all.iter().filter(|other| other.uid != query.uid);
    let running = others().filter(|other| other.admitted).count();
    let waiting = others().filter(|other| !other.admitted && !other.blocked);
    let ahead = waiting.filter(|other| rank(other) < rank(query)).count();
    let places = usize::try_from(places).unwrap_or(usize::MAX);
    if running.saturating_add(ahead) < places {
        return Place::Free;
    }
    Place::Waiting { ahead, running }
}

/// Why `query` may not have a place under the `quota` of its namespace, whose queries `all` are; `None` if it may. A query
/// that has waited for the quota longer, or is more important, goes first; one that waits for something else is in nobody's
/// way, nor is one that the quota can never hold.
pub fn beyond_quota(query: &Candidate, all: &[Candidate], quota: Quota) -> Option<String> {
    let most_slots = quota.slots.unwrap_or(u32::MAX);
    let goes_first = |other: &Candidate| {
        let waits = match other.hold {
            Hold::Nothing | Hold::Quota => !other.blocked,
            Hold::Other => false,
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

/// The queries that wait for the quota of their namespace, first ones first.
pub fn next_of_quota(all: &[Candidate]) -> Vec<&Candidate> {
    let waits = |candidate: &&Candidate| !candidate.admitted && candidate.hold == Hold::Quota;
    let mut waiting: Vec<_> = all.iter().filter(waits).collect();
    waiting.sort_by(|one, other| rank(one).cmp(&rank(other)));
    waiting
}

/// The waiting queries that `places` have room for, first ones first: who should look again when a place became free.
pub fn next(all: &[Candidate], places: u32) -> Vec<&Candidate> {
    let running = all.iter().filter(|candidate| candidate.admitted).count();
    let free = usize::try_from(places)
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
            hold: Hold::Nothing,
        }
    }

    fn with(mut candidate: Candidate, pool: &str, slots: u32, hold: Hold) -> Candidate {
        (candidate.pool, candidate.slots, candidate.hold) = (pool.to_owned(), slots, hold);
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
            with(candidate("first", 5, 9, false), "p", 4, Hold::Quota),
            with(candidate("second", 0, 2, false), "q", 4, Hold::Nothing),
            // Its pool is full: the quota is not what it waits for.
            with(candidate("elsewhere", 9, 1, false), "full", 4, Hold::Other),
        ];
        let admitted = |most| {
            let may = all[1..3].iter();
            let may = may.filter(|query| beyond_quota(query, &all, quota(most)).is_none());
            may.map(|query| query.name.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(admitted(1), [""; 0]);
        assert_eq!(admitted(2), ["first"]);
        assert_eq!(admitted(3), ["first", "second"]);
        assert_eq!(
            beyond_quota(&all[2], &all, quota(2)).unwrap(),
            "1 queries run in this namespace, which may have 2, and 1 wait before this one"
        );
        assert_eq!(beyond_quota(&all[2], &all, Quota::default()), None);
        let next: Vec<_> = next_of_quota(&all).iter().map(|query| &query.name).collect();
        assert_eq!(next, ["first"]);
    }

    #[test]
    fn a_namespace_uses_as_many_slots_of_pools_as_it_is_granted() {
        let quota = Quota {
            queries: None,
            slots: Some(10),
        };
        let all = [
            with(candidate("runs", 0, 1, true), "a", 6, Hold::Nothing),
            with(candidate("too-large", 9, 1, false), "huge", 11, Hold::Quota),
            with(candidate("same-pool", 0, 2, false), "a", 6, Hold::Quota),
            with(candidate("fits", 0, 3, false), "b", 4, Hold::Quota),
            with(candidate("waits", 0, 4, false), "c", 1, Hold::Quota),
        ];
        let why = |name: &str| {
            let query = all.iter().find(|query| query.name == name).unwrap();
            beyond_quota(query, &all, quota)
        };
        assert!(why("too-large").unwrap().contains("make the pool smaller"));
        assert_eq!(why("same-pool"), None, "its pool is in use anyway");
        assert_eq!(why("fits"), None);
        assert_eq!(
            why("waits").unwrap(),
            "pool c has up to 1 slots, and queries of other pools use 10 of the 10 that this namespace may use"
        );
    }

    fn admitted(all: &[Candidate], places: u32) -> Vec<&str> {
        let free = all
            .iter()
            .filter(|query| !query.admitted && place(query, all, places) == Place::Free);
        free.map(|query| query.name.as_str()).collect()
    }

    #[test]
    fn priority_counts_then_age_then_the_name() {
        let all = [
            candidate("old", 0, 1, false),
            candidate("young", 0, 9, false),
            candidate("important", 5, 8, false),
            candidate("meek", -1, 0, false),
            candidate("old-too", 0, 1, false),
        ];
        for (places, expected) in [
            (0, vec![]),
            (1, vec!["important"]),
            (2, vec!["old", "important"]),
            (3, vec!["old", "important", "old-too"]),
            (4, vec!["old", "young", "important", "old-too"]),
            (5, vec!["old", "young", "important", "meek", "old-too"]),
        ] {
            assert_eq!(admitted(&all, places), expected, "{places} places");
            let mut woken: Vec<_> = next(&all, places)
                .iter()
                .map(|query| query.name.as_str())
                .collect();
            woken.sort_unstable();
            let mut expected = expected;
            expected.sort_unstable();
            assert_eq!(woken, expected, "{places} places");
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
        let last = place(&all[3], &all, 2);
        assert_eq!(last, Place::Waiting { ahead: 1, running: 1 });
        let woken: Vec<_> = next(&all, 2).iter().map(|query| query.name.as_str()).collect();
        assert_eq!(woken, ["waits"]);
    }
}
