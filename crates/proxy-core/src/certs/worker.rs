//! The task that fetches and renews.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ambit_model::Identity;
use ambit_transport::tls::WorkloadCertificate;
use ambit_wire::backoff::{Backoff, Policy};
use rand::RngExt;
use tokio::sync::mpsc;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

use super::schedule::Schedule;
use super::source::{FetchError, Source};
use super::{Priority, Slot, State};

/// Fetches that run side by side.
const IN_FLIGHT: usize = 8;
/// Pauses after failures, per identity.
const RETRY: Policy = Policy {
    first: Duration::from_secs(1),
    longest: Duration::from_secs(150),
    spread: 0.2,
};
/// Renewals are spread over this part of the time that is left to half life, so that certificates
/// that were fetched together are not renewed together.
const JITTER: f64 = 0.1;
/// Shortest time between a certificate and its renewal.
const SOON: Duration = Duration::from_secs(1);

/// What the worker is told.
#[derive(Debug)]
pub(super) enum Command {
    Fetch {
        identity: Identity,
        slot: Slot,
        priority: Priority,
    },
    Forget {
        identity: Identity,
        slot: Slot,
    },
}

pub(super) struct Worker<S> {
    source: Arc<S>,
    commands: mpsc::UnboundedReceiver<Command>,
    schedule: Schedule,
    entries: HashMap<Identity, Entry>,
    fetches: JoinSet<Fetched>,
    /// Who a running fetch is for, in case that it breaks off.
    running: HashMap<Id, (Identity, Slot)>,
}

/// An identity that is served.
struct Entry {
    slot: Slot,
    backoff: Backoff,
    in_flight: bool,
}

/// The result of a fetch, with the slot that it was made for.
struct Fetched {
    identity: Identity,
    slot: Slot,
    result: Result<WorkloadCertificate, FetchError>,
}

impl<S: Source> Worker<S> {
    pub(super) fn new(source: Arc<S>, commands: mpsc::UnboundedReceiver<Command>) -> Self {
        Self {
            source,
            commands,
            schedule: Schedule::default(),
            entries: HashMap::new(),
            fetches: JoinSet::new(),
            running: HashMap::new(),
        }
    }

    /// Runs until the last handle of the manager is gone.
    pub(super) async fn run(mut self) {
        loop {
            self.start_fetches();
            let wake = self
                .schedule
                .wake()
                .filter(|_| self.fetches.len() < IN_FLIGHT);
            let sleep = async {
                match wake {
                    Some(when) => tokio::time::sleep_until(when).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.execute(command),
                    None => return,
                },
                Some(ended) = self.fetches.join_next_with_id() => self.ended(ended),
                () = sleep => {}
            }
        }
    }

    fn execute(&mut self, command: Command) {
        match command {
            Command::Fetch {
                identity,
                slot,
                priority,
            } => self.want(identity, slot, priority),
            Command::Forget { identity, slot } => {
                let ours = |entry: &Entry| Arc::ptr_eq(&entry.slot, &slot);
                if self.entries.get(&identity).is_some_and(ours) {
                    self.entries.remove(&identity);
                    self.schedule.remove(&identity);
                    tracing::debug!(%identity, "certificate forgotten");
                }
            }
        }
    }

    fn want(&mut self, identity: Identity, slot: Slot, priority: Priority) {
        let entry = self.entries.get(&identity);
        if let Some(entry) = entry.filter(|entry| Arc::ptr_eq(&entry.slot, &slot)) {
            // Only the first attempt can be hurried: after it the plan is renewal or backoff.
            if !entry.in_flight && matches!(*entry.slot.borrow(), State::Initializing) {
                self.schedule.now(&identity, priority);
            }
            return;
        }
        // New, or forgotten and wanted again.
        let entry = Entry {
            slot,
            backoff: Backoff::new(RETRY),
            in_flight: false,
        };
        self.schedule.now(&identity, priority);
        self.entries.insert(identity, entry);
    }

