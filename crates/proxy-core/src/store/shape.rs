//! The JSON and YAML form of workloads, services and policies.
//!
//! One form serves both ways: `/config_dump` writes it, as Istio's tools expect it, and the local
//! configuration file is read from it.

mod policy;
mod service;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ambit_model::Text;
use ambit_model::service::NamespacedHostname;
use ambit_model::workload::{
    self, ApplicationTunnelProtocol, GatewayDestination, HealthStatus, NetworkAddress,
};
use serde::{Deserialize, Serialize, Serializer};

pub use policy::{Match, Policy};
pub use service::{Endpoint, LoadBalancer, Service};

/// A value of the form that has no meaning.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// Not an address of the form `network/ip`.
    #[error("{0:?} is not of the form network/ip")]
    NetworkAddress(String),
    /// Not a key of a service.
    #[error("{0:?} is not of the form namespace/hostname")]
    ServiceKey(String),
    /// Not a gateway.
    #[error("{0:?} is neither network/ip nor namespace/hostname")]
    Gateway(String),
    /// Not a network in CIDR form.
    #[error("{0:?} is not an IP network such as 10.0.0.0/8")]
    Network(String),
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

macro_rules! mirror {
    ($(#[$doc:meta])* $name:ident = $model:ty { $($variant:ident as $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[allow(missing_docs)]
        pub enum $name { $(#[serde(rename = $text)] $variant),+ }

        impl From<$model> for $name {
            fn from(value: $model) -> Self {
                match value { $(<$model>::$variant => Self::$variant),+ }
            }
        }

        impl From<$name> for $model {
            fn from(value: $name) -> Self {
                match value { $($name::$variant => Self::$variant),+ }
            }
        }

        impl Default for $name {
            fn default() -> Self { <$model>::default().into() }
        }
    };
}

mirror!(/** How a workload is reached. */
    Protocol = workload::Protocol { Tcp as "TCP", Hbone as "HBONE" });
mirror!(/** The workload's network namespace. */
    NetworkMode = workload::NetworkMode { Standard as "Standard", HostNetwork as "HostNetwork" });
mirror!(/** Health. */
    Status = HealthStatus { Healthy as "Healthy", Unhealthy as "Unhealthy" });
mirror!(/** What owns a workload. */
WorkloadType = workload::WorkloadType {
    Deployment as "deployment", CronJob as "cronjob", Pod as "pod", Job as "job"
});
mirror!(/** Protocol of an application's tunnel. */
    TunnelProtocol = ApplicationTunnelProtocol { None as "NONE", Proxy as "PROXY" });
mirror!(/** How preferences are used. */
BalancingMode = ambit_model::service::LoadBalancingMode {
    Standard as "Standard", Strict as "Strict", Failover as "Failover",
    Passthrough as "Passthrough",
});
mirror!(/** Which endpoints count. */
    HealthPolicy = ambit_model::service::HealthPolicy { OnlyHealthy as "OnlyHealthy", AllowAll as "AllowAll" });
mirror!(/** Who sees a service. */
    Visibility = ambit_model::service::Visibility { Public as "Public", Namespace as "Namespace" });

/// A waypoint or network gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gateway {
    /// `network/ip` or `namespace/hostname`.
    pub destination: String,
    /// HBONE port.
    #[serde(default = "hbone_port")]
    pub hbone_mtls_port: u16,
}

fn hbone_port() -> u16 {
    ambit_model::outbound::HBONE_PORT
}

/// Port of an application's tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tunnel {
    /// What is spoken on it.
    #[serde(default)]
    pub protocol: TunnelProtocol,
    /// Port, if it is another than the one that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// Where a workload runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Locality {
    pub region: Text,
    pub zone: Text,
    pub subzone: Text,
}

/// A workload.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct Workload {
    pub uid: Text,
    pub name: Text,
    pub namespace: Text,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub workload_ips: Vec<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waypoint: Option<Gateway>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_gateway: Option<Gateway>,
    pub protocol: Protocol,
    pub network_mode: NetworkMode,
    #[serde(skip_serializing_if = "is_empty")]
    pub trust_domain: Text,
    #[serde(skip_serializing_if = "is_empty")]
    pub service_account: Text,
    #[serde(skip_serializing_if = "is_empty")]
    pub network: Text,
    #[serde(skip_serializing_if = "is_empty")]
    pub workload_name: Text,
    #[serde(skip_serializing_if = "is_default")]
    pub workload_type: WorkloadType,
    #[serde(skip_serializing_if = "is_empty")]
    pub canonical_name: Text,
    #[serde(skip_serializing_if = "is_empty")]
    pub canonical_revision: Text,
    #[serde(skip_serializing_if = "is_empty")]
    pub hostname: Text,
    #[serde(skip_serializing_if = "is_empty")]
    pub node: Text,
    #[serde(skip_serializing_if = "is_default")]
    pub native_tunnel: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub application_tunnel: Option<Tunnel>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub authorization_policies: Vec<Text>,
    pub status: Status,
    pub cluster_id: Text,
    #[serde(skip_serializing_if = "is_default")]
    pub locality: Locality,
    /// Read as a map of ports for each service; written as the list of services.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", serialize_with = "keys")]
    pub services: BTreeMap<String, BTreeMap<u16, u16>>,
    pub capacity: u32,
}

