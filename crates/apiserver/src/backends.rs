//! Where services answer: the endpoints that stand behind them.

use crate::{
    api::Api,
    object::{self, Object},
    status::{ApiError, Result},
    store::Key,
};
use serde_json::Value;
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// An endpoint of a service. `port` is a port of the service, by name or number; "" means the
/// first one.
pub async fn of_service(api: &Api, namespace: &str, name: &str, port: &str) -> Result<SocketAddr> {
    let service = api
        .store
        .get(&Key::new(&"services".into(), namespace, name));
    let service = service.ok_or_else(|| ApiError::not_found("", "service", name))?;
    let service = service.value();
    let found = match object::text(service, "/spec/type") {
        "ExternalName" => outside(service, port).await,
        _ => {
            let slices = api
                .store
                .list("endpointslices.discovery.k8s.io", Some(namespace));
            inside(service, &slices.1, port)
        }
    };
    found.ok_or_else(|| {
        ApiError::unavailable(format!("no endpoints available for service {name:?}"))
    })
}

/// The host that stands in for a service.
async fn outside(service: &Value, port: &str) -> Option<SocketAddr> {
    let host = object::text(service, "/spec/externalName");
    let port = match service_port(service, port) {
        Some(port) => u16::try_from(port.get("port")?.as_u64()?).ok()?,
        None => port.parse().ok()?,
    };
    tokio::net::lookup_host((host, port)).await.ok()?.next()
}

/// A ready endpoint out of the slices of a namespace.
fn inside(service: &Value, slices: &[Arc<Object>], port: &str) -> Option<SocketAddr> {
    let port = object::text(service_port(service, port)?, "/name");
    let mut own = slices.iter().map(|s| s.value()).filter(|slice| {
        let labels = slice.pointer("/metadata/labels");
        let of = labels.and_then(|l| l.get("kubernetes.io/service-name"));
        of.and_then(Value::as_str) == Some(object::name(service))
    });
    own.find_map(|slice| in_slice(slice, port))
}

fn service_port<'a>(service: &'a Value, port: &str) -> Option<&'a Value> {
    let ports = service.pointer("/spec/ports").and_then(Value::as_array);
    ports.into_iter().flatten().find(|p| {
        let number = p.get("port").and_then(Value::as_u64);
        port.is_empty()
            || object::text(p, "/name") == port
            || number.is_some_and(|n| n.to_string() == port)
    })
}

/// The first ready endpoint of a slice, at a port by its name.
fn in_slice(slice: &Value, port: &str) -> Option<SocketAddr> {
    let list = |key: &str| {
        slice
            .get(key)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
    };
    let port = list("ports").find(|p| object::text(p, "/name") == port)?;
    let port = port.get("port").and_then(Value::as_u64)?;
    let ready = |e: &&Value| e.pointer("/conditions/ready") != Some(&Value::Bool(false));
    let endpoint = list("endpoints").find(ready)?;
    let ip = object::text(endpoint, "/addresses/0")
        .parse::<IpAddr>()
        .ok()?;
    Some(SocketAddr::new(ip, u16::try_from(port).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn slice(service: &str, ready: bool, address: &str) -> Arc<Object> {
        let value = json!({"metadata": {"labels": {"kubernetes.io/service-name": service}},
            "ports": [{"name": "http", "port": 8080}, {"name": "hook", "port": 9443}],
            "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": false}},
                          {"addresses": [address], "conditions": {"ready": ready}}]});
        Arc::new(Object::new(value, 1))
    }

    #[test]
    fn a_ready_endpoint_of_the_service_answers_at_the_port_behind_the_services_port() {
        let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [
            {"name": "http", "port": 80}, {"name": "hook", "port": 443}]}});
        let slices = [
            slice("other", true, "10.0.0.2"),
            slice("s", false, "10.0.0.3"),
            slice("s", true, "fd00::4"),
        ];
        for (port, found) in [
            ("443", Some("[fd00::4]:9443")),
            ("hook", Some("[fd00::4]:9443")),
            ("", Some("[fd00::4]:8080")),
            ("444", None),
        ] {
            let found = found.map(|f| f.parse().unwrap());
            assert_eq!(inside(&service, &slices, port), found, "{port:?}");
        }
        assert_eq!(inside(&service, &slices[..2], "443"), None);
    }
}
