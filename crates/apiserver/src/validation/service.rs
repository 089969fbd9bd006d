//! Rules about services.

use super::{
    fields::{
        address, label_name, list, one_of, port_number, port_reference, protocol, range, within,
    },
    meta,
};
use crate::{object, status::Cause};
use serde_json::{Value, json};
use std::collections::HashSet;

/// A service.
pub fn service(value: &Value, causes: &mut Vec<Cause>) {
    let spec = value.get("spec").unwrap_or(&Value::Null);
    let kind = object::text(spec, "/type");
    let headless = object::text(spec, "/clusterIP") == "None";
    let ports = list(spec, "ports");
    if ports.is_empty() && !headless && kind != "ExternalName" {
        causes.push(Cause::required("spec.ports", ""));
    }
    match kind {
        "LoadBalancer" | "NodePort" if headless => {
            let why = format!("may not be set to 'None' for {kind} services");
            let shown = json!("None");
            causes.push(Cause::invalid("spec.clusterIPs[0]", &shown, &why));
        }
        "ExternalName" => external_name(object::text(spec, "/externalName"), causes),
        _ => {}
    }
    self::ports(ports, kind, causes);
    meta::labels_of(spec.get("selector"), "spec.selector", causes);
    affinity(spec, causes);
    for (i, ip) in list(spec, "externalIPs").iter().enumerate() {
        external_address(ip.as_str().unwrap_or_default(), i, causes);
    }
    const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    if !TYPES.contains(&kind) {
        causes.push(Cause::not_supported("spec.type", &kind.into(), &TYPES));
    }
    node_ports(ports, kind, causes);
    for (i, text) in list(spec, "loadBalancerSourceRanges").iter().enumerate() {
        let field = format!("spec.loadBalancerSourceRanges[{i}]");
        range(text.as_str().unwrap_or_default(), &field, causes);
    }
    external_policy(spec, kind, causes);
    one_of(
        spec,
        "internalTrafficPolicy",
        "spec",
        &["Cluster", "Local"],
        causes,
    );
    if kind != "ExternalName" {
        addresses(spec, causes);
    }
    one_of(
        spec,
        "trafficDistribution",
        "spec",
        &["PreferClose", "PreferSameNode", "PreferSameZone"],
        causes,
    );
}

/// What a service says in words that are going away.
pub fn warnings(value: &Value) -> impl Iterator<Item = &'static str> {
    let old = object::text(value, "/spec/trafficDistribution") == "PreferClose";
    old.then_some("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"")
        .into_iter()
}

/// The status of a service: addresses are addresses.
pub fn status(value: &Value, causes: &mut Vec<Cause>) {
    let balancer = value.pointer("/status/loadBalancer");
    let balancer = balancer.unwrap_or(&Value::Null);
    for (i, ingress) in list(balancer, "ingress").iter().enumerate() {
        let field = format!("status.loadBalancer.ingress[{i}]");
        let ip = object::text(ingress, "/ip");
        if !ip.is_empty() {
            address(ip, &format!("{field}.ip"), causes);
        }
        let name = object::text(ingress, "/hostname");
        if let Some(why) = meta::dns_subdomain(name).filter(|_| !name.is_empty()) {
            causes.push(Cause::invalid(
                format!("{field}.hostname"),
                &name.into(),
                why,
            ));
        }
    }
}

fn external_name(name: &str, causes: &mut Vec<Cause>) {
    let bare = name.strip_suffix('.').unwrap_or(name);
    if bare.is_empty() {
        causes.push(Cause::required("spec.externalName", ""));
    } else if let Some(why) = meta::dns_subdomain(bare) {
        causes.push(Cause::invalid("spec.externalName", &bare.into(), why));
    }
}

fn ports(ports: &[Value], kind: &str, causes: &mut Vec<Cause>) {
    let mut names = HashSet::new();
    let mut numbers = HashSet::new();
    for (i, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{i}]");
        let name = object::text(port, "/name");
        if !name.is_empty() || ports.len() > 1 {
            label_name(name, &format!("{path}.name"), causes);
        }
        if !name.is_empty() && !names.insert(name) {
            causes.push(Cause::duplicate(format!("{path}.name"), &name.into()));
        }
        port_number(port.get("port"), &format!("{path}.port"), causes);
        protocol(port, &path, causes);
        port_reference(
            port.get("targetPort"),
            &format!("{path}.targetPort"),
            causes,
        );
        let outside = port.get("nodePort").and_then(Value::as_i64).unwrap_or(0);
        if kind == "ClusterIP" && outside != 0 {
            let why = "may not be used when `type` is 'ClusterIP'";
            causes.push(Cause::forbidden(format!("{path}.nodePort"), why));
        }
    }
    for (i, port) in ports.iter().enumerate() {
        let number = port.get("port").and_then(Value::as_i64).unwrap_or(0);
        let protocol = object::text(port, "/protocol");
        if !numbers.insert((number, protocol)) {
            let shown = json!({"port": number, "protocol": protocol});
            causes.push(Cause::duplicate(format!("spec.ports[{i}]"), &shown));
        }
    }
}

