//! What a daemon set does on each node, decided as pure values.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod,
    PodSpec, PodTemplateSpec, Toleration,
};
use k8s_openapi::jiff::Timestamp;

use super::meta::{self, Availability, scaled};
use super::placement::{self, tolerates, untolerated};
use super::revisions::REVISION_LABEL;

/// The version of the template that a pod was made of.
pub(crate) fn hash_of(pod: &Pod) -> Option<&str> {
    let labels = pod.metadata.labels.as_ref()?;
    labels.get(REVISION_LABEL).map(String::as_str)
}

/// What to do, and what the set's status is before it is done.
#[derive(Debug, Default)]
pub(crate) struct Plan<'a> {
    /// Names of the nodes that get a pod.
    pub(crate) create: Vec<String>,
    /// Pods to delete.
    pub(crate) delete: Vec<&'a Pod>,
    pub(crate) counts: Counts,
    /// When time alone will change the counts.
    pub(crate) recheck: Option<Duration>,
}

/// The numbers of a daemon set's status.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) desired: i32,
    pub(crate) current: i32,
    pub(crate) misscheduled: i32,
    pub(crate) ready: i32,
    pub(crate) updated: i32,
    pub(crate) available: i32,
}

/// One node's pods of the set.
struct OnNode<'a> {
    name: &'a str,
    /// Newest template, then the rest; unfinished ones only.
    new: Vec<&'a Pod>,
    old: Vec<&'a Pod>,
}

/// Decides for all nodes at once. `pods` are those the set controls.
pub(crate) fn plan<'a>(
    set: &DaemonSet,
    hash: &str,
    nodes: &'a [std::sync::Arc<Node>],
    pods: &'a [std::sync::Arc<Pod>],
    now: Timestamp,
) -> Plan<'a> {
    let mut plan = Plan::default();
    let Some(spec) = &set.spec else { return plan };
    let template = pod_spec(&spec.template);
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let mut by_node: BTreeMap<&str, Vec<&Pod>> = BTreeMap::new();
    for pod in pods {
        if let Some(node) = target_node(pod) {
            by_node.entry(node).or_default().push(pod);
        }
    }
    let mut places = Vec::new();
    for node in nodes {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let there = by_node.remove(name).unwrap_or_default();
        let (run, stay) = belongs(&template, node);
        if run {
            plan.counts.desired += 1;
            places.push(sort_pods(name, there, hash, &mut plan));
        } else {
            let running = there.iter().filter(|pod| meta::is_active(pod));
            plan.counts.misscheduled += i32::from(running.clone().next().is_some());
            if !stay {
                plan.delete.extend(running);
            }
        }
    }
    // Pods of nodes that are gone.
    plan.delete.extend(
        by_node
            .into_values()
            .flatten()
            .filter(|pod| meta::is_active(pod)),
    );
    count(&mut plan, &places, min_ready, now);
    replace(set, &mut plan, &places, min_ready, now);
    plan
}

fn sort_pods<'a>(
    name: &'a str,
    there: Vec<&'a Pod>,
    hash: &str,
    plan: &mut Plan<'a>,
) -> OnNode<'a> {
    let mut place = OnNode {
        name,
        new: Vec::new(),
        old: Vec::new(),
    };
    for pod in there {
        if pod.metadata.deletion_timestamp.is_some() {
            // Its successor comes when it is gone, so that ports are free.
            place.old.push(pod);
        } else if meta::is_finished(pod) {
            plan.delete.push(pod);
        } else if hash_of(pod) == Some(hash) {
            place.new.push(pod);
        } else {
            place.old.push(pod);
        }
    }
    // One per node: keep the oldest, it is the most likely to be ready.
    let age = |pod: &&Pod| {
        (
            pod.metadata.creation_timestamp.as_ref().map(|t| t.0),
            pod.metadata.name.clone(),
        )
    };
    place.new.sort_by_key(age);
    place.old.sort_by_key(age);
    if place.new.len() > 1 {
        plan.delete.extend(place.new.split_off(1));
    }
    place
}

