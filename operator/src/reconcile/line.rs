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
    places: Places,
}

/// Where an object waits, for its reconcile and for its turn of writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// First, three times in a row at most while others wait too.
    Pressing,
    /// All others.
    Ordinary,
}

/// Pressing ones that may be taken in a row while ordinary ones wait.
const IN_A_ROW: u32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    Waiting(Lane),
    Running(Lane),
    Again(Lane),
}

/// How many may be reconciled at a time, and how many are.
struct Places {
    all: usize,
    pressing: usize,
    ordinary: usize,
}

impl Places {
    fn free(&self, lane: Lane) -> bool {
        // Ordinary ones hold their place while they wait for a turn of writing. If they held all, the pressing ones, most of
        // which have nothing to write, would get through at the rate of writes.
        let kept = self.all / 4;
        let any = self.pressing + self.ordinary < self.all;
        match lane {
            Lane::Pressing => any,
            Lane::Ordinary => any && self.ordinary < self.all - kept,
        }
    }

    fn held(&mut self, lane: Lane) -> &mut usize {
        match lane {
            Lane::Pressing => &mut self.pressing,
            Lane::Ordinary => &mut self.ordinary,
        }
    }
}

impl<K: Clone + Eq + Hash> Line<K> {
    /// Nobody waits, and so many may be reconciled at a time: three quarters of them ordinary ones.
    pub fn new(places: usize) -> Self {
        Self {
            pressing: VecDeque::new(),
            ordinary: VecDeque::new(),
            in_a_row: 0,
            known: HashMap::new(),
            places: Places {
                all: places,
                pressing: 0,
                ordinary: 0,
            },
        }
    }

    /// Puts `key` at the end of its lane, unless it waits already; one that has come to press does not wait among the ordinary
    /// ones any more. What is being reconciled comes again once that has ended: never twice at the same time.
    pub fn push(&mut self, key: K, lane: Lane) {
        match (self.known.get(&key).copied(), lane) {
            (None, _) => {}
            (Some(Stand::Waiting(Lane::Ordinary)), Lane::Pressing) => {
                self.ordinary.retain(|other| *other != key);
            }
            (Some(Stand::Running(held)), _) => {
                self.known.insert(key, Stand::Again(held));
                return;
            }
            (Some(Stand::Waiting(_) | Stand::Again(_)), _) => return,
        }
        self.known.insert(key.clone(), Stand::Waiting(lane));
        self.waiting(lane).push_back(key);
    }

    fn waiting(&mut self, lane: Lane) -> &mut VecDeque<K> {
        match lane {
            Lane::Pressing => &mut self.pressing,
            Lane::Ordinary => &mut self.ordinary,
        }
    }

    /// Takes the one that waits longest in the lane whose turn it is, if there is a place for it; it is being reconciled until
    /// [`Self::done`].
    pub fn take(&mut self) -> Option<K> {
        let lanes = if self.in_a_row < IN_A_ROW {
            [Lane::Pressing, Lane::Ordinary]
        } else {
            [Lane::Ordinary, Lane::Pressing]
        };
        for lane in lanes {
            if self.places.free(lane)
                && let Some(key) = self.waiting(lane).pop_front()
            {
                self.in_a_row = match lane {
                    Lane::Pressing => self.in_a_row.saturating_add(1),
                    Lane::Ordinary => 0,
                };
                *self.places.held(lane) += 1;
                self.known.insert(key.clone(), Stand::Running(lane));
                return Some(key);
            }
        }
        None
    }

    /// The reconcile of `key` has ended. If something changed meanwhile it waits again, in `lane`.
    pub fn done(&mut self, key: &K, lane: Lane) {
        match self.known.remove(key) {
            Some(Stand::Running(held)) => *self.places.held(held) -= 1,
            Some(Stand::Again(held)) => {
                *self.places.held(held) -= 1;
                self.push(key.clone(), lane);
            }
            // It was not taken.
            Some(Stand::Waiting(_)) | None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_overtaken_by_those_who_come_again_and_again() {
        let mut line = Line::new(1);
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

    /// Takes the next one, and ends its reconcile.
    fn serve<K: Clone + Eq + Hash>(line: &mut Line<K>) -> Option<K> {
        let key = line.take()?;
        line.done(&key, Lane::Ordinary);
        Some(key)
    }

    #[test]
    fn the_pressing_go_first_and_leave_every_fourth_turn_to_others() {
        let mut line = Line::new(1);
        for other in ["a", "b"] {
            line.push(other, Lane::Ordinary);
        }
        for pressing in ["1", "2", "3", "4", "5"] {
            line.push(pressing, Lane::Pressing);
        }
        let taken: Vec<_> = std::iter::from_fn(|| serve(&mut line)).collect();
        assert_eq!(taken, ["1", "2", "3", "a", "4", "5", "b"]);
        // Where it comes again is decided anew.
        line.push("a", Lane::Ordinary);
        assert_eq!(line.take(), Some("a"));
        line.push("b", Lane::Ordinary);
        line.push("a", Lane::Ordinary);
        line.done(&"a", Lane::Pressing);
        assert_eq!(
            [serve(&mut line), serve(&mut line), serve(&mut line)],
            [Some("a"), Some("b"), None]
        );
    }

    /// The cache is late: what has got its place is put among the ordinary ones, and then told of once more.
    #[test]
    fn what_comes_to_press_while_it_waits_goes_first() {
        let mut line = Line::new(1);
        for key in ["a", "b", "c"] {
            line.push(key, Lane::Ordinary);
        }
        line.push("c", Lane::Pressing);
        line.push("c", Lane::Ordinary);
        let taken: Vec<_> = std::iter::from_fn(|| serve(&mut line)).collect();
        assert_eq!(taken, ["c", "a", "b"]);
    }

    #[test]
    fn the_ordinary_leave_a_quarter_of_the_places_to_the_pressing() {
        for (places, ordinary) in [(1, 1), (3, 3), (4, 3), (16, 12)] {
            let mut line = Line::new(places);
            for other in 0..100 {
                line.push(other, Lane::Ordinary);
            }
            let taken: Vec<_> = std::iter::from_fn(|| line.take()).collect();
            assert_eq!(taken.len(), ordinary, "of {places} places");
        }
        let mut line = Line::new(16);
        for other in 0..100 {
            line.push(other, Lane::Ordinary);
        }
        while line.take().is_some() {}
        // However long those take, what presses gets through.
        for pressing in 100..200 {
            line.push(pressing, Lane::Pressing);
            assert_eq!(line.take(), Some(pressing));
            line.done(&pressing, Lane::Pressing);
        }
        line.push(200, Lane::Pressing);
        line.done(&0, Lane::Ordinary);
        assert_eq!(line.take(), Some(12), "and does not take their turn from them");
        // The pressing may have all places, and what has had one is not forgotten when it comes again.
        let mut line = Line::new(4);
        for pressing in 0..4 {
            line.push(pressing, Lane::Pressing);
            assert_eq!(line.take(), Some(pressing));
            line.push(pressing, Lane::Ordinary);
        }
        line.push(4, Lane::Pressing);
        assert_eq!(line.take(), None);
        line.done(&0, Lane::Ordinary);
        assert_eq!([line.take(), line.take()], [Some(0), None]);
    }

    #[test]
    fn nothing_waits_twice_or_runs_twice_at_a_time() {
        let mut line = Line::new(2);
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
