//! Pings on a tunnel: they find out that a peer is gone, where TCP would wait for minutes.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep};

/// Sends a ping after each interval and watches for the answer.
pub(super) struct Pinger {
    pings: PingPong,
    timer: Pin<Box<Sleep>>,
    waiting: bool,
    interval: Duration,
    timeout: Duration,
}

impl Pinger {
    pub(super) fn new(pings: PingPong, interval: Duration, timeout: Duration) -> Self {
        Self {
            pings,
            timer: Box::pin(sleep(interval)),
            waiting: false,
            interval,
            timeout,
        }
    }

    /// Ready when a ping has not been answered in time. A broken connection is not reported here:
    /// whoever drives it will know.
    pub(super) fn poll_timeout(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.waiting && self.pings.poll_pong(cx).is_ready() {
                self.waiting = false;
                self.timer.as_mut().reset(Instant::now() + self.interval);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if self.waiting {
                return Poll::Ready(());
            }
            // An earlier ping can only be in flight if we wait for it, so this fails only on a
            // connection that is closing.
            let _ = self.pings.send_ping(Ping::opaque());
            self.waiting = true;
            self.timer.as_mut().reset(Instant::now() + self.timeout);
        }
    }
}
