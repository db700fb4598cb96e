//! How many of something there may be in a second.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

/// Turns at a limited rate: first come, first served. A few may come at once after a pause, and are counted in.
pub struct Budget {
    /// Between two turns.
    period: Duration,
    /// Turns that may come at once.
    burst: u32,
    /// When the next turn would come if all came evenly. Whoever waits holds the lock, which is fair.
    next: Mutex<Option<Instant>>,
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
        }
    }

    /// Waits for a turn.
    pub async fn turn(&self) {
        let mut next = self.next.lock().await;
        let now = Instant::now();
        let due = next.map_or(now, |due| due.max(now));
        // The last of a burst is due `burst - 1` periods from now and may come now.
        let early = self.period.saturating_mul(self.burst.saturating_sub(1));
        if let Some(wait_until) = due.checked_sub(early).filter(|at| *at > now) {
            sleep_until(wait_until).await;
        }
        *next = Some(due + self.period);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_second_has_more_than_its_turns() {
        let budget = Budget::per_second(50);
        let start = Instant::now();
        let mut taken = Vec::new();
        for turn in 0..400 {
            if turn == 200 {
                tokio::time::sleep(Duration::from_secs(30)).await;
            }
            budget.turn().await;
            taken.push(start.elapsed());
        }
        for from in &taken {
            let second = *from..*from + Duration::from_secs(1);
            let count = taken.iter().filter(|at| second.contains(at)).count();
            assert!(count <= 50, "{count} turns in the second from {from:?}");
        }
        // Nor are they held back for nothing: 40 a second and what may come at once, twice.
        let waited = start.elapsed() - Duration::from_secs(30);
        assert!(waited < Duration::from_secs(10), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_came_first_is_served_first() {
        let budget = Arc::new(Budget::per_second(10));
        let order = Arc::new(std::sync::Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for number in 0..40 {
            let (budget, order) = (budget.clone(), order.clone());
            tasks.push(tokio::spawn(async move {
                budget.turn().await;
                order.lock().unwrap().push(number);
            }));
            tokio::task::yield_now().await;
        }
        for task in tasks {
            task.await.unwrap();
        }
        let order = order.lock().unwrap();
        assert!(order.is_sorted(), "{order:?}");
    }
}
