//! The form of services.

use std::collections::BTreeMap;

use ambit_model::Text;
use ambit_model::service as model;
use ambit_model::state::ServiceEntry;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    BalancingMode, Gateway, HealthPolicy, ShapeError, Status, Visibility, address_text,
    network_address,
};

/// Preferences between endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs)]
pub struct LoadBalancer {
    #[serde(default)]
    pub routing_preferences: Vec<Scope>,
    #[serde(default)]
    pub mode: BalancingMode,
    #[serde(default)]
    pub health_policy: HealthPolicy,
}

/// What an endpoint can share with its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Scope {
    Region,
    Zone,
    Subzone,
    Node,
    Cluster,
    Network,
}

/// Address families of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Families {
    Dual,
    #[serde(rename = "IPv4")]
    Ipv4,
    #[serde(rename = "IPv6")]
    Ipv6,
}

/// A range of virtual addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Range {
    pub network: Text,
    pub cidr: IpNet,
}

/// One leg of a canary split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Weighted {
    pub destination: Gateway,
    pub weight: u32,
}

/// What serves a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Endpoint {
    pub workload_uid: Text,
    pub port: BTreeMap<u16, u16>,
    pub status: Status,
}

/// A service.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct Service {
    pub name: String,
    pub namespace: String,
    pub hostname: String,
    pub vips: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cidr_vips: Vec<Range>,
    pub ports: BTreeMap<u16, u16>,
    /// Written only: endpoints come from the workloads.
    #[serde(skip_deserializing)]
    pub endpoints: BTreeMap<Text, Endpoint>,
    pub subject_alt_names: Vec<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waypoint: Option<Gateway>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub weighted_waypoints: Vec<Weighted>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_families: Option<Families>,
    pub canonical: bool,
    pub visibility: Visibility,
}

impl Service {
    /// A service with the endpoints that may receive its traffic.
    pub fn with_endpoints(s: &ambit_model::Service, entry: &ServiceEntry) -> Self {
        let key = s.key();
        let endpoints = entry.endpoints().map(|w| {
            let endpoint = Endpoint {
                workload_uid: w.uid.clone(),
                port: w.services.get(&key).cloned().unwrap_or_default(),
                status: w.status.into(),
            };
            (w.uid.clone(), endpoint)
        });
        Self {
            endpoints: endpoints.collect(),
            ..s.into()
        }
    }
}

impl From<&ambit_model::Service> for Service {
    fn from(s: &ambit_model::Service) -> Self {
        let range = |r: &model::NetworkCidr| Range {
            network: r.network.clone(),
            cidr: r.cidr,
        };
        let leg = |leg: &model::WeightedWaypoint| Weighted {
            destination: (&leg.destination).into(),
            weight: leg.weight,
        };
        Self {
            name: s.name.to_string(),
            namespace: s.namespace.to_string(),
            hostname: s.hostname.to_string(),
            vips: s.vips.iter().map(address_text).collect(),
            cidr_vips: s.cidr_vips.iter().map(range).collect(),
            ports: s.ports.clone(),
            endpoints: BTreeMap::new(),
            subject_alt_names: s.subject_alt_names.clone(),
            waypoint: s.waypoint.as_ref().map(Into::into),
            weighted_waypoints: s.weighted_waypoints.iter().map(leg).collect(),
            load_balancer: s.load_balancing.as_ref().map(Into::into),
            ip_families: s.ip_families.map(|families| match families {
                model::IpFamilies::Dual => Families::Dual,
                model::IpFamilies::Ipv4 => Families::Ipv4,
                model::IpFamilies::Ipv6 => Families::Ipv6,
            }),
            canonical: s.canonical,
            visibility: s.visibility.into(),
        }
    }
}

impl From<&model::LoadBalancing> for LoadBalancer {
    fn from(lb: &model::LoadBalancing) -> Self {
        let scope = |scope: &model::Scope| match scope {
            model::Scope::Region => Scope::Region,
            model::Scope::Zone => Scope::Zone,
            model::Scope::Subzone => Scope::Subzone,
            model::Scope::Node => Scope::Node,
            model::Scope::Cluster => Scope::Cluster,
            model::Scope::Network => Scope::Network,
        };
        Self {
            routing_preferences: lb.routing_preferences.iter().map(scope).collect(),
            mode: lb.mode.into(),
            health_policy: lb.health_policy.into(),
        }
    }
}

impl From<&LoadBalancer> for model::LoadBalancing {
    fn from(lb: &LoadBalancer) -> Self {
        let scope = |scope: &Scope| match scope {
            Scope::Region => model::Scope::Region,
            Scope::Zone => model::Scope::Zone,
            Scope::Subzone => model::Scope::Subzone,
            Scope::Node => model::Scope::Node,
            Scope::Cluster => model::Scope::Cluster,
            Scope::Network => model::Scope::Network,
        };
        Self {
            routing_preferences: lb.routing_preferences.iter().map(scope).collect(),
            mode: lb.mode.into(),
            health_policy: lb.health_policy.into(),
        }
    }
}

impl TryFrom<&Service> for ambit_model::Service {
    type Error = ShapeError;

    fn try_from(s: &Service) -> Result<Self, ShapeError> {
        let vip =
            |text: &String| network_address(text).ok_or(ShapeError::NetworkAddress(text.clone()));
        let range = |r: &Range| model::NetworkCidr {
            network: r.network.clone(),
            cidr: r.cidr.trunc(),
        };
        let leg = |leg: &Weighted| {
            let destination = (&leg.destination).try_into()?;
            Ok(model::WeightedWaypoint {
                destination,
                weight: leg.weight,
            })
        };
        Ok(Self {
            name: s.name.as_str().into(),
            namespace: s.namespace.as_str().into(),
            hostname: s.hostname.as_str().into(),
            vips: s.vips.iter().map(vip).collect::<Result<_, _>>()?,
            cidr_vips: s.cidr_vips.iter().map(range).collect(),
            ports: s.ports.clone(),
            subject_alt_names: s.subject_alt_names.clone(),
            waypoint: s.waypoint.as_ref().map(TryInto::try_into).transpose()?,
            weighted_waypoints: s
                .weighted_waypoints
                .iter()
                .map(leg)
                .collect::<Result<_, ShapeError>>()?,
            load_balancing: s.load_balancer.as_ref().map(Into::into),
            ip_families: s.ip_families.map(|families| match families {
                Families::Dual => model::IpFamilies::Dual,
                Families::Ipv4 => model::IpFamilies::Ipv4,
                Families::Ipv6 => model::IpFamilies::Ipv6,
            }),
            canonical: s.canonical,
            visibility: s.visibility.into(),
            ..Self::default()
        })
    }
}
