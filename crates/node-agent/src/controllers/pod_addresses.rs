//! A pod subnet for every node that has none: `spec.podCIDR`, a /24 of the
//! cluster's pod network.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use super::error::{ControllerError, Doing, is_status};
use super::world::World;
use crate::informer::{ObjectKey, Queue};

const COMPONENT: &str = "node-ipam-controller";
const NODE_PREFIX: u8 = 24;

/// Subscribes to nodes and gives out subnets of `network`.
pub(crate) fn start(
    world: Arc<World>,
    network: Option<Ipv4Net>,
) -> impl Future<Output = ()> + Send {
    let queue = Queue::new();
    let nodes = queue.clone();
    world.nodes.on_change(move |_, new| {
        if let Some(node) = new.filter(|node| subnet(node).is_none()) {
            nodes.add(ObjectKey::of(node));
        }
    });
    async move {
        super::synced(&world).await;
        queue
            .work(COMPONENT, |key| reconcile(&world, network, key))
            .await;
    }
}

fn subnet(node: &Node) -> Option<Ipv4Net> {
    node.spec.as_ref()?.pod_cidr.as_ref()?.parse().ok()
}

async fn reconcile(
    world: &World,
    network: Option<Ipv4Net>,
    key: ObjectKey,
) -> Result<(), ControllerError> {
    let Some(network) = network else {
        return Ok(());
    };
    let nodes = world.nodes.list();
    let open = world
        .nodes
        .get(&key)
        .is_some_and(|node| subnet(&node).is_none());
    let taken: BTreeSet<_> = nodes.iter().filter_map(|node| subnet(node)).collect();
    let Some(free) = first_free(network, &taken).filter(|_| open) else {
        if open {
            tracing::warn!("{key} gets no pod subnet: all of {network} are in use");
        }
        return Ok(());
    };
    let patch = json!({"spec": {"podCIDR": free.to_string(), "podCIDRs": [free.to_string()]}});
    let api = Api::<Node>::all(world.client.clone());
    match api
        .patch(&key.name, &PatchParams::default(), &Patch::Merge(patch))
        .await
    {
        Ok(written) => world.nodes.observe(written),
        Err(error) if is_status(&error, 404) => {}
        Err(error) => return Err(error).doing(|| format!("giving {key} the pod subnet {free}")),
    }
    Ok(())
}

fn first_free(network: Ipv4Net, taken: &BTreeSet<Ipv4Net>) -> Option<Ipv4Net> {
    let mut subnets = network
        .subnets(NODE_PREFIX.max(network.prefix_len()))
        .ok()?;
    subnets.find(|subnet| {
        !taken
            .iter()
            .any(|t| t.contains(subnet) || subnet.contains(t))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_are_given_once() {
        let network: Ipv4Net = "10.244.0.0/16".parse().expect("a network");
        let first: Ipv4Net = "10.244.0.0/24".parse().expect("a network");
        assert_eq!(first_free(network, &BTreeSet::new()), Some(first));
        let next = first_free(network, &BTreeSet::from([first])).map(|n| n.to_string());
        assert_eq!(next.as_deref(), Some("10.244.1.0/24"));
        assert_eq!(first_free(first, &BTreeSet::from([first])), None);
    }
}
