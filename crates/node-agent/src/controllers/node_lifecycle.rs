//! Nodes that stop answering become `NotReady`, and nodes carry the taints
//! that follow from their conditions.
//!
//! A node answers by renewing its lease. What counts is when this process saw
//! the lease change, not the time written in it: clocks may differ.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use kube::api::{Api, Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use super::error::{ControllerError, Doing, is_status};
use super::meta;
use super::placement::{self, NOT_READY, UNREACHABLE, UNSCHEDULABLE};
use super::world::{NODE_LEASES, World};
use crate::informer::{ObjectKey, Queue};

const COMPONENT: &str = "node-lifecycle-controller";

/// When each node was heard of last, and what it said.
type Heartbeats = Mutex<HashMap<String, (Option<String>, Instant)>>;

/// Subscribes to nodes and leases; a node is given up after `grace`.
pub(crate) fn start(world: Arc<World>, grace: Duration) -> impl Future<Output = ()> + Send {
    let queue = Queue::new();
    let nodes = queue.clone();
    world.nodes.on_change(move |_, new| {
        if let Some(node) = new {
            nodes.add(ObjectKey::of(node));
        }
    });
    let leases = queue.clone();
    world.leases.on_change(move |_, new| {
        if let Some(lease) = new {
            leases.add(ObjectKey::new("", ObjectKey::of(lease).name));
        }
    });
    async move {
        super::synced(&world).await;
        let heard = Heartbeats::default();
        queue
            .work(COMPONENT, |key| {
                reconcile(&world, &queue, &heard, grace, key)
            })
            .await;
    }
}

async fn reconcile(
    world: &World,
    queue: &Queue<ObjectKey>,
    heard: &Heartbeats,
    grace: Duration,
    key: ObjectKey,
) -> Result<(), ControllerError> {
    let Some(node) = world.nodes.get(&key) else {
        heard.lock().remove(&key.name);
        return Ok(());
    };
    let lease = world
        .leases
        .get(&ObjectKey::new(NODE_LEASES, key.name.clone()));
    let silent = silence(heard, &key.name, lease.as_deref(), Instant::now());
    if silent < grace {
        queue.add_after(key.clone(), grace - silent);
    } else if ready_status(&node) != "Unknown" {
        tracing::warn!(
            "node {key} has not renewed its lease for {} s",
            silent.as_secs()
        );
        give_up(world, &node).await?;
    }
    let Some(node) = world.nodes.get(&key) else {
        return Ok(());
    };
    sync_taints(world, &node).await
}

/// How long the node has been silent at `now`.
fn silence(heard: &Heartbeats, name: &str, lease: Option<&Lease>, now: Instant) -> Duration {
    let said = lease
        .and_then(|lease| lease.spec.as_ref())
        .and_then(|spec| spec.renew_time.as_ref())
        .map(|time| time.0.to_string());
    let mut heard = heard.lock();
    let entry = heard
        .entry(name.to_owned())
        .or_insert_with(|| (said.clone(), now));
    if entry.0 != said {
        *entry = (said, now);
    }
    now - entry.1
}

fn ready_status(node: &Node) -> &str {
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    conditions
        .and_then(|all| all.iter().find(|c| c.type_ == "Ready"))
        .map_or("", |condition| condition.status.as_str())
}

/// Marks the node's conditions as unknown, and its pods as not ready.
async fn give_up(world: &World, node: &Node) -> Result<(), ControllerError> {
    let key = ObjectKey::of(node);
    let mut types: Vec<String> = vec!["Ready".to_owned()];
    let known = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.clone());
    types.extend(
        known
            .into_iter()
            .flatten()
            .map(|c| c.type_)
            .filter(|t| t != "Ready"),
    );
    let conditions: Vec<NodeCondition> = types
        .into_iter()
        .map(|type_| NodeCondition {
            type_,
            status: "Unknown".to_owned(),
            reason: Some("NodeStatusUnknown".to_owned()),
            message: Some("Kubelet stopped posting node status.".to_owned()),
            last_transition_time: Some(meta::now()),
            ..NodeCondition::default()
        })
        .collect();
    let patch = json!({"status": {"conditions": conditions}});
    let api = Api::<Node>::all(world.client.clone());
    match api
        .patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch))
        .await
    {
        Ok(written) => world.nodes.observe(written),
        Err(error) if is_status(&error, 404) => return Ok(()),
        Err(error) => return Err(error).doing(|| format!("marking the node {key} as unknown")),
    }
    let message = format!("Node {key} status is now: NodeNotReady");
    world
        .events
        .normal(COMPONENT, node, "NodeNotReady", message)
        .await;
    for pod in world.pods.list() {
        if meta::node_of(&pod) == Some(&key.name) && meta::ready_since(&pod).is_some() {
            mark_not_ready(world, &pod).await?;
        }
    }
    Ok(())
}

