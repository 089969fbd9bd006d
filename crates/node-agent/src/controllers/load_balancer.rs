//! Addresses for services of type `LoadBalancer`, from one range. Traffic to
//! them is the service proxy's business.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::error::{ControllerError, Doing, is_status};
use super::world::World;
use crate::informer::{ObjectKey, Queue};

const COMPONENT: &str = "service-controller";

/// Subscribes to services and gives out addresses of `range` (first, last).
pub(crate) fn start(
    world: Arc<World>,
    range: Option<(Ipv4Addr, Ipv4Addr)>,
) -> impl Future<Output = ()> + Send {
    let queue = Queue::new();
    let services = queue.clone();
    let cache = Arc::downgrade(&world.services);
    world.services.on_change(move |old, new| {
        if let Some(service) = new {
            services.add(ObjectKey::of(service));
        }
        // An address that is given back may be what another service waits for.
        let freed =
            old.is_some_and(|s| given(s).is_some()) && new.is_none_or(|s| given(s).is_none());
        if let Some(cache) = cache.upgrade().filter(|_| freed) {
            for service in cache
                .list()
                .iter()
                .filter(|s| wants_address(s) && given(s).is_none())
            {
                services.add(ObjectKey::of(&**service));
            }
        }
    });
    async move {
        super::synced(&world).await;
        queue
            .work(COMPONENT, |key| reconcile(&world, range, key))
            .await;
    }
}

fn wants_address(service: &Service) -> bool {
    service.metadata.deletion_timestamp.is_none()
        && service.spec.as_ref().is_some_and(|spec| {
            spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class.is_none()
        })
}

fn given(service: &Service) -> Option<Ipv4Addr> {
    let ingress = service
        .status
        .as_ref()?
        .load_balancer
        .as_ref()?
        .ingress
        .as_ref()?;
    ingress.first()?.ip.as_ref()?.parse().ok()
}

async fn reconcile(
    world: &World,
    range: Option<(Ipv4Addr, Ipv4Addr)>,
    key: ObjectKey,
) -> Result<(), ControllerError> {
    let Some(service) = world.services.get(&key) else {
        return Ok(());
    };
    let foreign = service
        .spec
        .as_ref()
        .is_some_and(|s| s.load_balancer_class.is_some());
    match (wants_address(&service), given(&service)) {
        (true, None) => {}
        (false, Some(_)) if !foreign => return write(world, &key, None).await,
        _ => return Ok(()),
    }
    let Some(range) = range else { return Ok(()) };
    let taken = world
        .services
        .list()
        .iter()
        .filter_map(|s| given(s))
        .collect();
    match choose(&service, range, &taken) {
        Ok(address) => {
            tracing::info!("{key} gets the address {address}");
            write(world, &key, Some(address)).await
        }
        Err(message) => {
            world
                .events
                .warning(COMPONENT, &*service, "AllocationFailed", message)
                .await;
            Ok(())
        }
    }
}

/// The address for a service: the one it asks for, or the first free one.
fn choose(
    service: &Service,
    (first, last): (Ipv4Addr, Ipv4Addr),
    taken: &BTreeSet<Ipv4Addr>,
) -> Result<Ipv4Addr, String> {
    let wanted = service
        .spec
        .as_ref()
        .and_then(|spec| spec.load_balancer_ip.as_deref());
    if let Some(wanted) = wanted.filter(|text| !text.is_empty()) {
        let address: Ipv4Addr = wanted
            .parse()
            .map_err(|_| format!("loadBalancerIP {wanted} is not an IPv4 address"))?;
        if address < first || address > last {
            return Err(format!(
                "loadBalancerIP {wanted} is outside of {first}-{last}"
            ));
        }
        if taken.contains(&address) {
            return Err(format!(
                "loadBalancerIP {wanted} is in use by another service"
            ));
        }
        return Ok(address);
    }
    (u32::from(first)..=u32::from(last))
        .map(Ipv4Addr::from)
        .find(|address| !taken.contains(address))
        .ok_or_else(|| format!("all load balancer addresses of {first}-{last} are in use"))
}

async fn write(
    world: &World,
    key: &ObjectKey,
    address: Option<Ipv4Addr>,
) -> Result<(), ControllerError> {
    let status = match address {
        Some(address) => json!({"ingress": [{"ip": address.to_string(), "ipMode": "VIP"}]}),
        None => json!({"ingress": null}),
    };
    let patch = Patch::Merge(json!({"status": {"loadBalancer": status}}));
    let api = world.api::<Service>(&key.namespace);
    match api
        .patch_status(&key.name, &PatchParams::default(), &patch)
        .await
    {
        Ok(written) => world.services.observe(written),
        Err(error) if is_status(&error, 404) => {}
        Err(error) => return Err(error).doing(|| format!("writing the address of {key}")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::endpointslice_plan::tests::service;
    use serde_json::json;

    #[test]
    fn addresses_are_given_once_and_as_asked() {
        let range = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let plain = service(json!({"type": "LoadBalancer"}));
        let taken = BTreeSet::from([Ipv4Addr::new(10, 0, 0, 1)]);
        assert_eq!(
            choose(&plain, range, &taken),
            Ok(Ipv4Addr::new(10, 0, 0, 2))
        );
        let full = BTreeSet::from([range.0, range.1]);
        assert!(choose(&plain, range, &full).is_err());
        for bad in ["10.0.0.1", "10.0.0.9", "ten"] {
            let asks = service(json!({"type": "LoadBalancer", "loadBalancerIP": bad}));
            assert!(choose(&asks, range, &taken).is_err(), "{bad}");
        }
    }
}