fn is_empty(text: &Text) -> bool {
    text.is_empty()
}

fn keys<S: Serializer>(
    services: &BTreeMap<String, BTreeMap<u16, u16>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(services.keys())
}

impl Default for Workload {
    fn default() -> Self {
        (&ambit_model::Workload::default()).into()
    }
}

impl From<&ambit_model::Workload> for Workload {
    fn from(w: &ambit_model::Workload) -> Self {
        let locality = &w.locality;
        Self {
            uid: w.uid.clone(),
            name: w.name.clone(),
            namespace: w.namespace.clone(),
            workload_ips: w.addresses.clone(),
            waypoint: w.waypoint.as_ref().map(Into::into),
            network_gateway: w.network_gateway.as_ref().map(Into::into),
            protocol: w.protocol.into(),
            network_mode: w.network_mode.into(),
            trust_domain: w.trust_domain.clone(),
            service_account: w.service_account.clone(),
            network: w.network.clone(),
            workload_name: w.workload_name.clone(),
            workload_type: w.workload_type.into(),
            canonical_name: w.canonical_name.clone(),
            canonical_revision: w.canonical_revision.clone(),
            hostname: w.hostname.clone(),
            node: w.node.clone(),
            native_tunnel: w.native_tunnel,
            application_tunnel: w.application_tunnel.map(|t| Tunnel {
                protocol: t.protocol.into(),
                port: t.port,
            }),
            authorization_policies: w.authorization_policies.clone(),
            status: w.status.into(),
            cluster_id: w.cluster_id.clone(),
            locality: Locality {
                region: locality.region.clone(),
                zone: locality.zone.clone(),
                subzone: locality.subzone.clone(),
            },
            services: w
                .services
                .iter()
                .map(|(k, ports)| (k.to_string(), ports.clone()))
                .collect(),
            capacity: w.capacity,
        }
    }
}

impl TryFrom<&Workload> for ambit_model::Workload {
    type Error = ShapeError;

    fn try_from(w: &Workload) -> Result<Self, ShapeError> {
        let services = w
            .services
            .iter()
            .map(|(key, ports)| Ok((service_key(key)?, ports.clone())));
        Ok(Self {
            uid: w.uid.clone(),
            name: w.name.clone(),
            namespace: w.namespace.clone(),
            addresses: w.workload_ips.iter().map(IpAddr::to_canonical).collect(),
            hostname: w.hostname.clone(),
            network: w.network.clone(),
            protocol: w.protocol.into(),
            trust_domain: w.trust_domain.clone(),
            service_account: w.service_account.clone(),
            waypoint: w.waypoint.as_ref().map(TryInto::try_into).transpose()?,
            network_gateway: w
                .network_gateway
                .as_ref()
                .map(TryInto::try_into)
                .transpose()?,
            node: w.node.clone(),
            canonical_name: w.canonical_name.clone(),
            canonical_revision: w.canonical_revision.clone(),
            workload_type: w.workload_type.into(),
            workload_name: w.workload_name.clone(),
            native_tunnel: w.native_tunnel,
            application_tunnel: w.application_tunnel.as_ref().map(|t| {
                let port = t.port.filter(|port| *port != 0);
                workload::ApplicationTunnel {
                    protocol: t.protocol.into(),
                    port,
                }
            }),
            services: services.collect::<Result<_, _>>()?,
            authorization_policies: w.authorization_policies.clone(),
            status: w.status.into(),
            cluster_id: w.cluster_id.clone(),
            locality: workload::Locality {
                region: w.locality.region.clone(),
                zone: w.locality.zone.clone(),
                subzone: w.locality.subzone.clone(),
            },
            network_mode: w.network_mode.into(),
            capacity: w.capacity,
        })
    }
}

fn service_key(text: &str) -> Result<NamespacedHostname, ShapeError> {
    text.parse()
        .map_err(|_| ShapeError::ServiceKey(text.to_owned()))
}

/// `network/ip`; the default network is the empty text before the slash.
fn network_address(text: &str) -> Option<NetworkAddress> {
    let (network, ip) = text.split_once('/')?;
    let address = ip.parse::<IpAddr>().ok()?.to_canonical();
    Some(NetworkAddress {
        network: network.into(),
        address,
    })
}

fn address_text(at: &NetworkAddress) -> String {
    format!("{}/{}", at.network, at.address)
}

impl From<&workload::GatewayAddress> for Gateway {
    fn from(gateway: &workload::GatewayAddress) -> Self {
        let destination = match &gateway.destination {
            GatewayDestination::Hostname(key) => key.to_string(),
            GatewayDestination::Address(at) => address_text(at),
        };
        Self {
            destination,
            hbone_mtls_port: gateway.hbone_mtls_port,
        }
    }
}

impl TryFrom<&Gateway> for workload::GatewayAddress {
    type Error = ShapeError;

    fn try_from(gateway: &Gateway) -> Result<Self, ShapeError> {
        let text = &gateway.destination;
        let destination = match network_address(text) {
            Some(at) => GatewayDestination::Address(at),
            None => GatewayDestination::Hostname(
                text.parse()
                    .map_err(|_| ShapeError::Gateway(text.clone()))?,
            ),
        };
        Ok(Self {
            destination,
            hbone_mtls_port: gateway.hbone_mtls_port,
        })
    }
}
