//! Which waypoint looks into the traffic of a service or workload, or why none does.

use ambit_kube_api::gateway_api::gateway::{Listener, RouteNamespaces};
use ambit_kube_api::{annotations, labels as keys};
use ambit_model::service::NamespacedHostname;
use ambit_model::workload::{GatewayAddress, GatewayDestination, NetworkAddress};

use crate::facts::{ClassFacts, GatewayFacts};
use crate::key::ObjectKey;
use crate::labels::Labels;
use crate::mesh::Mesh;
use crate::scope::label_selector_selects;

/// Port of a waypoint.
pub const HBONE_PORT: u16 = 15008;
/// Protocol of a waypoint's listener.
pub const HBONE: &str = "HBONE";

/// Traffic by what it is addressed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// A service.
    Service,
    /// A workload.
    Workload,
}

impl Traffic {
    /// Its name in `istio.io/waypoint-for`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Workload => "workload",
        }
    }
}

/// An object that may be bound, and the labels of its namespace.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// What its traffic is addressed to.
    pub traffic: Traffic,
    /// Its namespace.
    pub namespace: &'a ambit_model::Text,
    /// Its labels.
    pub labels: &'a Labels,
    /// Labels of its namespace.
    pub namespace_labels: &'a Labels,
    /// A waypoint of the first release that is for it unless labels say something else.
    pub legacy: Option<&'a ObjectKey>,
}

/// The waypoint that labels ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The gateway.
    pub gateway: ObjectKey,
    /// The namespace asks, not the object itself.
    pub inherited: bool,
}

/// Why a waypoint does not look into the traffic that asks for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is not there, or not ready.
    #[error("waypoint \"{0}\" is not ready")]
    NotReady(ObjectKey),
    /// It does not let in objects of this namespace.
    #[error(
        "this resource is not permitted to attach to the waypoint \"{0}\"; \
         its namespace is missing in allowedRoutes of the waypoint's listener"
    )]
    Denied(ObjectKey),
    /// It is for other traffic.
    #[error(
        "attempting to bind to traffic type \"{}\" which the waypoint \"{gateway}\" does not \
         support; label the waypoint istio.io/waypoint-for={} or all",
        traffic.name(), traffic.name()
    )]
    Traffic {
        /// The waypoint.
        gateway: ObjectKey,
        /// The traffic.
        traffic: Traffic,
    },
}

impl Refusal {
    /// The reason of the condition `istio.io/WaypointBound`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotReady(_) => "WaypointIsNotReady",
            Self::Denied(_) => "AttachmentDenied",
            Self::Traffic { .. } => "UnsupportedTrafficType",
        }
    }
}

/// The waypoint that an object's labels ask for, or else its namespace's. `none` on the object asks
/// for none, whatever the namespace says.
pub fn wanted(subject: &Subject<'_>) -> Option<Wanted> {
    let named = |labels: &Labels| {
        let name = labels
            .get(keys::USE_WAYPOINT)
            .filter(|n| !n.is_empty())?
            .clone();
        let namespace = labels
            .get(keys::USE_WAYPOINT_NAMESPACE)
            .filter(|n| !n.is_empty());
        Some(ObjectKey {
            namespace: namespace.unwrap_or(subject.namespace).clone(),
            name,
        })
    };
    // What a gateway itself is made of goes through no waypoint.
    if subject.labels.contains_key(keys::GATEWAY_MANAGED) {
        return None;
    }
    let (gateway, inherited) = match named(subject.labels) {
        Some(own) => (own, false),
        None => {
            let of_namespace = named(subject.namespace_labels);
            (of_namespace.or_else(|| subject.legacy.cloned())?, true)
        }
    };
    (*gateway.name != *keys::USE_WAYPOINT_NONE).then_some(Wanted { gateway, inherited })
}

