//! The scheduler: a node for every pod that has none.
//!
//! `filter` says which nodes are possible and why others are not, `score` which
//! of the possible ones is best, `preemption` whether less important pods
//! should make room. All three are pure; here is what feeds them and what
//! carries out their decisions.

mod affinity;
mod filter;
mod preemption;
mod resources;
mod score;
mod spread;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    Binding, Namespace, Node, ObjectReference, PersistentVolumeClaim, Pod,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Status};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use self::affinity::{Affinities, depends_on_pods};
use self::filter::{Obstacle, obstacles, same_for_scheduling};
use self::spread::Spread;
use super::error::{ControllerError, Doing, is_status};
use super::meta;
use super::pods;
use super::world::World;
use crate::informer::{Cache, ObjectKey, Queue};

const COMPONENT: &str = "default-scheduler";

/// A node and the pods on it that have not ended.
pub(super) struct Place<'a> {
    pub(super) node: &'a Node,
    pub(super) pods: Vec<&'a Pod>,
}

/// Subscribes to what matters for scheduling and binds pods.
pub(crate) fn start(world: Arc<World>) -> impl Future<Output = ()> + Send {
    let queue = Queue::new();
    let (waiting, cache) = (queue.clone(), Arc::downgrade(&world));
    world.pods.on_change(move |old, new| {
        if let Some(pod) = new.filter(|pod| needs_node(pod)) {
            waiting.add(ObjectKey::of(pod));
        }
        let Some(world) = cache.upgrade() else {
            return;
        };
        let was_there = old.is_some_and(|pod| meta::node_of(pod).is_some());
        let is_there = new.is_some_and(|pod| meta::node_of(pod).is_some());
        // A pod that ends may free what others wait for.
        if was_there && new.is_none_or(meta::is_finished) {
            add_all_waiting(&world, &waiting, |_| true);
        } else if is_there && !was_there {
            add_all_waiting(&world, &waiting, depends_on_pods);
        }
    });
    let (waiting, cache) = (queue.clone(), Arc::downgrade(&world));
    world.nodes.on_change(move |old, new| {
        let same = matches!((old, new), (Some(old), Some(new)) if same_for_scheduling(old, new));
        if let Some(world) = cache.upgrade().filter(|_| !same) {
            add_all_waiting(&world, &waiting, |_| true);
        }
    });
    let (waiting, cache) = (queue.clone(), Arc::downgrade(&world));
    world.claims.on_change(move |_, _| {
        if let Some(world) = cache.upgrade() {
            add_all_waiting(&world, &waiting, |pod| !claim_names(pod).is_empty());
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

fn add_all_waiting(world: &World, queue: &Queue<ObjectKey>, matters: impl Fn(&Pod) -> bool) {
    for pod in world.pods.list() {
        if needs_node(&pod) && matters(&pod) {
            queue.add(ObjectKey::of(&*pod));
        }
    }
}

async fn schedule(world: &World, key: ObjectKey) -> Result<(), ControllerError> {
    let Some(pod) = world.pods.get(&key).filter(|pod| needs_node(pod)) else {
        return Ok(());
    };
    let (nodes, pods) = (world.nodes.list(), world.pods.list());
    let decision = match unbound_claim(&pod, &world.claims) {
        Some(reason) => Decision::None(no_node(nodes.len(), &reason, &pod)),
        None => decide(&pod, &places(&nodes, &pods), &world.namespaces.list()),
    };
    match decision {
        Decision::Bind(node) => bind(world, &pod, &node).await,
        Decision::None(message) => report(world, &pod, message, None).await,
        Decision::MakeRoom {
            node,
            victims,
            message,
        } => {
            report(world, &pod, message, Some(&node)).await?;
            make_room(world, &pod, &node, victims).await
        }
    }
}

fn places<'a>(nodes: &'a [Arc<Node>], pods: &'a [Arc<Pod>]) -> Vec<Place<'a>> {
    let mut by_node: HashMap<&str, Vec<&Pod>> = HashMap::new();
    for pod in pods.iter().filter(|pod| !meta::is_finished(pod)) {
        if let Some(node) = meta::node_of(pod) {
            by_node.entry(node).or_default().push(pod);
        }
    }
    let place = |node: &'a Arc<Node>| {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        Place {
            node,
            pods: by_node.remove(name).unwrap_or_default(),
        }
    };
    nodes.iter().map(place).collect()
}

/// What becomes of a pod.
#[derive(Debug, PartialEq)]
enum Decision {
    /// It goes to this node.
    Bind(String),
    /// It waits, for the reason in the message.
    None(String),
    /// It waits until these pods have left the node.
    MakeRoom {
        node: String,
        victims: Vec<ObjectKey>,
        message: String,
    },
}

fn decide(pod: &Pod, places: &[Place<'_>], namespaces: &[Arc<Namespace>]) -> Decision {
    let Some(spec) = &pod.spec else {
        return Decision::None("the pod has no spec".to_owned());
    };
    if places.is_empty() {
        return Decision::None("no nodes available to schedule pods".to_owned());
    }
    let spread = Spread::of(pod, places);
    let affinities = Affinities::of(pod, places, namespaces);
    let why: Vec<Vec<Obstacle>> = places
        .iter()
        .map(|place| obstacles(pod, spec, place, &spread, &affinities))
        .collect();
    let fitting: Vec<&Place<'_>> = places
        .iter()
        .zip(&why)
        .filter(|(_, why)| why.is_empty())
        .map(|(place, _)| place)
        .collect();
    if let Some(node) = score::best(pod, spec, &fitting, &spread, &affinities) {
        return Decision::Bind(node.metadata.name.clone().unwrap_or_default());
    }
    let reasons = histogram(
        why.iter()
            .flatten()
            .map(|obstacle| obstacle.reason.as_str()),
    );
    let message = format!("0/{} nodes are available: {reasons}.", places.len());
    if !preemption::is_allowed(pod) {
        let why_not = "preemption: not eligible due to preemptionPolicy=Never.";
        return Decision::None(format!("{message} {NO_CLAIMS}, {why_not}"));
    }
    if preemption::is_waiting_for_victims(pod, places) {
        let why_not = "preemption: not eligible due to a terminating pod on the nominated node.";
        return Decision::None(format!("{message} {NO_CLAIMS}, {why_not}"));
    }
    let fits = |index: usize, pods: &[&Pod]| fits_with(pod, places, index, pods, namespaces);
    match preemption::choose(pod, places, &why, fits) {
        Ok(choice) => Decision::MakeRoom {
            node: choice.node.metadata.name.clone().unwrap_or_default(),
            victims: choice
                .victims
                .iter()
                .map(|pod| ObjectKey::of(*pod))
                .collect(),
            message,
        },
        Err(reasons) => {
            let why_not = preemption_message(places.len(), reasons);
            Decision::None(format!("{message} {why_not}"))
        }
    }
}

/// What the plugin for resource claims says of every pod without any.
const NO_CLAIMS: &str = "no new claims to deallocate";

fn preemption_message(nodes: usize, reasons: Vec<&str>) -> String {
    let reasons = histogram(reasons.into_iter());
    format!("{NO_CLAIMS}, preemption: 0/{nodes} nodes are available: {reasons}.")
}

/// The message about a pod that no node is even considered for.
fn no_node(nodes: usize, reason: &str, pod: &Pod) -> String {
    let why_not = if preemption::is_allowed(pod) {
        preemption_message(
            nodes,
            vec!["Preemption is not helpful for scheduling"; nodes],
        )
    } else {
        format!("{NO_CLAIMS}, preemption: not eligible due to preemptionPolicy=Never.")
    };
    format!("0/{nodes} nodes are available: {reason}. {why_not}")
}

/// Whether the pod fits if the place at `index` holds only `pods`.
fn fits_with(
    pod: &Pod,
    places: &[Place<'_>],
    index: usize,
    pods: &[&Pod],
    namespaces: &[Arc<Namespace>],
) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let changed: Vec<Place<'_>> = places
        .iter()
        .enumerate()
        .map(|(other, place)| Place {
            node: place.node,
            pods: if other == index {
                pods.to_vec()
            } else {
                place.pods.clone()
            },
        })
        .collect();
    let (spread, affinities) = (
        Spread::of(pod, &changed),
        Affinities::of(pod, &changed, namespaces),
    );
    obstacles(pod, spec, &changed[index], &spread, &affinities).is_empty()
}

/// `2 one reason, 1 another`, in the order of the texts.
fn histogram<'a>(reasons: impl Iterator<Item = &'a str>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason).or_default() += 1;
    }
    let mut texts: Vec<String> = counts
        .iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    texts.sort();
    texts.join(", ")
}

