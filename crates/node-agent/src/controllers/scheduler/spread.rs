//! Topology spread constraints: how evenly pods of a kind lie over zones,
//! nodes, or whatever a node label distinguishes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::Place;
use super::filter::Obstacle;
use crate::controllers::meta;
use crate::controllers::placement::{matches_node, untolerated};
use crate::controllers::selector::selects;

/// One constraint, with the pods that it counts already counted.
struct Counted {
    key: String,
    max_skew: usize,
    required: bool,
    /// The pod itself will count once it is there.
    counts_itself: bool,
    /// Pods per value of the topology label.
    domains: BTreeMap<String, usize>,
    /// Below that many domains the smallest count is taken to be zero.
    min_domains: usize,
}

/// A pod's constraints on a set of nodes.
pub(super) struct Spread {
    constraints: Vec<Counted>,
}

impl Spread {
    /// Counts for `pod` over `places`.
    pub(super) fn of(pod: &Pod, places: &[Place<'_>]) -> Self {
        let Some(spec) = &pod.spec else {
            return Self {
                constraints: Vec::new(),
            };
        };
        let given = spec
            .topology_spread_constraints
            .as_deref()
            .unwrap_or_default();
        let all = |required: bool| {
            let own = given.iter().filter(move |c| is_required(c) == required);
            let keys: Vec<&str> = own.clone().map(|c| c.topology_key.as_str()).collect();
            own.map(|constraint| count(pod, spec, constraint, &keys, places))
                .collect::<Vec<_>>()
        };
        let mut constraints = all(true);
        constraints.extend(all(false));
        Self { constraints }
    }

    /// Why a required constraint forbids the node.
    pub(super) fn obstacle(&self, _pod: &Pod, node: &Node) -> Option<Obstacle> {
        for constraint in self.constraints.iter().filter(|c| c.required) {
            let Some(value) = label(node, &constraint.key) else {
                return Some(Obstacle {
                    reason: "node(s) didn't match pod topology spread constraints (missing required label)".to_owned(),
                    by_pods: false,
                });
            };
            let here = constraint.domains.get(value).copied().unwrap_or(0);
            let least = match constraint.domains.len() < constraint.min_domains {
                true => 0,
                false => constraint.domains.values().min().copied().unwrap_or(0),
            };
            let with = here + usize::from(constraint.counts_itself);
            if with > least + constraint.max_skew {
                return Some(Obstacle {
                    reason: "node(s) didn't match pod topology spread constraints".to_owned(),
                    by_pods: true,
                });
            }
        }
        None
    }

    /// Pods of the kind in the domains of the node, over all wishes; none if
    /// the pod has no wishes.
    pub(super) fn crowd(&self, node: &Node) -> Option<usize> {
        let wishes: Vec<&Counted> = self.constraints.iter().filter(|c| !c.required).collect();
        let here = |c: &&Counted| {
            let value = label(node, &c.key)?;
            c.domains.get(value).copied()
        };
        (!wishes.is_empty()).then(|| wishes.iter().filter_map(here).sum())
    }
}

fn is_required(constraint: &TopologySpreadConstraint) -> bool {
    constraint.when_unsatisfiable == "DoNotSchedule"
}

fn label<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    let labels = node.metadata.labels.as_ref()?;
    labels.get(key).map(String::as_str)
}