async fn mark_not_ready(world: &World, pod: &Pod) -> Result<(), ControllerError> {
    let key = ObjectKey::of(pod);
    let condition = json!({"type": "Ready", "status": "False", "lastTransitionTime": meta::now()});
    let patch = json!({"status": {"conditions": [condition]}});
    let api = world.api::<Pod>(&key.namespace);
    match api
        .patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch))
        .await
    {
        Ok(written) => world.pods.observe(written),
        Err(error) if is_status(&error, 404) => {}
        Err(error) => return Err(error).doing(|| format!("marking the pod {key} as not ready")),
    }
    Ok(())
}

/// The taints the node should have: its own, and those of its conditions.
fn wanted_taints(node: &Node) -> Vec<Taint> {
    let current = node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.clone())
        .unwrap_or_default();
    let managed = |key: &str| [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&key);
    let mut derived = Vec::new();
    match ready_status(node) {
        "True" => {}
        "Unknown" => {
            derived.extend(
                ["NoSchedule", "NoExecute"].map(|effect| placement::taint(UNREACHABLE, effect)),
            );
        }
        _ => derived
            .extend(["NoSchedule", "NoExecute"].map(|effect| placement::taint(NOT_READY, effect))),
    }
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        derived.push(placement::taint(UNSCHEDULABLE, "NoSchedule"));
    }
    // Those that stay keep their `timeAdded`.
    let mut taints: Vec<Taint> = current
        .into_iter()
        .filter(|t| {
            !managed(&t.key)
                || derived
                    .iter()
                    .any(|d| d.key == t.key && d.effect == t.effect)
        })
        .collect();
    for mut taint in derived {
        if !taints
            .iter()
            .any(|t| t.key == taint.key && t.effect == taint.effect)
        {
            taint.time_added = Some(meta::now());
            taints.push(taint);
        }
    }
    taints
}

async fn sync_taints(world: &World, node: &Node) -> Result<(), ControllerError> {
    let wanted = wanted_taints(node);
    let current = node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.clone())
        .unwrap_or_default();
    if wanted == current {
        return Ok(());
    }
    let key = ObjectKey::of(node);
    let taints = if wanted.is_empty() {
        json!(null)
    } else {
        json!(wanted)
    };
    // The version makes it a compare-and-swap: others change taints too.
    let version = &node.metadata.resource_version;
    let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"taints": taints}});
    let api = Api::<Node>::all(world.client.clone());
    match api
        .patch(&key.name, &PatchParams::default(), &Patch::Merge(patch))
        .await
    {
        Ok(written) => world.nodes.observe(written),
        Err(error) if is_status(&error, 404) => {}
        Err(error) => return Err(error).doing(|| format!("writing the taints of {key}")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(ready: &str, unschedulable: bool, taints: serde_json::Value) -> Node {
        let node = json!({
            "metadata": {"name": "n"},
            "spec": {"unschedulable": unschedulable, "taints": taints},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        });
        serde_json::from_value(node).expect("a node")
    }

    fn keys(node: &Node) -> Vec<String> {
        wanted_taints(node)
            .iter()
            .map(|t| format!("{}:{}", t.key, t.effect))
            .collect()
    }

    #[test]
    fn taints_follow_conditions_and_leave_others_alone() {
        let own = json!([{"key": "own", "effect": "NoSchedule"}, {"key": UNREACHABLE, "effect": "NoExecute"}]);
        assert_eq!(keys(&node("True", false, own.clone())), ["own:NoSchedule"]);
        assert_eq!(
            keys(&node("Unknown", false, own)),
            [
                "own:NoSchedule".to_owned(),
                format!("{UNREACHABLE}:NoExecute"),
                format!("{UNREACHABLE}:NoSchedule"),
            ]
        );
        assert_eq!(
            keys(&node("True", true, json!([]))),
            [format!("{UNSCHEDULABLE}:NoSchedule")]
        );
        assert_eq!(keys(&node("False", false, json!([]))).len(), 2);
    }

    #[test]
    fn silence_is_measured_from_the_last_change_of_the_lease() {
        let heard = Heartbeats::default();
        let lease = |time: &str| -> Lease {
            let lease = json!({"metadata": {}, "spec": {"renewTime": time}});
            serde_json::from_value(lease).expect("a lease")
        };
        let start = Instant::now();
        let later = start + Duration::from_secs(30);
        let first = lease("2020-01-01T00:00:00.000000Z");
        assert_eq!(silence(&heard, "n", Some(&first), start), Duration::ZERO);
        assert_eq!(
            silence(&heard, "n", Some(&first), later),
            Duration::from_secs(30)
        );
        let second = lease("2020-01-01T00:00:10.000000Z");
        assert_eq!(silence(&heard, "n", Some(&second), later), Duration::ZERO);
    }
}