/// Names of the persistent volume claims that a pod uses.
fn claim_names(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
    volumes
        .into_iter()
        .flatten()
        .filter_map(|volume| Some(volume.persistent_volume_claim.as_ref()?.claim_name.clone()))
        .collect()
}

/// Why the pod's claims forbid every node.
fn unbound_claim(pod: &Pod, claims: &Cache<PersistentVolumeClaim>) -> Option<String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    for name in claim_names(pod) {
        let Some(claim) = claims.get(&ObjectKey::new(namespace, &*name)) else {
            return Some(format!("persistentvolumeclaim {name:?} not found"));
        };
        let phase = claim
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        if phase != Some("Bound") {
            return Some("pod has unbound immediate PersistentVolumeClaims".to_owned());
        }
    }
    None
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

/// Deletes less important pods; the one that needs their room is looked at
/// again when they are gone.
async fn make_room(
    world: &World,
    pod: &Pod,
    node: &str,
    victims: Vec<ObjectKey>,
) -> Result<(), ControllerError> {
    for key in victims {
        let Some(victim) = world.pods.get(&key) else {
            continue;
        };
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let about = format!("{COMPONENT}: preempting to accommodate a higher priority pod");
        pods::mark_disrupted(world, &victim, "PreemptionByScheduler", &about).await?;
        pods::delete(world, &victim, None).await?;
        let message = format!("Preempted by pod {uid} on node {node}");
        world
            .events
            .normal(COMPONENT, &*victim, "Preempted", message)
            .await;
    }
    Ok(())
}

