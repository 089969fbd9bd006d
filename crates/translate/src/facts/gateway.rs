//! Facts about a gateway and its class.

use ambit_kube_api::gateway_api::gateway::{Address, GatewaySpec, Listener};
use ambit_kube_api::gateway_api::{
    Gateway, GatewayClass, LEGACY_WAYPOINT_CLASS, MESH_CONTROLLER, WAYPOINT_CLASS,
};
use ambit_model::Text;
use kube::ResourceExt;

use crate::key::ObjectKey;
use crate::labels::{Labels, labels_from};
use crate::waypoints::{HBONE, HBONE_PORT};

/// A gateway.
#[derive(Clone, Debug, PartialEq)]
pub struct GatewayFacts {
    /// Namespace and name.
    pub key: ObjectKey,
    /// UID of the object.
    pub uid: Text,
    /// Labels.
    pub labels: Labels,
    /// Annotations.
    pub annotations: Labels,
    /// Version of the object, for its status.
    pub generation: Option<i64>,
    /// What the user asks for.
    pub spec: GatewaySpec,
    /// Where it is reached, as its status says.
    pub addresses: Vec<Address>,
    /// It is about to go.
    pub terminating: bool,
}

/// A class of gateways.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassFacts {
    /// Name.
    pub name: Text,
    /// Labels.
    pub labels: Labels,
    /// Annotations.
    pub annotations: Labels,
    /// Who makes its gateways.
    pub controller: Text,
    /// Version of the object, for its status.
    pub generation: Option<i64>,
}

impl GatewayFacts {
    /// The facts about a gateway.
    pub fn of(gateway: &Gateway) -> Self {
        let addresses = gateway.status.as_ref().map(|s| s.addresses.clone());
        Self {
            key: ObjectKey::of(gateway),
            uid: gateway.uid().unwrap_or_default().into(),
            labels: labels_from(gateway.metadata.labels.as_ref()),
            annotations: labels_from(gateway.metadata.annotations.as_ref()),
            generation: gateway.metadata.generation,
            spec: gateway.spec.clone(),
            addresses: addresses.unwrap_or_default(),
            terminating: gateway.metadata.deletion_timestamp.is_some(),
        }
    }

    /// It is one as the first release of ambient mode had them: for the workloads of a service account,
    /// and for the services that they talk to.
    pub fn is_legacy(&self) -> bool {
        self.spec.gateway_class_name == LEGACY_WAYPOINT_CLASS
    }

    /// The same in the form of today: it listens where all waypoints do.
    pub fn modernized(mut self) -> Self {
        if self.is_legacy() && self.spec.listeners.is_empty() {
            self.spec.listeners.push(Listener {
                name: "mesh".to_owned(),
                port: i32::from(HBONE_PORT),
                protocol: HBONE.to_owned(),
                ..Listener::default()
            });
        }
        self
    }

    /// It is a waypoint that we make. A class that nobody has described yet counts by its name.
    pub fn is_waypoint(&self, class: Option<&ClassFacts>) -> bool {
        match class {
            Some(class) => *class.controller == *MESH_CONTROLLER,
            None => self.spec.gateway_class_name == WAYPOINT_CLASS,
        }
    }
}

impl ClassFacts {
    /// The facts about a class.
    pub fn of(class: &GatewayClass) -> Self {
        Self {
            name: class.name_any().into(),
            labels: labels_from(class.metadata.labels.as_ref()),
            annotations: labels_from(class.metadata.annotations.as_ref()),
            controller: class.spec.controller_name.as_str().into(),
            generation: class.metadata.generation,
        }
    }
}
