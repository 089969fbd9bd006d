//! The engine, shared: one task takes changes in, everybody else asks.

use std::time::Duration;

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::watch;

use crate::engine::{Engine, Settings};

/// The shared engine, and a counter of its changes.
#[derive(Debug)]
pub struct State {
    engine: RwLock<Engine>,
    changes: watch::Sender<u64>,
}

impl State {
    /// A state in which nothing has been seen.
    pub fn new(settings: Settings) -> Self {
        Self {
            engine: RwLock::new(Engine::new(settings)),
            changes: watch::Sender::new(0),
        }
    }

    /// Asks.
    pub fn read(&self) -> RwLockReadGuard<'_, Engine> {
        self.engine.read()
    }

    /// Changes. Tell it with [`changed`](Self::changed) when the lock is free again.
    pub fn write(&self) -> RwLockWriteGuard<'_, Engine> {
        self.engine.write()
    }

    /// Wakes who waits for a change.
    pub fn changed(&self) {
        self.changes
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Asks again with every change until the answer is good, at most for `patience`; gives the
    /// last answer. For callers that may know of an object before the watch does.
    pub async fn ask_until<T, E>(
        &self,
        patience: Duration,
        ask: impl Fn(&Engine) -> Result<T, E>,
        worth_waiting: impl Fn(&E) -> bool,
    ) -> Result<T, E> {
        let mut changes = self.changes.subscribe();
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            changes.mark_unchanged();
            let answer = ask(&self.read());
            match &answer {
                Err(error) if worth_waiting(error) => {}
                _ => return answer,
            }
            if !matches!(
                tokio::time::timeout_at(deadline, changes.changed()).await,
                Ok(Ok(()))
            ) {
                return answer;
            }
        }
    }
}
