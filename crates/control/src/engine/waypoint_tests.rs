//! Waypoints, routes and policies for them: changes in, resources and statuses out.

use super::*;
use ambit_kube_api::gateway_api::{Gateway, HTTPRoute};
use ambit_kube_api::{AuthorizationPolicy, status};
use ambit_model::traffic::{Balance, Origination};
use ambit_model::workload::GatewayDestination;
use ambit_translate::mesh_config;
use serde_json::{Value, json};

fn engine() -> Engine {
    let mut engine = Engine::new(Settings {
        mesh: ambit_translate::Mesh::default(),
        system_namespace: "istio-system".into(),
        trusted_node_accounts: Vec::new(),
    });
    engine.apply(Kind::ALL.map(Change::Synced));
    engine.apply([namespace(json!({"istio.io/use-waypoint": "waypoint"}))]);
    engine
}

fn namespace(labels: Value) -> Change {
    let object = json!({"metadata": {"name": "shop", "labels": labels}});
    let facts = NamespaceFacts::of(&serde_json::from_value(object).unwrap());
    Change::Namespace("shop".into(), Some(facts))
}

fn service(name: &str, labels: Value) -> Change {
    let object = json!({
        "metadata": {"name": name, "namespace": "shop", "labels": labels},
        "spec": {"clusterIP": "10.96.0.5", "selector": {"app": name}, "ports": [{"name": "http", "port": 80}]}
    });
    let facts = ServiceFacts::of(&serde_json::from_value(object).unwrap()).unwrap();
    let observed = Observed {
        facts,
        status: Vec::new(),
    };
    Change::Service(ObjectKey::new("shop", name), Some(observed))
}

fn gateway(status: Value) -> Change {
    let object = json!({
        "metadata": {"name": "waypoint", "namespace": "shop", "uid": "u"},
        "spec": {
            "gatewayClassName": "istio-waypoint",
            "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}]
        },
        "status": status
    });
    let gateway: Gateway = serde_json::from_value(object).unwrap();
    let observed = Observed {
        facts: GatewayFacts::of(&gateway),
        status: gateway.status.unwrap_or_default(),
    };
    Change::Gateway(ObjectKey::new("shop", "waypoint"), Some(observed))
}

fn ready() -> Value {
    json!({"addresses": [{"type": "Hostname", "value": "waypoint.shop.svc.cluster.local"}]})
}

fn route(backend: &str) -> Change {
    let object = json!({
        "metadata": {"name": "r", "namespace": "shop", "generation": 1},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "reviews"}],
            "rules": [{"backendRefs": [{"name": backend, "port": 80}]}]
        }
    });
    let route: HTTPRoute = serde_json::from_value(object).unwrap();
    let observed = Observed {
        facts: RouteFacts::http(&route),
        status: route.status.unwrap_or_default(),
    };
    let key = ObjectKey::new("shop", "r");
    Change::Route(Kind::HttpRoute, key, Some(observed))
}

/// The waypoint of the one service that came out, if it did.
fn waypoint_of(output: &Output, name: &str) -> Option<Option<String>> {
    output.addresses.iter().find_map(|change| match change {
        AddressChange::Service(service) if *service.name == *name => {
            let waypoint = service.waypoint.as_ref();
            Some(waypoint.map(|w| match &w.destination {
                GatewayDestination::Hostname(key) => key.to_string(),
                GatewayDestination::Address(at) => at.address.to_string(),
            }))
        }
        _ => None,
    })
}

fn statuses(engine: &mut Engine) -> Vec<(String, Subject)> {
    let statuses = engine.take_statuses().into_iter();
    statuses
        .map(|s| (format!("{} {}", s.kind.name(), s.key), s.subject))
        .collect()
}

