//! Whether an attempt makes progress: operators may compute for a long time without a row.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

thread_local! {
    /// The system's id of this thread; 0 if unknown.
    static THREAD: u32 = thread_number();
}

/// The activity of an attempt, as others see it.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// How often the attempt was polled.
    calls: AtomicU64,
    /// The thread that polls it now; 0 if none does.
    thread: AtomicU32,
}

impl Activity {
    /// Runs the work and records polls and threads.
    pub(super) async fn watch<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|context| {
            self.calls.fetch_add(1, Ordering::Relaxed);
            self.thread
                .store(THREAD.with(|thread| *thread), Ordering::Relaxed);
            let polled = work.as_mut().poll(context);
            self.thread.store(0, Ordering::Relaxed);
            polled
        })
        .await
    }

    /// A number that changes while the attempt works: with each poll, and during one while its thread gets CPU time. A
    /// thread that waits for an unresponsive file system gets none.
    pub(super) fn now(&self) -> u64 {
        let calls = self.calls.load(Ordering::Relaxed);
        let ticks = match self.thread.load(Ordering::Relaxed) {
            0 => 0,
            thread => processor_ticks(thread),
        };
        calls.wrapping_add(ticks)
    }
}

fn thread_number() -> u32 {
    // `<process>/task/<thread>`
    let link = std::fs::read_link("/proc/thread-self").unwrap_or_default();
    let number = link.file_name().and_then(|name| name.to_str()?.parse().ok());
    number.unwrap_or(0)
}

/// The CPU time of a thread of this process, in clock ticks.
fn processor_ticks(thread: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap_or_default();
    // The name, in parentheses, may contain anything. After it follow the state and numbers.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let times = after_name.split_whitespace().skip(11).take(2);
    times.filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};
    use std::time::{Duration, Instant};

    use super::*;

    /// How the number of an attempt moves while it does this, once it has begun.
    fn seen_while(
        timeout: Duration,
        work: impl FnOnce(&mpsc::Sender<()>, &mpsc::Receiver<()>) + Send + 'static,
    ) -> (u64, u64) {
        let activity = Arc::new(Activity::default());
        let (begun, has_begun) = mpsc::channel();
        let (end, ends) = mpsc::channel();
        let watched = Arc::clone(&activity);
        let attempt = std::thread::spawn(move || {
            futures::executor::block_on(watched.watch(async move { work(&begun, &ends) }));
        });
        has_begun.recv().expect("it begins");
        let first = activity.now();
        // Ticks come a hundred times a second of processor time, of which a busy machine gives little.
        let until = Instant::now() + timeout;
        while activity.now() == first && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        let last = activity.now();
        drop(end);
        attempt.join().expect("it ends");
        (first, last)
    }

    #[test]
    fn a_thread_that_computes_moves_and_one_that_waits_does_not() {
        let (first, last) = seen_while(Duration::from_secs(60), |begun, ends| {
            let mut sum = 0u64;
            begun.send(()).expect("somebody looks");
            while !matches!(ends.try_recv(), Err(mpsc::TryRecvError::Disconnected)) {
                sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(7));
            }
        });
        assert_ne!(first, last, "it computes");
        let (first, last) = seen_while(Duration::from_millis(500), |begun, ends| {
            begun.send(()).expect("somebody looks");
            // Until the other end is gone.
            let _ = ends.recv();
        });
        assert_eq!(first, last, "it waits");
    }

    #[test]
    fn each_call_counts() {
        let activity = Activity::default();
        let mut calls = 0;
        futures::executor::block_on(activity.watch(poll_fn(|context| {
            calls += 1;
            context.waker().wake_by_ref();
            if calls < 5 {
                std::task::Poll::Pending
            } else {
                std::task::Poll::Ready(())
            }
        })));
        assert_eq!(activity.now(), 5);
    }
}
