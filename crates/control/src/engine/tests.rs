use super::*;
use ambit_kube_api::{AuthorizationPolicy, PeerAuthentication};
use ambit_model::workload::Protocol;
use ambit_translate::Mesh;
use serde_json::{Value, json};

struct World {
    engine: Engine,
}

impl World {
    /// An engine that has seen everything of an empty cluster.
    fn new() -> Self {
        let settings = Settings {
            mesh: Mesh::default(),
            system_namespace: "istio-system".into(),
            trusted_node_accounts: vec![ObjectKey::new("istio-system", "ztunnel")],
        };
        let mut engine = Engine::new(settings);
        let output = engine.apply(Kind::ALL.map(Change::Synced));
        assert!(output.complete);
        Self { engine }
    }

    fn apply(&mut self, change: Change) -> Seen {
        Seen::of(self.engine.apply([change]))
    }

    fn pod(&mut self, name: &str, extra: impl FnOnce(&mut Value)) -> Seen {
        self.apply(pod(name, extra))
    }

    fn service(&mut self, name: &str, spec: Value) -> Seen {
        let object = json!({"metadata": {"name": name, "namespace": "shop"}, "spec": spec});
        self.apply(service_change(name, object))
    }

    fn policy(&mut self, namespace: &str, name: &str, spec: Value) -> Seen {
        let object = json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec});
        let policy: AuthorizationPolicy = serde_json::from_value(object).unwrap();
        let observed = Observed {
            facts: PolicyFacts::of(&policy),
            status: vec![],
        };
        self.apply(Change::Policy(
            ObjectKey::new(namespace, name),
            Some(observed),
        ))
    }

    fn peer(&mut self, namespace: &str, name: &str, spec: Value) -> Seen {
        let object = json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec});
        let peer: PeerAuthentication = serde_json::from_value(object).unwrap();
        let observed = Observed {
            facts: PeerFacts::of(&peer),
            status: vec![],
        };
        self.apply(Change::Peer(
            ObjectKey::new(namespace, name),
            Some(observed),
        ))
    }

    fn messages(&mut self) -> Vec<String> {
        self.engine
            .take_statuses()
            .into_iter()
            .map(|s| format!("{} {}", s.key, ours(s.subject).message.unwrap()))
            .collect()
    }
}

fn ours(subject: Subject) -> Condition {
    match subject {
        Subject::Condition { ours, .. } => ours.unwrap(),
        other => panic!("not one condition: {other:?}"),
    }
}

fn service_change(name: &str, object: Value) -> Change {
    let facts = ServiceFacts::of(&serde_json::from_value(object).unwrap());
    let observed = facts.map(|facts| Observed {
        facts,
        status: vec![],
    });
    Change::Service(ObjectKey::new("shop", name), observed)
}

fn pod(name: &str, extra: impl FnOnce(&mut Value)) -> Change {
    let mut object = json!({
        "metadata": {"name": name, "namespace": "shop", "uid": name, "labels": {"app": name}},
        "spec": {"nodeName": "n1", "serviceAccountName": name, "containers": []},
        "status": {
            "phase": "Running", "podIPs": [{"ip": "10.0.0.1"}],
            "conditions": [{"type": "Ready", "status": "True"}]
        }
    });
    extra(&mut object);
    let facts = PodFacts::of(&serde_json::from_value(object).unwrap());
    Change::Pod(facts.key.clone(), Some(facts))
}

fn captured(object: &mut Value) {
    object["metadata"]["annotations"] = json!({"ambient.istio.io/redirection": "enabled"});
}

/// What came out, by name.
#[derive(Debug, Default)]
struct Seen {
    workloads: Vec<Workload>,
    services: Vec<Service>,
    policies: Vec<Authorization>,
    gone: Vec<String>,
}

impl Seen {
    fn of(output: Output) -> Self {
        let mut seen = Self::default();
        for change in output.addresses {
            match change {
                AddressChange::Workload(w) => seen.workloads.push(*w),
                AddressChange::Service(s) => seen.services.push(*s),
                AddressChange::Gone(name) => seen.gone.push(name.to_string()),
            }
        }
        for change in output.policies {
            match change {
                PolicyChange::Policy(p) => seen.policies.push(p),
                PolicyChange::Gone(name) => seen.gone.push(name.to_string()),
            }
        }
        seen
    }

