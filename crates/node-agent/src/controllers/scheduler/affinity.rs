//! Affinity and anti-affinity between pods.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Affinity, Namespace, Node, Pod, PodAffinityTerm};

use super::Place;
use super::filter::Obstacle;
use super::spread::with_label_keys;
use crate::controllers::selector::selects;

/// Weight of a required affinity of another pod when nodes are compared.
const REQUIRED_WEIGHT: i64 = 1;

/// A topology label and one of its values.
type Domain = (String, String);

/// What the pods that are there mean for a new one.
#[derive(Default)]
pub(super) struct Affinities {
    /// Labels that the new pod must share with pods it belongs to.
    wanted: Vec<String>,
    /// Where such pods are; `None` for the first of a series, which may go anywhere.
    friends: Option<BTreeSet<Domain>>,
    /// Where pods are that the new one avoids.
    avoided: BTreeSet<Domain>,
    /// Where pods are that avoid the new one.
    hostile: BTreeSet<Domain>,
    /// Preferences of both sides.
    weights: BTreeMap<Domain, i64>,
}

fn required(affinity: Option<&Affinity>) -> Vec<&PodAffinityTerm> {
    let terms = affinity.and_then(|a| {
        a.pod_affinity
            .as_ref()?
            .required_during_scheduling_ignored_during_execution
            .as_ref()
    });
    terms.into_iter().flatten().collect()
}

fn forbidden(affinity: Option<&Affinity>) -> Vec<&PodAffinityTerm> {
    let terms = affinity.and_then(|a| {
        a.pod_anti_affinity
            .as_ref()?
            .required_during_scheduling_ignored_during_execution
            .as_ref()
    });
    terms.into_iter().flatten().collect()
}

/// Preferences with their weights; those against are negative.
fn preferred(affinity: Option<&Affinity>) -> Vec<(i64, &PodAffinityTerm)> {
    let pro = affinity.and_then(|a| {
        a.pod_affinity
            .as_ref()?
            .preferred_during_scheduling_ignored_during_execution
            .as_ref()
    });
    let contra = affinity.and_then(|a| {
        a.pod_anti_affinity
            .as_ref()?
            .preferred_during_scheduling_ignored_during_execution
            .as_ref()
    });
    let weighted = |sign: i64| {
        move |t: &k8s_openapi::api::core::v1::WeightedPodAffinityTerm| sign * i64::from(t.weight)
    };
    let (plus, minus) = (weighted(1), weighted(-1));
    pro.into_iter()
        .flatten()
        .map(|t| (plus(t), &t.pod_affinity_term))
        .chain(
            contra
                .into_iter()
                .flatten()
                .map(|t| (minus(t), &t.pod_affinity_term)),
        )
        .collect()
}

fn affinity_of(pod: &Pod) -> Option<&Affinity> {
    pod.spec.as_ref()?.affinity.as_ref()
}

/// Whether a pod that waits may be helped by other pods that come.
pub(super) fn depends_on_pods(pod: &Pod) -> bool {
    let affinity = affinity_of(pod);
    !required(affinity).is_empty()
        || pod
            .spec
            .as_ref()
            .is_some_and(|spec| spec.topology_spread_constraints.is_some())
}

/// Whether `term` of `owner` means `other`.
fn means(term: &PodAffinityTerm, owner: &Pod, other: &Pod, namespaces: &[Arc<Namespace>]) -> bool {
    let names = term.namespaces.as_deref().unwrap_or_default();
    let space = other.metadata.namespace.as_deref().unwrap_or_default();
    let selected = term.namespace_selector.as_ref().is_some_and(|selector| {
        let found = namespaces
            .iter()
            .find(|n| n.metadata.name.as_deref() == Some(space));
        found.is_some_and(|n| selects(selector, n.metadata.labels.as_ref()))
    });
    let own = names.is_empty()
        && term.namespace_selector.is_none()
        && owner.metadata.namespace == other.metadata.namespace;
    if !(own || selected || names.iter().any(|name| name == space)) {
        return false;
    }
    let selector = with_label_keys(
        term.label_selector.clone(),
        term.match_label_keys.as_deref().unwrap_or_default(),
        term.mismatch_label_keys.as_deref().unwrap_or_default(),
        owner,
    );
    selector.is_some_and(|selector| selects(&selector, other.metadata.labels.as_ref()))
}

