//! Which of the nodes that fit is the best.
//!
//! Each aspect gives 0 to 100 points; their weights are those of the
//! Kubernetes scheduler. Of equals the node with the fewest pods wins, then
//! the first by name.

use k8s_openapi::api::core::v1::{Node, Pod, PodSpec};

use super::Place;
use super::affinity::Affinities;
use super::resources;
use super::spread::{Spread, siblings};
use crate::controllers::placement::{prefers, tolerates};

const TAINTS: i64 = 3;
const NODE_AFFINITY: i64 = 2;
const SPREAD: i64 = 2;
const POD_AFFINITY: i64 = 2;
const RESOURCES: i64 = 1;

/// The best of `places`, all of which fit.
pub(super) fn best<'a>(
    pod: &Pod,
    spec: &PodSpec,
    places: &[&'a Place<'a>],
    spread: &Spread,
    affinities: &Affinities,
) -> Option<&'a Node> {
    let of = |score: &dyn Fn(&Place<'_>) -> i64| -> Vec<i64> {
        places.iter().map(|place| score(place)).collect()
    };
    let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    let aspects = [
        (
            TAINTS,
            most(of(&|place| -disliked_taints(spec, place.node))),
        ),
        (
            NODE_AFFINITY,
            most(of(&|place| wished_by_labels(spec, place.node))),
        ),
        (
            SPREAD,
            most(of(&|place| {
                let crowd = spread.crowd(place.node);
                -count(crowd.unwrap_or_else(|| siblings(pod, place)))
            })),
        ),
        (
            POD_AFFINITY,
            most(of(&|place| affinities.weight(place.node))),
        ),
        (
            RESOURCES,
            of(&|place| resources::spare(spec, place.node, &place.pods)),
        ),
    ];
    let total = |index: usize| -> i64 {
        aspects
            .iter()
            .map(|(weight, points)| weight * points[index])
            .sum()
    };
    let rank = |index: usize| {
        let place = places[index];
        (
            std::cmp::Reverse(total(index)),
            place.pods.len(),
            place.node.metadata.name.as_deref(),
        )
    };
    (0..places.len())
        .min_by_key(|index| rank(*index))
        .map(|index| places[index].node)
}

/// Points from 0 for the smallest score to 100 for the largest.
fn most(scores: Vec<i64>) -> Vec<i64> {
    let (least, largest) = (
        scores.iter().min().copied().unwrap_or(0),
        scores.iter().max().copied().unwrap_or(0),
    );
    scores
        .iter()
        .map(|score| match largest - least {
            0 => 100,
            range => (score - least) * 100 / range,
        })
        .collect()
}

/// Taints that only ask to stay away, and are not tolerated.
fn disliked_taints(spec: &PodSpec, node: &Node) -> i64 {
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    let disliked = taints
        .into_iter()
        .flatten()
        .filter(|taint| taint.effect == "PreferNoSchedule" && !tolerates(tolerations, taint));
    i64::try_from(disliked.count()).unwrap_or(i64::MAX)
}

/// Weights of the preferred node affinities that match.
fn wished_by_labels(spec: &PodSpec, node: &Node) -> i64 {
    let wishes = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| {
            affinity
                .preferred_during_scheduling_ignored_during_execution
                .as_ref()
        });
    wishes
        .into_iter()
        .flatten()
        .filter(|wish| prefers(&wish.preference, node))
        .map(|wish| i64::from(wish.weight))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(name: &str, more: Value) -> Node {
        let mut node = json!({"metadata": {"name": name, "labels": {}}, "spec": {},
            "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}}});
        for (key, value) in more.as_object().unwrap() {
            *node.pointer_mut(key).unwrap() = value.clone();
        }
        serde_json::from_value(node).unwrap()
    }

    fn pod(owner: &str, spec: Value) -> Pod {
        let mut spec = spec;
        spec["containers"] = json!([{"name": "c"}]);
        serde_json::from_value(json!({"metadata": {"name": "p", "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner, "uid": owner,
             "controller": true}]}, "spec": spec}))
        .unwrap()
    }

    fn chosen(pod: &Pod, nodes: &[(Node, Vec<&Pod>)]) -> String {
        let places: Vec<Place<'_>> = nodes
            .iter()
            .map(|(node, pods)| Place {
                node,
                pods: pods.clone(),
            })
            .collect();
        let (spread, affinities) = (Spread::of(pod, &places), Affinities::of(pod, &places, &[]));
        let fitting: Vec<&Place<'_>> = places.iter().collect();
        let best = best(
            pod,
            pod.spec.as_ref().unwrap(),
            &fitting,
            &spread,
            &affinities,
        );
        best.unwrap().metadata.name.clone().unwrap()
    }

    #[test]
    fn pods_of_one_owner_spread_before_load_counts() {
        let (x, y) = (pod("x", json!({})), pod("y", json!({})));
        let nodes = [
            (node("n1", json!({})), vec![&x]),
            (node("n2", json!({})), vec![&y, &y]),
        ];
        assert_eq!(chosen(&x, &nodes), "n2");
        assert_eq!(chosen(&pod("z", json!({})), &nodes), "n1");
    }

    #[test]
    fn wishes_and_dislikes_count() {
        let ssd = json!({"affinity": {"nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 5, "preference":
                {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}}]}}});
        let nodes = [
            (node("n1", json!({})), vec![]),
            (
                node("n2", json!({"/metadata/labels": {"disk": "ssd"}})),
                vec![],
            ),
        ];
        assert_eq!(chosen(&pod("x", ssd), &nodes), "n2");
        assert_eq!(chosen(&pod("x", json!({})), &nodes), "n1");
        let tainted = json!({"/spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}});
        let nodes = [
            (node("n1", tainted), vec![]),
            (node("n2", json!({})), vec![]),
        ];
        assert_eq!(chosen(&pod("x", json!({})), &nodes), "n2");
    }

    #[test]
    fn the_node_with_more_room_wins() {
        let x = pod("x", json!({}));
        let small = json!({"/status/allocatable": {"cpu": "1", "memory": "1Gi", "pods": "110"}});
        let nodes = [(node("n1", small), vec![]), (node("n2", json!({})), vec![])];
        assert_eq!(chosen(&x, &nodes), "n2");
    }
}
