//! Service → [`model::Service`](ambit_model::Service).

use std::collections::BTreeMap;

use ambit_model::Service;
use ambit_model::service::{
    AppProtocol, HealthPolicy, LoadBalancing, LoadBalancingMode, NamespacedHostname, PortMap, Scope,
};
use ambit_model::workload::{GatewayAddress, NetworkAddress};

use crate::facts::{Distribution, ServiceFacts, TargetPort};
use crate::mesh::Mesh;

/// The service as proxies see it. `namespace_distribution` is the preference of its namespace,
/// which holds where the service has none; `waypoint` looks into its traffic.
pub fn service(
    mesh: &Mesh,
    facts: &ServiceFacts,
    namespace_distribution: Option<Distribution>,
    waypoint: Option<GatewayAddress>,
) -> Service {
    let ports: PortMap = facts
        .ports
        .iter()
        .map(|p| match p.target {
            TargetPort::Number(target) => (p.port, target),
            TargetPort::Name(_) => (p.port, 0),
        })
        .collect();
    let app_protocols: BTreeMap<u16, AppProtocol> = facts
        .ports
        .iter()
        .filter(|p| p.protocol != AppProtocol::Unknown)
        .map(|p| (p.port, p.protocol))
        .collect();
    Service {
        name: facts.key.name.clone(),
        namespace: facts.key.namespace.clone(),
        hostname: mesh.hostname(&facts.key.namespace, &facts.key.name),
        vips: facts
            .vips
            .iter()
            .map(|ip| NetworkAddress {
                network: mesh.network.clone(),
                address: *ip,
            })
            .collect(),
        ports,
        app_protocols,
        load_balancing: load_balancing(facts, namespace_distribution),
        ip_families: facts.ip_families,
        waypoint,
        canonical: true,
        ..Service::default()
    }
}

/// The key under which proxies know the service.
pub fn service_key(mesh: &Mesh, facts: &ServiceFacts) -> NamespacedHostname {
    NamespacedHostname {
        namespace: facts.key.namespace.clone(),
        hostname: mesh.hostname(&facts.key.namespace, &facts.key.name),
    }
}

fn load_balancing(
    facts: &ServiceFacts,
    namespace_distribution: Option<Distribution>,
) -> Option<LoadBalancing> {
    use Scope::{Network, Node, Region, Subzone, Zone};
    let (mode, routing_preferences) = if facts.node_local {
        (LoadBalancingMode::Strict, vec![Node])
    } else {
        match facts.distribution.or(namespace_distribution) {
            Some(Distribution::SameZone) => {
                (LoadBalancingMode::Failover, vec![Network, Region, Zone])
            }
            Some(Distribution::SameNode) => (
                LoadBalancingMode::Failover,
                vec![Network, Region, Zone, Subzone, Node],
            ),
            None => (LoadBalancingMode::Standard, Vec::new()),
        }
    };
    let health_policy = if facts.publish_not_ready {
        HealthPolicy::AllowAll
    } else {
        HealthPolicy::OnlyHealthy
    };
    let balancing = LoadBalancing {
        routing_preferences,
        mode,
        health_policy,
    };
    (balancing != LoadBalancing::default()).then_some(balancing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::ObjectKey;
    use serde_json::json;

    fn translate(spec: serde_json::Value, namespace: Option<Distribution>) -> Service {
        let object = json!({"metadata": {"name": "cart", "namespace": "shop"}, "spec": spec});
        let facts = ServiceFacts::of(&serde_json::from_value(object).unwrap()).unwrap();
        assert_eq!(facts.key, ObjectKey::new("shop", "cart"));
        service(&Mesh::default(), &facts, namespace, None)
    }

    #[test]
    fn a_cluster_ip_service() {
        insta::assert_debug_snapshot!(translate(
            json!({
                "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "ipFamilies": ["IPv4"],
                "ports": [
                    {"name": "http", "port": 80, "targetPort": 8080},
                    {"name": "named", "port": 81, "targetPort": "web"}
                ]
            }),
            None
        ));
    }

    #[test]
    fn preferences() {
        let lb = |spec, namespace| translate(spec, namespace).load_balancing;
        assert_eq!(lb(json!({}), None), None);
        let local = lb(
            json!({"internalTrafficPolicy": "Local", "trafficDistribution": "PreferClose"}),
            None,
        )
        .unwrap();
        assert_eq!(
            (local.mode, local.routing_preferences.len()),
            (LoadBalancingMode::Strict, 1)
        );
        let inherited = lb(json!({}), Some(Distribution::SameZone)).unwrap();
        assert_eq!(
            inherited.routing_preferences,
            [Scope::Network, Scope::Region, Scope::Zone]
        );
        let own = lb(
            json!({"trafficDistribution": "PreferSameNode"}),
            Some(Distribution::SameZone),
        )
        .unwrap();
        assert_eq!(own.routing_preferences.len(), 5);
        let all = lb(json!({"publishNotReadyAddresses": true}), None).unwrap();
        assert_eq!(
            (all.mode, all.health_policy),
            (LoadBalancingMode::Standard, HealthPolicy::AllowAll)
        );
    }
}