fn reason(subject: &Subject) -> String {
    let reason = |c: &status::Condition| c.reason.clone().unwrap_or_default();
    match subject {
        Subject::Condition { ours, .. } => ours.as_ref().map_or("-".into(), reason),
        Subject::Gateway { desired, .. } => desired
            .conditions
            .iter()
            .map(reason)
            .collect::<Vec<_>>()
            .join(" "),
        Subject::Policy { desired, .. } => {
            let conditions = desired.ancestors.iter().flat_map(|a| &a.conditions);
            conditions.map(reason).collect::<Vec<_>>().join(" ")
        }
        Subject::Route { desired, .. } => {
            let conditions = desired.parents.iter().flat_map(|p| &p.conditions);
            conditions.map(reason).collect::<Vec<_>>().join(" ")
        }
    }
}

#[test]
fn a_service_is_bound_once_the_waypoint_is_ready() {
    let mut engine = engine();
    let output = engine.apply([service("reviews", json!({}))]);
    assert_eq!(waypoint_of(&output, "reviews"), Some(None));
    let said = statuses(&mut engine);
    let of = |name: &str| {
        said.iter()
            .find(|(key, _)| key == name)
            .map(|(_, s)| reason(s))
    };
    assert_eq!(of("Service shop/reviews").unwrap(), "WaypointIsNotReady");

    let output = engine.apply([gateway(json!({}))]);
    assert!(output.gateways, "it is to be made");
    assert_eq!(engine.waypoints().len(), 1);
    assert_eq!(waypoint_of(&output, "reviews"), Some(None));
    let output = engine.apply([gateway(ready())]);
    let name = "shop/waypoint.shop.svc.cluster.local".to_owned();
    assert_eq!(waypoint_of(&output, "reviews"), Some(Some(name)));
    let said = statuses(&mut engine);
    let of = |name: &str| {
        said.iter()
            .find(|(key, _)| key == name)
            .map(|(_, s)| reason(s))
    };
    assert_eq!(of("Service shop/reviews").unwrap(), "WaypointAccepted");

    // The namespace asks for it no more.
    let output = engine.apply([namespace(json!({}))]);
    assert_eq!(waypoint_of(&output, "reviews"), Some(None));
}

#[test]
fn what_a_waypoint_is_made_of_goes_through_none() {
    let mut engine = engine();
    engine.apply([gateway(ready())]);
    let labels = json!({"gateway.istio.io/managed": "istio.io-mesh-controller"});
    let output = engine.apply([service("waypoint", labels)]);
    assert_eq!(waypoint_of(&output, "waypoint"), Some(None));
    assert!(output.gateways);
}

#[test]
fn a_waypoint_is_programmed_when_a_pod_is_ready() {
    let mut engine = engine();
    engine.apply([gateway(json!({}))]);
    let of = |engine: &mut Engine| {
        let said = statuses(engine);
        let gateway = said
            .into_iter()
            .find(|(key, _)| key == "Gateway shop/waypoint");
        gateway.map(|(_, subject)| subject)
    };
    assert_eq!(
        reason(&of(&mut engine).unwrap()),
        "Accepted AddressNotUsable ResolvedRefs"
    );
    let labels = json!({"gateway.istio.io/managed": "istio.io-mesh-controller"});
    engine.apply([service("waypoint", labels), gateway(json!({}))]);
    assert_eq!(
        reason(&of(&mut engine).unwrap()),
        "Accepted AddressNotAssigned ResolvedRefs"
    );
    let pod = json!({
        "metadata": {
            "name": "waypoint-1", "namespace": "shop", "uid": "p",
            "labels": {"app": "waypoint", "gateway.networking.k8s.io/gateway-name": "waypoint"}
        },
        "spec": {"nodeName": "n"},
        "status": {
            "phase": "Running", "podIPs": [{"ip": "10.0.0.9"}],
            "conditions": [{"type": "Ready", "status": "True"}]
        }
    });
    let facts = PodFacts::of(&serde_json::from_value(pod).unwrap());
    engine.apply([Change::Pod(
        ObjectKey::new("shop", "waypoint-1"),
        Some(facts),
    )]);
    let Some(Subject::Gateway { desired, .. }) = of(&mut engine) else {
        panic!("no status of the gateway")
    };
    assert_eq!(desired.conditions[1].reason.as_deref(), Some("Programmed"));
    let addresses: Vec<_> = desired.addresses.iter().map(|a| a.value.as_str()).collect();
    assert_eq!(addresses, ["10.96.0.5", "waypoint.shop.svc.cluster.local"]);
}

