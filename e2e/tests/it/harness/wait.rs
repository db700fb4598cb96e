//! Waiting for the cluster.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::Instant;

const PAUSE: Duration = Duration::from_millis(100);

/// Looks until `look` finds what it waits for (the inner `Ok`), for at most `longest`. The inner error says how it stands.
///
/// # Errors
///
/// It took too long, or `look` failed.
pub async fn until<T, F>(what: &str, longest: Duration, look: impl Fn() -> F) -> Result<T>
where
    F: Future<Output = Result<Result<T, String>>>,
{
    let end = Instant::now() + longest;
    loop {
        match look().await? {
            Ok(found) => return Ok(found),
            Err(stands) if Instant::now() >= end => {
                bail!(
                    "not after {} s: {what}; it stands so: {stands}",
                    longest.as_secs()
                )
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}
