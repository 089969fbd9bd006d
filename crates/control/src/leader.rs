//! Which replica writes: the holder of a Lease, taken and renewed by compare-and-swap.
//!
//! The clock of another machine is never read. A lease counts as left when it has not changed for
//! its duration by our own clock, so skewed clocks cannot make two leaders.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A holder that does not renew for this long has lost the lease.
const DURATION: Duration = Duration::from_secs(15);
/// A leader that could not renew for this long stops leading, well before others take over.
const GIVE_UP: Duration = Duration::from_secs(10);
/// Pause between attempts to renew, or to take.
const PERIOD: Duration = Duration::from_secs(2);

/// Takes part in the election.
#[derive(Debug)]
pub struct Candidate {
    leases: Api<Lease>,
    name: String,
    identity: String,
    /// The version of the lease that was seen last, and since when it has not changed.
    seen: Option<(String, Instant)>,
}

/// What to do about the lease.
#[derive(Debug, PartialEq)]
enum Step {
    Create,
    /// Take it, or renew it: the same write.
    Hold,
    Wait,
}

impl Candidate {
    /// A candidate with a name of its own for the lease `name`.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            leases: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
            seen: None,
        }
    }

    /// Runs until `stop`, then gives the lease back. The receiver says whether we lead.
    pub fn start(self, stop: CancellationToken) -> watch::Receiver<bool> {
        let (sender, receiver) = watch::channel(false);
        tokio::spawn(self.run(sender, stop));
        receiver
    }

    async fn run(mut self, leading: watch::Sender<bool>, stop: CancellationToken) {
        let mut renewed = Instant::now();
        loop {
            match self.attempt(Instant::now()).await {
                Ok(held) => {
                    renewed = Instant::now();
                    self.lead(&leading, held);
                }
                Err(error) => {
                    tracing::debug!("the lease {} could not be renewed: {error}", self.name);
                    if renewed.elapsed() > GIVE_UP {
                        self.lead(&leading, false);
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(PERIOD) => {}
                () = stop.cancelled() => break,
            }
        }
        if *leading.borrow() {
            self.lead(&leading, false);
            self.release().await;
        }
    }

    fn lead(&self, leading: &watch::Sender<bool>, held: bool) {
        let changed = leading.send_if_modified(|have| std::mem::replace(have, held) != held);
        if changed {
            let what = if held {
                "this replica leads"
            } else {
                "this replica does not lead any more"
            };
            tracing::info!("{what} ({})", self.identity);
        }
    }

    /// One attempt; true if the lease is ours after it.
    async fn attempt(&mut self, now: Instant) -> kube::Result<bool> {
        let found = self.leases.get_opt(&self.name).await?;
        let written = match self.step(found.as_ref(), now) {
            Step::Wait => return Ok(false),
            Step::Create => {
                let lease = self.held(Lease {
                    metadata: ObjectMeta {
                        name: Some(self.name.clone()),
                        ..ObjectMeta::default()
                    },
                    spec: None,
                });
                self.leases.create(&PostParams::default(), &lease).await
            }
            Step::Hold => {
                let lease = self.held(found.unwrap_or_default());
                self.leases
                    .replace(&self.name, &PostParams::default(), &lease)
                    .await
            }
        };
        match written {
            Ok(_) => Ok(true),
            // Somebody else wrote in between.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn step(&mut self, found: Option<&Lease>, now: Instant) -> Step {
        let Some(lease) = found else {
            return Step::Create;
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.unwrap_or_default();
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        if holder.is_empty() || holder == self.identity {
            return Step::Hold;
        }
        match &self.seen {
            Some((seen, since)) if *seen == version => {
                let seconds = spec
                    .lease_duration_seconds
                    .and_then(|s| u64::try_from(s).ok());
                let duration = seconds.map_or(DURATION, Duration::from_secs);
                if now.duration_since(*since) > duration {
                    Step::Hold
                } else {
                    Step::Wait
                }
            }
            _ => {
                self.seen = Some((version, now));
                Step::Wait
            }
        }
    }

    fn held(&self, mut lease: Lease) -> Lease {
        let now = MicroTime(Timestamp::now());
        let old = lease.spec.take().unwrap_or_default();
        let is_ours = old.holder_identity.as_deref() == Some(&*self.identity);
        let transitions = old.lease_transitions.unwrap_or_default();
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: if is_ours {
                old.acquire_time
            } else {
                Some(now.clone())
            },
            renew_time: Some(now),
            lease_transitions: Some(if is_ours {
                transitions
            } else {
                transitions + 1
            }),
            ..LeaseSpec::default()
        });
        lease.metadata.managed_fields = None;
        lease
    }

    /// Gives the lease back, so that the next leader need not wait for it to run out.
    async fn release(&self) {
        let release = async {
            let Some(mut lease) = self.leases.get_opt(&self.name).await? else {
                return Ok(());
            };
            if let Some(spec) = &mut lease.spec
                && spec.holder_identity.as_deref() == Some(&*self.identity)
            {
                spec.holder_identity = Some(String::new());
                lease.metadata.managed_fields = None;
                self.leases
                    .replace(&self.name, &PostParams::default(), &lease)
                    .await?;
            }
            Ok::<_, kube::Error>(())
        };
        if let Err(error) = release.await {
            tracing::debug!("the lease {} could not be given back: {error}", self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn candidate() -> Candidate {
        let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        Candidate::new(Client::try_from(config).unwrap(), "ns", "lease", "me")
    }

    fn lease(holder: &str, version: &str) -> Lease {
        serde_json::from_value(json!({
            "metadata": {"name": "lease", "resourceVersion": version},
            "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15, "leaseTransitions": 3}
        }))
        .unwrap()
    }

    #[tokio::test]
    async fn taken_only_when_it_does_not_change_any_more() {
        let mut me = candidate();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(me.step(None, start), Step::Create);
        assert_eq!(me.step(Some(&lease("other", "1")), start), Step::Wait);
        assert_eq!(me.step(Some(&lease("other", "1")), after(14)), Step::Wait);
        // It was renewed: the time starts again.
        assert_eq!(me.step(Some(&lease("other", "2")), after(16)), Step::Wait);
        assert_eq!(me.step(Some(&lease("other", "2")), after(30)), Step::Wait);
        assert_eq!(me.step(Some(&lease("other", "2")), after(32)), Step::Hold);
        assert_eq!(me.step(Some(&lease("me", "3")), after(33)), Step::Hold);
        assert_eq!(me.step(Some(&lease("", "4")), after(33)), Step::Hold);
    }

    #[tokio::test]
    async fn transitions_are_counted() {
        let me = candidate();
        let transitions = |lease: Lease| lease.spec.unwrap().lease_transitions.unwrap();
        assert_eq!(transitions(me.held(lease("other", "1"))), 4);
        assert_eq!(transitions(me.held(lease("me", "1"))), 3);
        assert_eq!(transitions(me.held(Lease::default())), 1);
    }
}
