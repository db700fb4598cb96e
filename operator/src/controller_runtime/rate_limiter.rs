//! A rate limiter with two priorities.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use super::work_queue::Priority;

/// Permits at a limited rate. After a pause a short burst is allowed; it counts toward the rate.
///
/// Permits are given first come, first served. Only the first normal caller competes with the high-priority ones:
///
/// ```text
/// normal: 3 2 --> 1 --.
///                     v
/// high:   ----------> d c 1 b a --> a permit
/// ```
///
/// A high-priority caller waits for earlier high-priority callers and at most one normal caller. Neither class starves.
pub struct RateLimiter {
    /// Between two permits.
    period: Duration,
    /// The first normal caller holds it. Tokio's locks are fair: first come, first served.
    normal: Mutex<()>,
    /// When the next permit is due at an even rate. The caller that is next holds the lock.
    next: Mutex<Option<Instant>>,
}

/// Permits that may come at once, so that those due while the operator waits for a processor are not lost.
const BURST: u32 = 3;

impl RateLimiter {
    /// At most `permits` in any second, at least 10: three of them at once, the rest evenly.
    pub fn per_second(permits: u32) -> Self {
        let evenly = permits.max(10) - BURST;
        Self {
            period: Duration::from_secs(1) / evenly,
            normal: Mutex::default(),
            next: Mutex::default(),
        }
    }

    /// Waits for a permit.
    pub async fn acquire(&self, priority: Priority) {
        let _first = match priority {
            Priority::High => None,
            Priority::Normal => Some(self.normal.lock().await),
        };
        let mut next = self.next.lock().await;
        let (at, following) = self.schedule(*next, Instant::now());
        sleep_until(at).await;
        *next = Some(following);
    }

    /// Takes a permit if one is due and no caller waits; false otherwise.
    pub fn try_acquire(&self) -> bool {
        self.try_acquire_at(Instant::now())
    }

    fn try_acquire_at(&self, now: Instant) -> bool {
        let Ok(mut next) = self.next.try_lock() else {
            return false;
        };
        if next.is_some_and(|due| due > now) {
            return false;
        }
        *next = Some(now + self.period);
        true
    }

    /// When a caller that asks `now` gets its permit, and the next value of `next`.
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
    fn no_second_has_more_permits_than_the_rate() {
        let limiter = RateLimiter::per_second(50);
        let start = Instant::now();
        let (mut now, mut next) = (start, None);
        let mut taken = Vec::new();
        for count in 0..400 {
            if count == 200 {
                now += Duration::from_secs(30);
            }
            let (at, following) = limiter.schedule(next, now);
            (now, next) = (at, Some(following));
            taken.push(at - start);
        }
        for from in &taken {
            let second = *from..*from + Duration::from_secs(1);
            let count = taken.iter().filter(|at| second.contains(at)).count();
            assert!(count <= 50, "{count} permits in the second from {from:?}");
        }
        // The rate is used: 47 a second, and twice the burst.
        let waited = now - start - Duration::from_secs(30);
        assert!(waited < Duration::from_millis(8_500), "{waited:?}");
    }

    #[tokio::test]
    async fn high_priority_waits_for_one_normal_caller_and_neither_class_starves() {
        let limiter = RateLimiter::per_second(50);
        // The burst is used up.
        for _ in 0..BURST {
            limiter.acquire(Priority::High).await;
        }
        for (asked, served) in [
            ("n1 n2 n3 h1 h2 h3", "n1 h1 h2 h3 n2 n3"),
            ("h1 h2 n1 h3 n2 h4", "h1 h2 n1 h3 h4 n2"),
            ("n1 n2 n3", "n1 n2 n3"),
        ] {
            let order = std::sync::Mutex::new(Vec::new());
            let all = asked.split(' ').map(async |name| {
                let high = name.starts_with('h');
                let priority = if high { Priority::High } else { Priority::Normal };
                limiter.acquire(priority).await;
                order.lock().unwrap().push(name);
            });
            join_all(all).await;
            assert_eq!(order.into_inner().unwrap().join(" "), served, "{asked}");
        }
    }

    #[tokio::test]
    async fn a_permit_is_given_at_once_only_where_it_is_due_and_nobody_waits() {
        let limiter = RateLimiter::per_second(50);
        let now = Instant::now();
        assert!(limiter.try_acquire_at(now), "none was given");
        assert!(!limiter.try_acquire_at(now), "the next is not due");
        assert!(limiter.try_acquire_at(now + limiter.period));
        let later = now + Duration::from_secs(10);
        let (waits, following) = (limiter.next.lock().await, later + limiter.period);
        assert!(!limiter.try_acquire_at(later), "a caller waits");
        drop(waits);
        *limiter.next.lock().await = Some(following);
        assert!(!limiter.try_acquire_at(later), "one was given early, and counts");
        assert!(limiter.try_acquire_at(following));
    }
}