fn count(plan: &mut Plan<'_>, places: &[OnNode<'_>], min_ready: i32, now: Timestamp) {
    for place in places {
        let alive = place
            .new
            .iter()
            .chain(&place.old)
            .filter(|pod| meta::is_active(pod));
        let mut best = Availability::NotReady;
        let mut current = false;
        for pod in alive {
            current = true;
            match meta::availability(pod, min_ready, now) {
                Availability::Available => best = Availability::Available,
                Availability::In(delay) => {
                    plan.recheck = Some(plan.recheck.map_or(delay, |other| other.min(delay)));
                    if best == Availability::NotReady {
                        best = Availability::In(delay);
                    }
                }
                Availability::NotReady => {}
            }
        }
        plan.counts.current += i32::from(current);
        plan.counts.ready += i32::from(best != Availability::NotReady);
        plan.counts.available += i32::from(best == Availability::Available);
        plan.counts.updated += i32::from(!place.new.is_empty());
    }
}

/// Missing pods, and the rolling update within its bounds.
fn replace<'a>(
    set: &DaemonSet,
    plan: &mut Plan<'a>,
    places: &[OnNode<'a>],
    min_ready: i32,
    now: Timestamp,
) {
    let available = |pod: &Pod| meta::availability(pod, min_ready, now) == Availability::Available;
    let (on_delete, surge, unavailable) = bounds(set, plan.counts.desired);
    // Both are in use at once only where the successor is not available yet.
    let mut surging = places
        .iter()
        .filter(|p| !p.old.is_empty() && p.new.first().is_some_and(|new| !available(new)))
        .count();
    let mut missing = places
        .iter()
        .filter(|p| {
            !p.new
                .iter()
                .chain(&p.old)
                .any(|pod| meta::is_active(pod) && available(pod))
        })
        .count();
    for place in places {
        let old: Vec<&'a Pod> = place
            .old
            .iter()
            .copied()
            .filter(|pod| meta::is_active(pod))
            .collect();
        let leaving = place.old.len() > old.len();
        let serving = old.iter().any(|pod| available(pod));
        match (place.new.first(), old.is_empty()) {
            (None, true) if !leaving => plan.create.push(place.name.to_owned()),
            (None, true) | (Some(_), true) => {}
            _ if on_delete => {}
            // The successor is there: the old one goes once it is not needed.
            (Some(new), false) if available(new) => plan.delete.extend(old),
            (Some(_), false) => {}
            (None, false) if surge > 0 => {
                if !serving || surging < surge {
                    surging += usize::from(serving);
                    plan.create.push(place.name.to_owned());
                }
            }
            (None, false) => {
                if !serving || missing < unavailable {
                    missing += usize::from(serving);
                    plan.delete.extend(old);
                }
            }
        }
    }
}

/// (replace only when somebody deletes, surge, unavailable)
fn bounds(set: &DaemonSet, desired: i32) -> (bool, usize, usize) {
    let strategy = set
        .spec
        .as_ref()
        .and_then(|spec| spec.update_strategy.as_ref());
    let on_delete = strategy.and_then(|s| s.type_.as_deref()) == Some("OnDelete");
    let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
    let surge = scaled(rolling.and_then(|r| r.max_surge.as_ref()), 0, desired, true);
    let unavailable = scaled(
        rolling.and_then(|r| r.max_unavailable.as_ref()),
        1,
        desired,
        true,
    );
    let surge = usize::try_from(surge).unwrap_or(0);
    let unavailable = usize::try_from(unavailable).unwrap_or(0);
    (
        on_delete,
        surge,
        if surge == 0 {
            unavailable.max(1)
        } else {
            unavailable
        },
    )
}

/// Whether a pod should run on the node, and whether one there may stay.
fn belongs(template: &PodSpec, node: &Node) -> (bool, bool) {
    if !placement::matches_node(template, node) {
        return (false, false);
    }
    let tolerations = template.tolerations.as_deref().unwrap_or_default();
    let stay = untolerated(tolerations, node, &["NoExecute"]).is_none();
    let run = stay && untolerated(tolerations, node, &["NoSchedule"]).is_none();
    (run, stay)
}

