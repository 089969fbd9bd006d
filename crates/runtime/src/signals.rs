//! When to stop: SIGTERM, SIGINT, or a request of the process itself.
//!
//! The first signal asks for an orderly end, the second for an end at once, so that a hung drain
//! never needs SIGKILL.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How urgently the process has to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    None,
    Orderly,
    Immediate,
}

/// The process-wide request to stop. Cloning gives another handle to the same request.
#[derive(Clone, Debug)]
pub struct Shutdown {
    urgency: Arc<watch::Sender<Urgency>>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// A request that nobody has made yet.
    pub fn new() -> Self {
        Self {
            urgency: Arc::new(watch::Sender::new(Urgency::None)),
        }
    }

    /// A request that SIGTERM and SIGINT make: once for an orderly end, twice for an immediate one.
    /// Must be called inside a tokio runtime.
    pub fn on_signals() -> std::io::Result<Self> {
        let shutdown = Self::new();
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        let handle = shutdown.clone();
        tokio::spawn(async move {
            loop {
                let name = tokio::select! {
                    _ = term.recv() => "SIGTERM",
                    _ = int.recv() => "SIGINT",
                };
                tracing::info!("received signal {name}, starting shutdown");
                handle.trigger();
            }
        });
        Ok(shutdown)
    }

    /// Asks for an orderly end; if that was asked for already, for an immediate one.
    pub fn trigger(&self) {
        self.urgency.send_modify(|urgency| {
            *urgency = match urgency {
                Urgency::None => Urgency::Orderly,
                Urgency::Orderly | Urgency::Immediate => Urgency::Immediate,
            };
        });
    }

    /// Whether an end was asked for.
    pub fn is_requested(&self) -> bool {
        *self.urgency.borrow() >= Urgency::Orderly
    }

    /// Waits until an end is asked for.
    pub async fn requested(&self) {
        self.reached(Urgency::Orderly).await;
    }

    /// Waits until an immediate end is asked for.
    pub async fn immediate(&self) {
        self.reached(Urgency::Immediate).await;
    }

    async fn reached(&self, wanted: Urgency) {
        let mut urgency = self.urgency.subscribe();
        // The sender lives in `self`, so the channel cannot close while we wait.
        let _ = urgency.wait_for(|urgency| *urgency >= wanted).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_second_request_is_immediate() {
        let shutdown = Shutdown::new();
        assert!(!shutdown.is_requested());
        shutdown.trigger();
        shutdown.requested().await;
        let immediate = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { shutdown.immediate().await }
        });
        tokio::task::yield_now().await;
        assert!(!immediate.is_finished());
        shutdown.trigger();
        immediate.await.unwrap();
    }

    #[tokio::test]
    async fn a_signal_asks_for_an_end() {
        let shutdown = Shutdown::on_signals().unwrap();
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM).unwrap();
        shutdown.requested().await;
    }
}
