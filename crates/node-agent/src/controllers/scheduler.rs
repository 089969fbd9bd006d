//! The scheduler: a node for every pod that has none.
//!
//! Among the nodes that `placement` allows, the one with the fewest pods of
//! the same owner wins, then the one with the fewest pods, then the first by
//! name. Resource requests and preferences are not weighed.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Binding, Node, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Status};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use super::error::{ControllerError, Doing, is_status};
use super::meta;
use super::placement::{self, Obstacle};
use super::world::World;
use crate::informer::{ObjectKey, Queue};

const COMPONENT: &str = "default-scheduler";

/// Subscribes to what matters for scheduling and binds pods.
pub(crate) fn start(world: Arc<World>) -> impl Future<Output = ()> + Send {
    let queue = Queue::new();
    let (waiting, cache) = (queue.clone(), Arc::downgrade(&world));
    world.pods.on_change(move |old, new| {
        if let Some(pod) = new.filter(|pod| needs_node(pod)) {
            waiting.add(ObjectKey::of(pod));
        }
        // A pod that ends may free a host port for one that waits.
        let freed = old.is_some_and(|pod| meta::node_of(pod).is_some())
            && new.is_none_or(meta::is_finished);
        if let Some(world) = cache.upgrade().filter(|_| freed) {
            add_all_waiting(&world, &waiting);
        }
    });
    let (waiting, cache) = (queue.clone(), Arc::downgrade(&world));
    world.nodes.on_change(move |old, new| {
        if let Some(world) = cache.upgrade().filter(|_| matters(old, new)) {
            add_all_waiting(&world, &waiting);
        }
    });
    async move {
        super::synced(&world).await;
        queue.work(COMPONENT, |key| schedule(&world, key)).await;
    }
}

fn needs_node(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    meta::is_active(pod)
        && meta::node_of(pod).is_none()
        && spec.scheduler_name.as_deref().unwrap_or(COMPONENT) == COMPONENT
        && spec.scheduling_gates.as_ref().is_none_or(Vec::is_empty)
}

fn add_all_waiting(world: &World, queue: &Queue<ObjectKey>) {
    for pod in world.pods.list().iter().filter(|pod| needs_node(pod)) {
        queue.add(ObjectKey::of(&**pod));
    }
}

/// Whether a change of a node can change where pods may go; a heartbeat cannot.
fn matters(old: Option<&Node>, new: Option<&Node>) -> bool {
    let (Some(old), Some(new)) = (old, new) else {
        return true;
    };
    old.spec != new.spec
        || old.metadata.labels != new.metadata.labels
        || placement::is_ready(old) != placement::is_ready(new)
}

async fn schedule(world: &World, key: ObjectKey) -> Result<(), ControllerError> {
    let Some(pod) = world.pods.get(&key).filter(|pod| needs_node(pod)) else {
        return Ok(());
    };
    match choose(&pod, &world.nodes.list(), &world.pods.list()) {
        Ok(node) => bind(world, &pod, &node).await,
        Err(message) => report(world, &pod, message).await,
    }
}

/// The node for `pod`, or the message that says why there is none.
fn choose(pod: &Pod, nodes: &[Arc<Node>], pods: &[Arc<Pod>]) -> Result<String, String> {
    let Some(spec) = &pod.spec else {
        return Err("the pod has no spec".to_owned());
    };
    let owner = meta::controller_of(&pod.metadata).map(|owner| owner.uid.as_str());
    let mut by_node: BTreeMap<&str, Vec<&Pod>> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| !meta::is_finished(pod)) {
        if let Some(node) = meta::node_of(pod) {
            by_node.entry(node).or_default().push(pod);
        }
    }
    let mut obstacles: BTreeMap<String, usize> = BTreeMap::new();
    let mut best: Option<(usize, usize, &str)> = None;
    for node in nodes {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let there = by_node.get(name).map(Vec::as_slice).unwrap_or_default();
        match placement::obstacle(spec, node, there.iter().copied()) {
            Some(obstacle) => *obstacles.entry(Obstacle::to_string(&obstacle)).or_default() += 1,
            None => {
                let siblings = there
                    .iter()
                    .filter(|pod| {
                        owner.is_some_and(|uid| meta::is_controlled_by(&pod.metadata, uid))
                    })
                    .count();
                let rank = (siblings, there.len(), name);
                best = Some(best.map_or(rank, |best| best.min(rank)));
            }
        }
    }
    match best {
        Some((_, _, name)) => Ok(name.to_owned()),
        None if nodes.is_empty() => Err("no nodes available to schedule pods".to_owned()),
        None => {
            let reasons: Vec<String> = obstacles
                .iter()
                .map(|(reason, count)| format!("{count} {reason}"))
                .collect();
            let total = nodes.len();
            Err(format!(
                "0/{total} nodes are available: {}.",
                reasons.join(", ")
            ))
        }
    }
}