async fn report(
    world: &World,
    pod: &Pod,
    message: String,
    nominated: Option<&str>,
) -> Result<(), ControllerError> {
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
    let mut patch = json!({"status": {"conditions": [condition]}});
    if let Some(node) = nominated {
        patch["status"]["nominatedNodeName"] = node.into();
    }
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

    fn node(name: &str, cpu: &str, taints: Value) -> Node {
        let node = json!({
            "metadata": {"name": name}, "spec": {"taints": taints},
            "status": {"conditions": [{"type": "Ready", "status": "True"}],
                "allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"}},
        });
        serde_json::from_value(node).unwrap()
    }

    fn pod(name: &str, priority: i32, cpu: &str) -> Pod {
        let pod = json!({
            "metadata": {"name": name, "namespace": "ns"},
            "spec": {"priority": priority, "containers": [
                {"name": "c", "resources": {"requests": {"cpu": cpu}}}]},
        });
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn the_message_counts_the_reasons_of_all_nodes() {
        let tainted =
            json!([{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]);
        let nodes = [
            node("n1", "4", tainted),
            node("n2", "1", json!([])),
            node("n3", "1", json!([])),
        ];
        let places: Vec<Place<'_>> = nodes
            .iter()
            .map(|node| Place { node, pods: vec![] })
            .collect();
        assert_eq!(
            decide(&pod("a", 0, "2"), &places, &[]),
            Decision::None(
                "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu. \
                 no new claims to deallocate, preemption: 0/3 nodes are available: \
                 3 Preemption is not helpful for scheduling."
                    .to_owned()
            )
        );
        let none = Decision::None("no nodes available to schedule pods".to_owned());
        assert_eq!(decide(&pod("a", 0, "1"), &[], &[]), none);
    }

    #[test]
    fn a_more_important_pod_makes_room() {
        let (node, low) = (node("n1", "1", json!([])), pod("low", 0, "800m"));
        let places = [Place {
            node: &node,
            pods: vec![&low],
        }];
        let Decision::MakeRoom {
            node,
            victims,
            message,
        } = decide(&pod("high", 10, "500m"), &places, &[])
        else {
            panic!("no room is made");
        };
        assert_eq!(
            (node.as_str(), victims),
            ("n1", vec![ObjectKey::new("ns", "low")])
        );
        assert_eq!(message, "0/1 nodes are available: 1 Insufficient cpu.");
        let Decision::None(message) = decide(&pod("equal", 0, "500m"), &places, &[]) else {
            panic!("equals are left alone");
        };
        assert!(
            message.ends_with("1 No preemption victims found for incoming pod."),
            "{message}"
        );
        let mut peaceful = pod("high", 10, "500m");
        peaceful.spec.as_mut().unwrap().preemption_policy = Some("Never".into());
        let Decision::None(message) = decide(&peaceful, &places, &[]) else {
            panic!("the policy forbids it");
        };
        assert!(
            message.ends_with("preemption: not eligible due to preemptionPolicy=Never."),
            "{message}"
        );
    }
}
