//! Writing statuses: by the leader, and not more often than people can read.

use std::time::Duration;

use ambit_kube_api::gateway_api::{
    BackendTLSPolicy, GATEWAY_CONTROLLER, GRPCRoute, Gateway, GatewayClass, HTTPRoute, TCPRoute,
    TLSRoute,
};
use ambit_kube_api::status::Condition;
use ambit_kube_api::{AuthorizationPolicy, PeerAuthentication, RequestAuthentication, names};
use ambit_translate::ObjectKey;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::{Notify, watch};

use crate::engine::{DesiredStatus, Kind, Subject};
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
        let now = Timestamp::now().to_string();
        let body = timed(&status.subject, status.kind, &now);
        match status.kind {
            Kind::AuthorizationPolicy => self.namespaced::<AuthorizationPolicy>(status, body).await,
            Kind::PeerAuthentication => self.namespaced::<PeerAuthentication>(status, body).await,
            Kind::RequestAuthentication => {
                self.namespaced::<RequestAuthentication>(status, body).await
            }
            Kind::Service => self.namespaced::<Service>(status, body).await,
            Kind::Gateway => self.namespaced::<Gateway>(status, body).await,
            Kind::HttpRoute => self.namespaced::<HTTPRoute>(status, body).await,
            Kind::GrpcRoute => self.namespaced::<GRPCRoute>(status, body).await,
            Kind::TcpRoute => self.namespaced::<TCPRoute>(status, body).await,
            Kind::TlsRoute => self.namespaced::<TLSRoute>(status, body).await,
            Kind::BackendTlsPolicy => self.namespaced::<BackendTLSPolicy>(status, body).await,
            Kind::GatewayClass => {
                let api = Api::<GatewayClass>::all(self.client.clone());
                apply(&api, status, json!({"name": &*status.key.name}), body).await
            }
            _ => Ok(()),
        }
    }

    async fn namespaced<K>(&self, status: &DesiredStatus, body: Value) -> kube::Result<()>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: DeserializeOwned + Clone + std::fmt::Debug,
    {
        let ObjectKey { namespace, name } = &status.key;
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let metadata = json!({"name": &**name, "namespace": &**namespace});
        apply(&api, status, metadata, body).await
    }
}

async fn apply<K>(
    api: &Api<K>,
    status: &DesiredStatus,
    metadata: Value,
    body: Value,
) -> kube::Result<()>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + std::fmt::Debug,
{
    let patch = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": metadata,
        "status": body,
    });
    let params = PatchParams::apply(manager(status)).force();
    api.patch_status(&status.key.name, &params, &Patch::Apply(patch))
        .await
        .map(drop)
}

/// The manager of what we say, as in Istio.
fn manager(status: &DesiredStatus) -> &'static str {
    let is_of_waypoint = |condition: &Condition| {
        condition.type_.as_deref() == Some(ambit_translate::status::WAYPOINT_ACCEPTED)
    };
    match (&status.kind, &status.subject) {
        (Kind::AuthorizationPolicy, Subject::Condition { ours: Some(c), .. })
            if is_of_waypoint(c) =>
        {
            names::WAYPOINT_POLICY_MANAGER
        }
        (Kind::AuthorizationPolicy | Kind::PeerAuthentication, _) => names::ZTUNNEL_POLICY_MANAGER,
        (Kind::RequestAuthentication, _) => names::WAYPOINT_POLICY_MANAGER,
        (Kind::Service, _) => names::SERVICE_MANAGER,
        _ => GATEWAY_CONTROLLER,
    }
}

/// The status as it is written: every condition keeps the time of its last transition unless its
/// status changed.
fn timed(subject: &Subject, kind: Kind, now: &str) -> Value {
    match subject {
        Subject::Condition { ours, existing } => {
            let mut ours: Vec<Condition> = ours.iter().cloned().collect();
            stamp(&mut ours, existing, now);
            // Others' conditions of our kinds are in one list that is written as a whole.
            let as_a_whole = matches!(
                kind,
                Kind::AuthorizationPolicy | Kind::PeerAuthentication | Kind::RequestAuthentication
            );
            let others = existing
                .iter()
                .filter(|c| as_a_whole && ours.iter().all(|ours| ours.type_ != c.type_));
            let conditions: Vec<&Condition> = others.chain(&ours).collect();
            json!({"conditions": conditions})
        }
        Subject::Gateway { desired, existing } => {
            let mut desired = desired.clone();
            stamp(&mut desired.conditions, &existing.conditions, now);
            for listener in &mut desired.listeners {
                let before = existing.listeners.iter().find(|l| l.name == listener.name);
                let before = before.map(|l| &l.conditions[..]).unwrap_or_default();
                stamp(&mut listener.conditions, before, now);
            }
            json!(desired)
        }
        Subject::Policy { desired, existing } => {
            let mut desired = desired.clone();
            for ancestor in &mut desired.ancestors {
                let before = existing.ancestors.iter().find(|a| {
                    a.ancestor_ref == ancestor.ancestor_ref
                        && a.controller_name == ancestor.controller_name
                });
                let before = before.map(|a| &a.conditions[..]).unwrap_or_default();
                stamp(&mut ancestor.conditions, before, now);
            }
            json!(desired)
        }
        Subject::Route { desired, existing } => {
            let mut desired = desired.clone();
            for parent in &mut desired.parents {
                let before = existing.parents.iter().find(|p| {
                    p.parent_ref == parent.parent_ref && p.controller_name == parent.controller_name
                });
                let before = before.map(|p| &p.conditions[..]).unwrap_or_default();
                stamp(&mut parent.conditions, before, now);
            }
            json!(desired)
        }
    }
}

fn stamp(conditions: &mut [Condition], existing: &[Condition], now: &str) {
    for condition in conditions {
        let before = existing.iter().find(|c| c.type_ == condition.type_);
        let kept = before
            .filter(|c| c.status == condition.status)
            .and_then(|c| c.last_transition_time.clone());
        condition.last_transition_time = Some(kept.unwrap_or_else(|| now.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let times = |new: &str| -> Vec<String> {
            let subject = Subject::Condition {
                ours: Some(condition("ZtunnelAccepted", new, None)),
                existing: vec![
                    condition("ZtunnelAccepted", "True", Some("then")),
                    condition("Other", "True", Some("x")),
                ],
            };
            let body = timed(&subject, Kind::AuthorizationPolicy, "now");
            let conditions = body["conditions"].as_array().unwrap();
            let time = |c: &Value| c["lastTransitionTime"].as_str().unwrap().to_owned();
            conditions.iter().map(time).collect()
        };
        assert_eq!(times("True"), ["x", "then"]);
        assert_eq!(times("False"), ["x", "now"]);
    }

    #[test]
    fn of_a_service_only_ours_is_written() {
        let subject = |ours| Subject::Condition {
            ours,
            existing: vec![condition("Other", "True", Some("x"))],
        };
        let bound = subject(Some(condition("istio.io/WaypointBound", "True", None)));
        let body = timed(&bound, Kind::Service, "now");
        assert_eq!(body["conditions"].as_array().unwrap().len(), 1);
        let body = timed(&subject(None), Kind::Service, "now");
        assert_eq!(body, json!({"conditions": []}));
    }
}
