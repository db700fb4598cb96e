//! Waiting for the cluster.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::Instant;

const PAUSE: Duration = Duration::from_millis(100);

/// Looks until `look` finds what it waits for (the inner `Ok`), for at most `timeout`. The inner error says how it seen.
///
/// # Errors
///
/// It took too long, or `look` failed.
pub async fn wait_until<T, F>(what: &str, timeout: Duration, look: impl Fn() -> F) -> Result<T>
where
    F: Future<Output = Result<Result<T, String>>>,
{
    let end = Instant::now() + timeout;
    loop {
        match look().await? {
            Ok(found) => return Ok(found),
            Err(seen) if Instant::now() >= end => {
                bail!("not after {} s: {what}; it seen so: {seen}", timeout.as_secs())
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}
