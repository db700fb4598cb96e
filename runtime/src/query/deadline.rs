//! The deadline of a query before it runs: listing, planning and checks may block their thread for ever, on a file
//! system that does not answer or in a DataFusion function.

use std::time::Duration;

use sluice_core::coordinator::QueryFailure;
use sluice_crds::{ErrorReason, ShuffleQuerySpec};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};

use super::error::PrepareError;

/// The time that a query may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    pub began: Instant,
    seconds: Option<u32>,
}

impl Deadline {
    /// The deadline of a query that starts now.
    pub fn of(spec: &ShuffleQuerySpec) -> Self {
        Self {
            began: Instant::now(),
            seconds: spec.deadline_seconds,
        }
    }

    /// Runs work that may block on a thread of its own, and waits for it until the deadline. Work that misses the
    /// deadline continues until the process ends, so it must not change anything.
    ///
    /// # Errors
    /// The error of the work, or the deadline.
    pub async fn run<T, W>(self, work: impl FnOnce() -> W + Send + 'static) -> Result<T, PrepareError>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, PrepareError>>,
    {
        let runtime = Handle::current();
        let done = tokio::task::spawn_blocking(move || runtime.block_on(work()));
        let joined = match self.seconds {
            None => done.await,
            Some(seconds) => {
                let end = self.began + Duration::from_secs(seconds.into());
                timeout_at(end, done).await.map_err(|_| exceeded(seconds))?
            }
        };
        joined.unwrap_or_else(|error| Err(PrepareError::Other(error.into())))
    }
}

fn exceeded(seconds: u32) -> PrepareError {
    PrepareError::Failed(QueryFailure {
        reason: ErrorReason::DeadlineExceeded,
        message: format!(
            "listing, planning and checking took longer than the query's deadline of {seconds} s; raise \
             deadlineSeconds, or see whether the tables' and the sink's file systems answer"
        ),
        attempt: None,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn spec(deadline: &str) -> ShuffleQuerySpec {
        serde_json::from_str(&format!(
            r#"{{"sql": "SELECT 1", "tables": [], "deadlineSeconds": {deadline}}}"#
        ))
        .expect("a spec")
    }

    #[tokio::test]
    async fn work_that_blocks_its_thread_ends_at_the_deadline() {
        let (release, held) = mpsc::channel::<()>();
        let deadline = Deadline::of(&spec("1"));
        let ended = deadline.run(move || async move {
            let _ = held.recv();
            Ok(())
        });
        match ended.await {
            Err(PrepareError::Failed(failure)) => {
                assert_eq!(failure.reason, ErrorReason::DeadlineExceeded);
                assert!(failure.message.contains("deadline of 1 s"), "{}", failure.message);
            }
            other => panic!("it went on: {other:?}"),
        }
        drop(release);
    }

    #[tokio::test]
    async fn work_within_its_time_answers_as_it_does_alone() {
        for deadline in ["null", "600"] {
            let deadline = Deadline::of(&spec(deadline));
            assert_eq!(deadline.run(|| async { Ok(7) }).await.expect("it works"), 7);
            let failed = deadline
                .run(|| async { Err::<(), _>(PrepareError::BadInput("no".to_owned())) })
                .await;
            assert!(matches!(failed, Err(PrepareError::BadInput(_))), "{failed:?}");
        }
    }
}