    fn names(&self) -> Vec<&str> {
        self.workloads.iter().map(|w| &*w.name).collect()
    }
}

#[test]
fn nothing_comes_out_before_everything_was_seen() {
    let mut engine = Engine::new(Settings {
        mesh: Mesh::default(),
        system_namespace: "istio-system".into(),
        trusted_node_accounts: vec![],
    });
    let output = engine.apply([pod("a", |_| {}), Change::Synced(Kind::Pod)]);
    assert!(output.addresses.is_empty() && !output.complete);
    assert_eq!(engine.waiting_for().count(), Kind::ALL.len() - 1);
    let output = engine.apply(Kind::ALL.map(Change::Synced));
    assert!(output.complete);
    assert_eq!(output.addresses.len(), 1);
    assert!(!engine.apply([]).complete);
}

#[test]
fn a_capture_changes_one_workload() {
    let mut world = World::new();
    world.pod("a", |_| {});
    world.pod("b", |_| {});
    let seen = world.pod("a", captured);
    assert_eq!(seen.names(), ["a"]);
    assert_eq!(seen.workloads[0].protocol, Protocol::Hbone);
    // What the mesh does not look at is no change.
    let seen = world.pod("a", |object| {
        captured(object);
        object["metadata"]["annotations"]["note"] = json!("x");
        object["metadata"]["resourceVersion"] = json!("7");
    });
    assert_eq!(seen.names(), Vec::<&str>::new());
}

#[test]
fn a_pod_goes_when_it_ends() {
    let mut world = World::new();
    world.pod("a", |_| {});
    let seen = world.pod("a", |p| p["status"]["phase"] = json!("Succeeded"));
    assert_eq!(seen.gone, ["Kubernetes//Pod/shop/a"]);
    let seen = world.apply(Change::Pod(ObjectKey::new("shop", "a"), None));
    assert_eq!(seen.gone, ["Kubernetes//Pod/shop/a"]);
}

#[test]
fn services_reach_the_pods_that_they_select_and_selected() {
    let mut world = World::new();
    world.pod("a", |_| {});
    world.pod("b", |_| {});
    let select = |app: &str| json!({"clusterIP": "10.96.0.1", "selector": {"app": app}, "ports": [{"port": 80}]});
    let seen = world.service("s", select("a"));
    assert_eq!(seen.names(), ["a"]);
    assert_eq!(seen.workloads[0].services.len(), 1);
    assert_eq!(seen.services[0].vips.len(), 1);
    let seen = world.service("s", select("b"));
    assert_eq!(seen.names(), ["a", "b"]);
    assert_eq!(seen.workloads[0].services.len(), 0);
    // A new pod finds the service.
    let seen = world.pod("c", |p| p["metadata"]["labels"]["app"] = json!("b"));
    assert_eq!(seen.workloads[0].services.len(), 1);
    let seen = world.apply(Change::Service(ObjectKey::new("shop", "s"), None));
    assert_eq!(seen.names(), ["b", "c"]);
    assert_eq!(seen.gone, ["shop/s.shop.svc.cluster.local"]);
}

#[test]
fn endpoints_of_services_without_selector() {
    let mut world = World::new();
    world.pod("a", |_| {});
    let slice = |addresses: Value| {
        let object = json!({
            "metadata": {"name": "s-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "s"}},
            "addressType": "IPv4", "endpoints": addresses, "ports": [{"port": 8080}]
        });
        let facts = SliceFacts::of(&serde_json::from_value(object).unwrap());
        Change::Slice(ObjectKey::new("shop", "s-1"), facts)
    };
    world.apply(slice(json!([
        {"addresses": ["192.0.2.1"]}, {"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": "a"}}
    ])));
    let seen = world.service(
        "s",
        json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}),
    );
    assert_eq!(
        seen.workloads
            .iter()
            .filter(|w| !w.services.is_empty())
            .count(),
        2
    );
    let seen = world.apply(slice(json!([{"addresses": ["192.0.2.2"]}])));
    assert_eq!(
        seen.gone,
        ["Kubernetes/discovery.k8s.io/EndpointSlice/shop/s-1/192.0.2.1"]
    );
    assert_eq!(
        seen.workloads.len(),
        2,
        "the new endpoint, and the pod that is not listed any more"
    );
    assert!(
        seen.workloads
            .iter()
            .any(|w| &*w.name == "a" && w.services.is_empty())
    );
}