#[test]
fn a_route_is_sent_again_when_its_backend_appears() {
    let mut engine = engine();
    engine.apply([service("reviews", json!({}))]);
    let sent = |output: &Output| {
        let routes = output.l7.iter().filter_map(|change| match change {
            L7Change::Route(route) => Some(route.clone()),
            _ => None,
        });
        let routes: Vec<_> = routes.collect();
        routes.first().map(|route| match &route.rules[0].action {
            ambit_model::route::Action::Forward(f) => f.backends[0].target.is_some(),
            other => panic!("{other:?}"),
        })
    };
    assert_eq!(sent(&engine.apply([route("reviews-v2")])), Some(false));
    let said = statuses(&mut engine);
    let of_route = said
        .iter()
        .find(|(key, _)| key == "HTTPRoute shop/r")
        .unwrap();
    assert_eq!(
        reason(&of_route.1),
        "Accepted BackendNotFound ResolvedWaypoints"
    );
    let output = engine.apply([service("reviews-v2", json!({}))]);
    assert_eq!(sent(&output), Some(true));
    let said = statuses(&mut engine);
    let of_route = said
        .iter()
        .find(|(key, _)| key == "HTTPRoute shop/r")
        .unwrap();
    assert_eq!(
        reason(&of_route.1),
        "Accepted ResolvedRefs ResolvedWaypoints"
    );
    // What has nothing to do with it touches nothing.
    let output = engine.apply([service("details", json!({}))]);
    assert_eq!(sent(&output), None);
    let gone = Change::Route(Kind::HttpRoute, ObjectKey::new("shop", "r"), None);
    let output = engine.apply([gone]);
    assert!(matches!(&output.l7[..], [L7Change::RouteGone(name)] if &**name == "HTTPRoute/shop/r"));
}

#[test]
fn a_policy_with_targets_goes_to_waypoints_alone() {
    let mut engine = engine();
    engine.apply([service("reviews", json!({})), gateway(ready())]);
    let object = json!({
        "metadata": {"name": "p", "namespace": "shop"},
        "spec": {
            "targetRefs": [{"kind": "Service", "name": "reviews"}, {"kind": "Service", "name": "gone"}],
            "rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]
        }
    });
    let policy: AuthorizationPolicy = serde_json::from_value(object).unwrap();
    let observed = Observed {
        facts: PolicyFacts::of(&policy),
        status: Vec::new(),
    };
    let output = engine.apply([Change::Policy(ObjectKey::new("shop", "p"), Some(observed))]);
    assert!(matches!(&output.policies[..], [PolicyChange::Gone(_)]));
    assert!(matches!(&output.l7[..], [L7Change::Policy(policy)] if policy.attachments.len() == 2));
    let said = statuses(&mut engine);
    let of = said
        .iter()
        .find(|(key, _)| key == "AuthorizationPolicy shop/p")
        .unwrap();
    assert_eq!(reason(&of.1), "PartiallyInvalid");
}

/// The keys of the one authentication that came out, if it did.
fn keys_of(output: &Output) -> Option<String> {
    output.l7.iter().find_map(|change| match change {
        L7Change::Authentication(a) => Some(a.rules[0].keys.to_string()),
        _ => None,
    })
}

