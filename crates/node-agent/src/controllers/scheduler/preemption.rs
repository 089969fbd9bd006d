//! Whether a pod that fits nowhere would fit if less important ones went.

use std::cmp::Reverse;

use k8s_openapi::api::core::v1::{Node, Pod};

use super::Place;
use super::filter::Obstacle;
use crate::controllers::meta;

/// The node to make room on, and the pods that must go there.
#[derive(Debug, PartialEq)]
pub(super) struct Choice<'a> {
    pub(super) node: &'a Node,
    pub(super) victims: Vec<&'a Pod>,
}

/// How important a pod is.
fn priority(pod: &Pod) -> i32 {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.priority)
        .unwrap_or(0)
}

/// Looks for the node where the least is lost. `fits` says whether the pod
/// would fit if the place at an index held only the given pods.
///
/// # Errors
/// Why each node is of no use, for the scheduler's message.
pub(super) fn choose<'a>(
    pod: &Pod,
    places: &[Place<'a>],
    obstacles: &[Vec<Obstacle>],
    fits: impl Fn(usize, &[&'a Pod]) -> bool,
) -> Result<Choice<'a>, Vec<&'static str>> {
    let mut best: Option<(Rank, Choice<'a>)> = None;
    let mut reasons = Vec::new();
    for (index, place) in places.iter().enumerate() {
        let curable = obstacles[index].iter().all(|obstacle| obstacle.by_pods);
        if !curable {
            reasons.push("Preemption is not helpful for scheduling");
            continue;
        }
        let Some(victims) = victims(pod, place, |pods| fits(index, pods)) else {
            reasons.push("No preemption victims found for incoming pod");
            continue;
        };
        let rank = rank(&victims);
        if best.as_ref().is_none_or(|(least, _)| rank < *least) {
            let node = place.node;
            best = Some((rank, Choice { node, victims }));
        }
    }
    best.map(|(_, choice)| choice).ok_or(reasons)
}

/// Highest priority among the victims, sum of priorities, their number.
type Rank = (i32, i64, usize);

fn rank(victims: &[&Pod]) -> Rank {
    let priorities = victims.iter().map(|pod| priority(pod));
    (
        priorities.clone().max().unwrap_or(i32::MIN),
        priorities.map(i64::from).sum(),
        victims.len(),
    )
}

/// As few pods of lower priority as possible, the least important first.
fn victims<'a>(
    pod: &Pod,
    place: &Place<'a>,
    fits: impl Fn(&[&'a Pod]) -> bool,
) -> Option<Vec<&'a Pod>> {
    let own = priority(pod);
    let (mut lower, mut stay): (Vec<&Pod>, Vec<&Pod>) =
        place.pods.iter().partition(|other| priority(other) < own);
    if lower.is_empty() || !fits(&stay) {
        return None;
    }
    // The most important, and of those the oldest, are spared first.
    lower.sort_by_key(|other| {
        let started = other.status.as_ref().and_then(|s| s.start_time.as_ref());
        (Reverse(priority(other)), started.map(|time| time.0))
    });
    let mut victims = Vec::new();
    for other in lower {
        stay.push(other);
        if !fits(&stay) {
            stay.pop();
            victims.push(other);
        }
    }
    Some(victims)
}

/// Whether a pod may push others away at all.
pub(super) fn is_allowed(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    spec.and_then(|spec| spec.preemption_policy.as_deref()) != Some("Never")
}

/// Whether room is being made for the pod already.
pub(super) fn is_waiting_for_victims(pod: &Pod, places: &[Place<'_>]) -> bool {
    let nominated = pod
        .status
        .as_ref()
        .and_then(|status| status.nominated_node_name.as_deref());
    places
        .iter()
        .filter(|place| nominated.is_some() && place.node.metadata.name.as_deref() == nominated)
        .flat_map(|place| &place.pods)
        .any(|other| meta::is_terminating(other) && priority(other) < priority(pod))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, priority: i32) -> Pod {
        serde_json::from_value(
            json!({"metadata": {"name": name}, "spec": {"containers": [], "priority": priority}}),
        )
        .unwrap()
    }

    fn node(name: &str) -> Node {
        serde_json::from_value(json!({"metadata": {"name": name}})).unwrap()
    }

    fn obstacle(by_pods: bool) -> Vec<Obstacle> {
        vec![Obstacle {
            reason: "r".into(),
            by_pods,
        }]
    }

    #[test]
    fn the_least_important_go_where_the_least_is_lost() {
        let (n1, n2, n3) = (node("n1"), node("n2"), node("n3"));
        let pods = [
            pod("a", 5),
            pod("b", 1),
            pod("c", 1),
            pod("d", 3),
            pod("e", 20),
        ];
        let [a, b, c, d, e] = &pods;
        let places = [
            Place {
                node: &n1,
                pods: vec![a, b],
            },
            Place {
                node: &n2,
                pods: vec![b, c],
            },
            Place {
                node: &n3,
                pods: vec![d, e],
            },
        ];
        let obstacles = vec![obstacle(true), obstacle(true), obstacle(true)];
        // One pod too many everywhere.
        let fits = |_: usize, pods: &[&Pod]| pods.len() < 2;
        let choice = choose(&pod("new", 10), &places, &obstacles, fits).unwrap();
        assert_eq!((choice.node, choice.victims.len()), (&n1, 1));
        assert_eq!(choice.victims[0].metadata.name.as_deref(), Some("b"));
        // The whole node is needed: two of priority 1 are less than 5 and 1.
        let empty = |_: usize, pods: &[&Pod]| pods.is_empty();
        assert_eq!(
            choose(&pod("new", 10), &places, &obstacles, empty)
                .unwrap()
                .node,
            &n2
        );
    }

    #[test]
    fn nobody_goes_in_vain() {
        let (n1, n2) = (node("n1"), node("n2"));
        let (equal, lower) = (pod("a", 10), pod("b", 1));
        let places = [
            Place {
                node: &n1,
                pods: vec![&equal],
            },
            Place {
                node: &n2,
                pods: vec![&lower],
            },
        ];
        let obstacles = vec![obstacle(true), obstacle(false)];
        let fits = |_: usize, pods: &[&Pod]| pods.is_empty();
        assert_eq!(
            choose(&pod("new", 10), &places, &obstacles, fits),
            Err(vec![
                "No preemption victims found for incoming pod",
                "Preemption is not helpful for scheduling"
            ])
        );
    }
}