    fn start_fetches(&mut self) {
        let now = Instant::now();
        while self.fetches.len() < IN_FLIGHT
            && let Some(identity) = self.schedule.next(now)
        {
            let Some(entry) = self.entries.get_mut(&identity) else {
                continue;
            };
            entry.in_flight = true;
            let (source, slot) = (self.source.clone(), entry.slot.clone());
            let wanted = (identity.clone(), slot.clone());
            let fetch = self.fetches.spawn(async move {
                let result = source.fetch(&identity).await;
                Fetched {
                    identity,
                    slot,
                    result,
                }
            });
            self.running.insert(fetch.id(), wanted);
        }
    }

    fn ended(&mut self, ended: Result<(Id, Fetched), JoinError>) {
        match ended {
            Ok((id, fetched)) => {
                self.running.remove(&id);
                self.take(fetched);
            }
            Err(error) => {
                let Some((identity, slot)) = self.running.remove(&error.id()) else {
                    return;
                };
                let result = Err(FetchError::Broken(error.to_string()));
                self.take(Fetched {
                    identity,
                    slot,
                    result,
                });
            }
        }
    }

    fn take(&mut self, fetched: Fetched) {
        let Fetched {
            identity,
            slot,
            result,
        } = fetched;
        let entry = self.entries.get_mut(&identity);
        // Forgotten meanwhile: the key goes with the result.
        let Some(entry) = entry.filter(|entry| Arc::ptr_eq(&entry.slot, &slot)) else {
            return;
        };
        entry.in_flight = false;
        let pause = match result {
            Ok(certificate) => {
                entry.backoff.reset();
                let pause = until_renewal(&certificate, SystemTime::now());
                tracing::debug!(%identity, ?pause, "certificate fetched");
                slot.send_replace(State::Available(certificate));
                pause
            }
            Err(error) => {
                let pause = entry.failed(&identity, &error);
                tracing::warn!(%identity, %error, "no certificate, trying again in {pause:?}");
                pause
            }
        };
        self.schedule.at(&identity, Instant::now() + pause);
    }
}

impl Entry {
    /// Keeps a certificate that is still valid. Returns the pause before the next attempt.
    fn failed(&mut self, identity: &Identity, error: &FetchError) -> Duration {
        let pause = self.backoff.next_pause();
        let left = match &*self.slot.borrow() {
            State::Available(certificate) => certificate
                .not_after()
                .duration_since(SystemTime::now())
                .ok(),
            State::Initializing | State::Failed(_) => None,
        };
        match left {
            Some(left) => pause.min(left.max(SOON)),
            None => {
                tracing::debug!(%identity, "identity unavailable");
                self.slot
                    .send_replace(State::Failed(error.to_string().into()));
                pause
            }
        }
    }
}

/// The time to half life, or a little less.
fn until_renewal(certificate: &WorkloadCertificate, now: SystemTime) -> Duration {
    let (start, end) = (certificate.not_before(), certificate.not_after());
    let half_life = start + end.duration_since(start).unwrap_or_default() / 2;
    let left = half_life.duration_since(now).unwrap_or_default();
    left.mul_f64(1.0 - rand::rng().random_range(0.0..=JITTER))
        .max(SOON)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ambit_transport::tls::TlsOptions;
    use ambit_wire::ca::Authority;

    #[test]
    fn renewal_is_a_little_before_half_life() {
        let hour = Duration::from_secs(3600);
        let authority = Authority::self_signed("td", 48 * hour).unwrap();
        let issued = authority
            .certify(&Identity::new("td", "ns", "sa"), 24 * hour)
            .unwrap();
        let bytes = |list: &[rustls_pki_types::CertificateDer<'static>]| {
            list.iter().map(|der| der.to_vec()).collect::<Vec<_>>()
        };
        let certificate = WorkloadCertificate::from_der(
            bytes(&issued.chain),
            issued.key.clone(),
            bytes(&issued.roots),
            &TlsOptions::default(),
        )
        .unwrap();
        let now = certificate.not_before();
        for _ in 0..50 {
            let pause = until_renewal(&certificate, now);
            assert!(
                pause > 10 * hour && pause < 12 * hour + Duration::from_secs(120),
                "{pause:?}"
            );
        }
        assert_eq!(
            until_renewal(&certificate, now + 13 * hour),
            SOON,
            "soon, when it is past"
        );
    }
}
