//! Letting connections end: graceful first, by force at the deadline.
//!
//! One side holds a [`Drain`]; everything that has to end in an orderly way holds a [`Watch`] for
//! as long as it lives. A drain is over when the last watch is gone.

use std::time::Duration;

use tokio::sync::watch;

/// How far a drain has come. The order matters: a drain never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// No drain.
    Running,
    /// Accept nothing new; what runs may come to its end.
    Graceful,
    /// End now.
    Forced,
}

/// The side that starts a drain.
#[derive(Debug)]
pub struct Drain {
    state: watch::Sender<State>,
}

/// The side that is drained. Hold it while there is something to wait for.
#[derive(Clone, Debug)]
pub struct Watch {
    state: watch::Receiver<State>,
}

/// A drain and its first watch.
pub fn new() -> (Drain, Watch) {
    let (sender, receiver) = watch::channel(State::Running);
    (Drain { state: sender }, Watch { state: receiver })
}

impl Drain {
    /// Another watch.
    pub fn watch(&self) -> Watch {
        Watch {
            state: self.state.subscribe(),
        }
    }

    /// Tells every watch, without waiting. A state that was reached is never taken back.
    pub fn signal(&self, state: State) {
        self.state.send_if_modified(|current| {
            let advances = *current < state;
            *current = (*current).max(state);
            advances
        });
    }

    /// Drains: graceful until `deadline` has passed, then by force; returns when all watches are
    /// gone. True if nothing had to be forced.
    pub async fn graceful(self, deadline: Duration) -> bool {
        self.signal(State::Graceful);
        if tokio::time::timeout(deadline, self.state.closed())
            .await
            .is_ok()
        {
            return true;
        }
        self.force().await;
        false
    }

    /// Ends everything now; returns when all watches are gone.
    pub async fn force(self) {
        self.signal(State::Forced);
        self.state.closed().await;
    }
}

impl Watch {
    /// Where the drain stands now.
    pub fn state(&self) -> State {
        *self.state.borrow()
    }

    /// Waits for the start of a drain, of either kind, and returns its state. A [`Drain`] that was
    /// dropped without a signal counts as forced: nobody is left who could end us in order.
    pub async fn draining(&self) -> State {
        self.reached(State::Graceful).await
    }

    /// Waits until the end is forced.
    pub async fn forced(&self) {
        self.reached(State::Forced).await;
    }

    async fn reached(&self, wanted: State) -> State {
        let mut state = self.state.clone();
        match state.wait_for(|state| *state >= wanted).await {
            Ok(state) => *state,
            Err(_) => State::Forced,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_graceful_drain_waits_for_its_watches() {
        let (drain, watch) = new();
        let task = tokio::spawn(async move {
            assert_eq!(watch.draining().await, State::Graceful);
            watch.state()
        });
        assert!(drain.graceful(Duration::from_secs(60)).await);
        assert_eq!(task.await.unwrap(), State::Graceful);
    }

    #[tokio::test]
    async fn the_deadline_forces_the_end() {
        let (drain, watch) = new();
        let task = tokio::spawn(async move { watch.forced().await });
        assert!(!drain.graceful(Duration::from_millis(20)).await);
        task.await.unwrap();
    }

    #[tokio::test]
    async fn a_state_is_never_taken_back() {
        let (drain, watch) = new();
        drain.signal(State::Forced);
        drain.signal(State::Graceful);
        assert_eq!(watch.state(), State::Forced);
        drop(drain);
        assert_eq!(watch.draining().await, State::Forced);
    }
}
