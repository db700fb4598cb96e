//! How many of something there may be in a second.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use crate::reconcile::Lane;

/// Turns at a limited rate. A few may come at once after a pause, and are counted in.
///
/// First come, first served, and of the ordinary lane only the first is among those that are served:
///
/// ```text
/// ordinary: 3 2 --> 1 --.
///                       v
/// pressing: ----------> d c 1 b a --> a turn
/// ```
///
/// So a pressing one waits for those that were pressing before it and for one ordinary one, and while both wait without end
/// an ordinary one has its turn whenever all that were pressing before it have had theirs.
pub struct Budget {
    /// Between two turns.
    period: Duration,
    /// The first of the ordinary lane holds it. As all locks here, whoever asks first gets it first.
    ordinary: Mutex<()>,
    /// When the next turn would come if all came evenly. Whoever's turn is next holds the lock.
    next: Mutex<Option<Instant>>,
}

/// Turns that may come at once: what is due while the operator waits for a processor is not lost.
const BURST: u32 = 3;

impl Budget {
    /// At most `turns` in any second, at least 10: three of them at once, the rest evenly.
    pub fn per_second(turns: u32) -> Self {
        let evenly = turns.max(10) - BURST;
        Self {
            period: Duration::from_secs(1) / evenly,
            ordinary: Mutex::default(),
            next: Mutex::default(),
        }
    }

    /// Waits for a turn.
    pub async fn turn(&self, lane: Lane) {
        let _first = match lane {
            Lane::Pressing => None,
            Lane::Ordinary => Some(self.ordinary.lock().await),
        };
        let mut next = self.next.lock().await;
        let (at, following) = self.schedule(*next, Instant::now());
        sleep_until(at).await;
        *next = Some(following);
    }

    /// Takes a turn that nobody needs: whether nobody waits for one, and none was taken in advance.
    pub fn spare(&self) -> bool {
        self.spare_at(Instant::now())
    }

    fn spare_at(&self, now: Instant) -> bool {
        let Ok(mut next) = self.next.try_lock() else {
            return false;
        };
        if next.is_some_and(|due| due > now) {
            return false;
        }
        *next = Some(now + self.period);
        true
    }

    /// When the turn of somebody who asks `now` comes, and the next value of `next`.
    fn schedule(&self, next: Option<Instant>, now: Instant) -> (Instant, Instant) {
        let due = next.map_or(now, |due| due.max(now));
        // The last of a burst is due `burst - 1` periods from now and may come now.
        let early = self.period.saturating_mul(BURST - 1);
        let at = due.checked_sub(early).map_or(now, |at| at.max(now));
        (at, due + self.period)
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;

    use super::*;

    #[test]
    fn no_second_has_more_than_its_turns() {
        let budget = Budget::per_second(50);
        let start = Instant::now();
        let (mut now, mut next) = (start, None);
        let mut taken = Vec::new();
        for turn in 0..400 {
            if turn == 200 {
                now += Duration::from_secs(30);
            }
            let (at, following) = budget.schedule(next, now);
            (now, next) = (at, Some(following));
            taken.push(at - start);
        }
        for from in &taken {
            let second = *from..*from + Duration::from_secs(1);
            let count = taken.iter().filter(|at| second.contains(at)).count();
            assert!(count <= 50, "{count} turns in the second from {from:?}");
        }
        // Nor are they held back for nothing: 47 a second, and twice what may come at once.
        let waited = now - start - Duration::from_secs(30);
        assert!(waited < Duration::from_millis(8_500), "{waited:?}");
    }

    #[tokio::test]
    async fn a_pressing_one_waits_for_one_ordinary_one_and_no_lane_is_passed_over() {
        let budget = Budget::per_second(50);
        // All that may come at once has come.
        for _ in 0..BURST {
            budget.turn(Lane::Pressing).await;
        }
        for (asked, served) in [
            ("o1 o2 o3 p1 p2 p3", "o1 p1 p2 p3 o2 o3"),
            ("p1 p2 o1 p3 o2 p4", "p1 p2 o1 p3 p4 o2"),
            ("o1 o2 o3", "o1 o2 o3"),
        ] {
            let order = std::sync::Mutex::new(Vec::new());
            let all = asked.split(' ').map(async |name| {
                let pressing = name.starts_with('p');
                let lane = if pressing { Lane::Pressing } else { Lane::Ordinary };
                budget.turn(lane).await;
                order.lock().unwrap().push(name);
            });
            join_all(all).await;
            assert_eq!(order.into_inner().unwrap().join(" "), served, "{asked}");
        }
    }

    #[tokio::test]
    async fn a_turn_is_spare_while_nobody_needs_it() {
        let budget = Budget::per_second(50);
        let now = Instant::now();
        assert!(budget.spare_at(now), "nobody has had one");
        assert!(!budget.spare_at(now), "the next is not due");
        assert!(budget.spare_at(now + budget.period));
        let later = now + Duration::from_secs(10);
        let (waits, following) = (budget.next.lock().await, later + budget.period);
        assert!(!budget.spare_at(later), "somebody waits");
        drop(waits);
        *budget.next.lock().await = Some(following);
        assert!(!budget.spare_at(later), "one came early, and is counted in");
        assert!(budget.spare_at(following));
    }
}