/// The waypoint of an object; `None` if it has none, and should not have one.
pub fn bind<'a>(
    mesh: &Mesh,
    subject: &Subject<'_>,
    gateways: impl FnOnce(&ObjectKey) -> Option<(&'a GatewayFacts, Option<&'a ClassFacts>)>,
) -> Option<Result<(ObjectKey, GatewayAddress), Refusal>> {
    let wanted = wanted(subject)?;
    let key = wanted.gateway.clone();
    let Some((gateway, class)) = gateways(&key) else {
        return Some(Err(Refusal::NotReady(key)));
    };
    if !gateway.is_legacy() && !is_for(gateway, class, subject.traffic) {
        let traffic = subject.traffic;
        // Of two kinds of traffic a namespace asks for both, and gets the one that there is.
        return (!wanted.inherited).then_some(Err(Refusal::Traffic {
            gateway: key,
            traffic,
        }));
    }
    if !admits(gateway, subject) {
        return Some(Err(Refusal::Denied(key)));
    }
    Some(match address(mesh, gateway) {
        Some(address) => Ok((key, address)),
        None => Err(Refusal::NotReady(key)),
    })
}

/// The traffic that a waypoint is for: its label, its class's, or that of services.
pub fn is_for(gateway: &GatewayFacts, class: Option<&ClassFacts>, traffic: Traffic) -> bool {
    let label = gateway
        .labels
        .get(keys::WAYPOINT_FOR)
        .or_else(|| class?.labels.get(keys::WAYPOINT_FOR));
    match label.map(|l| &**l) {
        None => traffic == Traffic::Service,
        Some("all") => true,
        Some(one) => one == traffic.name(),
    }
}

fn admits(gateway: &GatewayFacts, subject: &Subject<'_>) -> bool {
    let namespaces = listener(gateway)
        .and_then(|l| l.allowed_routes.as_ref()?.namespaces.clone())
        .unwrap_or_default();
    let RouteNamespaces { from, selector } = namespaces;
    match from.as_deref().unwrap_or("Same") {
        "All" => true,
        "Selector" => selector
            .is_some_and(|selector| label_selector_selects(&selector, subject.namespace_labels)),
        _ => *subject.namespace == gateway.key.namespace,
    }
}

/// Name of the objects that are made for a waypoint.
pub fn object_name(gateway: &GatewayFacts) -> ambit_model::Text {
    let given = gateway.annotations.get(annotations::NAME_OVERRIDE);
    given.unwrap_or(&gateway.key.name).clone()
}

/// The service account of a gateway's pods: the user's, or one of the gateway's name.
pub fn service_account(gateway: &GatewayFacts) -> ambit_model::Text {
    let given = gateway
        .annotations
        .get(annotations::GATEWAY_SERVICE_ACCOUNT);
    given.cloned().unwrap_or_else(|| object_name(gateway))
}

/// The listener that a mesh sends to.
pub fn listener(gateway: &GatewayFacts) -> Option<&Listener> {
    let hbone = |l: &&Listener| l.protocol == HBONE && l.port == i32::from(HBONE_PORT);
    gateway.spec.listeners.iter().find(hbone)
}