/// The template's pod with what every daemon pod gets: it tolerates the
/// conditions of its own node.
pub(crate) fn pod_spec(template: &PodTemplateSpec) -> PodSpec {
    let mut spec = template.spec.clone().unwrap_or_default();
    let mut all = spec.tolerations.take().unwrap_or_default();
    let mut wanted = vec![
        (placement::NOT_READY, "NoExecute"),
        (placement::UNREACHABLE, "NoExecute"),
        ("node.kubernetes.io/disk-pressure", "NoSchedule"),
        ("node.kubernetes.io/memory-pressure", "NoSchedule"),
        ("node.kubernetes.io/pid-pressure", "NoSchedule"),
        (placement::UNSCHEDULABLE, "NoSchedule"),
    ];
    if spec.host_network == Some(true) {
        wanted.push(("node.kubernetes.io/network-unavailable", "NoSchedule"));
    }
    for (key, effect) in wanted {
        if !tolerates(&all, &placement::taint(key, effect)) {
            all.push(Toleration {
                key: Some(key.to_owned()),
                operator: Some("Exists".to_owned()),
                effect: Some(effect.to_owned()),
                ..Toleration::default()
            });
        }
    }
    spec.tolerations = Some(all);
    spec
}

/// Pins a pod to a node the way daemon pods are: required affinity by name,
/// so that the scheduler binds it.
pub(crate) fn pin(spec: &mut PodSpec, node: &str) {
    let by_name = NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let affinity = spec.affinity.get_or_insert_with(Affinity::default);
    let affinity = affinity
        .node_affinity
        .get_or_insert_with(NodeAffinity::default);
    let required = affinity
        .required_during_scheduling_ignored_during_execution
        .get_or_insert_with(NodeSelector::default);
    if required.node_selector_terms.is_empty() {
        required
            .node_selector_terms
            .push(NodeSelectorTerm::default());
    }
    for term in &mut required.node_selector_terms {
        term.match_fields = Some(vec![by_name.clone()]);
    }
}

