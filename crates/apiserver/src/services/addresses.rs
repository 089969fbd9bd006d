//! Which versions of IP a service has, and its addresses in each.

use super::{Claim, next_address};
use crate::{
    object,
    status::{ApiError, Result},
};
use ipnet::IpNet;
use serde_json::{Value, json};
use std::net::IpAddr;

const SINGLE: &str = "SingleStack";
const REQUIRE: &str = "RequireDualStack";
/// The address of a service that has none.
const NONE: &str = "None";

/// A version of IP, as `ipFamilies` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub(super) fn of_range(range: &IpNet) -> Self {
        Self::of(range.addr())
    }

    fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// What a service says about its addresses.
#[derive(Debug, Clone)]
struct Wish {
    policy: Option<String>,
    families: Vec<Value>,
    addresses: Vec<String>,
}

impl Wish {
    fn of(service: &Value) -> Self {
        let list = |pointer: &str| service.pointer(pointer).and_then(Value::as_array);
        let listed = list("/spec/clusterIPs").into_iter().flatten();
        let mut addresses: Vec<String> = listed.filter_map(Value::as_str).map(Into::into).collect();
        let first = object::text(service, "/spec/clusterIP");
        if addresses.is_empty() && !first.is_empty() {
            addresses.push(first.to_string());
        }
        let policy = object::text(service, "/spec/ipFamilyPolicy");
        Wish {
            policy: (!policy.is_empty()).then(|| policy.to_string()),
            families: list("/spec/ipFamilies").cloned().unwrap_or_default(),
            addresses,
        }
    }

    /// Who changes the first address and leaves the list as it was means the list, too.
    fn led_by_first(mut self, service: &Value, before: &Value) -> Self {
        let first = |service: &Value| object::text(service, "/spec/clusterIP").to_string();
        let list = |service: &Value| service.pointer("/spec/clusterIPs").cloned();
        let now = first(service);
        if now != first(before) && list(service) == list(before) && !now.is_empty() {
            self.addresses = vec![now];
        }
        self
    }

    /// What is not said stays as it was; a service that is to have one family only loses the
    /// second one if it does not say otherwise.
    fn after(self, before: Wish) -> Self {
        let narrower =
            self.policy.as_deref() == Some(SINGLE) && before.policy.as_deref() != Some(SINGLE);
        Wish {
            policy: self.policy.or(before.policy),
            families: inherit(self.families, before.families, narrower),
            addresses: inherit(self.addresses, before.addresses, narrower),
        }
    }
}

/// The list that was there, unless another one is given than its beginning.
fn inherit<T: PartialEq>(now: Vec<T>, mut before: Vec<T>, narrower: bool) -> Vec<T> {
    if !before.starts_with(&now) {
        return now;
    }
    before.truncate(if narrower { 1 } else { before.len() });
    before
}

/// Fills in policy, families and addresses of a service.
pub(super) fn fill(claim: &mut Claim<'_>, value: &mut Value, before: Option<&Value>) -> Result<()> {
    let has_some = |service: &&Value| object::text(service, "/spec/type") != "ExternalName";
    if !has_some(&&*value) {
        return Ok(());
    }
    let mut wish = Wish::of(value);
    if let Some(before) = before.filter(has_some) {
        wish = wish.led_by_first(value, before);
        let before = Wish::of(before);
        wish = wish.after(before.clone());
        let (old, new) = (before.addresses.first(), wish.addresses.first());
        if old.is_some() && old != new {
            let why = "may not change once set";
            return Err(claim.refuse("spec.clusterIPs[0]", &json!(wish.addresses), why));
        }
    }
    let headless = wish
        .addresses
        .first()
        .is_some_and(|address| address == NONE);
    let selectorless = value
        .pointer("/spec/selector")
        .and_then(Value::as_object)
        .is_none_or(serde_json::Map::is_empty);
    let (policy, families) = if headless && selectorless {
        anywhere(claim, &wish)
    } else {
        configured(claim, &wish)?
    };
    let addresses = match headless {
        true => vec![NONE.to_string()],
        false => addresses(claim, &wish, &families)?,
    };
    if let Some(spec) = object::child(value, "spec") {
        let names: Vec<&str> = families.iter().map(|family| family.name()).collect();
        spec.insert("clusterIP".into(), json!(addresses.first()));
        spec.insert("clusterIPs".into(), json!(addresses));
        spec.insert("ipFamilies".into(), json!(names));
        spec.insert("ipFamilyPolicy".into(), policy.into());
    }
    Ok(())
}

/// A service whose endpoints somebody else makes can have any.
fn anywhere(claim: &Claim<'_>, wish: &Wish) -> (String, Vec<Family>) {
    let policy = wish.policy.clone().unwrap_or_else(|| REQUIRE.to_string());
    let mut families = known(&wish.families);
    if families.is_empty() {
        families.extend(claim.pools.families().first());
    }
    if policy != SINGLE {
        add_other(&mut families, &Family::BOTH);
    }
    (policy, families)
}

