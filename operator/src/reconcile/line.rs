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
    waiting: VecDeque<K>,
    known: HashMap<K, Stand>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    Waiting,
    Running,
    Again,
}

impl<K> Default for Line<K> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            known: HashMap::new(),
        }
    }
}

impl<K: Clone + Eq + Hash> Line<K> {
    /// Puts `key` at the end, unless it waits already. What is being reconciled comes again once that has ended: never twice
    /// at the same time.
    pub fn push(&mut self, key: K) {
        match self.known.get_mut(&key) {
            None => {
                self.known.insert(key.clone(), Stand::Waiting);
                self.waiting.push_back(key);
            }
            Some(stand @ Stand::Running) => *stand = Stand::Again,
            Some(Stand::Waiting | Stand::Again) => {}
        }
    }

    /// Takes the one that waits longest; it is being reconciled until [`Self::done`].
    pub fn take(&mut self) -> Option<K> {
        let key = self.waiting.pop_front()?;
        self.known.insert(key.clone(), Stand::Running);
        Some(key)
    }

    /// The reconcile of `key` has ended.
    pub fn done(&mut self, key: &K) {
        if self.known.remove(key) == Some(Stand::Again) {
            self.push(key.clone());
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
            line.push(busy);
        }
        // A hundred that change all the time, and one in their midst that changed once.
        for turn in 0..1_000 {
            if turn == 500 {
                line.push(1_000);
            }
            let key = line.take().expect("somebody waits");
            assert!(
                key != 1_000 || turn == 600,
                "after all that waited before it: {turn}"
            );
            assert!(key == 1_000 || turn != 600, "{key} has overtaken it");
            line.push(key);
            line.done(&key);
            if key == 1_000 {
                return;
            }
        }
        panic!("it never had its turn");
    }

    #[test]
    fn nothing_waits_twice_or_runs_twice_at_a_time() {
        let mut line = Line::default();
        line.push("a");
        line.push("a");
        line.push("b");
        assert_eq!(line.take(), Some("a"));
        // It changes while it is reconciled.
        line.push("a");
        line.push("a");
        assert_eq!(line.take(), Some("b"));
        assert_eq!(line.take(), None);
        line.done(&"a");
        line.done(&"b");
        assert_eq!(line.take(), Some("a"));
        line.done(&"a");
        assert_eq!(line.take(), None);
    }
}