/// Where clients find the waypoint: by name if it has one.
fn address(mesh: &Mesh, gateway: &GatewayFacts) -> Option<GatewayAddress> {
    let of_type = |wanted: &str| {
        let mut addresses = gateway.addresses.iter();
        addresses
            .find(|a| a.type_.as_deref().unwrap_or("IPAddress") == wanted && !a.value.is_empty())
    };
    let destination = match of_type("Hostname") {
        Some(name) => GatewayDestination::Hostname(NamespacedHostname {
            namespace: gateway.key.namespace.clone(),
            hostname: name.value.as_str().into(),
        }),
        None => GatewayDestination::Address(NetworkAddress {
            network: mesh.network.clone(),
            address: of_type("IPAddress")?.value.parse().ok()?,
        }),
    };
    Some(GatewayAddress {
        destination,
        hbone_mtls_port: HBONE_PORT,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn gateway(extra: impl FnOnce(&mut Value)) -> GatewayFacts {
        let mut object = json!({
            "metadata": {"name": "waypoint", "namespace": "shop", "uid": "u", "labels": {}},
            "spec": {
                "gatewayClassName": "istio-waypoint",
                "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}]
            },
            "status": {"addresses": [
                {"type": "IPAddress", "value": "10.96.0.9"},
                {"type": "Hostname", "value": "waypoint.shop.svc.cluster.local"}
            ]}
        });
        extra(&mut object);
        GatewayFacts::of(&serde_json::from_value(object).unwrap())
    }

    fn labels(value: Value) -> Labels {
        serde_json::from_value(value).unwrap()
    }

    fn outcome(own: Value, namespace: Value, traffic: Traffic, gateway: &GatewayFacts) -> String {
        let (own, namespace) = (labels(own), labels(namespace));
        let subject = Subject {
            traffic,
            namespace: &"shop".into(),
            labels: &own,
            legacy: None,
            namespace_labels: &namespace,
        };
        let find = |key: &ObjectKey| (*key == gateway.key).then_some((gateway, None));
        match bind(&Mesh::default(), &subject, find) {
            None => "none".into(),
            Some(Ok((key, _))) => key.to_string(),
            Some(Err(refusal)) => refusal.reason().into(),
        }
    }

    #[test]
    fn labels_of_objects_and_namespaces() {
        let ready = gateway(|_| {});
        let service = |own, namespace| outcome(own, namespace, Traffic::Service, &ready);
        let label = json!({"istio.io/use-waypoint": "waypoint"});
        let none = json!({"istio.io/use-waypoint": "none"});
        assert_eq!(service(json!({}), json!({})), "none");
        assert_eq!(service(label.clone(), json!({})), "shop/waypoint");
        assert_eq!(service(json!({}), label.clone()), "shop/waypoint");
        assert_eq!(service(none, label.clone()), "none");
        let other = json!({"istio.io/use-waypoint": "x"});
        assert_eq!(service(other, label.clone()), "WaypointIsNotReady");
        let elsewhere =
            json!({"istio.io/use-waypoint": "waypoint", "istio.io/use-waypoint-namespace": "web"});
        assert_eq!(service(elsewhere, json!({})), "WaypointIsNotReady");
        let managed = json!({"gateway.istio.io/managed": "istio.io-mesh-controller"});
        assert_eq!(service(managed, label), "none");
    }

    #[test]
    fn traffic_readiness_and_permission() {
        let label = || json!({"istio.io/use-waypoint": "waypoint"});
        let of = |traffic, g: &GatewayFacts| outcome(label(), json!({}), traffic, g);
        let ready = gateway(|_| {});
        assert_eq!(of(Traffic::Workload, &ready), "UnsupportedTrafficType");
        let inherited = outcome(json!({}), label(), Traffic::Workload, &ready);
        assert_eq!(inherited, "none");
        let all = gateway(|g| g["metadata"]["labels"]["istio.io/waypoint-for"] = json!("all"));
        assert_eq!(of(Traffic::Workload, &all), "shop/waypoint");
        assert_eq!(of(Traffic::Service, &all), "shop/waypoint");
        let never = gateway(|g| g["metadata"]["labels"]["istio.io/waypoint-for"] = json!("none"));
        assert_eq!(of(Traffic::Service, &never), "UnsupportedTrafficType");
        let unready = gateway(|g| g["status"] = json!({}));
        assert_eq!(of(Traffic::Service, &unready), "WaypointIsNotReady");
        let moved = |from: &str| {
            gateway(|g| {
                g["metadata"]["namespace"] = json!("infra");
                g["spec"]["listeners"][0]["allowedRoutes"] = json!({"namespaces": {"from": from}});
            })
        };
        let far = json!({"istio.io/use-waypoint": "waypoint", "istio.io/use-waypoint-namespace": "infra"});
        let outcome = |from| outcome(far.clone(), json!({}), Traffic::Service, &moved(from));
        assert_eq!(outcome("Same"), "AttachmentDenied");
        assert_eq!(outcome("All"), "infra/waypoint");
        assert_eq!(outcome("Selector"), "AttachmentDenied");
    }

    #[test]
    fn a_name_is_better_than_an_address() {
        let destination = |g: &GatewayFacts| address(&Mesh::default(), g).map(|a| a.destination);
        let by_name = destination(&gateway(|_| {})).unwrap();
        assert!(matches!(by_name, GatewayDestination::Hostname(key) if &*key.namespace == "shop"));
        let by_ip = destination(&gateway(|g| {
            g["status"]["addresses"] = json!([{"value": "10.96.0.9"}]);
        }));
        assert!(matches!(by_ip, Some(GatewayDestination::Address(_))));
    }
}
