//! What pods ask of a node, and what the node has.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Node, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::quantity::milli;

/// Amounts by resource name, in thousandths.
pub(super) type Amounts = BTreeMap<String, i128>;

/// What a pod that says nothing is taken to use when nodes are compared.
const USUAL: [(&str, i128); 2] = [("cpu", 100), ("memory", (200 << 20) * 1000)];

/// What a node offers to pods.
pub(super) fn allocatable(node: &Node) -> Amounts {
    let given = node
        .status
        .as_ref()
        .and_then(|status| status.allocatable.as_ref());
    amounts(given)
}

fn amounts(given: Option<&BTreeMap<String, Quantity>>) -> Amounts {
    given
        .into_iter()
        .flatten()
        .filter_map(|(name, quantity)| Some((name.clone(), milli(&quantity.0)?)))
        .collect()
}

fn requests(container: &Container) -> Amounts {
    let resources = container.resources.as_ref();
    amounts(resources.and_then(|resources| resources.requests.as_ref()))
}

fn add(to: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        *to.entry(name.clone()).or_default() += amount;
    }
}

fn raise(to: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let own = to.entry(name.clone()).or_default();
        *own = (*own).max(*amount);
    }
}

/// What a pod asks for: all containers together with the sidecars, or what it
/// needs at the most demanding moment of its start, whichever is more.
pub(super) fn request(spec: &PodSpec) -> Amounts {
    let mut running = Amounts::new();
    for container in &spec.containers {
        add(&mut running, &requests(container));
    }
    let (mut sidecars, mut starting) = (Amounts::new(), Amounts::new());
    for container in spec.init_containers.iter().flatten() {
        let mut moment = sidecars.clone();
        add(&mut moment, &requests(container));
        raise(&mut starting, &moment);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars = moment;
        }
    }
    add(&mut running, &sidecars);
    raise(&mut running, &starting);
    let whole = spec
        .resources
        .as_ref()
        .and_then(|resources| resources.requests.as_ref());
    // What the pod says as a whole wins over the sum of its parts.
    running.extend(amounts(whole));
    add(&mut running, &amounts(spec.overhead.as_ref()));
    running
}

/// What the pods of a node ask for together.
pub(super) fn requested<'a>(pods: impl Iterator<Item = &'a Pod>) -> Amounts {
    let mut all = Amounts::new();
    for spec in pods.filter_map(|pod| pod.spec.as_ref()) {
        add(&mut all, &request(spec));
    }
    all
}

/// The resources of which the node has too little, by name; `pods` are there.
pub(super) fn lacking(spec: &PodSpec, node: &Node, pods: &[&Pod]) -> Vec<String> {
    let (has, wanted) = (allocatable(node), request(spec));
    let used = requested(pods.iter().copied());
    let amount = |map: &Amounts, name: &str| map.get(name).copied().unwrap_or(0);
    let mut lacking = Vec::new();
    let count = i128::try_from(pods.len()).unwrap_or(i128::MAX) + 1;
    if count * 1000 > amount(&has, "pods") {
        lacking.push("pods".to_owned());
    }
    lacking.extend(
        wanted
            .iter()
            .filter(|(name, wanted)| {
                **wanted > 0 && amount(&used, name) + **wanted > amount(&has, name)
            })
            .map(|(name, _)| name.clone()),
    );
    lacking
}

/// How much of the node would be left with the pod on it, in percent, over
/// cpu and memory.
pub(super) fn spare(spec: &PodSpec, node: &Node, pods: &[&Pod]) -> i64 {
    let has = allocatable(node);
    let ask = |spec: &PodSpec, name: &str, usual: i128| {
        request(spec)
            .get(name)
            .copied()
            .filter(|amount| *amount > 0)
            .unwrap_or(usual)
    };
    let shares = USUAL.iter().map(|(name, usual)| {
        let there: i128 = pods
            .iter()
            .filter_map(|pod| pod.spec.as_ref())
            .map(|spec| ask(spec, name, *usual))
            .sum();
        let total = has.get(*name).copied().unwrap_or(0);
        let left = (total - there - ask(spec, name, *usual)).max(0);
        if total > 0 { left * 100 / total } else { 0 }
    });
    i64::try_from(shares.sum::<i128>() / 2).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(spec: Value) -> PodSpec {
        serde_json::from_value(spec).unwrap()
    }

    fn asks(cpu: &str) -> Value {
        json!({"name": "c", "resources": {"requests": {"cpu": cpu}}})
    }

    fn node(cpu: &str, pods: &str) -> Node {
        let allocatable = json!({"cpu": cpu, "memory": "1Gi", "pods": pods});
        serde_json::from_value(json!({"status": {"allocatable": allocatable}})).unwrap()
    }

    #[test]
    fn a_pod_asks_for_its_most_demanding_moment() {
        let mut sidecar = asks("50m");
        sidecar["restartPolicy"] = "Always".into();
        let cpu = |value: Value| request(&spec(value)).get("cpu").copied();
        assert_eq!(
            cpu(json!({"containers": [asks("100m"), asks("1")]})),
            Some(1100)
        );
        let with_init = json!({"containers": [asks("100m")], "initContainers": [asks("300m")]});
        assert_eq!(cpu(with_init), Some(300));
        let with_sidecar = json!({"containers": [asks("100m")],
            "initContainers": [sidecar, asks("300m")], "overhead": {"cpu": "10m"}});
        assert_eq!(cpu(with_sidecar), Some(360));
        let as_a_whole =
            json!({"containers": [asks("100m")], "resources": {"requests": {"cpu": "2"}}});
        assert_eq!(cpu(as_a_whole), Some(2000));
    }

    #[test]
    fn what_is_lacking_is_named() {
        let there: Pod =
            serde_json::from_value(json!({"spec": {"containers": [asks("700m")]}})).unwrap();
        let wanted = spec(json!({"containers": [asks("400m")]}));
        let lacking = |node: &Node, pods: &[&Pod]| lacking(&wanted, node, pods);
        assert_eq!(lacking(&node("1", "10"), &[]), [""; 0]);
        assert_eq!(lacking(&node("1", "10"), &[&there]), ["cpu"]);
        assert_eq!(lacking(&node("2", "1"), &[&there]), ["pods"]);
        assert_eq!(lacking(&Node::default(), &[]), ["pods", "cpu"]);
    }

    #[test]
    fn the_emptier_node_has_more_to_spare() {
        let wanted = spec(json!({"containers": [{"name": "c"}]}));
        let there: Pod =
            serde_json::from_value(json!({"spec": {"containers": [{"name": "c"}]}})).unwrap();
        let node = node("1", "10");
        assert!(spare(&wanted, &node, &[]) > spare(&wanted, &node, &[&there]));
    }
}
