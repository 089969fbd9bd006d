//! Rules about addresses of services and about network policies.

use super::{
    fields::{address, list, one_of, port_name, port_number, protocol, range, selector},
    meta, service,
};
use crate::{object, status::Cause};
use serde_json::Value;
use std::{collections::HashSet, net::IpAddr};

/// An EndpointSlice.
pub fn endpoint_slice(value: &Value, causes: &mut Vec<Cause>) {
    let kind = object::text(value, "/addressType");
    if kind.is_empty() {
        causes.push(Cause::required("addressType", ""));
    } else if !matches!(kind, "IPv4" | "IPv6" | "FQDN") {
        let types = ["FQDN", "IPv4", "IPv6"];
        causes.push(Cause::not_supported("addressType", &kind.into(), &types));
    }
    let mut names = HashSet::new();
    for (i, port) in list(value, "ports").iter().enumerate() {
        let path = format!("ports[{i}]");
        let name = object::text(port, "/name");
        if let Some(why) = meta::dns_label(name, false).filter(|_| !name.is_empty()) {
            causes.push(Cause::invalid(format!("{path}.name"), &name.into(), why));
        }
        if !names.insert(name) {
            causes.push(Cause::duplicate(format!("{path}.name"), &name.into()));
        }
        protocol(port, &path, causes);
    }
    for (i, endpoint) in list(value, "endpoints").iter().enumerate() {
        let path = format!("endpoints[{i}].addresses");
        let addresses = list(endpoint, "addresses");
        if addresses.is_empty() {
            let hint = "must contain at least 1 address";
            causes.push(Cause::required(path.clone(), hint));
        }
        for (j, text) in addresses.iter().enumerate() {
            let text = text.as_str().unwrap_or_default();
            of_family(text, kind, &format!("{path}[{j}]"), causes);
        }
    }
}

fn of_family(text: &str, kind: &str, field: &str, causes: &mut Vec<Cause>) {
    match (kind, text.parse::<IpAddr>()) {
        ("FQDN", _) => {
            if let Some(why) = meta::dns_subdomain(text) {
                causes.push(Cause::invalid(field, &text.into(), why));
            }
        }
        ("IPv4" | "IPv6", Err(_)) => address(text, field, causes),
        ("IPv4", Ok(IpAddr::V6(_))) => {
            causes.push(Cause::invalid(
                field,
                &text.into(),
                "must be an IPv4 address",
            ));
        }
        ("IPv6", Ok(IpAddr::V4(_))) => {
            causes.push(Cause::invalid(
                field,
                &text.into(),
                "must be an IPv6 address",
            ));
        }
        ("IPv4" | "IPv6", Ok(_)) => service::unroutable(text, field, causes),
        _ => {}
    }
}

/// Endpoints.
pub fn endpoints(value: &Value, causes: &mut Vec<Cause>) {
    for (i, subset) in list(value, "subsets").iter().enumerate() {
        let path = format!("subsets[{i}]");
        let keys = ["addresses", "notReadyAddresses"];
        if keys.iter().all(|key| list(subset, key).is_empty()) {
            let hint = "must specify `addresses` or `notReadyAddresses`";
            causes.push(Cause::required(path.clone(), hint));
        }
        for key in keys {
            for (j, found) in list(subset, key).iter().enumerate() {
                let field = format!("{path}.{key}[{j}].ip");
                let text = object::text(found, "/ip");
                address(text, &field, causes);
                service::unroutable(text, &field, causes);
            }
        }
        let ports = list(subset, "ports");
        for (j, port) in ports.iter().enumerate() {
            let path = format!("{path}.ports[{j}]");
            if ports.len() > 1 && object::text(port, "/name").is_empty() {
                causes.push(Cause::required(format!("{path}.name"), ""));
            }
            port_number(port.get("port"), &format!("{path}.port"), causes);
            protocol(port, &path, causes);
        }
    }
}

/// A NetworkPolicy.
pub fn policy(value: &Value, causes: &mut Vec<Cause>) {
    let spec = value.get("spec").unwrap_or(&Value::Null);
    selector(spec.get("podSelector"), "spec.podSelector", causes);
    for (direction, side) in [("ingress", "from"), ("egress", "to")] {
        for (i, rule) in list(spec, direction).iter().enumerate() {
            let path = format!("spec.{direction}[{i}]");
            for (j, port) in list(rule, "ports").iter().enumerate() {
                policy_port(port, &format!("{path}.ports[{j}]"), causes);
            }
            for (j, peer) in list(rule, side).iter().enumerate() {
                policy_peer(peer, &format!("{path}.{side}[{j}]"), causes);
            }
        }
    }
    for (i, kind) in list(spec, "policyTypes").iter().enumerate() {
        if !matches!(kind.as_str(), Some("Ingress" | "Egress")) {
            let field = format!("spec.policyTypes[{i}]");
            causes.push(Cause::not_supported(field, kind, &["Egress", "Ingress"]));
        }
    }
}

fn policy_port(port: &Value, path: &str, causes: &mut Vec<Cause>) {
    one_of(port, "protocol", path, &["SCTP", "TCP", "UDP"], causes);
    let (field, last_field) = (format!("{path}.port"), format!("{path}.endPort"));
    let last = port.get("endPort");
    match port.get("port") {
        Some(Value::String(name)) => {
            if let Some(last) = last {
                let why = "may not be specified when `port` is non-numeric";
                causes.push(Cause::invalid(last_field, last, why));
            }
            port_name(name, &field, causes);
        }
        Some(first) => {
            port_number(Some(first), &field, causes);
            if let Some(last) = last {
                if last.as_i64() < first.as_i64() {
                    let why = "must be greater than or equal to `port`";
                    causes.push(Cause::invalid(last_field.clone(), first, why));
                }
                port_number(Some(last), &last_field, causes);
            }
        }
        None => {
            if let Some(last) = last {
                let why = "may not be specified when `port` is not specified";
                causes.push(Cause::invalid(last_field, last, why));
            }
        }
    }
}

fn policy_peer(peer: &Value, path: &str, causes: &mut Vec<Cause>) {
    for key in ["podSelector", "namespaceSelector"] {
        selector(peer.get(key), &format!("{path}.{key}"), causes);
    }
    let peers = peer.as_object().map_or(0, |peer| peer.len());
    if let Some(block) = peer.get("ipBlock") {
        let text = object::text(block, "/cidr");
        let field = format!("{path}.ipBlock.cidr");
        if text.is_empty() {
            causes.push(Cause::required(field, ""));
        } else {
            range(text, &field, causes);
            exceptions(text, block, &format!("{path}.ipBlock.except"), causes);
        }
        if peers > 1 {
            let why = "may not specify both ipBlock and another peer";
            causes.push(Cause::forbidden(path, why));
        }
    } else if peers == 0 {
        causes.push(Cause::required(path, "must specify a peer"));
    }
}

fn exceptions(cidr: &str, block: &Value, path: &str, causes: &mut Vec<Cause>) {
    let Ok(whole) = cidr.parse::<ipnet::IpNet>() else {
        return;
    };
    for (i, except) in list(block, "except").iter().enumerate() {
        let text = except.as_str().unwrap_or_default();
        let field = format!("{path}[{i}]");
        match text.parse::<ipnet::IpNet>() {
            Err(_) => range(text, &field, causes),
            Ok(part) if !whole.contains(&part) || whole.prefix_len() >= part.prefix_len() => {
                let why = "must be a strict subset of `cidr`";
                causes.push(Cause::invalid(field, except, why));
            }
            Ok(_) => {}
        }
    }
}
