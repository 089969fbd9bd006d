//! Making waypoints: for each `Gateway` of their class, a deployment, a service and an account; an
//! autoscaler and a disruption budget where its parameters ask for them.
//!
//! The leader applies what is wanted whenever a gateway, its class or its service changes. Objects
//! of the same name that are not ours are left alone, and said so.

mod objects;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ambit_kube_api::gateway_api::{
    GatewayClass, LEGACY_WAYPOINT_CLASS, MESH_CONTROLLER, WAYPOINT_CLASS,
};
use ambit_kube_api::labels;
use ambit_translate::{GatewayFacts, ObjectKey};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource, ResourceExt};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::{Notify, watch};

pub use objects::{Objects, of};

use crate::state::State;

/// Pause before objects are tried again that could not be applied.
const RETRY: Duration = Duration::from_secs(5);
/// Objects are applied again after this time, so that what others changed is put right.
const AGAIN: Duration = Duration::from_secs(60);

/// How waypoints are made: values of the chart.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct WaypointSettings {
    /// Image of the proxy.
    pub image: String,
    /// When it is pulled; the cluster's default without.
    pub image_pull_policy: String,
    /// Secrets for that.
    pub image_pull_secrets: Vec<String>,
    /// Log levels, `default:info`.
    pub log_level: String,
    /// Host and port of the control plane.
    pub discovery_address: String,
    /// Resources of the container.
    pub resources: Value,
    /// Where pods may run.
    pub affinity: Value,
    /// On which nodes.
    pub node_selector: Value,
    /// In spite of which taints.
    pub tolerations: Value,
    /// How they are spread.
    pub topology_spread_constraints: Value,
    /// Time for connections to end.
    pub termination_grace_period_seconds: i64,
}

impl Default for WaypointSettings {
    fn default() -> Self {
        Self {
            image: "docker.io/istio/proxyv2".into(),
            image_pull_policy: String::new(),
            image_pull_secrets: Vec::new(),
            log_level: "default:info".into(),
            discovery_address: "istiod.istio-system.svc:15012".into(),
            resources: serde_json::json!({
                "requests": {"cpu": "100m", "memory": "128Mi"},
                "limits": {"cpu": "2", "memory": "1Gi"},
            }),
            affinity: Value::Null,
            node_selector: Value::Null,
            tolerations: Value::Null,
            topology_spread_constraints: Value::Null,
            termination_grace_period_seconds: 30,
        }
    }
}

/// Makes waypoints.
pub struct Deployer {
    /// To the API server.
    pub client: Client,
    /// Knows the gateways.
    pub state: Arc<State>,
    /// How waypoints are made.
    pub settings: WaypointSettings,
    /// Whether it is ours to make them.
    pub leading: watch::Receiver<bool>,
    /// Told when gateways, or what they are made of, change.
    pub wake: Arc<Notify>,
}

/// An object of the wanted name belongs to somebody else.
#[derive(Debug, thiserror::Error)]
enum ApplyError {
    #[error(transparent)]
    Kube(#[from] kube::Error),
    #[error(
        "{kind} {name} is there and was not made for a gateway (it lacks the label {}); \
         rename one of them",
        labels::GATEWAY_MANAGED
    )]
    NotOurs { kind: String, name: String },
}

