//! When an ended container starts again. Pure.

use std::time::{Duration, Instant};

use super::process::Exit;

/// Delay before the second restart; doubled for each further one.
pub(crate) const FIRST_DELAY: Duration = Duration::from_secs(10);
/// Longest delay.
pub(crate) const LONGEST_DELAY: Duration = Duration::from_secs(300);
/// A container that ran this long starts with a clean record.
pub(crate) const FORGIVEN_AFTER: Duration = Duration::from_secs(600);

/// `spec.restartPolicy`, or the one of a native sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

impl RestartPolicy {
    /// The policy of a pod; the API defaults to `Always`.
    pub(crate) fn parse(text: Option<&str>) -> Self {
        match text {
            Some("OnFailure") => Self::OnFailure,
            Some("Never") => Self::Never,
            _ => Self::Always,
        }
    }

    /// Whether a container that ended like this runs again.
    pub(crate) fn restarts(self, exit: Exit) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => exit.code != 0,
            Self::Never => false,
        }
    }
}

/// Restart history of one container.
#[derive(Debug, Clone, Default)]
pub(crate) struct Backoff {
    restarts: u32,
    last_end: Option<Instant>,
}

impl Backoff {
    /// Records an end and returns the delay until the next start: none the first time, then 10 s,
    /// 20 s … 5 min. A run of ten minutes or longer clears the record.
    pub(crate) fn after_exit(&mut self, now: Instant, ran_for: Duration) -> Duration {
        if ran_for >= FORGIVEN_AFTER {
            self.restarts = 0;
        }
        self.last_end = Some(now);
        let delay = delay(self.restarts);
        self.restarts = self.restarts.saturating_add(1);
        delay
    }
}

/// Delay before the restart number `restarts` (counted from 0).
fn delay(restarts: u32) -> Duration {
    if restarts == 0 {
        return Duration::ZERO;
    }
    FIRST_DELAY
        .saturating_mul(1u32 << (restarts - 1).min(16))
        .min(LONGEST_DELAY)
}

/// Delays for things that are simply tried again (sandbox, volumes): 1 s doubling to 30 s.
pub(crate) fn retry_delay(failures: u32) -> Duration {
    Duration::from_secs(1u64 << failures.saturating_sub(1).min(5)).min(Duration::from_secs(30))
}

/// How long an image that is not in the catalogue waits, like a failed pull: 10 s doubling to 5 min.
pub(crate) fn image_delay(failures: u32) -> Duration {
    delay(failures.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_at_once_then_doubling_to_five_minutes() {
        let mut backoff = Backoff::default();
        let delays: Vec<u64> = (0..8)
            .map(|_| {
                backoff
                    .after_exit(Instant::now(), Duration::from_secs(1))
                    .as_secs()
            })
            .collect();
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn a_long_run_is_forgiven() {
        let mut backoff = Backoff::default();
        for _ in 0..5 {
            backoff.after_exit(Instant::now(), Duration::ZERO);
        }
        assert_eq!(
            backoff.after_exit(Instant::now(), FORGIVEN_AFTER),
            Duration::ZERO
        );
        assert_eq!(
            backoff.after_exit(Instant::now(), Duration::ZERO),
            FIRST_DELAY
        );
    }

    #[test]
    fn policies() {
        let ok = Exit { code: 0, signal: 0 };
        let failed = Exit { code: 1, signal: 0 };
        assert!(RestartPolicy::parse(None).restarts(ok));
        assert!(!RestartPolicy::parse(Some("OnFailure")).restarts(ok));
        assert!(RestartPolicy::parse(Some("OnFailure")).restarts(failed));
        assert!(!RestartPolicy::parse(Some("Never")).restarts(failed));
    }

    #[test]
    fn retries_are_bounded() {
        assert_eq!(retry_delay(1), Duration::from_secs(1));
        assert_eq!(retry_delay(40), Duration::from_secs(30));
        assert_eq!(image_delay(1), Duration::from_secs(10));
        assert_eq!(image_delay(50), LONGEST_DELAY);
    }
}
