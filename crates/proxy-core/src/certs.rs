//! The certificates of the workloads that this proxy speaks for.
//!
//! There is one key and certificate per service account, fetched once however many ask for it, and
//! renewed at half of its life. One that is valid is used until it expires, whatever goes wrong
//! with renewing it. What a connection pays for one that is there is a hash and a read lock that
//! only a renewal ever holds for writing.

mod dump;
mod schedule;
mod source;
mod worker;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use ambit_model::Identity;
use ambit_transport::tls::WorkloadCertificate;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

pub use source::{CaSource, FakeCa, FetchError, Source};

use worker::{Command, Worker};

/// How urgently a certificate is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// The one there is will be due for renewal.
    Background,
    /// Nobody waits yet, but somebody will.
    Warmup,
    /// A connection waits.
    RealTime,
}

/// There is no certificate for an identity now; another attempt is planned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// The last attempt failed.
    #[error("no certificate for {identity}: {reason}")]
    Failed {
        /// Whose.
        identity: Identity,
        /// Why.
        reason: Arc<str>,
    },
    /// The last certificate has expired and could not be renewed.
    #[error("the certificate of {0} has expired and could not be renewed")]
    Expired(Identity),
    /// The identity was forgotten while it was waited for, or the manager is gone.
    #[error("{0} is not served by this proxy any more")]
    Forgotten(Identity),
}

/// What there is for an identity.
#[derive(Clone, Debug)]
enum State {
    /// The first attempt is not over.
    Initializing,
    Available(WorkloadCertificate),
    Failed(Arc<str>),
}

/// An identity's place: watched by those who wait, written by the worker.
type Slot = Arc<watch::Sender<State>>;
type Slots = HashMap<Identity, Slot>;

/// Hands out certificates. Cloning gives another handle; the worker behind it ends with the last.
#[derive(Clone, Debug)]
pub struct CertificateManager {
    shared: Arc<Shared>,
    commands: mpsc::UnboundedSender<Command>,
}

#[derive(Debug)]
struct Shared {
    slots: ArcSwap<Slots>,
    /// Held while the map is copied and changed, so that no change is lost.
    changing: Mutex<()>,
}

impl CertificateManager {
    /// Starts the worker on the current runtime.
    pub fn start(source: impl Source) -> Self {
        let shared = Arc::new(Shared {
            slots: ArcSwap::default(),
            changing: Mutex::new(()),
        });
        let (commands, receiver) = mpsc::unbounded_channel();
        tokio::spawn(Worker::new(Arc::new(source), receiver).run());
        Self { shared, commands }
    }

    /// The certificate of an identity; waits for the first one. May be called on any runtime.
    pub async fn certificate(
        &self,
        identity: &Identity,
    ) -> Result<WorkloadCertificate, Unavailable> {
        let slot = self.slot(identity, Priority::RealTime);
        if let Some(verdict) = verdict(identity, &slot.borrow()) {
            return verdict;
        }
        // Somebody may have asked with less urgency before.
        if !self.ask(identity, &slot, Priority::RealTime) {
            return Err(Unavailable::Forgotten(identity.clone()));
        }
        let mut changes = slot.subscribe();
        drop(slot);
        loop {
            if let Some(verdict) = verdict(identity, &changes.borrow_and_update()) {
                return verdict;
            }
            if changes.changed().await.is_err() {
                return Err(Unavailable::Forgotten(identity.clone()));
            }
        }
    }

    /// The certificate of an identity if it is there, without waiting or asking for it.
    pub fn available(&self, identity: &Identity) -> Option<WorkloadCertificate> {
        let slots = self.shared.slots.load();
        verdict(identity, &slots.get(identity)?.borrow())?.ok()
    }

    /// Fetches a certificate that will be needed.
    pub fn prefetch(&self, identity: &Identity) {
        self.slot(identity, Priority::Warmup);
    }

    /// Drops the certificate and key of an identity that has no workload here any more.
    pub fn forget(&self, identity: &Identity) {
        let forgotten = self.shared.change(|slots| slots.remove(identity));
        if let Some(slot) = forgotten {
            // Without a worker there is nothing to be told.
            let _ = self.commands.send(Command::Forget {
                identity: identity.clone(),
                slot,
            });
        }
    }

    /// The place of an identity; a new one is asked for.
    fn slot(&self, identity: &Identity, priority: Priority) -> Slot {
        if let Some(slot) = self.shared.slots.load().get(identity) {
            return slot.clone();
        }
        let (slot, new) = self.shared.change(|slots| match slots.get(identity) {
            Some(slot) => (slot.clone(), false),
            None => {
                let slot = Arc::new(watch::Sender::new(State::Initializing));
                slots.insert(identity.clone(), slot.clone());
                (slot, true)
            }
        });
        if new {
            self.ask(identity, &slot, priority);
        }
        slot
    }

    /// False if there is no worker any more.
    fn ask(&self, identity: &Identity, slot: &Slot, priority: Priority) -> bool {
        let (identity, slot) = (identity.clone(), slot.clone());
        self.commands
            .send(Command::Fetch {
                identity,
                slot,
                priority,
            })
            .is_ok()
    }
}

impl Shared {
    fn change<T>(&self, change: impl FnOnce(&mut Slots) -> T) -> T {
        let _changing = self.changing.lock();
        let mut slots = Slots::clone(&self.slots.load());
        let result = change(&mut slots);
        self.slots.store(Arc::new(slots));
        result
    }
}

/// What a state means for somebody who needs the certificate; `None` while it is not decided.
fn verdict(identity: &Identity, state: &State) -> Option<Result<WorkloadCertificate, Unavailable>> {
    match state {
        State::Initializing => None,
        State::Available(certificate) if SystemTime::now() < certificate.not_after() => {
            Some(Ok(certificate.clone()))
        }
        State::Available(_) => Some(Err(Unavailable::Expired(identity.clone()))),
        State::Failed(reason) => {
            let (identity, reason) = (identity.clone(), reason.clone());
            Some(Err(Unavailable::Failed { identity, reason }))
        }
    }
}

#[cfg(test)]
#[path = "certs_tests.rs"]
mod tests;
