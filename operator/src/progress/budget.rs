//! How many of something there may be in a second.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

/// What a turn is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Something must be written before it is acted upon.
    Bind,
    /// Somebody may want to see it.
    Tell,
}

/// Turns at a limited rate: first come, first served, but that whoever binds goes before whoever tells. A few may come at
/// once after a pause, and are counted in.
pub struct Budget {
    /// Between two turns.
    period: Duration,
    /// Turns that may come at once.
    burst: u32,
    /// When the next turn would come if all came evenly. Whoever waits holds the lock, which is fair.
    next: Mutex<Option<Instant>>,
    /// Whoever only tells waits here, so that one of them at most stands in the way of those that bind.
    tellers: Mutex<()>,
}

impl Budget {
    /// At most `turns` in any second, at least 10: a fifth of them at once, the rest evenly.
    pub fn per_second(turns: u32) -> Self {
        let turns = turns.max(10);
        let burst = turns / 5;
        Self {
            period: Duration::from_secs(1) / (turns - burst),
            burst,
            next: Mutex::new(None),
            tellers: Mutex::new(()),
        }
    }

    /// Waits for a turn.
    pub async fn turn(&self, purpose: Purpose) {
        let _teller = match purpose {
            Purpose::Bind => None,
            Purpose::Tell => Some(self.tellers.lock().await),
        };
        let mut next = self.next.lock().await;
        let (at, following) = self.schedule(*next, Instant::now());
        sleep_until(at).await;
        *next = Some(following);
    }

    /// When the turn of somebody who asks `now` comes, and the next value of `next`.
    fn schedule(&self, next: Option<Instant>, now: Instant) -> (Instant, Instant) {
        let due = next.map_or(now, |due| due.max(now));
        // The last of a burst is due `burst - 1` periods from now and may come now.
        let early = self.period.saturating_mul(self.burst.saturating_sub(1));
        let at = due.checked_sub(early).map_or(now, |at| at.max(now));
        (at, due + self.period)
    }
}

#[cfg(test)]
mod tests {
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
        // Nor are they held back for nothing: 40 a second, and twice what may come at once.
        let waited = now - start - Duration::from_secs(30);
        assert!(waited < Duration::from_secs(10), "{waited:?}");
    }

    #[tokio::test]
    async fn whoever_binds_goes_before_whoever_tells() {
        let budget = Budget::per_second(50);
        let order = std::sync::Mutex::new(Vec::new());
        let take = async |purpose| {
            budget.turn(purpose).await;
            order.lock().unwrap().push(purpose);
        };
        let tellers = (0..20).map(|_| take(Purpose::Tell));
        let binders = (0..20).map(|_| take(Purpose::Bind));
        futures::future::join(
            futures::future::join_all(tellers),
            futures::future::join_all(binders),
        )
        .await;
        let order = order.into_inner().unwrap();
        let last = order.iter().rposition(|purpose| *purpose == Purpose::Bind);
        // Two that told at once after the pause, and one that stood before them.
        assert!(last < Some(24), "{order:?}");
        assert_eq!(order.len(), 40);
    }
}
