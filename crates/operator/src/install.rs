//! Applies a rendered mesh and waits until it is ready.

use std::collections::HashSet;
use std::time::Duration;

use ambit_charts::mesh::{
    COMPONENT_LABEL, Component, OWNER, OWNER_LABEL, OWNER_NAMESPACE_LABEL, REVISION_LABEL,
};
use ambit_charts::{ComponentKind, Manifest};
use futures_util::future::join_all;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::Value;

use crate::kinds::{KINDS, Kind, describe};
use crate::{FIELD_MANAGER, OperatorError, readiness};

/// How to install.
#[derive(Clone, Debug)]
pub struct InstallOptions {
    /// How long a component may take to become ready.
    pub readiness_timeout: Duration,
    /// Let the API server check everything and change nothing.
    pub dry_run: bool,
    /// Install the definitions of the Gateway API where there are none.
    pub gateway_api: bool,
}

impl Default for InstallOptions {
    fn default() -> Self {
        Self {
            readiness_timeout: Duration::from_secs(300),
            dry_run: false,
            gateway_api: true,
        }
    }
}

/// What happens, for whoever shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A component is being applied.
    Processing(ComponentKind),
    /// A component is applied; these objects are not ready yet.
    Waiting(ComponentKind, Vec<String>),
    /// A component is ready.
    Installed(ComponentKind),
    /// The definitions of the Gateway API were not there, and are now.
    GatewayApi,
    /// A component failed; the error follows as the result.
    Failed(ComponentKind, String),
    /// Objects that are no longer part of the mesh are being removed.
    Pruning,
    /// Such an object was removed.
    Pruned(String),
}

/// Installs or changes the mesh: definitions first, then the control plane beside the node agent,
/// and the node proxy after the node agent.
///
/// # Errors
/// See [`OperatorError`]. What was applied stays; installing again goes on from there.
pub async fn install(
    client: &Client,
    manifest: &Manifest,
    options: &InstallOptions,
    progress: &(dyn Fn(Event) + Sync),
) -> Result<(), OperatorError> {
    let run = Run {
        client,
        options,
        progress,
    };
    run.namespaces(manifest).await?;
    if options.gateway_api {
        run.gateway_api().await?;
    }
    if manifest.legacy_waypoint {
        run.legacy_gateways().await?;
    }
    let component = |kind| manifest.components.iter().find(move |c| c.kind == kind);
    let step = |kind| async move {
        match component(kind) {
            Some(component) => run.component(component).await,
            None => Ok(()),
        }
    };
    step(ComponentKind::Base).await?;
    let node = async {
        step(ComponentKind::Cni).await?;
        step(ComponentKind::Ztunnel).await
    };
    let (pilot, node) = tokio::join!(step(ComponentKind::Pilot), node);
    pilot.and(node)?;
    if !options.dry_run {
        progress(Event::Pruning);
        run.prune(manifest).await?;
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Run<'a> {
    client: &'a Client,
    options: &'a InstallOptions,
    progress: &'a (dyn Fn(Event) + Sync),
}

impl Run<'_> {
    async fn namespaces(&self, manifest: &Manifest) -> Result<(), OperatorError> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let mut wanted: Vec<&str> = vec![&manifest.namespace];
        wanted.extend(manifest.components.iter().map(|c| c.namespace.as_str()));
        wanted.sort_unstable();
        wanted.dedup();
        for name in wanted {
            let object = describe("Namespace", "", name);
            let existing = api.get_opt(name).await;
            if existing
                .map_err(|e| OperatorError::api("reading", &object, e))?
                .is_some()
            {
                continue;
            }
            let mut namespace = Namespace::default();
            namespace.metadata.name = Some(name.to_owned());
            let params = PostParams {
                dry_run: self.options.dry_run,
                field_manager: Some(FIELD_MANAGER.into()),
            };
            match api.create(&params, &namespace).await {
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                other => drop(other.map_err(|e| OperatorError::api("creating", &object, e))?),
            }
        }
        Ok(())
    }

    /// Makes the definitions of the Gateway API that are not there. Those that are stay as they
    /// are: they may be of a newer release, and somebody else's.
    async fn gateway_api(&self) -> Result<(), OperatorError> {
        let api: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let mut made = Vec::new();
        for definition in ambit_charts::gateway_api()? {
            let name = definition["metadata"]["name"].as_str().unwrap_or_default();
            let object = describe("CustomResourceDefinition", "", name);
            let existing = api.get_metadata_opt(name).await;
            if existing
                .map_err(|e| OperatorError::api("reading", &object, e))?
                .is_none()
            {
                self.apply(&definition).await?;
                made.push(definition);
            }
        }
        if made.is_empty() || self.options.dry_run {
            return Ok(());
        }
        let limit = self.options.readiness_timeout;
        let ready = join_all(
            made.iter()
                .map(|object| readiness::wait(self.client, object)),
        );
        if tokio::time::timeout(limit, ready).await.is_err() {
            return Err(OperatorError::NotReady {
                after: limit,
                pending: vec!["the definitions of the Gateway API".to_owned()],
            });
        }
        (self.progress)(Event::GatewayApi);
        Ok(())
    }

    /// Lets the definition of gateways, whoever made it, take those of the first release.
    async fn legacy_gateways(&self) -> Result<(), OperatorError> {
        let api: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let name = "gateways.gateway.networking.k8s.io";
        let object = describe("CustomResourceDefinition", "", name);
        let failed = |what, e| OperatorError::api(what, &object, e);
        let definition = api.get(name).await.map_err(|e| failed("reading", e))?;
        let mut changed = serde_json::json!(definition);
        if !ambit_charts::take_legacy_gateways(&mut changed) {
            return Ok(());
        }
        let params = PatchParams {
            dry_run: self.options.dry_run,
            field_manager: Some(FIELD_MANAGER.into()),
            ..PatchParams::default()
        };
        let versions = serde_json::json!({"spec": {"versions": changed["spec"]["versions"]}});
        api.patch(name, &params, &Patch::Merge(versions))
            .await
            .map_err(|e| failed("changing", e))?;
        Ok(())
    }

    async fn component(&self, component: &Component) -> Result<(), OperatorError> {
        let kind = component.kind;
        (self.progress)(Event::Processing(kind));
        let result = async {
            for object in &component.objects {
                self.apply(object).await?;
            }
            if self.options.dry_run {
                Ok(())
            } else {
                self.wait(component).await
            }
        }
        .await;
        (self.progress)(match &result {
            Ok(()) => Event::Installed(kind),
            Err(error) => Event::Failed(kind, error.to_string()),
        });
        result
    }

    async fn apply(&self, object: &Value) -> Result<(), OperatorError> {
        let kind = Kind::of(object)?;
        let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
        let params = PatchParams {
            dry_run: self.options.dry_run,
            ..PatchParams::apply(FIELD_MANAGER).force()
        };
        let api = kind.api(self.client, text("namespace"));
        let applied = api
            .patch(text("name"), &params, &Patch::Apply(object))
            .await;
        applied.map(drop).map_err(|e| {
            OperatorError::api(
                "applying",
                describe(kind.kind, text("namespace"), text("name")),
                e,
            )
        })
    }

    async fn wait(&self, component: &Component) -> Result<(), OperatorError> {
        let awaited: Vec<&Value> = component
            .objects
            .iter()
            .filter(|o| readiness::is_awaited(o))
            .collect();
        if awaited.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = awaited
            .iter()
            .filter(|o| o["kind"] != "CustomResourceDefinition")
            .map(|o| {
                let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
                let metadata = &o["metadata"];
                describe(
                    &text(&o["kind"]),
                    &text(&metadata["namespace"]),
                    &text(&metadata["name"]),
                )
            })
            .collect();
        (self.progress)(Event::Waiting(component.kind, names));
        let limit = self.options.readiness_timeout;
        let each = awaited.iter().map(|object| async move {
            let ready = tokio::time::timeout(limit, readiness::wait(self.client, object)).await;
            match ready {
                Ok(()) => None,
                Err(_) => Some(readiness::explain(self.client, object).await),
            }
        });
        let pending: Vec<String> = join_all(each).await.into_iter().flatten().collect();
        if pending.is_empty() {
            return Ok(());
        }
        Err(OperatorError::NotReady {
            after: limit,
            pending,
        })
    }

    /// Removes what an earlier installation of the same components made and this one does not.
    async fn prune(&self, manifest: &Manifest) -> Result<(), OperatorError> {
        for component in &manifest.components {
            let kept: HashSet<(String, String, String)> =
                component.objects.iter().map(identity_of).collect();
            let selector = format!(
                "{OWNER_LABEL}={OWNER},{OWNER_NAMESPACE_LABEL}={},{COMPONENT_LABEL}={},{REVISION_LABEL}={}",
                manifest.namespace,
                component.kind.label(),
                manifest.revision
            );
            for kind in KINDS {
                // Definitions hold the users' own objects; only a purge removes them.
                if kind.kind == "CustomResourceDefinition" {
                    continue;
                }
                for object in list(self.client, kind, &selector).await? {
                    let namespace = object.metadata.namespace.clone().unwrap_or_default();
                    let name = object.metadata.name.clone().unwrap_or_default();
                    if kept.contains(&(kind.kind.to_owned(), namespace.clone(), name.clone())) {
                        continue;
                    }
                    delete(self.client, kind, &namespace, &name).await?;
                    (self.progress)(Event::Pruned(describe(kind.kind, &namespace, &name)));
                }
            }
        }
        Ok(())
    }
}