fn count(
    pod: &Pod,
    spec: &PodSpec,
    constraint: &TopologySpreadConstraint,
    keys: &[&str],
    places: &[Place<'_>],
) -> Counted {
    let selector = with_label_keys(
        constraint.label_selector.clone(),
        constraint.match_label_keys.as_deref().unwrap_or_default(),
        &[],
        pod,
    );
    let counts = |other: &Pod| {
        other.metadata.namespace == pod.metadata.namespace
            && other.metadata.deletion_timestamp.is_none()
            && selector
                .as_ref()
                .is_some_and(|selector| selects(selector, other.metadata.labels.as_ref()))
    };
    let mut domains = BTreeMap::new();
    for place in places
        .iter()
        .filter(|place| eligible(spec, constraint, keys, place.node))
    {
        let Some(value) = label(place.node, &constraint.topology_key) else {
            continue;
        };
        let pods = place.pods.iter().filter(|pod| counts(pod)).count();
        *domains.entry(value.to_owned()).or_default() += pods;
    }
    let positive = |number: i32| usize::try_from(number).unwrap_or(0);
    Counted {
        key: constraint.topology_key.clone(),
        max_skew: positive(constraint.max_skew),
        required: is_required(constraint),
        counts_itself: selector
            .as_ref()
            .is_some_and(|selector| selects(selector, pod.metadata.labels.as_ref())),
        domains,
        min_domains: positive(constraint.min_domains.unwrap_or(1)),
    }
}

/// Whether a node's pods count, by the constraint's policies.
fn eligible(
    spec: &PodSpec,
    constraint: &TopologySpreadConstraint,
    keys: &[&str],
    node: &Node,
) -> bool {
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let by_affinity =
        constraint.node_affinity_policy.as_deref() == Some("Ignore") || matches_node(spec, node);
    let by_taints = constraint.node_taints_policy.as_deref() != Some("Honor")
        || untolerated(tolerations, node, &["NoSchedule", "NoExecute"]).is_none();
    by_affinity && by_taints && keys.iter().all(|key| label(node, key).is_some())
}

/// A selector that also asks for the pod's own values of some labels, and for
/// others than its own of some more.
pub(super) fn with_label_keys(
    selector: Option<LabelSelector>,
    same: &[String],
    other: &[String],
    pod: &Pod,
) -> Option<LabelSelector> {
    let mut selector = selector?;
    let labels = pod.metadata.labels.as_ref();
    for (keys, operator) in [(same, "In"), (other, "NotIn")] {
        for key in keys {
            let Some(value) = labels.and_then(|labels| labels.get(key)) else {
                continue;
            };
            selector
                .match_expressions
                .get_or_insert_default()
                .push(LabelSelectorRequirement {
                    key: key.clone(),
                    operator: operator.to_owned(),
                    values: Some(vec![value.clone()]),
                });
        }
    }
    Some(selector)
}

/// Pods of the same owner: what pods without constraints are spread by.
pub(super) fn siblings(pod: &Pod, place: &Place<'_>) -> usize {
    let owner = meta::controller_of(&pod.metadata).map(|owner| owner.uid.as_str());
    place
        .pods
        .iter()
        .filter(|other| owner.is_some_and(|uid| meta::is_controlled_by(&other.metadata, uid)))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(name: &str, zone: Option<&str>) -> Node {
        let mut labels = json!({"host": name});
        if let Some(zone) = zone {
            labels["zone"] = zone.into();
        }
        serde_json::from_value(json!({"metadata": {"name": name, "labels": labels},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}}))
        .unwrap()
    }

    fn pod(constraints: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "labels": {"app": "web", "hash": "1"}},
            "spec": {"containers": [], "topologySpreadConstraints": constraints}}))
        .unwrap()
    }

    fn constraint(key: &str, more: Value) -> Value {
        let mut constraint = json!({"topologyKey": key, "maxSkew": 1,
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}});
        constraint
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        constraint
    }

    /// Which of three nodes (two in zone a, one in zone b) are allowed, if each
    /// has so many pods of the kind.
    fn allowed(pod: &Pod, counts: [usize; 3]) -> Vec<bool> {
        let nodes = [
            node("n1", Some("a")),
            node("n2", Some("a")),
            node("n3", Some("b")),
        ];
        let other = super::tests::pod(json!([]));
        let places: Vec<Place<'_>> = nodes
            .iter()
            .zip(counts)
            .map(|(node, count)| Place {
                node,
                pods: vec![&other; count],
            })
            .collect();
        let spread = Spread::of(pod, &places);
        nodes
            .iter()
            .map(|node| spread.obstacle(pod, node).is_none())
            .collect()
    }

    #[test]
    fn the_skew_stays_within_its_limit() {
        let by_zone = pod(json!([constraint("zone", json!({}))]));
        assert_eq!(allowed(&by_zone, [0, 0, 0]), [true, true, true]);
        assert_eq!(allowed(&by_zone, [1, 0, 0]), [false, false, true]);
        assert_eq!(allowed(&by_zone, [1, 0, 1]), [true, true, true]);
        let by_host = pod(json!([constraint("host", json!({}))]));
        assert_eq!(allowed(&by_host, [1, 0, 1]), [false, true, false]);
        let both = pod(json!([
            constraint("zone", json!({})),
            constraint("host", json!({}))
        ]));
        assert_eq!(allowed(&both, [1, 0, 1]), [false, true, false]);
        let loose = pod(json!([constraint("zone", json!({"maxSkew": 3}))]));
        assert_eq!(allowed(&loose, [2, 0, 0]), [true, true, true]);
        let wish = pod(json!([constraint(
            "zone",
            json!({"whenUnsatisfiable": "ScheduleAnyway"})
        )]));
        assert_eq!(allowed(&wish, [5, 0, 0]), [true, true, true]);
    }

    #[test]
    fn more_domains_can_be_asked_for() {
        let many = pod(json!([constraint("zone", json!({"minDomains": 3}))]));
        assert_eq!(allowed(&many, [1, 0, 1]), [false, false, false]);
    }

    #[test]
    fn only_pods_of_the_kind_count() {
        let new = pod(json!([constraint(
            "zone",
            json!({"matchLabelKeys": ["hash"]})
        )]));
        let mut old = pod(json!([]));
        old.metadata
            .labels
            .as_mut()
            .unwrap()
            .insert("hash".into(), "0".into());
        let node = node("n1", Some("a"));
        let places = [Place {
            node: &node,
            pods: vec![&old, &old],
        }];
        assert!(Spread::of(&new, &places).obstacle(&new, &node).is_none());
    }

    #[test]
    fn nodes_without_the_label_are_no_domain() {
        let by_zone = pod(json!([constraint("zone", json!({}))]));
        let node = node("n1", None);
        let places = [Place {
            node: &node,
            pods: vec![],
        }];
        let obstacle = Spread::of(&by_zone, &places)
            .obstacle(&by_zone, &node)
            .unwrap();
        assert!(obstacle.reason.ends_with("(missing required label)") && !obstacle.by_pods);
    }
}