fn domain(term: &PodAffinityTerm, node: &Node) -> Option<Domain> {
    let labels = node.metadata.labels.as_ref()?;
    let value = labels.get(&term.topology_key)?;
    Some((term.topology_key.clone(), value.clone()))
}

impl Affinities {
    /// Looks at all pods of `places` for `pod`.
    pub(super) fn of(pod: &Pod, places: &[Place<'_>], namespaces: &[Arc<Namespace>]) -> Self {
        let own = affinity_of(pod);
        let (wanted, avoided, wishes) = (required(own), forbidden(own), preferred(own));
        let mut result = Self {
            wanted: wanted
                .iter()
                .map(|term| term.topology_key.clone())
                .collect(),
            ..Self::default()
        };
        let mut friends = BTreeSet::new();
        for place in places {
            for other in &place.pods {
                let meant = |term: &&PodAffinityTerm| means(term, pod, other, namespaces);
                if !wanted.is_empty() && wanted.iter().all(meant) {
                    friends.extend(wanted.iter().filter_map(|term| domain(term, place.node)));
                }
                let hit = avoided.iter().filter(|term| meant(term));
                result
                    .avoided
                    .extend(hit.filter_map(|term| domain(term, place.node)));
                for (weight, term) in wishes.iter().filter(|(_, term)| meant(term)) {
                    result.weigh(term, place.node, *weight);
                }
                result.listen_to(other, place.node, pod, namespaces);
            }
        }
        let first =
            friends.is_empty() && wanted.iter().all(|term| means(term, pod, pod, namespaces));
        result.friends = (!first).then_some(friends);
        result
    }

    /// What a pod that is there thinks of the new one.
    fn listen_to(&mut self, other: &Pod, node: &Node, pod: &Pod, namespaces: &[Arc<Namespace>]) {
        let theirs = affinity_of(other);
        if theirs.is_none() {
            return;
        }
        let meant = |term: &&PodAffinityTerm| means(term, other, pod, namespaces);
        let hostile = forbidden(theirs).into_iter().filter(meant);
        self.hostile
            .extend(hostile.filter_map(|term| domain(term, node)));
        for term in required(theirs).into_iter().filter(meant) {
            self.weigh(term, node, REQUIRED_WEIGHT);
        }
        for (weight, term) in preferred(theirs)
            .into_iter()
            .filter(|(_, term)| meant(term))
        {
            self.weigh(term, node, weight);
        }
    }

    fn weigh(&mut self, term: &PodAffinityTerm, node: &Node, weight: i64) {
        if let Some(domain) = domain(term, node) {
            *self.weights.entry(domain).or_default() += weight;
        }
    }

    fn touches(node: &Node, domains: &BTreeSet<Domain>) -> bool {
        let labels = node.metadata.labels.as_ref();
        domains
            .iter()
            .any(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
    }

    /// Why a requirement of either side forbids the node.
    pub(super) fn obstacle(&self, _pod: &Pod, node: &Node) -> Option<Obstacle> {
        let labels = node.metadata.labels.as_ref();
        let belongs = self.wanted.iter().all(|key| {
            let Some(value) = labels.and_then(|labels| labels.get(key)) else {
                return false;
            };
            let here = (key.clone(), value.clone());
            self.friends
                .as_ref()
                .is_none_or(|friends| friends.contains(&here))
        });
        let (reason, by_pods) = if !belongs {
            ("node(s) didn't match pod affinity rules", false)
        } else if Self::touches(node, &self.avoided) {
            ("node(s) didn't match pod anti-affinity rules", true)
        } else if Self::touches(node, &self.hostile) {
            (
                "node(s) didn't satisfy existing pods anti-affinity rules",
                true,
            )
        } else {
            return None;
        };
        Some(Obstacle {
            reason: reason.to_owned(),
            by_pods,
        })
    }

    /// How much pods of the node's domains speak for it.
    pub(super) fn weight(&self, node: &Node) -> i64 {
        let labels = node.metadata.labels.as_ref();
        let here = |(key, value): &&Domain| labels.and_then(|l| l.get(key)) == Some(value);
        self.weights
            .iter()
            .filter(|(domain, _)| here(domain))
            .map(|(_, weight)| weight)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(name: &str, zone: &str) -> Node {
        serde_json::from_value(
            json!({"metadata": {"name": name, "labels": {"zone": zone, "host": name}}}),
        )
        .unwrap()
    }

    fn pod(app: &str, namespace: &str, affinity: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": namespace, "labels": {"app": app}},
            "spec": {"containers": [], "affinity": affinity}}))
        .unwrap()
    }

