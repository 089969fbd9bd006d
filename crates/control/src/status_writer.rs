//! Writing statuses: by the leader, and not more often than people can read.

use std::time::Duration;

use ambit_kube_api::status::Condition;
use ambit_kube_api::{AuthorizationPolicy, PeerAuthentication, names};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::json;
use std::sync::Arc;
use tokio::sync::{Notify, watch};

use crate::engine::{DesiredStatus, Kind};
use crate::metrics::Metrics;
use crate::state::State;

/// Changes within this time are written together. Statuses are off the path of the change itself.
const GATHER: Duration = Duration::from_millis(500);
/// Pause before statuses are tried again that could not be written.
const RETRY: Duration = Duration::from_secs(5);

/// Writes statuses.
pub struct StatusWriter {
    /// To the API server.
    pub client: Client,
    /// Knows what they say.
    pub state: Arc<State>,
    /// Whether it is ours to write.
    pub leading: watch::Receiver<bool>,
    /// Told when there may be something to write.
    pub wake: Arc<Notify>,
    /// Counters.
    pub metrics: Metrics,
}

impl StatusWriter {
    /// Runs for ever.
    pub async fn run(mut self) {
        let mut leads = false;
        loop {
            tokio::select! {
                () = self.wake.notified() => tokio::time::sleep(GATHER).await,
                changed = self.leading.changed() => if changed.is_err() { return },
            }
            let led = std::mem::replace(&mut leads, *self.leading.borrow_and_update());
            if !leads {
                continue;
            }
            if !led {
                self.state.write().mark_statuses();
            }
            let desired = self.state.write().take_statuses();
            if !self.write_all(desired).await {
                tokio::time::sleep(RETRY).await;
                self.state.write().mark_statuses();
                self.wake.notify_one();
            }
        }
    }

    /// Writes; false if something has to be tried again.
    async fn write_all(&self, desired: Vec<DesiredStatus>) -> bool {
        let mut done = true;
        for status in desired {
            match self.write(&status).await {
                Ok(()) => self.metrics.status_written("success"),
                // The object is gone.
                Err(kube::Error::Api(answer)) if answer.code == 404 => {}
                Err(error) => {
                    let (kind, key) = (status.kind.name(), &status.key);
                    tracing::warn!("the status of {kind} {key} could not be written: {error}");
                    self.metrics.status_written("failure");
                    done = false;
                }
            }
        }
        done
    }

    async fn write(&self, status: &DesiredStatus) -> kube::Result<()> {
        match status.kind {
            Kind::AuthorizationPolicy => self.apply::<AuthorizationPolicy>(status).await,
            Kind::PeerAuthentication => self.apply::<PeerAuthentication>(status).await,
            _ => Ok(()),
        }
    }

    async fn apply<K>(&self, status: &DesiredStatus) -> kube::Result<()>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: DeserializeOwned + Clone + std::fmt::Debug,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), &status.key.namespace);
        let conditions = merged(status, &Timestamp::now().to_string());
        let patch = json!({
            "apiVersion": K::api_version(&()),
            "kind": K::kind(&()),
            "metadata": {"name": &*status.key.name, "namespace": &*status.key.namespace},
            "status": {"conditions": conditions},
        });
        let params = PatchParams::apply(names::ZTUNNEL_POLICY_MANAGER).force();
        api.patch_status(&status.key.name, &params, &Patch::Apply(patch))
            .await
            .map(drop)
    }
}

/// All conditions of the object, with ours in place of its predecessor. It keeps the time of its
/// last transition unless its status changed.
fn merged(status: &DesiredStatus, now: &str) -> Vec<Condition> {
    let mut ours = status.condition.clone();
    let before = status.existing.iter().find(|c| c.type_ == ours.type_);
    let kept = before
        .filter(|c| c.status == ours.status)
        .and_then(|c| c.last_transition_time.clone());
    ours.last_transition_time = Some(kept.unwrap_or_else(|| now.to_owned()));
    let others = status
        .existing
        .iter()
        .filter(|c| c.type_ != ours.type_)
        .cloned();
    others.chain([ours.clone()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ambit_translate::ObjectKey;

    fn condition(type_: &str, status: &str, time: Option<&str>) -> Condition {
        Condition {
            type_: Some(type_.to_owned()),
            status: Some(status.to_owned()),
            last_transition_time: time.map(str::to_owned),
            ..Condition::default()
        }
    }

    #[test]
    fn others_conditions_and_old_times_stay() {
        let status = |new: &str| DesiredStatus {
            kind: Kind::AuthorizationPolicy,
            key: ObjectKey::new("a", "b"),
            condition: condition("ZtunnelAccepted", new, None),
            existing: vec![
                condition("ZtunnelAccepted", "True", Some("then")),
                condition("Other", "True", Some("x")),
            ],
        };
        let times = |status: &DesiredStatus| -> Vec<String> {
            merged(status, "now")
                .into_iter()
                .map(|c| c.last_transition_time.unwrap())
                .collect()
        };
        assert_eq!(times(&status("True")), ["x", "then"]);
        assert_eq!(times(&status("False")), ["x", "now"]);
    }
}
