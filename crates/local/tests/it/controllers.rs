//! Controllers against an API server in this process: nodes are objects here,
//! and the test plays the kubelet.

use std::time::Duration;

use ambit_node_agent::controllers::ControllersConfig;
use ambit_testkit::eventually;
use anyhow::{Result, ensure};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Event, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::harness::PATIENCE;
use crate::world::World;

pub fn template(app: &str, image: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}},
        "spec": {"containers": [{"name": "c", "image": image}]}})
}

pub fn deployment(replicas: i32, image: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": template("web", image)}})
}

pub fn is_rolled_out(deployment: &Deployment, replicas: i32) -> bool {
    let status = deployment.status.clone().unwrap_or_default();
    status.observed_generation == deployment.metadata.generation
        && [
            status.replicas,
            status.updated_replicas,
            status.ready_replicas,
            status.available_replicas,
        ] == [Some(replicas); 4]
        && status.unavailable_replicas.is_none()
}

#[tokio::test]
async fn a_deployment_rolls_out_changes_and_keeps_its_history() -> Result<()> {
    let world = World::new(ControllersConfig::default()).await?;
    world.node("n1", json!({})).await?;
    world.node("n2", json!({})).await?;
    world.create::<Deployment>(deployment(3, "one")).await?;
    world.until("web", |d| is_rolled_out(d, 3)).await?;
    let nodes: std::collections::BTreeSet<_> = world
        .kubelet()
        .await?
        .into_iter()
        .filter_map(|pod| pod.spec?.node_name)
        .collect();
    ensure!(nodes.len() == 2, "pods are not spread");

    let api: Api<Deployment> = Api::default_namespaced(world.client.clone());
    let change = Patch::Merge(json!({"spec": {"template": template("web", "two")}}));
    api.patch("web", &PatchParams::default(), &change).await?;
    let web = world.until("web", |d| is_rolled_out(d, 3)).await?;
    let revision = web.metadata.annotations.unwrap_or_default();
    ensure!(
        revision["deployment.kubernetes.io/revision"] == "2",
        "{revision:?}"
    );
    let images: Vec<_> = world
        .kubelet()
        .await?
        .into_iter()
        .filter_map(|pod| pod.spec?.containers.first()?.image.clone())
        .collect();
    ensure!(images == ["two", "two", "two"], "{images:?}");
    let sets: Api<ReplicaSet> = Api::default_namespaced(world.client.clone());
    ensure!(
        sets.list(&ListParams::default()).await?.items.len() == 2,
        "the history is gone"
    );

    let smaller = Patch::Merge(json!({"spec": {"replicas": 1}}));
    api.patch("web", &PatchParams::default(), &smaller).await?;
    world.until("web", |d| is_rolled_out(d, 1)).await?;
    Ok(())
}

#[tokio::test]
async fn a_daemon_is_on_every_fitting_node_and_follows_new_ones() -> Result<()> {
    let world = World::new(ControllersConfig::default()).await?;
    world.node("n1", json!({})).await?;
    world
        .node(
            "tainted",
            json!({"taints": [{"key": "k", "effect": "NoSchedule"}]}),
        )
        .await?;
    let set = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent"},
        "spec": {"selector": {"matchLabels": {"app": "agent"}}, "template": template("agent", "one"),
            "updateStrategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}}});
    world.create::<DaemonSet>(set).await?;
    let count = |set: &DaemonSet, wanted: i32| {
        let status = set.status.clone().unwrap_or_default();
        status.observed_generation == set.metadata.generation
            && status.desired_number_scheduled == wanted
            && status.number_available == Some(wanted)
            && status.updated_number_scheduled == Some(wanted)
    };
    world.until("agent", |set| count(set, 1)).await?;
    world.node("n2", json!({})).await?;
    world.until("agent", |set| count(set, 2)).await?;
    let api: Api<DaemonSet> = Api::default_namespaced(world.client.clone());
    let change = Patch::Merge(json!({"spec": {"template": template("agent", "two")}}));
    api.patch("agent", &PatchParams::default(), &change).await?;
    world.until("agent", |set| count(set, 2)).await?;
    let gone = eventually("the old pods to go", PATIENCE, async || {
        let pods = world.kubelet().await.ok()?;
        let new = |pod: &Pod| {
            let image = pod
                .spec
                .as_ref()
                .and_then(|spec| spec.containers.first()?.image.clone());
            image.as_deref() == Some("two")
        };
        (pods.len() == 2 && pods.iter().all(new)).then_some(())
    });
    gone.await
}

#[tokio::test]
async fn a_pod_that_fits_nowhere_says_why_and_is_bound_when_it_fits() -> Result<()> {
    let world = World::new(ControllersConfig::default()).await?;
    world.node("n1", json!({})).await?;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "picky"},
        "spec": {"nodeSelector": {"disk": "ssd"}, "containers": [{"name": "c", "image": "i"}]}});
    world.create::<Pod>(pod).await?;
    let wanted = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. \
        no new claims to deallocate, preemption: 0/1 nodes are available: \
        1 Preemption is not helpful for scheduling.";
    world
        .until("picky", |pod: &Pod| {
            let conditions = pod
                .status
                .as_ref()
                .and_then(|status| status.conditions.clone());
            conditions
                .into_iter()
                .flatten()
                .any(|c| c.message.as_deref() == Some(wanted))
        })
        .await?;
    let events: Api<Event> = Api::default_namespaced(world.client.clone());
    let told = eventually("an event", PATIENCE, async || {
        let all = events.list(&ListParams::default()).await.ok()?;
        all.items
            .into_iter()
            .find(|event| event.reason.as_deref() == Some("FailedScheduling"))
    });
    ensure!(
        told.await?.message.as_deref() == Some(wanted),
        "another message"
    );
    let nodes: Api<Node> = Api::all(world.client.clone());
    let label = Patch::Merge(json!({"metadata": {"labels": {"disk": "ssd"}}}));
    nodes.patch("n1", &PatchParams::default(), &label).await?;
    world
        .until("picky", |pod: &Pod| crate::harness::is_ready(pod))
        .await?;
    Ok(())
}