    fn term(app: &str, key: &str) -> Value {
        json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key})
    }

    fn needs(kind: &str, term: Value) -> Value {
        json!({kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}})
    }

    /// What three nodes (two in zone a, one in zone b) say, with `other` on the first.
    fn reasons(pod: &Pod, other: &Pod) -> Vec<String> {
        let nodes = [node("n1", "a"), node("n2", "a"), node("n3", "b")];
        let places: Vec<Place<'_>> = nodes
            .iter()
            .enumerate()
            .map(|(index, node)| Place {
                node,
                pods: if index == 0 { vec![other] } else { vec![] },
            })
            .collect();
        let space = json!({"metadata": {"name": "blue", "labels": {"team": "x"}}});
        let spaces = [Arc::new(serde_json::from_value(space).unwrap())];
        let affinities = Affinities::of(pod, &places, &spaces);
        let text = |node: &Node| {
            let obstacle = affinities.obstacle(pod, node);
            obstacle.map_or_else(
                || "ok".into(),
                |o| o.reason.split("match pod ").last().unwrap().to_owned(),
            )
        };
        nodes.iter().map(text).collect()
    }

    #[test]
    fn pods_go_where_their_friends_are() {
        let db = pod("db", "ns", json!({}));
        let web = pod("web", "ns", needs("podAffinity", term("db", "zone")));
        assert_eq!(reasons(&web, &db), ["ok", "ok", "affinity rules"]);
        let close = pod("web", "ns", needs("podAffinity", term("db", "host")));
        assert_eq!(
            reasons(&close, &db),
            ["ok", "affinity rules", "affinity rules"]
        );
        let stranger = pod("db", "other", json!({}));
        assert_eq!(reasons(&web, &stranger), ["affinity rules"; 3]);
        // The first of a series finds no friends and may begin anywhere.
        let series = pod("web", "ns", needs("podAffinity", term("web", "zone")));
        assert_eq!(reasons(&series, &db), ["ok"; 3]);
    }

    #[test]
    fn pods_keep_away_from_each_other() {
        let one = pod("web", "ns", needs("podAntiAffinity", term("web", "host")));
        assert_eq!(
            reasons(&one, &pod("web", "ns", json!({}))),
            ["anti-affinity rules", "ok", "ok"]
        );
        let plain = pod("web", "ns", json!({}));
        assert_eq!(
            reasons(&plain, &one),
            [
                "node(s) didn't satisfy existing pods anti-affinity rules",
                "ok",
                "ok"
            ]
        );
    }

    #[test]
    fn other_namespaces_can_be_meant() {
        let mut across = term("db", "zone");
        across["namespaces"] = json!(["blue"]);
        let web = pod("web", "ns", needs("podAffinity", across));
        assert_eq!(reasons(&web, &pod("db", "blue", json!({})))[0], "ok");
        let mut chosen = term("db", "zone");
        chosen["namespaceSelector"] = json!({"matchLabels": {"team": "x"}});
        let web = pod("web", "ns", needs("podAffinity", chosen));
        assert_eq!(reasons(&web, &pod("db", "blue", json!({})))[0], "ok");
        assert_eq!(
            reasons(&web, &pod("db", "ns", json!({})))[0],
            "affinity rules"
        );
    }

    #[test]
    fn wishes_weigh() {
        let wish = json!({"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
            [{"weight": 10, "podAffinityTerm": term("db", "host")}]}});
        let (web, db, first) = (
            pod("web", "ns", wish),
            pod("db", "ns", json!({})),
            node("n1", "a"),
        );
        let places = [Place {
            node: &first,
            pods: vec![&db],
        }];
        let affinities = Affinities::of(&web, &places, &[]);
        assert_eq!(affinities.weight(&first), 10);
        assert_eq!(affinities.weight(&node("n2", "a")), 0);
    }
}
