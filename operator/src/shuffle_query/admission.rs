//! Who gets a place in a pool: by priority, then age.

use std::cmp::Reverse;

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
        }
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