fn identity_of(object: &Value) -> (String, String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    (
        text(&object["kind"]),
        text(&metadata["namespace"]),
        text(&metadata["name"]),
    )
}

/// All objects of a kind with these labels; none where the API server does not have the kind.
pub(crate) async fn list(
    client: &Client,
    kind: &Kind,
    selector: &str,
) -> Result<Vec<DynamicObject>, OperatorError> {
    match kind
        .all(client)
        .list(&ListParams::default().labels(selector))
        .await
    {
        Ok(list) => Ok(list.items),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
        Err(error) => Err(OperatorError::api("listing", kind.kind, error)),
    }
}

/// Deletes an object, and in the background what it owns. One that is gone is no error.
pub(crate) async fn delete(
    client: &Client,
    kind: &Kind,
    namespace: &str,
    name: &str,
) -> Result<(), OperatorError> {
    match kind
        .api(client, namespace)
        .delete(name, &DeleteParams::background())
        .await
    {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other
            .map(drop)
            .map_err(|e| OperatorError::api("deleting", describe(kind.kind, namespace, name), e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sample(kind: &str, namespace: &str, name: &str) -> Value {
        json!({"kind": kind, "metadata": {"namespace": namespace, "name": name}})
    }

    #[test]
    fn objects_are_told_apart_by_kind_namespace_and_name() {
        let a = identity_of(&sample("Role", "n", "x"));
        assert_ne!(a, identity_of(&sample("RoleBinding", "n", "x")));
        assert_ne!(a, identity_of(&sample("Role", "m", "x")));
        assert_eq!(a, identity_of(&sample("Role", "n", "x")));
    }
}
