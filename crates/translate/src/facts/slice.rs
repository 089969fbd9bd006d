//! Facts about an EndpointSlice.

use std::net::IpAddr;

use ambit_kube_api::labels;
use ambit_model::Text;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;

use crate::key::ObjectKey;

/// A slice of the endpoints of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceFacts {
    /// Namespace and name of the slice.
    pub key: ObjectKey,
    /// The service.
    pub service: ObjectKey,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
    /// TCP ports by the name of the service's port.
    pub ports: Vec<(Text, u16)>,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The pod behind it, if it is one.
    pub pod: Option<ObjectKey>,
    /// It is ready, or nobody says that it is not.
    pub ready: bool,
}

impl SliceFacts {
    /// The facts about a slice; none about one of DNS names or without a service.
    pub fn of(slice: &EndpointSlice) -> Option<Self> {
        if slice.address_type == "FQDN" {
            return None;
        }
        let key = ObjectKey::of(slice);
        let service = slice.labels().get(labels::SERVICE_NAME)?;
        let endpoints = slice.endpoints.iter().map(|endpoint| {
            let pod = endpoint
                .target_ref
                .as_ref()
                .filter(|r| r.kind.as_deref() == Some("Pod"))
                .and_then(|r| r.name.as_deref())
                .map(|name| ObjectKey::new(key.namespace.clone(), name));
            Endpoint {
                addresses: endpoint
                    .addresses
                    .iter()
                    .filter_map(|a| a.parse().ok())
                    .collect(),
                pod,
                ready: endpoint
                    .conditions
                    .as_ref()
                    .and_then(|c| c.ready)
                    .unwrap_or(true),
            }
        });
        let endpoints = endpoints.collect();
        let ports = slice
            .ports
            .iter()
            .flatten()
            .filter(|p| p.protocol.as_deref().unwrap_or("TCP") == "TCP")
            .filter_map(|p| {
                let number = u16::try_from(p.port?).ok()?;
                Some((Text::from(p.name.as_deref().unwrap_or_default()), number))
            })
            .collect();
        let service = ObjectKey::new(key.namespace.clone(), service.as_str());
        Some(Self {
            key,
            service,
            endpoints,
            ports,
        })
    }

    /// The number of a port of the service, on these endpoints.
    pub fn port(&self, name: &str) -> Option<u16> {
        self.ports
            .iter()
            .find(|(n, _)| **n == *name)
            .map(|(_, port)| *port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_and_others() {
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"name": "s-1", "namespace": "a", "labels": {"kubernetes.io/service-name": "s"}},
            "addressType": "IPv4",
            "endpoints": [
                {"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": "p"}, "conditions": {"ready": false}},
                {"addresses": ["192.0.2.1"]}
            ],
            "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}, {"name": "u", "port": 1, "protocol": "UDP"}]
        }))
        .unwrap();
        let facts = SliceFacts::of(&slice).unwrap();
        assert_eq!(facts.service.to_string(), "a/s");
        assert_eq!(facts.endpoints[0].pod, Some(ObjectKey::new("a", "p")));
        assert!(!facts.endpoints[0].ready && facts.endpoints[1].ready);
        assert_eq!((facts.port("https"), facts.port("u")), (Some(6443), None));
    }
}