async fn bind(world: &World, pod: &Pod, node: &str) -> Result<(), ControllerError> {
    let key = ObjectKey::of(pod);
    let binding = Binding {
        metadata: ObjectMeta {
            name: Some(key.name.clone()),
            namespace: Some(key.namespace.clone()),
            uid: pod.metadata.uid.clone(),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            ..ObjectReference::default()
        },
    };
    let api = world.api::<Pod>(&key.namespace);
    let params = PostParams::default();
    match api
        .create_subresource::<_, Status>("binding", &key.name, &params, &binding)
        .await
    {
        Ok(_) => {}
        // Gone, or bound by somebody else: the watch tells which.
        Err(error) if is_status(&error, 404) || is_status(&error, 409) => return Ok(()),
        Err(error) => return Err(error).doing(|| format!("binding {key} to {node}")),
    }
    tracing::info!("{key} is bound to {node}");
    assume(world, pod, node);
    let message = format!("Successfully assigned {key} to {node}");
    world
        .events
        .normal(COMPONENT, pod, "Scheduled", message)
        .await;
    Ok(())
}

/// Counts the pod on its node before the watch says so: the next choice may
/// come first.
fn assume(world: &World, pod: &Pod, node: &str) {
    let key = ObjectKey::of(pod);
    let Some(known) = world
        .pods
        .get(&key)
        .filter(|known| meta::node_of(known).is_none())
    else {
        return;
    };
    let mut assumed = (*known).clone();
    if let Some(spec) = &mut assumed.spec {
        spec.node_name = Some(node.to_owned());
    }
    world.pods.assume(assumed);
}

async fn report(world: &World, pod: &Pod, message: String) -> Result<(), ControllerError> {
    let key = ObjectKey::of(pod);
    let told = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref())
        .and_then(|all| all.iter().find(|c| c.type_ == "PodScheduled"));
    if told.is_some_and(|c| c.status == "False" && c.message.as_deref() == Some(&message)) {
        return Ok(());
    }
    let condition = json!({
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": message, "lastTransitionTime": meta::now(),
    });
    let patch = json!({"status": {"conditions": [condition]}});
    let api = world.api::<Pod>(&key.namespace);
    match api
        .patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch))
        .await
    {
        Ok(written) => world.pods.observe(written),
        Err(error) if is_status(&error, 404) => return Ok(()),
        Err(error) => return Err(error).doing(|| format!("marking {key} as unschedulable")),
    }
    tracing::info!("{key} finds no node: {message}");
    world
        .events
        .warning(COMPONENT, pod, "FailedScheduling", message)
        .await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(name: &str, taints: Value) -> Arc<Node> {
        let node = json!({
            "metadata": {"name": name}, "spec": {"taints": taints},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        });
        Arc::new(serde_json::from_value(node).expect("a node"))
    }

    fn pod(name: &str, owner: &str, node: Option<&str>) -> Arc<Pod> {
        let pod = json!({
            "metadata": {"name": name, "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner, "uid": owner,
                 "controller": true}]},
            "spec": {"containers": [], "nodeName": node},
        });
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    }

    #[test]
    fn pods_of_one_owner_spread_before_load_counts() {
        let nodes = [node("n1", json!([])), node("n2", json!([]))];
        let pods = [
            pod("a", "x", Some("n1")),
            pod("b", "y", Some("n2")),
            pod("c", "y", Some("n2")),
        ];
        assert_eq!(choose(&pod("d", "x", None), &nodes, &pods), Ok("n2".into()));
        assert_eq!(choose(&pod("d", "z", None), &nodes, &pods), Ok("n1".into()));
    }

    #[test]
    fn the_message_counts_the_reasons() {
        let master =
            json!([{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]);
        let nodes = [node("n1", master.clone()), node("n2", master)];
        let message = choose(&pod("a", "x", None), &nodes, &[]).expect_err("no node");
        assert_eq!(
            message,
            "0/2 nodes are available: 2 node(s) had untolerated taint \
             {node-role.kubernetes.io/control-plane: }."
        );
        assert!(choose(&pod("a", "x", None), &[], &[]).is_err());
    }
}