fn affinity(spec: &Value, causes: &mut Vec<Cause>) {
    one_of(
        spec,
        "sessionAffinity",
        "spec",
        &["ClientIP", "None"],
        causes,
    );
    let time = spec.pointer("/sessionAffinityConfig/clientIP/timeoutSeconds");
    if let Some(n) = time
        .and_then(Value::as_i64)
        .filter(|n| !(1..=86400).contains(n))
    {
        let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        let why = "must be greater than 0 and less than 86400";
        causes.push(Cause::invalid(field, &n.into(), why));
    }
}

fn external_address(text: &str, i: usize, causes: &mut Vec<Cause>) {
    let field = format!("spec.externalIPs[{i}]");
    address(text, &field, causes);
    unroutable(text, &field, causes);
}

/// Addresses that mean another machine on each machine.
pub fn unroutable(text: &str, field: &str, causes: &mut Vec<Cause>) {
    let Ok(ip) = text.parse::<std::net::IpAddr>() else {
        return;
    };
    let local_link = match ip {
        std::net::IpAddr::V4(ip) => ip.is_link_local(),
        std::net::IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let why = if ip.is_unspecified() {
        format!("may not be unspecified ({text})")
    } else if ip.is_loopback() {
        "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned()
    } else if local_link {
        "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned()
    } else {
        return;
    };
    causes.push(Cause::invalid(field, &text.into(), &why));
}

/// One port of the node serves one port of the service.
fn node_ports(ports: &[Value], kind: &str, causes: &mut Vec<Cause>) {
    if !matches!(kind, "LoadBalancer" | "NodePort") {
        return;
    }
    let mut taken = HashSet::new();
    for (i, port) in ports.iter().enumerate() {
        let number = port.get("nodePort").and_then(Value::as_i64).unwrap_or(0);
        let protocol = object::text(port, "/protocol");
        if number == 0 {
            continue;
        }
        if !taken.insert((number, protocol)) {
            let field = format!("spec.ports[{i}].nodePort");
            causes.push(Cause::duplicate(field, &number.into()));
        }
    }
}

fn external_policy(spec: &Value, kind: &str, causes: &mut Vec<Cause>) {
    let reachable = matches!(kind, "LoadBalancer" | "NodePort")
        || (kind == "ClusterIP" && !list(spec, "externalIPs").is_empty());
    let field = "spec.externalTrafficPolicy";
    match spec.get("externalTrafficPolicy") {
        Some(policy) if !reachable => {
            let why = "may only be set for externally-accessible services";
            causes.push(Cause::invalid(field, policy, why));
        }
        Some(_) => one_of(
            spec,
            "externalTrafficPolicy",
            "spec",
            &["Cluster", "Local"],
            causes,
        ),
        None => {}
    }
    if let Some(port) = spec.get("healthCheckNodePort").filter(|p| **p != 0) {
        within(port, 1, 65535, "spec.healthCheckNodePort", causes);
    }
}

fn addresses(spec: &Value, causes: &mut Vec<Cause>) {
    for (i, family) in list(spec, "ipFamilies").iter().enumerate() {
        if !matches!(family.as_str(), Some("IPv4" | "IPv6")) {
            let field = format!("spec.ipFamilies[{i}]");
            causes.push(Cause::not_supported(field, family, &["IPv4", "IPv6"]));
        }
    }
    let policies = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    one_of(spec, "ipFamilyPolicy", "spec", &policies, causes);
    for (i, ip) in list(spec, "clusterIPs").iter().enumerate() {
        let text = ip.as_str().unwrap_or_default();
        if !(i == 0 && text == "None") {
            address(text, &format!("spec.clusterIPs[{i}]"), causes);
        }
    }
}

/// The address of a service stays, but for services that are no more than a name.
pub fn kept(current: &Value, next: &Value, causes: &mut Vec<Cause>) {
    let external = |v: &Value| object::text(v, "/spec/type") == "ExternalName";
    if external(current) || external(next) {
        return;
    }
    let address = |v: &Value| v.pointer("/spec/clusterIP").cloned();
    if address(current) != address(next) {
        let shown = json!([address(next)]);
        let why = "may not change once set";
        causes.push(Cause::invalid("spec.clusterIPs[0]", &shown, why));
    }
}