#[test]
fn keys_by_address_are_asked_for_and_kept() {
    let mut engine = engine();
    engine.apply([service("reviews", json!({}))]);
    let object = json!({
        "metadata": {"name": "a", "namespace": "shop", "generation": 1},
        "spec": {
            "targetRefs": [{"group": "", "kind": "Service", "name": "reviews"}],
            "jwtRules": [{"issuer": "i", "jwksUri": "https://keys"}]
        }
    });
    let observed = Observed {
        facts: AuthenticationFacts::of(&serde_json::from_value(object).unwrap()),
        status: Vec::new(),
    };
    let key = ObjectKey::new("shop", "a");
    let output = engine.apply([Change::Authentication(key.clone(), Some(observed))]);
    assert!(output.key_sources);
    // No keys yet: no token of the issuer is believed, and the status says why.
    assert_eq!(keys_of(&output).as_deref(), Some(""));
    let source = KeySource::Uri("https://keys".into());
    assert_eq!(engine.key_sources(), [source.clone()].into());
    assert!(
        statuses(&mut engine)
            .iter()
            .any(|(name, _)| name == "RequestAuthentication shop/a")
    );

    let keys = r#"{"keys":[]}"#;
    let output = engine.apply([Change::Keys(source, keys.into())]);
    assert_eq!(keys_of(&output).as_deref(), Some(keys));
    let other = KeySource::Issuer("https://other".into());
    assert_eq!(
        keys_of(&engine.apply([Change::Keys(other, keys.into())])),
        None
    );

    engine.apply([Change::Authentication(key, None)]);
    assert_eq!(engine.key_sources(), [].into());
}

#[test]
fn traffic_policies_come_change_and_go() {
    let mut engine = engine();
    let key = || ObjectKey::new("shop", "r");
    let rule = |balancer: &str| {
        let object = json!({
            "metadata": {"name": "r", "namespace": "shop"},
            "spec": {
                "host": "reviews",
                "trafficPolicy": {"loadBalancer": {"simple": balancer}},
            },
        });
        let facts = TrafficFacts::of(&serde_json::from_value(object).unwrap());
        Change::Traffic(key(), Some(Box::new(facts)))
    };
    let sent = |output: Output| match &output.l7[..] {
        [L7Change::Traffic(policy)] => Some(policy.settings.balance.clone()),
        [L7Change::TrafficGone(name)] => {
            assert_eq!(&**name, "shop/r");
            None
        }
        other => panic!("{other:?}"),
    };
    let output = engine.apply([rule("RANDOM")]);
    assert_eq!(sent(output), Some(Balance::Random));
    assert!(engine.apply([rule("RANDOM")]).l7.is_empty());
    let output = engine.apply([rule("PASSTHROUGH")]);
    assert_eq!(output.findings.len(), 1, "what has no effect is said");
    assert_eq!(sent(output), Some(Balance::LeastRequest));
    assert_eq!(sent(engine.apply([Change::Traffic(key(), None)])), None);
}

/// What the mesh configuration says of access logs and traces is sent as an object of its own.
#[test]
fn what_is_told_of_requests_is_sent_to_waypoints() {
    let mut engine = engine();
    let object = |namespace: &str, disabled: bool| {
        let object = json!({
            "metadata": {"name": "t", "namespace": namespace},
            "spec": {"accessLogging": [{"providers": [{"name": "envoy"}], "disabled": disabled}]},
        });
        let facts = TelemetryFacts::of(&serde_json::from_value(object).unwrap());
        Change::Telemetry(ObjectKey::new(namespace, "t"), Some(Box::new(facts)))
    };
    let sent = |output: &Output| match &output.l7[..] {
        [L7Change::Telemetry(telemetry)] => (telemetry.key(), telemetry.logs[0].disabled),
        other => panic!("{other:?}"),
    };
    let output = engine.apply([object("shop", true)]);
    assert_eq!(sent(&output), ("shop/t".into(), true));
    assert!(engine.apply([object("shop", true)]).l7.is_empty());
    let (config, _) = mesh_config::parse("accessLogFile: /dev/stdout\n");
    let output = engine.apply([Change::MeshConfig(config.unwrap())]);
    let of_mesh = output.l7.iter().find_map(|change| match change {
        L7Change::Telemetry(telemetry) if telemetry.namespace.is_empty() => Some(telemetry),
        _ => None,
    });
    let of_mesh = of_mesh.unwrap();
    assert_eq!(&*of_mesh.logs[0].providers[0].name, "envoy");
    assert_eq!(of_mesh.tracing[0].sampling, Some(100));
    let gone = Change::Telemetry(ObjectKey::new("shop", "t"), None);
    let output = engine.apply([gone]);
    assert!(matches!(&output.l7[..], [L7Change::TelemetryGone(name)] if **name == *"shop/t"));
}

