//! EndpointSlices for services without a selector whose endpoints somebody
//! wrote as an `Endpoints` object, the older form.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort};

use super::endpointslice_plan::{self as plan, Slice};
use super::error::ControllerError;
use super::meta;
use super::slices::{self, MANAGED_BY, SERVICE_NAME, Wanted, is_managed_by};
use super::world::World;
use crate::informer::{ObjectKey, Queue};

const COMPONENT: &str = "endpointslice-mirroring-controller";
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// Label of endpoints that are not to be mirrored.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Annotation of endpoints that are locks of the old kind.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// What kubectl keeps for itself; of no use on a copy.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Subscribes to endpoints, services and slices, and mirrors.
pub(crate) fn start(world: Arc<World>) -> impl Future<Output = ()> + Send {
    let queue = Queue::new();
    let changed = queue.clone();
    world.endpoints.on_change(move |old, new| {
        if let Some(endpoints) = new.or(old) {
            changed.add(ObjectKey::of(endpoints));
        }
    });
    let changed = queue.clone();
    world.services.on_change(move |old, new| {
        if let Some(service) = new.or(old) {
            changed.add(ObjectKey::of(service));
        }
    });
    let changed = queue.clone();
    world.slices.on_change(move |old, new| {
        let any = old.or(new);
        let labels = any.and_then(|slice| slice.metadata.labels.as_ref());
        let service = labels
            .filter(|labels| is_managed_by(labels, MANAGER))
            .and_then(|labels| labels.get(SERVICE_NAME));
        if let (Some(slice), Some(service)) = (any, service) {
            let namespace = slice.metadata.namespace.clone().unwrap_or_default();
            changed.add(ObjectKey::new(namespace, service.clone()));
        }
    });
    async move {
        super::synced(&world).await;
        queue.work(COMPONENT, |key| reconcile(&world, key)).await;
    }
}

async fn reconcile(world: &World, key: ObjectKey) -> Result<(), ControllerError> {
    let known = slices::of_service(world, &key, MANAGER);
    let service = world.services.get(&key);
    let open = service.is_some_and(|service| {
        service.metadata.deletion_timestamp.is_none() && plan::selector(&service).is_none()
    });
    let endpoints = world.endpoints.get(&key).filter(|e| open && is_mirrored(e));
    let Some(endpoints) = endpoints else {
        return slices::delete_all(world, known).await;
    };
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), key.name.clone());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.remove(LAST_APPLIED);
    let wanted = Wanted {
        service: key,
        owner: meta::controller_ref(&*endpoints),
        labels,
        annotations: (!annotations.is_empty()).then_some(annotations),
        contents: contents(&endpoints),
    };
    slices::apply(world, known, wanted).await
}

fn is_mirrored(endpoints: &Endpoints) -> bool {
    let meta = &endpoints.metadata;
    let skipped = meta.labels.as_ref().and_then(|labels| labels.get(SKIP));
    let lock = meta
        .annotations
        .as_ref()
        .is_some_and(|a| a.contains_key(LEADER));
    skipped.is_none_or(|value| value != "true") && !lock && meta.deletion_timestamp.is_none()
}

/// One slice for each subset and family.
fn contents(endpoints: &Endpoints) -> Vec<Slice> {
    let mut all = Vec::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports = ports(subset);
        let mut by_family: BTreeMap<&'static str, Vec<Endpoint>> = BTreeMap::new();
        let ready = subset.addresses.iter().flatten().map(|a| (a, true));
        let others = subset
            .not_ready_addresses
            .iter()
            .flatten()
            .map(|a| (a, false));
        for (address, ready) in ready.chain(others) {
            let family = match address.ip.parse() {
                Ok(IpAddr::V4(_)) => "IPv4",
                Ok(IpAddr::V6(_)) => "IPv6",
                Err(_) => continue,
            };
            let endpoints = by_family.entry(family).or_default();
            endpoints.push(endpoint(address, ready));
        }
        all.extend(by_family.into_iter().map(|(family, endpoints)| Slice {
            family,
            ports: ports.clone(),
            endpoints,
        }));
    }
    all
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            ..EndpointConditions::default()
        }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn ports(subset: &EndpointSubset) -> Vec<EndpointPort> {
    let ports = subset.ports.iter().flatten().map(|port| EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
        app_protocol: port.app_protocol.clone(),
    });
    ports.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn endpoints(metadata: Value, subsets: Value) -> Endpoints {
        serde_json::from_value(json!({"metadata": metadata, "subsets": subsets}))
            .expect("endpoints")
    }

    #[test]
    fn subsets_become_slices_by_family() {
        let written = endpoints(
            json!({}),
            json!([{
                "addresses": [{"ip": "192.0.2.1", "hostname": "a"}, {"ip": "fd00::1"}],
                "notReadyAddresses": [{"ip": "192.0.2.2"}],
                "ports": [{"port": 80}]}]),
        );
        let slices = contents(&written);
        let shown: Vec<_> = slices
            .iter()
            .flat_map(|slice| slice.endpoints.iter().map(move |e| (slice, e)))
            .map(|(slice, e)| {
                let ready = e.conditions.as_ref().and_then(|c| c.ready) == Some(true);
                format!(
                    "{} {} {ready} {:?}",
                    slice.family, e.addresses[0], slice.ports[0].port
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                "IPv4 192.0.2.1 true Some(80)",
                "IPv4 192.0.2.2 false Some(80)",
                "IPv6 fd00::1 true Some(80)"
            ]
        );
        assert_eq!(slices[0].endpoints[0].hostname.as_deref(), Some("a"));
    }

    #[test]
    fn locks_and_what_asks_for_it_are_left_out() {
        assert!(is_mirrored(&endpoints(json!({}), json!([]))));
        for metadata in [
            json!({"labels": {SKIP: "true"}}),
            json!({"annotations": {LEADER: "{}"}}),
        ] {
            assert!(!is_mirrored(&endpoints(metadata, json!([]))));
        }
    }
}