/// The families of a service that the cluster has addresses for.
fn configured(claim: &Claim<'_>, wish: &Wish) -> Result<(String, Vec<Family>)> {
    let policy = wish.policy.clone().unwrap_or_else(|| SINGLE.to_string());
    let shown = Value::from(policy.clone());
    let there = claim.pools.families();
    if policy == SINGLE {
        for (field, count) in [
            ("clusterIPs", wish.addresses.len()),
            ("ipFamilies", wish.families.len()),
        ] {
            if count > 1 {
                let why = format!(
                    "must be RequireDualStack or PreferDualStack when multiple '{field}' are specified"
                );
                return Err(claim.refuse("spec.ipFamilyPolicy", &shown, &why));
            }
        }
    }
    if policy == REQUIRE && there.len() < 2 {
        let why = "this cluster is not configured for dual-stack services";
        return Err(claim.refuse("spec.ipFamilyPolicy", &shown, why));
    }
    let mut families = Vec::new();
    for (i, name) in wish.families.iter().enumerate() {
        let family = there.iter().find(|family| *name == family.name());
        families.push(*family.ok_or_else(|| {
            let field = format!("spec.ipFamilies[{i}]");
            claim.refuse(&field, name, "not configured on this cluster")
        })?);
    }
    let parsed = wish
        .addresses
        .iter()
        .map(|text| text.parse().map(Family::of));
    // Addresses say it, too.
    families.extend(
        parsed
            .skip(families.len())
            .map_while(std::result::Result::ok),
    );
    if families.is_empty() {
        families.extend(there.first());
    }
    if policy != SINGLE {
        add_other(&mut families, &there);
    }
    Ok((policy, families))
}

fn known(names: &[Value]) -> Vec<Family> {
    let find = |name: &Value| Family::BOTH.into_iter().find(|f| *name == f.name());
    names.iter().filter_map(find).collect()
}

fn add_other(families: &mut Vec<Family>, there: &[Family]) {
    let other = there.iter().find(|family| !families.contains(family));
    families.extend(other.copied());
}

/// An address for each family, those first that are asked for.
fn addresses(claim: &mut Claim<'_>, wish: &Wish, families: &[Family]) -> Result<Vec<String>> {
    let shown = json!(wish.addresses);
    let mut addresses = Vec::new();
    for (i, family) in families.iter().enumerate() {
        let field = format!("spec.clusterIPs[{i}]");
        let text = match wish.addresses.get(i) {
            Some(text) => text.clone(),
            None => claim.any(*family)?.to_string(),
        };
        if let Some(wanted) = wish.addresses.get(i) {
            let address: IpAddr = wanted.parse().map_err(|_| {
                claim.refuse(&field, &wanted.clone().into(), "must be a valid IP address")
            })?;
            if Family::of(address) != *family {
                let why = format!(
                    "expected an {} value as indicated by `ipFamilies[{i}]`",
                    family.name()
                );
                return Err(claim.refuse(&field, &wanted.clone().into(), &why));
            }
            claim.this(&field, &shown, address)?;
        }
        addresses.push(text);
    }
    Ok(addresses)
}

