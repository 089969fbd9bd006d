//! When to open the next stream, by the way the last one ended.

use std::time::Duration;

use tonic::{Code, Status};

use super::super::metrics::Termination;
use crate::backoff::{Backoff, Policy};

const POLICY: Policy = Policy {
    first: Duration::from_millis(10),
    longest: Duration::from_secs(15),
    spread: 0.0,
};

/// How a stream ended.
#[derive(Debug)]
pub(super) enum End {
    /// There was no connection.
    Connect(String),
    /// Something on our side is missing.
    Local(String),
    /// The server closed it in order.
    Closed {
        /// It had sent something before.
        received: bool,
    },
    /// It failed.
    Status(Box<Status>),
}

#[derive(Debug)]
pub(super) struct Reconnect {
    backoff: Backoff,
}

impl Reconnect {
    pub(super) fn new() -> Self {
        Self {
            backoff: Backoff::new(POLICY),
        }
    }

    /// What to count, and how long to wait.
    pub(super) fn after(&mut self, end: &End) -> (Termination, Duration) {
        match end {
            End::Connect(_) | End::Local(_) => (Termination::ConnectionError, self.longer()),
            End::Status(status) if let_go(status) => (Termination::Reconnect, self.again()),
            End::Status(_) => (Termination::Error, self.longer()),
            End::Closed { received: true } => {
                self.backoff.reset();
                (Termination::Complete, Duration::ZERO)
            }
            // A server that hangs up on everybody must not be called in a loop.
            End::Closed { received: false } => (Termination::Complete, self.longer()),
        }
    }

    fn again(&mut self) -> Duration {
        self.backoff.reset();
        POLICY.first
    }

    fn longer(&mut self) -> Duration {
        // The first pause after a failure is the doubled one.
        self.backoff
            .next_pause()
            .saturating_mul(2)
            .min(POLICY.longest)
    }
}

/// The server, or something between, ends connections that are old: nothing is wrong.
fn let_go(status: &Status) -> bool {
    match status.code() {
        Code::Unknown | Code::Cancelled | Code::DeadlineExceeded => true,
        Code::Unavailable => {
            let text = status.message();
            text.contains("transport is closing") || text.contains("received prior goaway")
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pause(reconnect: &mut Reconnect, end: End) -> (Termination, u128) {
        let (reason, pause) = reconnect.after(&end);
        (reason, pause.as_millis())
    }

    #[test]
    fn follows_the_table() {
        let mut r = Reconnect::new();
        let status = |code, text: &str| End::Status(Box::new(Status::new(code, text)));
        let failed = || End::Connect("refused".to_owned());
        assert_eq!(pause(&mut r, failed()), (Termination::ConnectionError, 20));
        assert_eq!(pause(&mut r, failed()), (Termination::ConnectionError, 40));
        let denied = status(Code::Unauthenticated, "no");
        assert_eq!(pause(&mut r, denied), (Termination::Error, 80));
        let closing = status(Code::Unavailable, "transport is closing");
        assert_eq!(pause(&mut r, closing), (Termination::Reconnect, 10));
        assert_eq!(pause(&mut r, failed()), (Termination::ConnectionError, 20));
        let closed = End::Closed { received: true };
        assert_eq!(pause(&mut r, closed), (Termination::Complete, 0));
        let at_once = End::Closed { received: false };
        assert_eq!(pause(&mut r, at_once), (Termination::Complete, 20));
        for _ in 0..20 {
            r.after(&failed());
        }
        assert_eq!(
            pause(&mut r, failed()),
            (Termination::ConnectionError, 15_000)
        );
    }
}
