//! Waiting for something to become true, with a bound.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const PAUSE: Duration = Duration::from_millis(5);

/// Asks again and again until there is an answer, or fails when the time is over. Blocks the
/// thread; in async tests use [`eventually`].
pub fn wait_for<T>(what: &str, within: Duration, mut ask: impl FnMut() -> Option<T>) -> Result<T> {
    let end = Instant::now() + within;
    loop {
        if let Some(answer) = ask() {
            return Ok(answer);
        }
        if Instant::now() >= end {
            bail!("waited {within:?} in vain for {what}");
        }
        std::thread::sleep(PAUSE);
    }
}

/// Asks again and again until there is an answer, or fails when the time is over.
pub async fn eventually<T>(
    what: &str,
    within: Duration,
    mut ask: impl AsyncFnMut() -> Option<T>,
) -> Result<T> {
    let end = Instant::now() + within;
    loop {
        if let Some(answer) = ask().await {
            return Ok(answer);
        }
        if Instant::now() >= end {
            bail!("waited {within:?} in vain for {what}");
        }
        tokio::time::sleep(PAUSE).await;
    }
}