impl Deployer {
    /// Runs for ever.
    pub async fn run(mut self) {
        let mut applied: BTreeMap<ObjectKey, Objects> = BTreeMap::new();
        loop {
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep(AGAIN) => applied.clear(),
                changed = self.leading.changed() => if changed.is_err() { return },
            }
            if !*self.leading.borrow_and_update() {
                applied.clear();
                continue;
            }
            if !self.make_all(&mut applied).await {
                tokio::time::sleep(RETRY).await;
                self.wake.notify_one();
            }
        }
    }

    /// Applies what is not applied yet; false if something has to be tried again.
    async fn make_all(&self, applied: &mut BTreeMap<ObjectKey, Objects>) -> bool {
        let (mesh, gateways) = {
            let engine = self.state.read();
            (engine.mesh().clone(), engine.waypoints())
        };
        let mut done = self.make_class(WAYPOINT_CLASS).await;
        if mesh.legacy_waypoint {
            done &= self.make_class(LEGACY_WAYPOINT_CLASS).await;
        }
        applied.retain(|key, _| gateways.iter().any(|wanted| wanted.gateway.key == *key));
        for wanted in &gateways {
            let gateway = &wanted.gateway;
            let objects = objects::of(&mesh, &self.settings, wanted);
            if applied.get(&gateway.key) == Some(&objects) {
                continue;
            }
            match self.apply_all(gateway, &objects).await {
                Ok(()) => drop(applied.insert(gateway.key.clone(), objects)),
                Err(error) => {
                    tracing::warn!("waypoint {} could not be made: {error}", gateway.key);
                    done = false;
                }
            }
        }
        done
    }

    /// A class of waypoints, where nobody has made it. It is never changed: it may be the user's.
    async fn make_class(&self, name: &str) -> bool {
        if self.state.read().has_class(name) {
            return true;
        }
        let class = GatewayClass::new(
            name,
            MESH_CONTROLLER,
            "The default Istio waypoint GatewayClass",
        );
        let api = Api::<GatewayClass>::all(self.client.clone());
        match api.create(&PostParams::default(), &class).await {
            Ok(_) => true,
            // Already there; or the kind is not: the watch says so, and comes back.
            Err(kube::Error::Api(answer)) if matches!(answer.code, 404 | 409) => true,
            Err(error) => {
                tracing::warn!("GatewayClass {name} could not be made: {error}");
                false
            }
        }
    }

    async fn apply_all(&self, gateway: &GatewayFacts, objects: &Objects) -> Result<(), ApplyError> {
        let namespace = &gateway.key.namespace;
        if let Some(account) = &objects.service_account {
            self.apply::<ServiceAccount>(namespace, account).await?;
        }
        self.apply::<Deployment>(namespace, &objects.deployment)
            .await?;
        self.apply::<Service>(namespace, &objects.service).await?;
        let name = objects::name(objects);
        let autoscaler = objects.autoscaler.as_ref();
        self.apply_if::<HorizontalPodAutoscaler>(namespace, name, autoscaler)
            .await?;
        let budget = objects.disruption_budget.as_ref();
        self.apply_if::<PodDisruptionBudget>(namespace, name, budget)
            .await?;
        tracing::info!("waypoint {} is made", gateway.key);
        Ok(())
    }

    /// Applies an object, or takes it away where it is not wanted any more.
    async fn apply_if<K>(
        &self,
        namespace: &str,
        name: &str,
        object: Option<&Value>,
    ) -> Result<(), ApplyError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: DeserializeOwned + Clone + std::fmt::Debug,
    {
        if let Some(object) = object {
            return self.apply::<K>(namespace, object).await;
        }
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let there = api.get_metadata_opt(name).await?;
        if there.is_some_and(|o| o.labels().contains_key(labels::GATEWAY_MANAGED)) {
            api.delete(name, &DeleteParams::default()).await?;
        }
        Ok(())
    }

    async fn apply<K>(&self, namespace: &str, object: &Value) -> Result<(), ApplyError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: DeserializeOwned + Clone + std::fmt::Debug,
    {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let there = api.get_metadata_opt(name).await?;
        if there.is_some_and(|o| !o.labels().contains_key(labels::GATEWAY_MANAGED)) {
            return Err(ApplyError::NotOurs {
                kind: K::kind(&()).into_owned(),
                name: format!("{namespace}/{name}"),
            });
        }
        let params = PatchParams::apply(objects::MANAGER).force();
        api.patch(name, &params, &Patch::Apply(object)).await?;
        Ok(())
    }
}
