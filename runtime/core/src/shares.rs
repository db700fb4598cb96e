//! How the queries of one worker share its memory, or its disk for spills: each is called a space here.

/// The part of a space that stays free for others while several queries use it: a query takes no more of it than its even
/// share.
const KEPT_DIVISOR: u64 = 4;
/// The part of a space that a query leaves free even while it is the only one, so that the next one can begin.
const KEPT_ALONE_DIVISOR: u64 = 8;
/// Others that hold less than this part of a space are not the reason that it is used up.
const CONTENTION_DIVISOR: u64 = 8;

/// The use of a space at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpaceUsage {
    /// All of it, bytes.
    pub limit: u64,
    /// What the query holds.
    pub own: u64,
    /// What all queries hold, this one included.
    pub all: u64,
    /// How many queries use it, this one included.
    pub queries: u64,
}

impl SpaceUsage {
    /// The most that the query may hold: its even share as far as it is free, and more as long as a part stays free.
    pub fn allowance(self) -> u64 {
        let queries = self.queries.max(1);
        let free = self.limit.saturating_sub(self.all);
        let kept = match queries {
            1 => self.limit / KEPT_ALONE_DIVISOR,
            _ => self.limit / KEPT_DIVISOR,
        };
        let even = match queries {
            1 => 0,
            _ => (self.limit / queries).min(self.own.saturating_add(free)),
        };
        let lent = self.own.saturating_add(free.saturating_sub(kept));
        // What it holds is not taken from it.
        even.max(lent).max(self.own)
    }

    /// Whether other queries are the reason that the space is used up.
    pub fn is_contended(self) -> bool {
        self.all.saturating_sub(self.own) > self.limit / CONTENTION_DIVISOR
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_has_its_even_share_and_more_while_enough_is_free() {
        // Of 800: what the query holds, what all hold, how many queries; and what the query may hold.
        for (own, all, queries, allowance) in [
            // Alone it leaves an eighth.
            (0, 0, 1, 700),
            (500, 500, 1, 700),
            (700, 700, 1, 700),
            // Beside others it leaves a quarter, unless it has less than its even share.
            (0, 0, 2, 600),
            (600, 600, 2, 600),
            (100, 500, 2, 400),
            (0, 600, 2, 200),
            (0, 700, 4, 100),
            (0, 800, 4, 0),
            (100, 700, 4, 200),
            (150, 650, 4, 200),
            (200, 300, 8, 500),
            // What it holds stays its own.
            (700, 800, 2, 700),
        ] {
            let used = SpaceUsage {
                limit: 800,
                own,
                all,
                queries,
            };
            assert_eq!(used.allowance(), allowance, "{used:?}");
        }
    }

    #[test]
    fn no_order_of_growing_passes_the_limit_or_leaves_a_newcomer_nothing() {
        let mut held = [0u64; 3];
        for turn in 0..300 {
            let query = turn % held.len();
            let used = SpaceUsage {
                limit: 800,
                own: held[query],
                all: held.iter().sum(),
                queries: held.iter().filter(|bytes| **bytes > 0).count().max(1) as u64,
            };
            held[query] = used.allowance().min(held[query] + 7);
            assert!(held.iter().sum::<u64>() <= 800, "{held:?}");
        }
        assert!(held.iter().all(|bytes| *bytes >= 200), "{held:?}");
    }

    #[test]
    fn only_use_by_others_is_contention() {
        let used = |own, all| SpaceUsage {
            limit: 800,
            own,
            all,
            queries: 2,
        };
        for (own, all, is_contended) in [
            (800, 800, false),
            (700, 800, false),
            (699, 800, true),
            (0, 800, true),
        ] {
            assert_eq!(used(own, all).is_contended(), is_contended, "{own} of {all}");
        }
    }
}
