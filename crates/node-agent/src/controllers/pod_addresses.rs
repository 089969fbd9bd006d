//! Pod subnets for every node that has none: `spec.podCIDRs`, one for each of
//! the cluster's pod networks.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use super::error::{ControllerError, Doing, is_status};
use super::world::World;
use crate::informer::{ObjectKey, Queue};

const COMPONENT: &str = "node-ipam-controller";

/// Subscribes to nodes and gives out subnets of `networks`.
pub(crate) fn start(world: Arc<World>, networks: Vec<IpNet>) -> impl Future<Output = ()> + Send {
    let queue = Queue::new();
    let nodes = queue.clone();
    world.nodes.on_change(move |_, new| {
        if let Some(node) = new.filter(|node| subnets(node).is_empty()) {
            nodes.add(ObjectKey::of(node));
        }
    });
    async move {
        super::synced(&world).await;
        queue
            .work(COMPONENT, |key| reconcile(&world, &networks, key))
            .await;
    }
}

/// The subnets that a node has.
fn subnets(node: &Node) -> Vec<IpNet> {
    let spec = node.spec.as_ref();
    let listed = spec.and_then(|spec| spec.pod_cidrs.as_ref());
    let first = spec.and_then(|spec| spec.pod_cidr.as_ref());
    let mut all: Vec<IpNet> = listed
        .into_iter()
        .flatten()
        .chain(first)
        .filter_map(|text| text.parse().ok())
        .collect();
    all.dedup();
    all
}

async fn reconcile(
    world: &World,
    networks: &[IpNet],
    key: ObjectKey,
) -> Result<(), ControllerError> {
    let node = world.nodes.get(&key);
    if networks.is_empty() || node.is_none_or(|node| !subnets(&node).is_empty()) {
        return Ok(());
    }
    let nodes = world.nodes.list();
    let taken: BTreeSet<_> = nodes.iter().flat_map(|node| subnets(node)).collect();
    let free: Option<Vec<_>> = networks
        .iter()
        .map(|net| first_free(*net, &taken))
        .collect();
    let Some(free) = free else {
        tracing::warn!("{key} gets no pod subnets: all of {networks:?} are in use");
        return Ok(());
    };
    let texts: Vec<_> = free.iter().map(ToString::to_string).collect();
    let patch = json!({"spec": {"podCIDR": texts.first(), "podCIDRs": texts}});
    let api = Api::<Node>::all(world.client.clone());
    match api
        .patch(&key.name, &PatchParams::default(), &Patch::Merge(patch))
        .await
    {
        Ok(written) => world.nodes.observe(written),
        Err(error) if is_status(&error, 404) => {}
        Err(error) => return Err(error).doing(|| format!("giving {key} the pod subnets {free:?}")),
    }
    Ok(())
}

/// The prefix length of a node's subnet in a network.
fn node_prefix(network: IpNet) -> u8 {
    let usual = if network.addr().is_ipv4() { 24 } else { 64 };
    network.prefix_len().max(usual)
}

fn first_free(network: IpNet, taken: &BTreeSet<IpNet>) -> Option<IpNet> {
    let mut subnets = network.subnets(node_prefix(network)).ok()?;
    subnets.find(|subnet| {
        !taken
            .iter()
            .any(|t| t.contains(subnet) || subnet.contains(t))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().expect("a network")
    }

    #[test]
    fn subnets_are_given_once() {
        let (network, first) = (net("10.244.0.0/16"), net("10.244.0.0/24"));
        assert_eq!(first_free(network, &BTreeSet::new()), Some(first));
        let next = first_free(network, &BTreeSet::from([first]));
        assert_eq!(next, Some(net("10.244.1.0/24")));
        assert_eq!(first_free(first, &BTreeSet::from([first])), None);
        let six = first_free(net("fd00:10::/56"), &BTreeSet::from([net("fd00:10::/64")]));
        assert_eq!(six, Some(net("fd00:10:0:1::/64")));
    }

    #[test]
    fn both_fields_count() {
        let node = |spec: serde_json::Value| -> Node {
            serde_json::from_value(json!({"metadata": {}, "spec": spec})).expect("a node")
        };
        assert!(subnets(&node(json!({}))).is_empty());
        let one = node(json!({"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24"]}));
        assert_eq!(subnets(&one), [net("10.0.0.0/24")]);
        let both = json!({"podCIDRs": ["10.0.0.0/24", "fd00::/64"]});
        assert_eq!(subnets(&node(both)).len(), 2);
    }
}
