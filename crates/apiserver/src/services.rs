//! Addresses and node ports of services.
//!
//! The pools are derived from the stored services, and every change of a pool is made under one
//! lock, so two services never share an address or a port.

use crate::{
    api::Api,
    object,
    status::{ApiError, Cause, Result},
};
use ipnet::IpNet;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Range of node ports, as in Kubernetes.
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30000..=32767;
/// The first addresses are for services that ask for one (`kubernetes`, DNS).
const RESERVED: u32 = 16;

/// The pools.
#[derive(Debug)]
pub struct Allocator {
    cidr: IpNet,
    taken: Mutex<Allocation>,
}

/// Addresses and ports.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Allocation {
    addresses: BTreeSet<IpAddr>,
    ports: BTreeSet<u16>,
}

impl Allocator {
    /// Pools over a range of addresses.
    pub fn new(cidr: IpNet) -> Self {
        Allocator {
            cidr,
            taken: Mutex::default(),
        }
    }

    /// The address at an offset in the range; 1 is that of the service `kubernetes`.
    pub fn address(&self, offset: u32) -> IpAddr {
        match self.cidr.network() {
            IpAddr::V4(base) => Ipv4Addr::from(u32::from(base).wrapping_add(offset)).into(),
            IpAddr::V6(base) => Ipv6Addr::from(u128::from(base).wrapping_add(offset.into())).into(),
        }
    }

    /// Gives back.
    pub fn release(&self, allocation: &Allocation) {
        let mut taken = self.taken.lock();
        for address in &allocation.addresses {
            taken.addresses.remove(address);
        }
        for port in &allocation.ports {
            taken.ports.remove(port);
        }
    }

    fn size(&self) -> u32 {
        let bits = self.cidr.max_prefix_len() - self.cidr.prefix_len();
        if bits >= 16 { 1 << 16 } else { 1 << bits }
    }

    fn next_address(&self, taken: &Allocation) -> Option<IpAddr> {
        let size = self.size();
        let first = if size > 4 * RESERVED { RESERVED } else { 1 };
        (first..size.saturating_sub(1))
            .map(|n| self.address(n))
            .find(|a| !taken.addresses.contains(a))
    }
}

/// Fills in the addresses and node ports that the service needs, and takes them from the pools.
/// Answers what was newly taken.
pub fn allocate(
    api: &Api,
    value: &mut Value,
    before: Option<&Value>,
    dry_run: bool,
) -> Result<Allocation> {
    let name = object::name(value).to_string();
    let owned = before.map(held).unwrap_or_default();
    let mut taken = api.services.taken.lock();
    let mut new = Allocation::default();
    let kind = object::text(value, "/spec/type").to_string();
    if kind != "ExternalName" {
        cluster_ip(
            &api.services,
            value,
            before,
            &name,
            &owned,
            &taken,
            &mut new,
        )?;
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        node_ports(value, before, &name, &owned, &taken, &mut new)?;
    }
    if !dry_run {
        taken.addresses.extend(&new.addresses);
        taken.ports.extend(&new.ports);
    }
    Ok(new)
}

fn invalid(name: &str, cause: Cause) -> ApiError {
    ApiError::invalid("", "Service", name, vec![cause])
}

fn cluster_ip(
    pool: &Allocator,
    value: &mut Value,
    before: Option<&Value>,
    name: &str,
    owned: &Allocation,
    taken: &Allocation,
    new: &mut Allocation,
) -> Result<()> {
    let mut wanted = object::text(value, "/spec/clusterIP").to_string();
    if wanted.is_empty()
        && let Some(before) = before
    {
        wanted = object::text(before, "/spec/clusterIP").to_string();
    }
    if wanted.is_empty() {
        let address = pool.next_address(taken).ok_or_else(|| {
            ApiError::internal(format!(
                "failed to allocate a serviceIP: the range {} is full",
                pool.cidr
            ))
        })?;
        new.addresses.insert(address);
        wanted = address.to_string();
    } else if wanted != "None" {
        let field = "spec.clusterIPs[0]";
        let shown = Value::from(wanted.clone());
        let address: IpAddr = wanted.parse().map_err(|_| {
            invalid(
                name,
                Cause::invalid(field, &shown, "must be a valid IP address"),
            )
        })?;
        if !owned.addresses.contains(&address) {
            if !pool.cidr.contains(&address) {
                let why = format!(
                    "failed to allocate IP {address}: the provided network does not match the current range"
                );
                return Err(invalid(name, Cause::invalid(field, &json!([wanted]), &why)));
            }
            if taken.addresses.contains(&address) {
                let why =
                    format!("failed to allocate IP {address}: provided IP is already allocated");
                return Err(invalid(name, Cause::invalid(field, &json!([wanted]), &why)));
            }
            new.addresses.insert(address);
        }
    }
    let family = if wanted.contains(':') || (wanted == "None" && matches!(pool.cidr, IpNet::V6(_)))
    {
        "IPv6"
    } else {
        "IPv4"
    };
    if let Some(spec) = object::child(value, "spec") {
        spec.insert("clusterIP".into(), wanted.clone().into());
        spec.insert("clusterIPs".into(), json!([wanted]));
        object::set_default(spec, "ipFamilies", json!([family]));
        object::set_default(spec, "ipFamilyPolicy", "SingleStack");
        object::set_default(spec, "internalTrafficPolicy", "Cluster");
    }
    Ok(())
}

