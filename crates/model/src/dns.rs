//! Which names the mesh answers itself, and with what.
//!
//! Everything that is not answered here is forwarded as it was asked. A name is tried as it is,
//! then with the endings that Kubernetes would add, then with the search domains taken off, and
//! each of these also as a wildcard.

use std::net::IpAddr;

use crate::service::IpFamilies;
use crate::state::{MeshState, ServiceEntry};
use crate::{Service, Workload};

/// Address family that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `A`.
    V4,
    /// `AAAA`.
    V6,
}

impl Family {
    fn has(self, ip: IpAddr) -> bool {
        ip.is_ipv4() == (self == Self::V4)
    }
}

/// What does not change between questions.
#[derive(Clone, Debug)]
pub struct Settings<'a> {
    /// Domain of the cluster, for example `cluster.local`.
    pub cluster_domain: &'a str,
    /// The proxy's own network.
    pub network: &'a str,
    /// Namespace that is preferred among equal owners of a name.
    pub preferred_namespace: Option<&'a str>,
    /// `AAAA` may be answered.
    pub ipv6: bool,
}

/// What to do with a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The mesh does not know the name.
    Forward,
    /// The name exists and has nothing of this family.
    Empty {
        /// The service does not have the family at all.
        unsupported: bool,
    },
    /// These addresses.
    Addresses {
        /// The name that has them, when it is another than the one that was asked for.
        alias: Option<String>,
        /// In no order.
        addresses: Vec<IpAddr>,
    },
}

/// Answers for `name`: lower case, fully qualified, without the final dot.
pub fn answer(
    state: &MeshState,
    client: &Workload,
    name: &str,
    family: Family,
    settings: &Settings<'_>,
) -> Answer {
    let Some(hit) = search(state, client, name, settings) else {
        return Answer::Forward;
    };
    if !supports(hit.service, family) {
        return Answer::Empty { unsupported: true };
    }
    let mut addresses = addresses(hit.service, hit.entry, settings);
    addresses.retain(|ip| family.has(*ip));
    if addresses.is_empty() || (family == Family::V6 && !settings.ipv6) {
        return Answer::Empty { unsupported: false };
    }
    addresses.sort_unstable();
    addresses.dedup();
    Answer::Addresses {
        alias: hit.alias,
        addresses,
    }
}

struct Hit<'a> {
    service: &'a Service,
    entry: &'a ServiceEntry,
    alias: Option<String>,
}

fn search<'a>(
    state: &'a MeshState,
    client: &Workload,
    name: &str,
    settings: &Settings<'_>,
) -> Option<Hit<'a>> {
    let find = |candidate: &str| lookup(state, client, candidate, settings);
    let expanded = |name: &str| {
        expansions(name, &client.namespace, settings.cluster_domain)
            .into_iter()
            .find_map(|candidate| find(&candidate))
    };
    if let Some((service, entry, _)) = find(name).or_else(|| expanded(name)) {
        return Some(Hit {
            service,
            entry,
            alias: None,
        });
    }
    for domain in search_domains(&client.namespace, settings.cluster_domain) {
        let Some(stripped) = name.strip_suffix(&domain).and_then(|s| s.strip_suffix('.')) else {
            continue;
        };
        if let Some((service, entry, wildcard)) = find(stripped).or_else(|| expanded(stripped)) {
            let alias = (!wildcard).then(|| stripped.to_owned());
            return Some(Hit {
                service,
                entry,
                alias,
            });
        }
    }
    None
}

/// The search domains that Kubernetes gives to a pod of the namespace.
fn search_domains(namespace: &str, domain: &str) -> [String; 3] {
    [
        format!("{namespace}.svc.{domain}"),
        format!("svc.{domain}"),
        domain.to_owned(),
    ]
}

/// What Kubernetes would make of a short name.
fn expansions(name: &str, namespace: &str, domain: &str) -> Vec<String> {
    let labels: Vec<&str> = name.split('.').collect();
    match labels[..] {
        [_] => vec![format!("{name}.{namespace}.svc.{domain}")],
        [_, _] => {
            vec![
                format!("{name}.svc.{domain}"),
                format!("{name}.{namespace}.svc.{domain}"),
            ]
        }
        [a, b, "svc"] => {
            vec![
                format!("{a}.{b}.svc.{domain}"),
                format!("{name}.svc.{domain}"),
            ]
        }
        [_, _, _] => vec![format!("{name}.svc.{domain}")],
        [_, _, _, "svc"] => vec![format!("{name}.{domain}")],
        _ => Vec::new(),
    }
}

/// The service of exactly this name, or the most specific wildcard above it.
fn lookup<'a>(
    state: &'a MeshState,
    client: &Workload,
    name: &str,
    settings: &Settings<'_>,
) -> Option<(&'a Service, &'a ServiceEntry, bool)> {
    let owned = |host: &str| {
        let (service, entry) =
            state.service_named(host, &client.namespace, settings.preferred_namespace)?;
        is_answered(service, settings.cluster_domain).then_some((&**service, entry))
    };
    if let Some((service, entry)) = owned(name) {
        return Some((service, entry, false));
    }
    let mut rest = name;
    while let Some((_, parent)) = rest.split_once('.') {
        if let Some((service, entry)) = owned(&format!("*.{parent}")) {
            return Some((service, entry, true));
        }
        rest = parent;
    }
    None
}

/// A service without addresses is answered only where Kubernetes itself would list its endpoints.
fn is_answered(service: &Service, domain: &str) -> bool {
    !service.vips.is_empty() || is_cluster_name(&service.hostname, domain)
}

fn is_cluster_name(hostname: &str, domain: &str) -> bool {
    hostname
        .strip_suffix(domain)
        .is_some_and(|rest| rest.ends_with(".svc."))
}

fn supports(service: &Service, family: Family) -> bool {
    match service.ip_families {
        None | Some(IpFamilies::Dual) => true,
        Some(IpFamilies::Ipv4) => family == Family::V4,
        Some(IpFamilies::Ipv6) => family == Family::V6,
    }
}

fn addresses(service: &Service, entry: &ServiceEntry, settings: &Settings<'_>) -> Vec<IpAddr> {
    if service.vips.is_empty() {
        // One address for each family of each endpoint.
        return entry
            .endpoints()
            .flat_map(|w| {
                let v4 = w.addresses.iter().find(|ip| ip.is_ipv4());
                v4.into_iter()
                    .chain(w.addresses.iter().find(|ip| ip.is_ipv6()))
            })
            .copied()
            .collect();
    }
    let own = service
        .vips
        .iter()
        .filter(|vip| *vip.network == *settings.network);
    own.map(|vip| vip.address).collect()
}

#[cfg(test)]
#[path = "dns_tests.rs"]
mod tests;
