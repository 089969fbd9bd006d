//! Columns of services, endpoints, policies and ingresses.

use super::{
    columns::{Column, age, at, name, text},
    text as t,
};
use crate::object;
use serde_json::Value;

/// Columns of services.
pub fn services() -> Vec<Column> {
    vec![
        name(),
        at("Type", "/spec/type"),
        at("Cluster-IP", "/spec/clusterIP"),
        text("External-IP", external),
        text("Port(s)", ports),
        age(),
        text("Selector", |s| t::labels(s.pointer("/spec/selector"))).wide(),
    ]
}

fn external(service: &Value) -> String {
    let given = t::list(service, "/spec/externalIPs")
        .iter()
        .filter_map(Value::as_str);
    match object::text(service, "/spec/type") {
        "ExternalName" => object::text(service, "/spec/externalName").into(),
        "LoadBalancer" => {
            let ingress = t::list(service, "/status/loadBalancer/ingress");
            let assigned = ingress.iter().map(|i| match object::text(i, "/ip") {
                "" => object::text(i, "/hostname"),
                ip => ip,
            });
            let all: Vec<&str> = assigned.chain(given).collect();
            if all.is_empty() {
                "<pending>".into()
            } else {
                all.join(",")
            }
        }
        _ => t::joined(given),
    }
}

fn ports(service: &Value) -> String {
    let texts: Vec<String> = t::list(service, "/spec/ports")
        .iter()
        .map(|p| {
            let (port, node) = (t::number(p, "/port"), t::number(p, "/nodePort"));
            let protocol = object::text(p, "/protocol");
            if node > 0 {
                format!("{port}:{node}/{protocol}")
            } else {
                format!("{port}/{protocol}")
            }
        })
        .collect();
    t::joined(texts.iter().map(String::as_str))
}

/// Columns of endpoints.
pub fn endpoints() -> Vec<Column> {
    vec![name(), text("Endpoints", endpoint_addresses), age()]
}

fn endpoint_addresses(endpoints: &Value) -> String {
    const SHOWN: usize = 3;
    let mut all = Vec::new();
    for subset in t::list(endpoints, "/subsets") {
        let addresses = t::list(subset, "/addresses")
            .iter()
            .map(|a| object::text(a, "/ip"));
        let ports: Vec<i64> = t::list(subset, "/ports")
            .iter()
            .map(|p| t::number(p, "/port"))
            .collect();
        for address in addresses {
            if ports.is_empty() {
                all.push(address.to_string());
            }
            all.extend(ports.iter().map(|port| format!("{address}:{port}")));
        }
    }
    let shown = t::joined(all.iter().take(SHOWN).map(String::as_str));
    match all.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} + {more} more..."),
    }
}

/// Columns of endpoint slices.
pub fn endpoint_slices() -> Vec<Column> {
    vec![
        name(),
        at("AddressType", "/addressType"),
        text("Ports", slice_ports),
        text("Endpoints", slice_endpoints),
        age(),
    ]
}

fn slice_ports(slice: &Value) -> String {
    let ports = t::list(slice, "/ports");
    if ports.is_empty() {
        return "<unset>".into();
    }
    limited(
        ports
            .iter()
            .map(|p| match p.get("port").and_then(Value::as_i64) {
                Some(port) => port.to_string(),
                None => "*".into(),
            }),
    )
}

fn slice_endpoints(slice: &Value) -> String {
    let addresses = t::list(slice, "/endpoints")
        .iter()
        .flat_map(|e| t::list(e, "/addresses"));
    let text = limited(addresses.filter_map(Value::as_str).map(str::to_string));
    if text.is_empty() {
        "<unset>".into()
    } else {
        text
    }
}

/// The first three, and how many more there are.
fn limited(texts: impl Iterator<Item = String>) -> String {
    const SHOWN: usize = 3;
    let all: Vec<String> = texts.collect();
    let shown = all
        .iter()
        .take(SHOWN)
        .cloned()
        .collect::<Vec<_>>()
        .join(",");
    match all.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} + {more} more..."),
    }
}

/// Columns of network policies.
pub fn policies() -> Vec<Column> {
    vec![
        name(),
        text("Pod-Selector", |p| t::selector(p, "/spec/podSelector")),
        age(),
    ]
}

/// Columns of ingresses.
pub fn ingresses() -> Vec<Column> {
    vec![
        name(),
        at("Class", "/spec/ingressClassName"),
        text("Hosts", |i| {
            let hosts: Vec<&str> = t::list(i, "/spec/rules")
                .iter()
                .map(|r| object::text(r, "/host"))
                .filter(|h| !h.is_empty())
                .collect();
            if hosts.is_empty() {
                "*".into()
            } else {
                hosts.join(",")
            }
        }),
        text("Address", |i| {
            let ingress = t::list(i, "/status/loadBalancer/ingress");
            let addresses: Vec<&str> = ingress.iter().map(|a| object::text(a, "/ip")).collect();
            addresses.join(",")
        }),
        text("Ports", |i| {
            if t::list(i, "/spec/tls").is_empty() {
                "80"
            } else {
                "80, 443"
            }
            .into()
        }),
        age(),
    ]
}

/// Columns of ingress classes.
pub fn ingress_classes() -> Vec<Column> {
    let parameters = |c: &Value| match object::text(c, "/spec/parameters/kind") {
        "" => "<none>".to_string(),
        kind => format!("{kind}/{}", object::text(c, "/spec/parameters/name")),
    };
    vec![
        name(),
        at("Controller", "/spec/controller"),
        text("Parameters", parameters),
        age(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn services_show_addresses_and_ports() {
        let service = json!({"spec": {"type": "LoadBalancer", "ports": [
            {"port": 80, "nodePort": 30000, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}});
        assert_eq!(ports(&service), "80:30000/TCP,53/UDP");
        assert_eq!(external(&service), "<pending>");
        assert_eq!(external(&json!({"spec": {"type": "ClusterIP"}})), "<none>");
    }
}