fn node_ports(
    value: &mut Value,
    before: Option<&Value>,
    name: &str,
    owned: &Allocation,
    taken: &Allocation,
    new: &mut Allocation,
) -> Result<()> {
    let load_balancer = object::text(value, "/spec/type") == "LoadBalancer";
    if load_balancer
        && value.pointer("/spec/allocateLoadBalancerNodePorts") == Some(&Value::Bool(false))
    {
        return Ok(());
    }
    let old = before
        .and_then(|b| b.pointer("/spec/ports"))
        .and_then(Value::as_array)
        .cloned();
    let Some(ports) = value
        .pointer_mut("/spec/ports")
        .and_then(Value::as_array_mut)
    else {
        return Ok(());
    };
    for (i, port) in ports.iter_mut().enumerate() {
        let same = |o: &&Value| {
            o.get("port") == port.get("port") && o.get("protocol") == port.get("protocol")
        };
        let kept = old
            .iter()
            .flatten()
            .find(same)
            .and_then(|o| o.get("nodePort"))
            .cloned();
        let wanted = port
            .get("nodePort")
            .cloned()
            .filter(|p| p != &json!(0))
            .or(kept);
        let Some(map) = port.as_object_mut() else {
            continue;
        };
        match wanted {
            Some(wanted) => {
                let field = format!("spec.ports[{i}].nodePort");
                let number = wanted.as_u64().and_then(|n| u16::try_from(n).ok());
                let Some(number) = number.filter(|n| NODE_PORTS.contains(n)) else {
                    let why = "provided port is not in the valid range. The range of valid ports is 30000-32767";
                    return Err(invalid(name, Cause::invalid(field, &wanted, why)));
                };
                if !owned.ports.contains(&number) {
                    if taken.ports.contains(&number) || new.ports.contains(&number) {
                        let why = "provided port is already allocated";
                        return Err(invalid(name, Cause::invalid(field, &wanted, why)));
                    }
                    new.ports.insert(number);
                }
                map.insert("nodePort".into(), number.into());
            }
            None => {
                let free = NODE_PORTS
                    .clone()
                    .find(|p| !taken.ports.contains(p) && !new.ports.contains(p));
                let free = free.ok_or_else(|| ApiError::internal("all node ports are taken"))?;
                new.ports.insert(free);
                map.insert("nodePort".into(), free.into());
            }
        }
    }
    Ok(())
}

/// What a stored service holds.
fn held(service: &Value) -> Allocation {
    let addresses = service
        .pointer("/spec/clusterIPs")
        .and_then(Value::as_array);
    let addresses = addresses.into_iter().flatten().filter_map(Value::as_str);
    let ports = service.pointer("/spec/ports").and_then(Value::as_array);
    let mut ports: BTreeSet<u16> = ports
        .into_iter()
        .flatten()
        .filter_map(|p| p.get("nodePort").and_then(Value::as_u64))
        .filter_map(|p| u16::try_from(p).ok())
        .filter(|p| *p != 0)
        .collect();
    let health = service
        .pointer("/spec/healthCheckNodePort")
        .and_then(Value::as_u64);
    ports.extend(health.and_then(|p| u16::try_from(p).ok()));
    Allocation {
        addresses: addresses.filter_map(|a| a.parse().ok()).collect(),
        ports,
    }
}

/// A service was replaced: what it does not hold any more is free.
pub fn changed(api: &Api, before: &Value, after: &Value) {
    let (before, after) = (held(before), held(after));
    api.services.release(&Allocation {
        addresses: before
            .addresses
            .difference(&after.addresses)
            .copied()
            .collect(),
        ports: before.ports.difference(&after.ports).copied().collect(),
    });
}

/// A service is gone.
pub fn deleted(api: &Api, service: &Value) {
    api.services.release(&held(service));
}
