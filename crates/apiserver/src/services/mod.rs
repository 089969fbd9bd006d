//! Addresses and node ports of services.
//!
//! The pools are derived from the stored services, and every change of a pool is made under one
//! lock, so two services never share an address or a port.

mod addresses;
mod ports;
mod retype;

pub use retype::drop_dependent;

use crate::{
    api::Api,
    object,
    status::{ApiError, Cause, Result},
};
use addresses::Family;
use ipnet::IpNet;
use parking_lot::Mutex;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// The first addresses are for services that ask for one (`kubernetes`, DNS).
const RESERVED: u32 = 16;

/// The pools.
#[derive(Debug)]
pub struct Allocator {
    /// One range per family; the first is that of services that name none.
    ranges: Vec<IpNet>,
    taken: Mutex<Allocation>,
}

/// Addresses and ports.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Allocation {
    addresses: BTreeSet<IpAddr>,
    ports: BTreeSet<u16>,
}

impl Allocator {
    /// Pools over ranges of addresses, at most one of each family, the default one first.
    pub fn new(ranges: Vec<IpNet>) -> Self {
        Allocator {
            ranges,
            taken: Mutex::default(),
        }
    }

    /// The addresses at an offset in the ranges; 1 is that of the service `kubernetes`.
    pub fn addresses(&self, offset: u32) -> impl Iterator<Item = IpAddr> {
        self.ranges.iter().map(move |range| at(range, offset))
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

    /// The families that services can have, the default one first.
    fn families(&self) -> Vec<Family> {
        self.ranges.iter().map(Family::of_range).collect()
    }

    fn range(&self, family: Family) -> Option<&IpNet> {
        let mut ranges = self.ranges.iter();
        ranges.find(|range| Family::of_range(range) == family)
    }
}

/// The address at an offset in a range.
fn at(range: &IpNet, offset: u32) -> IpAddr {
    match range.network() {
        IpAddr::V4(base) => Ipv4Addr::from(u32::from(base).wrapping_add(offset)).into(),
        IpAddr::V6(base) => Ipv6Addr::from(u128::from(base).wrapping_add(offset.into())).into(),
    }
}

/// The first free address of a range.
fn next_address(range: &IpNet, taken: &Allocation) -> Option<IpAddr> {
    let bits = range.max_prefix_len() - range.prefix_len();
    let size: u32 = if bits >= 16 { 1 << 16 } else { 1 << bits };
    let first = if size > 4 * RESERVED { RESERVED } else { 1 };
    (first..size.saturating_sub(1))
        .map(|offset| at(range, offset))
        .find(|address| !taken.addresses.contains(address))
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
    let mut claim = Claim {
        pools: &api.services,
        name: &name,
        owned: &owned,
        taken: &taken,
        new: Allocation::default(),
    };
    addresses::fill(&mut claim, value, before)?;
    ports::fill(&mut claim, value, before)?;
    let new = claim.new;
    if !dry_run {
        taken.addresses.extend(&new.addresses);
        taken.ports.extend(&new.ports);
    }
    Ok(new)
}

/// What one service is about to take.
struct Claim<'a> {
    pools: &'a Allocator,
    /// Its name, for errors.
    name: &'a str,
    /// What it holds already.
    owned: &'a Allocation,
    /// What somebody holds.
    taken: &'a Allocation,
    /// What it takes.
    new: Allocation,
}

impl Claim<'_> {
    fn refuse(&self, field: &str, value: &Value, why: &str) -> ApiError {
        let cause = Cause::invalid(field, value, why);
        ApiError::invalid("", "Service", self.name, vec![cause])
    }
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