/// The node a daemon pod is on, or is pinned to.
fn target_node(pod: &Pod) -> Option<&str> {
    if let Some(node) = meta::node_of(pod) {
        return Some(node);
    }
    let affinity = pod
        .spec
        .as_ref()?
        .affinity
        .as_ref()?
        .node_affinity
        .as_ref()?;
    let required = affinity
        .required_during_scheduling_ignored_during_execution
        .as_ref()?;
    let fields = required
        .node_selector_terms
        .iter()
        .flat_map(|t| t.match_fields.iter().flatten());
    let named = fields.filter(|field| field.key == "metadata.name");
    named
        .flat_map(|field| field.values.iter().flatten())
        .map(String::as_str)
        .next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn set(strategy: Value) -> DaemonSet {
        let set = json!({"metadata": {"name": "ds"}, "spec": {
            "selector": {}, "template": {"spec": {"containers": []}}, "updateStrategy": strategy}});
        serde_json::from_value(set).expect("a daemon set")
    }

    fn nodes(count: usize) -> Vec<Arc<Node>> {
        (1..=count)
            .map(|i| {
                let node = json!({"metadata": {"name": format!("n{i}")},
                    "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
                Arc::new(serde_json::from_value(node).expect("a node"))
            })
            .collect()
    }

    fn pod(name: &str, node: &str, hash: &str, ready: bool) -> Arc<Pod> {
        let status = if ready { "True" } else { "False" };
        let pod = json!({
            "metadata": {"name": name, "labels": {REVISION_LABEL: hash}},
            "spec": {"containers": [], "nodeName": node},
            "status": {"phase": "Running", "conditions": [
                {"type": "Ready", "status": status, "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
        });
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    }

    fn decide(
        set: &DaemonSet,
        nodes: &[Arc<Node>],
        pods: &[Arc<Pod>],
    ) -> (Vec<String>, Vec<String>, Counts) {
        let plan = plan(set, "new", nodes, pods, Timestamp::now());
        let deleted = plan
            .delete
            .iter()
            .filter_map(|pod| pod.metadata.name.clone())
            .collect();
        (plan.create, deleted, plan.counts)
    }

    #[test]
    fn each_fitting_node_gets_one() {
        let mut nodes = nodes(3);
        Arc::make_mut(&mut nodes[2]).spec =
            serde_json::from_value(json!({"taints": [{"key": "k", "effect": "NoSchedule"}]})).ok();
        let pods = [pod("a", "n1", "new", true), pod("stray", "n9", "new", true)];
        let (create, delete, counts) = decide(&set(json!({})), &nodes, &pods);
        assert_eq!(
            (create, delete),
            (vec!["n2".to_owned()], vec!["stray".to_owned()])
        );
        assert_eq!((counts.desired, counts.current, counts.ready), (2, 1, 1));
    }

    #[test]
    fn a_rolling_update_takes_one_at_a_time() {
        let pods = [pod("a", "n1", "old", true), pod("b", "n2", "old", true)];
        let (create, delete, counts) = decide(&set(json!({})), &nodes(2), &pods);
        assert_eq!((create.len(), delete.len(), counts.updated), (0, 1, 0));
        let pods = [pod("a", "n1", "new", false), pod("b", "n2", "old", true)];
        let (create, delete, _) = decide(&set(json!({})), &nodes(2), &pods);
        assert!(create.is_empty() && delete.is_empty(), "n1 is not back yet");
        let pods = [pod("a", "n1", "new", true), pod("b", "n2", "old", true)];
        let (_, delete, counts) = decide(&set(json!({})), &nodes(2), &pods);
        assert_eq!((delete, counts.updated), (vec!["b".to_owned()], 1));
    }

    #[test]
    fn with_surge_the_old_pod_stays_until_the_new_one_is_available() {
        let surge = set(json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}));
        let pods = [pod("a", "n1", "old", true), pod("b", "n2", "old", true)];
        let (create, delete, _) = decide(&surge, &nodes(2), &pods);
        assert_eq!((create, delete.len()), (vec!["n1".to_owned()], 0));
        let pods = [
            pod("a", "n1", "old", true),
            pod("a2", "n1", "new", false),
            pod("b", "n2", "old", true),
        ];
        let (create, delete, _) = decide(&surge, &nodes(2), &pods);
        assert!(create.is_empty() && delete.is_empty());
        let pods = [
            pod("a", "n1", "old", true),
            pod("a2", "n1", "new", true),
            pod("b", "n2", "old", true),
        ];
        let (_, delete, counts) = decide(&surge, &nodes(2), &pods);
        assert_eq!(
            (delete, counts.updated, counts.desired),
            (vec!["a".to_owned()], 1, 2)
        );
    }

    #[test]
    fn on_delete_changes_nothing_by_itself() {
        let pods = [pod("a", "n1", "old", true)];
        let (create, delete, _) = decide(&set(json!({"type": "OnDelete"})), &nodes(1), &pods);
        assert!(create.is_empty() && delete.is_empty());
    }

    #[test]
    fn a_terminating_pod_is_followed_only_when_it_is_gone() {
        let mut leaving = pod("a", "n1", "old", true);
        Arc::make_mut(&mut leaving).metadata.deletion_timestamp = Some(meta::now());
        let (create, delete, counts) = decide(&set(json!({})), &nodes(1), &[leaving]);
        assert!(create.is_empty() && delete.is_empty());
        assert_eq!(counts.current, 0);
    }

    #[test]
    fn pinned_pods_count_for_their_node_before_they_are_bound() {
        let mut waiting = pod("a", "", "new", false);
        let spec = Arc::make_mut(&mut waiting).spec.as_mut().expect("spec");
        spec.node_name = None;
        pin(spec, "n1");
        let (create, _, counts) = decide(&set(json!({})), &nodes(1), &[waiting]);
        assert!(create.is_empty());
        assert_eq!((counts.current, counts.updated), (1, 1));
    }
}