impl Claim<'_> {
    fn any(&mut self, family: Family) -> Result<IpAddr> {
        let range = self.pools.range(family);
        let free = range.and_then(|range| next_address(range, self.taken));
        let address = free.ok_or_else(|| {
            let range = range.map(ToString::to_string).unwrap_or_default();
            ApiError::internal(format!(
                "failed to allocate a serviceIP: the range {range} is full"
            ))
        })?;
        self.new.addresses.insert(address);
        Ok(address)
    }

    fn this(&mut self, field: &str, shown: &Value, address: IpAddr) -> Result<()> {
        if self.owned.addresses.contains(&address) {
            return Ok(());
        }
        let range = self.pools.range(Family::of(address));
        if !range.is_some_and(|range| range.contains(&address)) {
            let why = format!(
                "failed to allocate IP {address}: the provided network does not match the current range"
            );
            return Err(self.refuse(field, shown, &why));
        }
        if self.taken.addresses.contains(&address) {
            let why = format!("failed to allocate IP {address}: provided IP is already allocated");
            return Err(self.refuse(field, shown, &why));
        }
        self.new.addresses.insert(address);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Allocation, Allocator};
    use super::*;

    const FOUR: &str = "10.96.0.0/16";
    const SIX: &str = "fd00:96::/112";

    /// The outcome for a service on a cluster with these ranges, as text.
    fn outcome(ranges: &[&str], spec: Value, before: Option<Value>) -> String {
        let ranges = ranges.iter().map(|range| range.parse().expect("a range"));
        let pools = Allocator::new(ranges.collect());
        let (owned, taken) = (Allocation::default(), Allocation::default());
        let mut claim = Claim {
            pools: &pools,
            name: "web",
            owned: &owned,
            taken: &taken,
            new: Allocation::default(),
        };
        let mut service = json!({"metadata": {"name": "web"}, "spec": spec});
        let before = before.map(|spec| json!({"spec": spec}));
        match fill(&mut claim, &mut service, before.as_ref()) {
            Ok(()) => {
                let spec = &service["spec"];
                let list = |field: &str| {
                    let all = spec[field].as_array().expect("a list").iter();
                    all.filter_map(Value::as_str).collect::<Vec<_>>().join("+")
                };
                let policy = spec["ipFamilyPolicy"].as_str().expect("a policy");
                format!("{policy} {} {}", list("ipFamilies"), list("clusterIPs"))
            }
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn families_follow_policy_cluster_and_wishes() {
        let dual = &[FOUR, SIX][..];
        let headless = |mut spec: Value| {
            spec["clusterIP"] = "None".into();
            spec["selector"] = json!({"a": "b"});
            spec
        };
        let prefer = json!({"ipFamilyPolicy": "PreferDualStack"});
        let require = json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]});
        for (ranges, spec, expected) in [
            (dual, json!({}), "SingleStack IPv4 10.96.0.16"),
            (&[SIX, FOUR], json!({}), "SingleStack IPv6 fd00:96::10"),
            (
                dual,
                json!({"ipFamilies": ["IPv6"]}),
                "SingleStack IPv6 fd00:96::10",
            ),
            (
                dual,
                json!({"clusterIP": "fd00:96::7"}),
                "SingleStack IPv6 fd00:96::7",
            ),
            (
                dual,
                prefer.clone(),
                "PreferDualStack IPv4+IPv6 10.96.0.16+fd00:96::10",
            ),
            (&[FOUR], prefer.clone(), "PreferDualStack IPv4 10.96.0.16"),
            (
                dual,
                require,
                "RequireDualStack IPv6+IPv4 fd00:96::10+10.96.0.16",
            ),
            (dual, headless(json!({})), "SingleStack IPv4 None"),
            (dual, headless(prefer), "PreferDualStack IPv4+IPv6 None"),
            (
                &[FOUR],
                json!({"clusterIP": "None"}),
                "RequireDualStack IPv4+IPv6 None",
            ),
        ] {
            assert_eq!(outcome(ranges, spec.clone(), None), expected, "{spec}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_field() {
        let dual = &[FOUR, SIX][..];
        for (ranges, spec, expected) in [
            (
                &[FOUR][..],
                json!({"ipFamilyPolicy": "RequireDualStack"}),
                "not configured for dual-stack services",
            ),
            (
                &[FOUR],
                json!({"ipFamilies": ["IPv6"]}),
                "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster",
            ),
            (
                dual,
                json!({"ipFamilies": ["IPv4", "IPv6"]}),
                "must be RequireDualStack or PreferDualStack when multiple 'ipFamilies' are specified",
            ),
            (
                dual,
                json!({"ipFamilies": ["IPv4"], "clusterIP": "fd00:96::7"}),
                "spec.clusterIPs[0]: Invalid value: \"fd00:96::7\": expected an IPv4 value",
            ),
            (
                dual,
                json!({"clusterIP": "10.1.1.1"}),
                "does not match the current range",
            ),
            (
                dual,
                json!({"clusterIP": "here"}),
                "must be a valid IP address",
            ),
        ] {
            let refused = outcome(ranges, spec.clone(), None);
            assert!(refused.contains(expected), "{spec}: {refused}");
        }
    }

    #[test]
    fn a_second_family_comes_and_goes_with_the_policy() {
        let dual = &[FOUR, SIX][..];
        let single = json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"],
            "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"]});
        let both = json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv4", "IPv6"],
            "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5", "fd00:96::5"]});
        let with = |spec: &Value, policy: &str| {
            let mut spec = spec.clone();
            spec["ipFamilyPolicy"] = policy.into();
            spec
        };
        for (spec, before, expected) in [
            (
                json!({}),
                &both,
                "PreferDualStack IPv4+IPv6 10.96.0.5+fd00:96::5",
            ),
            (
                with(&both, "SingleStack"),
                &both,
                "SingleStack IPv4 10.96.0.5",
            ),
            (
                with(&single, "PreferDualStack"),
                &single,
                "PreferDualStack IPv4+IPv6 10.96.0.5+fd00:96::10",
            ),
        ] {
            let found = outcome(dual, spec.clone(), Some(before.clone()));
            assert_eq!(found, expected, "{spec}");
        }
        let moved = outcome(dual, json!({"clusterIP": "10.96.0.6"}), Some(single));
        assert!(moved.contains("may not change once set"), "{moved}");
    }
}