#[tokio::test]
async fn endpoints_and_addresses_follow_pods_and_services() -> Result<()> {
    let range = ("192.0.2.10".parse()?, "192.0.2.20".parse()?);
    let config = ControllersConfig {
        load_balancer_ranges: vec![range],
        ..Default::default()
    };
    let world = World::new(config).await?;
    world.node("n1", json!({})).await?;
    world.create::<Deployment>(deployment(2, "one")).await?;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"type": "LoadBalancer", "selector": {"app": "web"}, "ports": [{"port": 80}]}});
    world.create::<Service>(service).await?;
    world
        .until("web", |service: &Service| {
            let status = service.status.clone().unwrap_or_default().load_balancer;
            let ingress = status.unwrap_or_default().ingress.unwrap_or_default();
            ingress.first().and_then(|i| i.ip.clone()).as_deref() == Some("192.0.2.10")
        })
        .await?;
    let slices: Api<EndpointSlice> = Api::default_namespaced(world.client.clone());
    let ready = async |wanted: usize| {
        eventually("endpoints", PATIENCE, async || {
            world.kubelet().await.ok()?;
            let own = ListParams::default().labels("kubernetes.io/service-name=web");
            let all = slices.list(&own).await.ok()?.items;
            let ready = all
                .iter()
                .flat_map(|slice| &slice.endpoints)
                .filter(|endpoint| {
                    endpoint.conditions.as_ref().and_then(|c| c.ready) == Some(true)
                });
            (ready.count() == wanted).then_some(())
        })
        .await
    };
    ready(2).await?;
    let api: Api<Deployment> = Api::default_namespaced(world.client.clone());
    let none = Patch::Merge(json!({"spec": {"replicas": 0}}));
    api.patch("web", &PatchParams::default(), &none).await?;
    ready(0).await
}

#[tokio::test]
async fn a_silent_node_is_given_up_and_its_pods_are_not_ready() -> Result<()> {
    let config = ControllersConfig {
        node_grace_period: Duration::from_secs(2),
        ..Default::default()
    };
    let world = World::new(config).await?;
    world.node("n1", json!({})).await?;
    world.create::<Deployment>(deployment(1, "one")).await?;
    world.until("web", |d| is_rolled_out(d, 1)).await?;
    let nodes: Api<Node> = Api::all(world.client.clone());
    let silent = eventually("the node to be given up", PATIENCE, async || {
        let node = nodes.get("n1").await.ok()?;
        let unknown = node
            .status?
            .conditions?
            .iter()
            .any(|c| c.type_ == "Ready" && c.status == "Unknown");
        let taints = node.spec?.taints.unwrap_or_default();
        (unknown
            && taints
                .iter()
                .any(|t| t.key == "node.kubernetes.io/unreachable"))
        .then_some(())
    });
    silent.await?;
    let pods = world.pods();
    let not_ready = eventually("the pod to be not ready", PATIENCE, async || {
        let all = pods.list(&ListParams::default()).await.ok()?.items;
        (!all.iter().any(crate::harness::is_ready)).then_some(())
    });
    not_ready.await
}