/// Until its authorities are there, nothing goes to its services.
#[test]
fn tls_to_endpoints_follows_its_service_and_its_authorities() {
    let mut engine = engine();
    engine.apply([service("cart", json!({}))]);
    engine.take_statuses();
    let policy = |name: &str, created: &str| {
        let object = json!({
            "metadata": {"name": name, "namespace": "shop", "creationTimestamp": created},
            "spec": {
                "targetRefs": [{"group": "", "kind": "Service", "name": "cart"}],
                "validation": {
                    "hostname": "cart",
                    "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "ca"}],
                },
            },
        });
        let facts = BackendTlsFacts::of(&serde_json::from_value(object).unwrap());
        let observed = Observed {
            facts,
            status: PolicyStatus::default(),
        };
        Change::BackendTls(ObjectKey::new("shop", name), Some(Box::new(observed)))
    };
    let usable = |output: &Output| {
        let policies = output.l7.iter().filter_map(|change| match change {
            L7Change::BackendTls(policy) => Some((&*policy.name, &policy.tls)),
            _ => None,
        });
        let usable = policies.map(|(name, tls)| {
            let usable = matches!(**tls, Origination::Tls(_));
            (name.to_owned(), usable)
        });
        usable.collect::<Vec<_>>()
    };
    let old = "2026-01-01T00:00:00Z";
    let output = engine.apply([policy("old", old)]);
    assert!(output.config_maps);
    assert_eq!(usable(&output), [("old".to_owned(), false)]);
    let map = ObjectKey::new("shop", "ca");
    assert_eq!(engine.config_maps(), [map.clone()].into());
    let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let data = ConfigMapData::from([("ca.crt".to_owned(), pem.to_owned())]);
    let output = engine.apply([Change::ConfigMap(map.clone(), Some(data))]);
    assert_eq!(usable(&output), [("old".to_owned(), true)]);
    let said = |engine: &mut Engine| -> Vec<(String, String)> {
        let statuses = statuses(engine).into_iter();
        let of_tls = statuses.filter(|(name, _)| name.starts_with("BackendTLSPolicy"));
        of_tls.map(|(name, s)| (name, reason(&s))).collect()
    };
    let of =
        |name: &str, reasons: &str| (format!("BackendTLSPolicy shop/{name}"), reasons.to_owned());
    assert_eq!(said(&mut engine), [of("old", "Accepted ResolvedRefs")]);

    // A younger one for the same has no effect; without its authorities none has.
    let output = engine.apply([policy("young", "2026-01-02T00:00:00Z")]);
    assert_eq!(usable(&output), [("old".to_owned(), true)]);
    let both = [
        of("old", "Accepted ResolvedRefs"),
        of("young", "Conflicted ResolvedRefs"),
    ];
    assert_eq!(said(&mut engine), both);
    let output = engine.apply([Change::ConfigMap(map, None)]);
    assert_eq!(usable(&output), [("old".to_owned(), false)]);
    let gone = Change::BackendTls(ObjectKey::new("shop", "old"), None);
    let output = engine.apply([gone]);
    assert_eq!(usable(&output), [("young".to_owned(), false)]);
    engine.take_statuses();
    let gone = Change::Service(ObjectKey::new("shop", "cart"), None);
    assert_eq!(usable(&engine.apply([gone])), []);
    assert_eq!(
        said(&mut engine),
        [of("young", "TargetNotFound InvalidCACertificateRef")]
    );
}