#[test]
fn localities_come_from_nodes() {
    let mut world = World::new();
    world.pod("a", |_| {});
    world.pod("b", |p| p["spec"]["nodeName"] = json!("n2"));
    let object =
        json!({"metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "z"}}});
    let facts = NodeFacts::of(&serde_json::from_value(object).unwrap());
    let seen = world.apply(Change::Node("n1".into(), Some(facts)));
    assert_eq!(seen.names(), ["a"]);
    assert_eq!(&*seen.workloads[0].locality.zone, "z");
}

#[test]
fn policies_with_a_selector_change_the_workloads_that_they_select() {
    let mut world = World::new();
    world.pod("a", |_| {});
    world.pod("b", |_| {});
    let select = |app: &str| json!({"selector": {"matchLabels": {"app": app}}, "rules": [{}]});
    let seen = world.policy("shop", "p", select("a"));
    assert_eq!(seen.names(), ["a"]);
    assert_eq!(seen.workloads[0].authorization_policies, ["shop/p".into()]);
    assert_eq!(seen.policies.len(), 1);
    // From the root namespace too.
    let seen = world.policy("istio-system", "p", select("a"));
    let keys = ["istio-system/p".into(), "shop/p".into()];
    assert_eq!(seen.workloads[0].authorization_policies, keys);
    let seen = world.policy("shop", "p", select("b"));
    assert_eq!(seen.names(), ["a", "b"]);
    let seen = world.apply(Change::Policy(ObjectKey::new("shop", "p"), None));
    assert_eq!(
        (seen.names(), seen.gone.clone()),
        (vec!["b"], vec!["shop/p".to_owned()])
    );
    // Without a selector no workload changes.
    let seen = world.policy("shop", "q", json!({"rules": [{}]}));
    assert_eq!((seen.names(), seen.policies.len()), (vec![], 1));
}

#[test]
fn policies_that_are_not_sent_are_not_named() {
    let mut world = World::new();
    world.pod("a", |_| {});
    let select = json!({"selector": {"matchLabels": {"app": "a"}}, "rules": [{}]});
    world.policy("shop", "p", select.clone());
    let mut audit = select.clone();
    audit["action"] = json!("AUDIT");
    let seen = world.policy("shop", "p", audit);
    assert_eq!(seen.workloads[0].authorization_policies, Vec::<Text>::new());
    assert_eq!(seen.gone, ["shop/p"]);
}

#[test]
fn peer_authentication_attaches_policies_that_exist() {
    let mut world = World::new();
    world.pod("a", |_| {});
    world.pod("b", |_| {});
    let strict = Text::from("istio-system/istio_converted_static_strict");
    let seen = world.peer("shop", "ns", json!({"mtls": {"mode": "STRICT"}}));
    assert_eq!(seen.names(), ["a", "b"]);
    assert_eq!(
        seen.workloads[0].authorization_policies,
        std::slice::from_ref(&strict)
    );
    assert!(seen.policies.iter().any(|p| p.key() == strict));

    let seen = world.peer(
        "shop",
        "own",
        json!({
            "selector": {"matchLabels": {"app": "a"}},
            "portLevelMtls": {"8080": {"mode": "PERMISSIVE"}}
        }),
    );
    let converted = Text::from("shop/converted_peer_authentication_own");
    assert_eq!(seen.names(), ["a"]);
    assert_eq!(
        seen.workloads[0].authorization_policies,
        std::slice::from_ref(&converted)
    );
    assert!(seen.policies.iter().any(|p| p.key() == converted));

    // A change of the parent changes the converted policy.
    let seen = world.peer("shop", "ns", json!({"mtls": {"mode": "PERMISSIVE"}}));
    assert!(seen.gone.contains(&converted.to_string()), "{seen:?}");
    assert!(
        seen.workloads
            .iter()
            .all(|w| w.authorization_policies.is_empty())
    );

    world.apply(Change::Peer(ObjectKey::new("shop", "own"), None));
    let seen = world.apply(Change::Peer(ObjectKey::new("shop", "ns"), None));
    assert!(seen.gone.contains(&strict.to_string()), "{seen:?}");
}

#[test]
fn scope() {
    let mut world = World::new();
    world.pod("a", |_| {});
    let select = vec![serde_json::from_value(json!({"matchLabels": {"mesh": "yes"}})).unwrap()];
    let config = MeshConfig {
        discovery_selectors: select,
        ..MeshConfig::default()
    };
    let seen = world.apply(Change::MeshConfig(config));
    assert!(seen.gone.contains(&"Kubernetes//Pod/shop/a".to_owned()));
    let namespace = |label: &str| {
        let object = json!({"metadata": {"name": "shop", "labels": {"mesh": label}}});
        NamespaceFacts::of(&serde_json::from_value(object).unwrap())
    };
    let seen = world.apply(Change::Namespace("shop".into(), Some(namespace("yes"))));
    assert_eq!(seen.names(), ["a"]);
    let seen = world.apply(Change::Namespace("shop".into(), Some(namespace("no"))));
    assert_eq!(seen.gone.iter().filter(|n| n.contains("Pod")).count(), 1);
    // The certificate authority sees it all the same.
    assert!(
        world
            .engine
            .pod_account(&ObjectKey::new("shop", "a"))
            .is_some()
    );
}

#[test]
fn the_trust_domain_is_everywhere() {
    let mut world = World::new();
    world.pod("a", |_| {});
    let config = MeshConfig {
        trust_domain: "example.org".into(),
        ..MeshConfig::default()
    };
    let seen = world.apply(Change::MeshConfig(config));
    assert_eq!(&*seen.workloads[0].trust_domain, "example.org");
}

#[test]
fn who_runs_where() {
    let mut world = World::new();
    world.pod("a", |_| {});
    let identity = |sa: &str| ambit_model::Identity::new("cluster.local", "shop", sa);
    let runs =
        |world: &World, node: &str, sa: &str| world.engine.runs_on(&node.into(), &identity(sa));
    assert!(runs(&world, "n1", "a"));
    assert!(!runs(&world, "n2", "a") && !runs(&world, "n1", "b"));
    world.pod("a", |p| p["status"]["phase"] = json!("Failed"));
    assert!(!runs(&world, "n1", "a"));
    world.pod("a", |p| p["spec"]["nodeName"] = json!("n2"));
    assert!(runs(&world, "n2", "a") && !runs(&world, "n1", "a"));
    assert!(
        world
            .engine
            .is_trusted_node_account("istio-system", "ztunnel")
    );
    assert!(!world.engine.is_trusted_node_account("shop", "ztunnel"));
}

#[test]
fn statuses_say_how_many_workloads() {
    let mut world = World::new();
    world.pod("a", |_| {});
    world.policy("shop", "p", json!({"rules": [{}]}));
    assert!(world.messages()[0].contains("it covers 1 workload, none of them in the mesh"));
    assert_eq!(world.messages(), Vec::<String>::new());
    world.pod("a", captured);
    assert_eq!(
        world.messages(),
        ["shop/p attached to ztunnel; enforced for 1 workload"]
    );
    world.peer("shop", "strict", json!({"mtls": {"mode": "STRICT"}}));
    assert!(
        world
            .messages()
            .contains(&"shop/strict attached to ztunnel; enforced for 1 workload".to_owned())
    );
    let unreadable = ObjectKey::new("shop", "p");
    let error = "spec: invalid type".to_owned();
    world.apply(Change::Unreadable(
        Kind::AuthorizationPolicy,
        unreadable,
        error,
    ));
    assert!(world.messages()[0].contains("AMB-1301"));
}

#[test]
fn a_status_that_is_there_is_not_written_again() {
    let mut world = World::new();
    world.policy("shop", "p", json!({"rules": [{}]}));
    let [desired] = world.engine.take_statuses().try_into().unwrap();
    let object = json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": {"rules": [{}]}});
    let policy: AuthorizationPolicy = serde_json::from_value(object).unwrap();
    let observed = Observed {
        facts: PolicyFacts::of(&policy),
        status: vec![ours(desired.subject)],
    };
    let key = ObjectKey::new("shop", "p");
    world.apply(Change::Policy(key, Some(observed)));
    assert_eq!(world.messages(), Vec::<String>::new());
}
