//! Addresses for services of type `LoadBalancer`, from one range for each
//! version of IP. Traffic to them is the service proxy's business.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::endpointslice_plan;
use super::error::{ControllerError, Doing, is_status};
use super::world::World;
use crate::informer::{ObjectKey, Queue};

const COMPONENT: &str = "service-controller";

/// First and last address.
type Range = (IpAddr, IpAddr);

/// Subscribes to services and gives out addresses of `ranges`.
pub(crate) fn start(world: Arc<World>, ranges: Vec<Range>) -> impl Future<Output = ()> + Send {
    let queue = Queue::new();
    let services = queue.clone();
    let cache = Arc::downgrade(&world.services);
    world.services.on_change(move |old, new| {
        if let Some(service) = new {
            services.add(ObjectKey::of(service));
        }
        // An address that is given back may be what another service waits for.
        let freed = old.map(given).unwrap_or_default() != new.map(given).unwrap_or_default();
        if let Some(cache) = cache.upgrade().filter(|_| freed) {
            for service in cache.list().iter().filter(|s| wants_addresses(s)) {
                services.add(ObjectKey::of(&**service));
            }
        }
    });
    async move {
        super::synced(&world).await;
        queue
            .work(COMPONENT, |key| reconcile(&world, &ranges, key))
            .await;
    }
}

fn wants_addresses(service: &Service) -> bool {
    service.metadata.deletion_timestamp.is_none()
        && service.spec.as_ref().is_some_and(|spec| {
            spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class.is_none()
        })
}

/// The addresses that a service has.
fn given(service: &Service) -> Vec<IpAddr> {
    let status = service.status.as_ref();
    let ingress = status
        .and_then(|status| status.load_balancer.as_ref())
        .and_then(|balancer| balancer.ingress.as_ref());
    let texts = ingress.into_iter().flatten().filter_map(|i| i.ip.as_ref());
    texts.filter_map(|text| text.parse().ok()).collect()
}

