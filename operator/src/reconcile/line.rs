//! Who is reconciled next: whoever waits longest.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// Objects that wait for their reconcile, or are in it.
///
/// ```text
/// (unknown) --> Waiting --> Running --> (unknown)
///                  ^           |
///                  `-- Again <-'      something changed meanwhile
/// ```
pub struct Line<K> {
    pressing: VecDeque<K>,
    ordinary: VecDeque<K>,
    /// Pressing ones taken in a row.
    in_a_row: u32,
    known: HashMap<K, Stand>,
}

/// Where an object waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Taken first, three times in a row at most while others wait too.
    Pressing,
    /// All others.
    Ordinary,
}

/// Pressing ones that may be taken in a row while ordinary ones wait.
const IN_A_ROW: u32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    Waiting,
    Running,
    Again,
}

impl<K> Default for Line<K> {
    fn default() -> Self {
        Self {
            pressing: VecDeque::new(),
            ordinary: VecDeque::new(),
            in_a_row: 0,
            known: HashMap::new(),
        }
    }
}

impl<K: Clone + Eq + Hash> Line<K> {
    /// Puts `key` at the end of its lane, unless it waits already. What is being reconciled comes again once that has ended:
    /// never twice at the same time.
    pub fn push(&mut self, key: K, lane: Lane) {
        match self.known.get_mut(&key) {
            None => {
                self.known.insert(key.clone(), Stand::Waiting);
                match lane {
                    Lane::Pressing => self.pressing.push_back(key),
                    Lane::Ordinary => self.ordinary.push_back(key),
                }
            }
            Some(stand @ Stand::Running) => *stand = Stand::Again,
            Some(Stand::Waiting | Stand::Again) => {}
        }
    }

    /// Takes the one that waits longest in the lane whose turn it is; it is being reconciled until [`Self::done`].
    pub fn take(&mut self) -> Option<K> {
        let pressing_first = self.in_a_row < IN_A_ROW || self.ordinary.is_empty();
        let pressing = pressing_first.then(|| self.pressing.pop_front()).flatten();
        let key = match pressing {
            Some(key) => {
                self.in_a_row = self.in_a_row.saturating_add(1);
                key
            }
            None => {
                self.in_a_row = 0;
                self.ordinary.pop_front()?
            }
        };
        self.known.insert(key.clone(), Stand::Running);
        Some(key)
    }

    /// The reconcile of `key` has ended. If something changed meanwhile it waits again, in `lane`.
    pub fn done(&mut self, key: &K, lane: Lane) {
        if self.known.remove(key) == Some(Stand::Again) {
            self.push(key.clone(), lane);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_overtaken_by_those_who_come_again_and_again() {
        let mut line = Line::default();
        for busy in 0..100 {
            line.push(busy, Lane::Ordinary);
        }
        // A hundred that change all the time, and one in their midst that changed once.
        for turn in 0..1_000 {
            if turn == 500 {
                line.push(1_000, Lane::Ordinary);
            }
            let key = line.take().expect("somebody waits");
            assert!(
                key != 1_000 || turn == 600,
                "after all that waited before it: {turn}"
            );
            assert!(key == 1_000 || turn != 600, "{key} has overtaken it");
            line.push(key, Lane::Ordinary);
            line.done(&key, Lane::Ordinary);
            if key == 1_000 {
                return;
            }
        }
        panic!("it never had its turn");
    }

    #[test]
    fn the_pressing_go_first_and_leave_every_fourth_turn_to_others() {
        let mut line = Line::default();
        for other in ["a", "b"] {
            line.push(other, Lane::Ordinary);
        }
        for pressing in ["1", "2", "3", "4", "5"] {
            line.push(pressing, Lane::Pressing);
        }
        let taken: Vec<_> = std::iter::from_fn(|| line.take()).collect();
        assert_eq!(taken, ["1", "2", "3", "a", "4", "5", "b"]);
        // Where it comes again is decided anew.
        line.push("a", Lane::Ordinary);
        line.push("b", Lane::Ordinary);
        line.done(&"b", Lane::Ordinary);
        line.done(&"a", Lane::Pressing);
        assert_eq!(
            [line.take(), line.take(), line.take()],
            [Some("a"), Some("b"), None]
        );
    }

    #[test]
    fn nothing_waits_twice_or_runs_twice_at_a_time() {
        let mut line = Line::default();
        line.push("a", Lane::Ordinary);
        line.push("a", Lane::Ordinary);
        line.push("b", Lane::Ordinary);
        assert_eq!(line.take(), Some("a"));
        // It changes while it is reconciled.
        line.push("a", Lane::Ordinary);
        line.push("a", Lane::Ordinary);
        assert_eq!(line.take(), Some("b"));
        assert_eq!(line.take(), None);
        line.done(&"a", Lane::Ordinary);
        line.done(&"b", Lane::Ordinary);
        assert_eq!(line.take(), Some("a"));
        line.done(&"a", Lane::Ordinary);
        assert_eq!(line.take(), None);
    }
}