/// As the first release had it: no label asks for it, no listener is named.
#[test]
fn a_waypoint_of_the_first_release() {
    let legacy = |annotations: Value, status: Value| {
        let object = json!({
            "metadata": {
                "name": "gateway-helloworld", "namespace": "shop", "uid": "u",
                "annotations": annotations,
            },
            "spec": {"gatewayClassName": "istio-mesh"},
            "status": status,
        });
        let gateway: Gateway = serde_json::from_value(object).unwrap();
        let observed = Observed {
            facts: GatewayFacts::of(&gateway),
            status: gateway.status.unwrap_or_default(),
        };
        Change::Gateway(ObjectKey::new("shop", "gateway-helloworld"), Some(observed))
    };
    let pod = |name: &str, account: &str| {
        let object = json!({
            "metadata": {"name": name, "namespace": "shop", "uid": name},
            "spec": {"serviceAccountName": account, "nodeName": "n", "containers": []},
            "status": {"podIP": "10.0.0.1", "phase": "Running"},
        });
        let facts = PodFacts::of(&serde_json::from_value(object).unwrap());
        Change::Pod(ObjectKey::new("shop", name), Some(facts))
    };
    let of_account = || json!({"istio.io/service-account": "sleep"});
    let started = |understood: bool| {
        let mut engine = Engine::new(Settings {
            mesh: ambit_translate::Mesh {
                legacy_waypoint: understood,
                ..ambit_translate::Mesh::default()
            },
            system_namespace: "istio-system".into(),
            trusted_node_accounts: Vec::new(),
        });
        engine.apply(Kind::ALL.map(Change::Synced));
        engine.apply([
            namespace(json!({})),
            service("helloworld", json!({})),
            service("other", json!({"istio.io/use-waypoint": "none"})),
            pod("sleep-1", "sleep"),
            pod("web-1", "web"),
        ]);
        engine
    };
    let bound = |output: &Output| {
        let addresses = output.addresses.iter();
        let mut bound: Vec<(String, bool)> = addresses
            .filter_map(|address| match address {
                AddressChange::Service(s) => Some((s.name.to_string(), s.waypoint.is_some())),
                AddressChange::Workload(w) => Some((w.name.to_string(), w.waypoint.is_some())),
                AddressChange::Gone(_) => None,
            })
            .collect();
        bound.sort();
        bound
    };
    let of = |name: &str, bound: bool| (name.to_owned(), bound);
    let address = || {
        json!({"addresses": [{
            "type": "Hostname", "value": "gateway-helloworld.shop.svc.cluster.local",
        }]})
    };
    let mut engine = started(true);
    let output = engine.apply([legacy(of_account(), address())]);
    let wanted = [
        of("helloworld", true),
        of("other", false),
        of("sleep-1", true),
        of("web-1", false),
    ];
    assert_eq!(bound(&output), wanted);
    let made = engine.waypoints();
    assert_eq!(made[0].gateway.spec.listeners[0].port, 15008);
    let gone = Change::Gateway(ObjectKey::new("shop", "gateway-helloworld"), None);
    let output = engine.apply([gone]);
    assert!(bound(&output).iter().all(|(_, bound)| !bound));
    assert_eq!(bound(&output).len(), 4);

    // Where it was not asked for, such a gateway is somebody else's.
    let mut engine = started(false);
    let output = engine.apply([legacy(of_account(), address())]);
    assert!(bound(&output).iter().all(|(_, bound)| !bound));
    assert_eq!(engine.waypoints(), []);
}