async fn reconcile(world: &World, ranges: &[Range], key: ObjectKey) -> Result<(), ControllerError> {
    let Some(service) = world.services.get(&key) else {
        return Ok(());
    };
    let before = given(&service);
    if !wants_addresses(&service) {
        let spec = service.spec.as_ref();
        let foreign = spec.is_some_and(|spec| spec.load_balancer_class.is_some());
        return match before.is_empty() || foreign {
            true => Ok(()),
            false => write(world, &key, &[]).await,
        };
    }
    if ranges.is_empty() {
        return Ok(());
    }
    let others = world.services.list();
    let others = others
        .iter()
        .filter(|other| ObjectKey::of(&***other) != key);
    let taken = others.flat_map(|other| given(other)).collect();
    match choose(&service, ranges, &taken) {
        Ok(addresses) if addresses == before => Ok(()),
        Ok(addresses) => {
            tracing::info!("{key} gets the addresses {addresses:?}");
            write(world, &key, &addresses).await
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

/// An address for each version of IP of the service: the one that it has, the
/// one that it asks for, or the first free one.
fn choose(
    service: &Service,
    ranges: &[Range],
    taken: &BTreeSet<IpAddr>,
) -> Result<Vec<IpAddr>, String> {
    let asked = service
        .spec
        .as_ref()
        .and_then(|spec| spec.load_balancer_ip.as_deref())
        .filter(|text| !text.is_empty());
    let asked: Option<IpAddr> = match asked {
        Some(text) => {
            let parsed = text.parse();
            Some(parsed.map_err(|_| format!("loadBalancerIP {text} is not an address"))?)
        }
        None => None,
    };
    let has = given(service);
    let families = endpointslice_plan::families(service);
    let ranges = families.into_iter().filter_map(|family| {
        let four = family == "IPv4";
        ranges.iter().find(|(first, _)| first.is_ipv4() == four)
    });
    ranges
        .map(|range| {
            let ours = |address: &&IpAddr| address.is_ipv4() == range.0.is_ipv4();
            match (asked.iter().find(ours), has.iter().find(ours)) {
                (Some(asked), _) => exactly(*asked, *range, taken),
                (None, Some(has)) if is_in(*has, *range) => Ok(*has),
                (None, _) => any(*range, taken),
            }
        })
        .collect()
}

fn is_in(address: IpAddr, (first, last): Range) -> bool {
    first <= address && address <= last
}

fn exactly(asked: IpAddr, range: Range, taken: &BTreeSet<IpAddr>) -> Result<IpAddr, String> {
    if !is_in(asked, range) {
        return Err(format!(
            "loadBalancerIP {asked} is outside of {}-{}",
            range.0, range.1
        ));
    }
    if taken.contains(&asked) {
        return Err(format!(
            "loadBalancerIP {asked} is in use by another service"
        ));
    }
    Ok(asked)
}

fn any(range: Range, taken: &BTreeSet<IpAddr>) -> Result<IpAddr, String> {
    let mut next = Some(range.0);
    while let Some(address) = next.filter(|address| is_in(*address, range)) {
        if !taken.contains(&address) {
            return Ok(address);
        }
        next = successor(address);
    }
    let (first, last) = range;
    Err(format!(
        "all load balancer addresses of {first}-{last} are in use"
    ))
}

fn successor(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(four) => Some(Ipv4Addr::from(u32::from(four).checked_add(1)?).into()),
        IpAddr::V6(six) => Some(Ipv6Addr::from(u128::from(six).checked_add(1)?).into()),
    }
}

async fn write(
    world: &World,
    key: &ObjectKey,
    addresses: &[IpAddr],
) -> Result<(), ControllerError> {
    let ingress: Vec<_> = addresses
        .iter()
        .map(|address| json!({"ip": address, "ipMode": "VIP"}))
        .collect();
    let ingress = match ingress.is_empty() {
        true => json!(null),
        false => json!(ingress),
    };
    let patch = Patch::Merge(json!({"status": {"loadBalancer": {"ingress": ingress}}}));
    let api = world.api::<Service>(&key.namespace);
    match api
        .patch_status(&key.name, &PatchParams::default(), &patch)
        .await
    {
        Ok(written) => world.services.observe(written),
        Err(error) if is_status(&error, 404) => {}
        Err(error) => return Err(error).doing(|| format!("writing the addresses of {key}")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::endpointslice_plan::tests::service;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn ranges() -> Vec<Range> {
        vec![
            (ip("10.0.0.1"), ip("10.0.0.2")),
            (ip("fd00::1"), ip("fd00::2")),
        ]
    }

    #[test]
    fn addresses_are_given_once_and_as_asked() {
        let plain = service(json!({"type": "LoadBalancer"}));
        let taken = BTreeSet::from([ip("10.0.0.1")]);
        assert_eq!(choose(&plain, &ranges(), &taken), Ok(vec![ip("10.0.0.2")]));
        let full = BTreeSet::from([ip("10.0.0.1"), ip("10.0.0.2")]);
        assert!(choose(&plain, &ranges(), &full).is_err());
        for bad in ["10.0.0.1", "10.0.0.9", "ten"] {
            let asks = service(json!({"type": "LoadBalancer", "loadBalancerIP": bad}));
            assert!(choose(&asks, &ranges(), &taken).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_service_gets_one_of_each_family_and_keeps_what_it_has() {
        let both = json!({"type": "LoadBalancer", "ipFamilies": ["IPv6", "IPv4"]});
        let mut both = service(both);
        let free = BTreeSet::new();
        let first = vec![ip("fd00::1"), ip("10.0.0.1")];
        assert_eq!(choose(&both, &ranges(), &free), Ok(first));
        let status = json!({"loadBalancer": {"ingress": [{"ip": "10.0.0.2"}]}});
        both.status = serde_json::from_value(status).expect("a status");
        let kept = vec![ip("fd00::1"), ip("10.0.0.2")];
        assert_eq!(choose(&both, &ranges(), &free), Ok(kept));
    }
}
