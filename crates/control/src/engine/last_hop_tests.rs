//! Every caller × address × state of the waypoint × policy: what comes out of the engine, walked by
//! the node proxies' own decisions, beside a model of a few lines.

use super::*;
use ambit_kube_api::gateway_api::{Gateway, GatewayClass};
use ambit_kube_api::{AuthorizationPolicy, RequestAuthentication};
use ambit_model::authorize::{Connection, authorize};
use ambit_model::outbound::{self, Request, Route as Way};
use ambit_model::state::{Change as StateChange, MeshState};
use ambit_translate::last_hop::LastHop;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use std::sync::Arc;

const VIP: &str = "10.96.0.5";
const SERVER: &str = "10.0.0.1";
const CLIENT: &str = "10.0.0.2";
const WAYPOINT: &str = "10.0.0.3";
const WAYPOINT_VIP: &str = "10.96.0.9";

#[derive(Clone, Copy, Debug, PartialEq)]
enum Caller {
    Mesh,
    Outside,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Address {
    Service,
    Pod,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Waypoint {
    /// Ready, for services.
    Services,
    /// Ready, for pods.
    Workloads,
    /// Its address is not known yet.
    NotReady,
    /// It has an address, and no pod.
    NoPods,
    /// Asked for, and not there.
    Missing,
    /// Not asked for.
    None,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Policy {
    Nothing,
    Service,
    OtherService,
    Gateway,
    OtherGateway,
    Class,
    Token,
    Audit,
    DryRun,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    ThroughWaypoint,
    Direct,
    Refused,
}

#[test]
fn no_path_leads_around_a_waypoint_with_policy() {
    let callers = [Caller::Mesh, Caller::Outside];
    let addresses = [Address::Service, Address::Pod];
    let waypoints = [
        Waypoint::Services,
        Waypoint::Workloads,
        Waypoint::NotReady,
        Waypoint::NoPods,
        Waypoint::Missing,
        Waypoint::None,
    ];
    let policies = [
        Policy::Nothing,
        Policy::Service,
        Policy::OtherService,
        Policy::Gateway,
        Policy::OtherGateway,
        Policy::Class,
        Policy::Token,
        Policy::Audit,
        Policy::DryRun,
    ];
    let mut seen = Vec::new();
    for setting in [LastHop::Enforce, LastHop::Istio] {
        for waypoint in waypoints {
            for policy in policies {
                // The policy may come before or after what it is about.
                for policy_first in [true, false] {
                    let state = mesh(setting, waypoint, policy, policy_first);
                    for caller in callers {
                        for address in addresses {
                            let found = walk(&state, caller, address);
                            let wanted = model(setting, waypoint, policy, caller, address);
                            assert_eq!(
                                found, wanted,
                                "{setting:?} {waypoint:?} {policy:?} {caller:?} {address:?} \
                                 first: {policy_first}"
                            );
                            seen.push(found);
                        }
                    }
                }
            }
        }
    }
    for outcome in [Outcome::ThroughWaypoint, Outcome::Direct, Outcome::Refused] {
        assert!(seen.contains(&outcome), "{outcome:?} never happens");
    }
}

/// What a policy goes takes its guard with it.
#[test]
fn a_guard_goes_with_the_last_policy() {
    let mut engine = engine(LastHop::Enforce);
    let mut state = MeshState::new(None);
    let changes = objects(Waypoint::Services).chain(policy(Policy::Service));
    apply(&mut engine, &mut state, changes.collect());
    assert_eq!(walk(&state, Caller::Mesh, Address::Pod), Outcome::Refused);
    let names: Vec<&str> = state.policies().map(|p| &*p.name).collect();
    assert_eq!(names, ["last_hop_only_through_waypoint.shop"]);
    let gone = Change::Policy(ObjectKey::new("shop", "p"), None);
    apply(&mut engine, &mut state, vec![gone]);
    assert_eq!(walk(&state, Caller::Mesh, Address::Pod), Outcome::Direct);
    assert_eq!(state.policies().count(), 0);
}

fn model(
    setting: LastHop,
    waypoint: Waypoint,
    policy: Policy,
    caller: Caller,
    address: Address,
) -> Outcome {
    // A caller outside the mesh knows of no waypoint.
    let sent = caller == Caller::Mesh
        && matches!(
            (waypoint, address),
            (Waypoint::Services | Waypoint::NoPods, Address::Service)
                | (Waypoint::Workloads, Address::Pod)
        );
    // The namespace's label asks; a waypoint for pods alone is none of the service's.
    let asked = waypoint != Waypoint::None;
    let of_service = matches!(policy, Policy::Service | Policy::Token);
    let of_gateway = policy == Policy::Gateway && asked;
    let of_class = policy == Policy::Class && asked && waypoint != Waypoint::Missing;
    let guarded = setting == LastHop::Enforce && (of_service || of_gateway || of_class);
    // A policy of the service is not asked by a waypoint that looks into pods' traffic alone.
    let passes = !(of_service && waypoint == Waypoint::Workloads && guarded);
    match (sent, guarded) {
        (true, _) if waypoint == Waypoint::NoPods => Outcome::Refused,
        (true, _) if passes => Outcome::ThroughWaypoint,
        (true, _) => Outcome::Refused,
        (false, true) => Outcome::Refused,
        (false, false) => Outcome::Direct,
    }
}

/// The way of a connection: where the caller's proxy sends it, and whether the server's lets it in.
fn walk(state: &MeshState, caller: Caller, address: Address) -> Outcome {
    let to = match address {
        Address::Service => VIP,
        Address::Pod => SERVER,
    };
    let server = state.workload_at("", SERVER.parse().unwrap()).unwrap();
    let client = state.workload_at("", CLIENT.parse().unwrap()).unwrap();
    let mut through = None;
    if caller == Caller::Mesh {
        let request = Request {
            source: client,
            original: format!("{to}:80").parse().unwrap(),
            network: "",
            own_ports: &[],
        };
        match outbound::decide(state, request, &mut StdRng::seed_from_u64(1)) {
            Err(_) => return Outcome::Refused,
            Ok(decision) => {
                assert!(
                    matches!(decision.route, Way::Hbone { .. }),
                    "never plaintext"
                );
                through = decision.workload.filter(|w| *w.name != *"server");
            }
        }
    }
    let identity = match (caller, &through) {
        (Caller::Outside, _) => None,
        (Caller::Mesh, Some(waypoint)) => Some(waypoint.identity()),
        (Caller::Mesh, None) => Some(client.identity()),
    };
    let connection = Connection {
        identity,
        source: CLIENT.parse().unwrap(),
        destination: format!("{SERVER}:8080").parse().unwrap(),
    };
    assert_eq!(state.unknown_policies(server).count(), 0);
    match authorize(state.policies_of(server), &connection).verdict {
        Err(_) => Outcome::Refused,
        Ok(()) if through.is_some() => Outcome::ThroughWaypoint,
        Ok(()) => Outcome::Direct,
    }
}

fn mesh(setting: LastHop, waypoint: Waypoint, asked: Policy, policy_first: bool) -> MeshState {
    let mut engine = engine(setting);
    let mut state = MeshState::new(None);
    let mut batches = [
        objects(waypoint).collect::<Vec<_>>(),
        policy(asked).into_iter().collect(),
    ];
    if policy_first {
        batches.reverse();
    }
    for changes in batches {
        apply(&mut engine, &mut state, changes);
    }
    state
}

fn engine(setting: LastHop) -> Engine {
    let mut engine = Engine::new(Settings {
        mesh: ambit_translate::Mesh {
            last_hop: setting,
            ..Default::default()
        },
        system_namespace: "istio-system".into(),
        trusted_node_accounts: Vec::new(),
    });
    engine.apply(Kind::ALL.map(Change::Synced));
    engine
}

/// What the node proxies know after these changes.
fn apply(engine: &mut Engine, state: &mut MeshState, changes: Vec<Change>) {
    let output = engine.apply(changes);
    for change in output.policies {
        state.apply(&match change {
            PolicyChange::Policy(policy) => StateChange::Policy(Arc::new(policy)),
            PolicyChange::Gone(key) => StateChange::RemovePolicy(key),
        });
    }
    for change in output.addresses {
        state.apply(&match change {
            AddressChange::Workload(workload) => StateChange::Workload(Arc::new(*workload)),
            AddressChange::Service(service) => StateChange::Service(Arc::new(*service)),
            AddressChange::Gone(name) => StateChange::RemoveAddress(name),
        });
    }
}

fn objects(waypoint: Waypoint) -> impl Iterator<Item = Change> {
    let asks = match waypoint {
        Waypoint::None => json!({}),
        _ => json!({"istio.io/use-waypoint": "waypoint"}),
    };
    let namespace = json!({"metadata": {"name": "shop", "labels": asks}});
    let namespace = NamespaceFacts::of(&serde_json::from_value(namespace).unwrap());
    let mut changes = vec![
        Change::Namespace("shop".into(), Some(namespace)),
        service("server", VIP, json!({}), json!({"app": "server"})),
        pod("server", SERVER, json!({"app": "server"})),
        pod("client", CLIENT, json!({"app": "client"})),
        class(),
    ];
    let of_gateway = json!({
        "gateway.istio.io/managed": "istio.io-mesh-controller",
        "gateway.networking.k8s.io/gateway-name": "waypoint"
    });
    if !matches!(waypoint, Waypoint::Missing | Waypoint::None) {
        let selector = json!({"gateway.networking.k8s.io/gateway-name": "waypoint"});
        changes.push(gateway(waypoint));
        changes.push(service(
            "waypoint",
            WAYPOINT_VIP,
            of_gateway.clone(),
            selector,
        ));
        if waypoint != Waypoint::NoPods {
            changes.push(pod("waypoint", WAYPOINT, of_gateway));
        }
    }
    changes.into_iter()
}

fn service(name: &str, ip: &str, labels: Value, selector: Value) -> Change {
    let ports = json!([
        {"name": "http", "port": 80, "targetPort": 8080},
        {"name": "hbone", "port": 15008}
    ]);
    let object = json!({
        "metadata": {"name": name, "namespace": "shop", "labels": labels},
        "spec": {"clusterIP": ip, "selector": selector, "ports": ports}
    });
    let facts = ServiceFacts::of(&serde_json::from_value(object).unwrap()).unwrap();
    let observed = Observed {
        facts,
        status: Vec::new(),
    };
    Change::Service(ObjectKey::new("shop", name), Some(observed))
}

fn pod(name: &str, ip: &str, labels: Value) -> Change {
    let object = json!({
        "metadata": {
            "name": name, "namespace": "shop", "uid": name, "labels": labels,
            "annotations": {"ambient.istio.io/redirection": "enabled"}
        },
        "spec": {"nodeName": "n1", "serviceAccountName": name, "containers": []},
        "status": {
            "phase": "Running", "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True"}]
        }
    });
    let facts = PodFacts::of(&serde_json::from_value(object).unwrap());
    Change::Pod(facts.key.clone(), Some(facts))
}

fn class() -> Change {
    let class: GatewayClass = serde_json::from_value(json!({
        "metadata": {"name": "istio-waypoint"},
        "spec": {"controllerName": "istio.io/mesh-controller"}
    }))
    .unwrap();
    let observed = Observed {
        facts: ClassFacts::of(&class),
        status: Vec::new(),
    };
    Change::Class("istio-waypoint".into(), Some(observed))
}

fn gateway(waypoint: Waypoint) -> Change {
    let traffic = match waypoint {
        Waypoint::Workloads => "workload",
        _ => "service",
    };
    let status = match waypoint {
        Waypoint::NotReady => json!({}),
        _ => json!({"addresses": [{
            "type": "Hostname", "value": "waypoint.shop.svc.cluster.local"
        }]}),
    };
    let gateway: Gateway = serde_json::from_value(json!({
        "metadata": {
            "name": "waypoint", "namespace": "shop", "uid": "u",
            "labels": {"istio.io/waypoint-for": traffic}
        },
        "spec": {
            "gatewayClassName": "istio-waypoint",
            "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}]
        },
        "status": status
    }))
    .unwrap();
    let observed = Observed {
        facts: GatewayFacts::of(&gateway),
        status: gateway.status.unwrap_or_default(),
    };
    Change::Gateway(ObjectKey::new("shop", "waypoint"), Some(observed))
}

fn policy(policy: Policy) -> Option<Change> {
    let group = "gateway.networking.k8s.io";
    let target = match policy {
        Policy::Nothing => return None,
        Policy::OtherService => json!({"group": "", "kind": "Service", "name": "other"}),
        Policy::Gateway => json!({"group": group, "kind": "Gateway", "name": "waypoint"}),
        Policy::OtherGateway => json!({"group": group, "kind": "Gateway", "name": "other"}),
        Policy::Class => json!({"group": group, "kind": "GatewayClass", "name": "istio-waypoint"}),
        _ => json!({"group": "", "kind": "Service", "name": "server"}),
    };
    let namespace = match policy {
        Policy::Class => "istio-system",
        _ => "shop",
    };
    let annotations = match policy {
        Policy::DryRun => json!({"istio.io/dry-run": "true"}),
        _ => json!({}),
    };
    let metadata = json!({"name": "p", "namespace": namespace, "annotations": annotations});
    let key = ObjectKey::new(namespace, "p");
    if policy == Policy::Token {
        let object = json!({"metadata": metadata, "spec": {
            "targetRefs": [target], "jwtRules": [{"issuer": "i", "jwks": "{\"keys\":[]}"}]
        }});
        let object: RequestAuthentication = serde_json::from_value(object).unwrap();
        let observed = Observed {
            facts: AuthenticationFacts::of(&object),
            status: Vec::new(),
        };
        return Some(Change::Authentication(key, Some(observed)));
    }
    let action = match policy {
        Policy::Audit => "AUDIT",
        _ => "ALLOW",
    };
    let object = json!({"metadata": metadata, "spec": {
        "targetRefs": [target], "action": action,
        "rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]
    }});
    let object: AuthorizationPolicy = serde_json::from_value(object).unwrap();
    let observed = Observed {
        facts: PolicyFacts::of(&object),
        status: Vec::new(),
    };
    Some(Change::Policy(key, Some(observed)))
}
