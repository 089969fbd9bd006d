//! What the status of a waypoint's `Gateway` and of its class says.

use ambit_kube_api::gateway_api::gateway::{Address, GatewayStatus, Listener, ListenerStatus};
use ambit_kube_api::status::Condition;

use crate::facts::{ClassFacts, GatewayFacts, ServiceFacts};
use crate::mesh::Mesh;
use crate::status::condition;
use crate::waypoints::{HBONE, HBONE_PORT};

/// What a waypoint consists of now.
#[derive(Clone, Copy, Debug)]
pub struct Made<'a> {
    /// Its service.
    pub service: Option<&'a ServiceFacts>,
    /// Pods that are ready.
    pub ready_pods: usize,
    /// Why nothing can be made as its parameters ask.
    pub unusable: Option<&'a str>,
}

/// The status of a waypoint. Addresses that it once had it keeps: what is bound to it stays so.
pub fn waypoint(mesh: &Mesh, facts: &GatewayFacts, made: Made<'_>) -> GatewayStatus {
    let generation = facts.generation;
    let addresses = match (made.service, made.ready_pods) {
        (Some(service), 1..) => addresses(mesh, service),
        _ => facts.addresses.clone(),
    };
    let valid = facts.spec.listeners.iter().any(is_hbone);
    let accepted = match (valid, facts.spec.listeners.iter().all(is_hbone)) {
        _ if made.unusable.is_some() => {
            let message = made.unusable.unwrap_or_default();
            condition("Accepted", false, "InvalidParameters", message, generation)
        }
        (true, true) => condition(
            "Accepted",
            true,
            "Accepted",
            "Resource accepted",
            generation,
        ),
        (valid, _) => {
            let message = format!(
                "a listener is not valid: expected a single listener on port {HBONE_PORT} with \
                 protocol {HBONE:?}"
            );
            condition("Accepted", valid, "ListenersNotValid", message, generation)
        }
    };
    GatewayStatus {
        conditions: vec![
            accepted,
            programmed(mesh, facts, made),
            resolved(generation),
        ],
        listeners: facts
            .spec
            .listeners
            .iter()
            .map(|listener| of_listener(facts, listener))
            .collect(),
        addresses,
    }
}

fn is_hbone(listener: &Listener) -> bool {
    listener.protocol == HBONE && listener.port == i32::from(HBONE_PORT)
}

fn addresses(mesh: &Mesh, service: &ServiceFacts) -> Vec<Address> {
    let address = |type_: &str, value: String| Address {
        type_: Some(type_.to_owned()),
        value,
    };
    let ips = service
        .vips
        .iter()
        .map(|ip| address("IPAddress", ip.to_string()));
    let name = mesh.hostname(&service.key.namespace, &service.key.name);
    ips.chain([address("Hostname", name.to_string())]).collect()
}

fn programmed(mesh: &Mesh, facts: &GatewayFacts, made: Made<'_>) -> Condition {
    let (good, reason, message) = match made {
        Made {
            service: None,
            unusable: Some(_),
            ..
        } => (false, "Invalid", "its parameters cannot be used".to_owned()),
        Made { service: None, .. } => (
            false,
            "AddressNotUsable",
            "the waypoint's Service is not there yet".to_owned(),
        ),
        Made {
            service: Some(service),
            ready_pods: 0,
            ..
        } => (
            false,
            "AddressNotAssigned",
            format!("no pod of the Service {} is ready", service.key),
        ),
        Made {
            service: Some(service),
            ..
        } => {
            let host = mesh.hostname(&service.key.namespace, &service.key.name);
            let message =
                format!("Resource programmed, assigned to service(s) {host}:{HBONE_PORT}");
            (true, "Programmed", message)
        }
    };
    condition("Programmed", good, reason, message, facts.generation)
}

fn resolved(generation: Option<i64>) -> Condition {
    let message = "References resolved";
    condition("ResolvedRefs", true, "ResolvedRefs", message, generation)
}

fn of_listener(facts: &GatewayFacts, listener: &Listener) -> ListenerStatus {
    let generation = facts.generation;
    let accepted = match is_hbone(listener) && facts.spec.listeners.len() == 1 {
        true => condition("Accepted", true, "Accepted", "No errors found", generation),
        false => {
            let message =
                format!("Expected a single listener on port {HBONE_PORT} with protocol {HBONE:?}");
            condition(
                "Accepted",
                false,
                "UnsupportedProtocol",
                message,
                generation,
            )
        }
    };
    let none = "No errors found";
    ListenerStatus {
        name: listener.name.clone(),
        supported_kinds: Vec::new(),
        attached_routes: 0,
        conditions: vec![
            accepted,
            condition("Conflicted", false, "NoConflicts", none, generation),
            condition("Programmed", true, "Programmed", none, generation),
            condition("ResolvedRefs", true, "ResolvedRefs", none, generation),
        ],
    }
}

/// The condition of a class that we make gateways of.
pub fn class(facts: &ClassFacts) -> Condition {
    let message = "Handled by Istio controller";
    condition("Accepted", true, "Accepted", message, facts.generation)
}
