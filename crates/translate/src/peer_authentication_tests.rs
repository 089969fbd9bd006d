use super::*;
use serde_json::json;

fn peer(namespace: &str, name: &str, spec: serde_json::Value) -> PeerFacts {
    let object = json!({
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": "2030-01-01T00:00:00Z"},
        "spec": spec
    });
    PeerFacts::of(&serde_json::from_value(object).unwrap())
}

fn mode(mode: &str) -> serde_json::Value {
    json!({"mtls": {"mode": mode}})
}

/// A workload-level object with one mode for `mtls` and modes for ports 1, 2, …
fn ports(own: &str, modes: &[&str]) -> serde_json::Value {
    let ports: serde_json::Map<String, serde_json::Value> = modes
        .iter()
        .enumerate()
        .map(|(i, m)| ((i + 1).to_string(), json!({"mode": m})))
        .collect();
    json!({
        "selector": {"matchLabels": {"app": "cart"}},
        "mtls": {"mode": own},
        "portLevelMtls": ports
    })
}

fn cart() -> Labels {
    [("app".into(), "cart".into())].into()
}

#[derive(Debug, PartialEq)]
enum Attached {
    Nothing,
    Static,
    Converted,
}

/// What the cart is attached to, with the modes of mesh and namespace and its own object. Also
/// checks that the policy it is attached to is there.
fn attached(
    mesh_mode: Option<&str>,
    namespace_mode: Option<&str>,
    own: serde_json::Value,
) -> Attached {
    let mesh = Mesh::default();
    let root: Vec<_> = mesh_mode
        .map(|m| peer("istio-system", "mesh", mode(m)))
        .into_iter()
        .collect();
    let mut local: Vec<_> = namespace_mode
        .map(|m| peer("shop", "ns", mode(m)))
        .into_iter()
        .collect();
    local.push(peer("shop", "own", own));
    let candidates = Candidates::new(&mesh, &root, &local);
    match candidates.policies_of(&mesh, &cart()).as_deref() {
        None => Attached::Nothing,
        Some("istio-system/istio_converted_static_strict") => Attached::Static,
        Some("shop/converted_peer_authentication_own") => {
            let policy = candidates.converted(&local[local.len() - 1]);
            assert!(
                policy.is_some(),
                "attached to a policy that is not published"
            );
            Attached::Converted
        }
        Some(other) => panic!("attached to {other}"),
    }
}

#[test]
fn the_matrix() {
    use Attached::{Converted, Nothing, Static};
    let (strict, permissive) = (Some("STRICT"), Some("PERMISSIVE"));
    for (mesh, namespace, own, expected) in [
        // The workload says STRICT.
        (None, None, ports("STRICT", &["PERMISSIVE"]), Converted),
        (None, None, ports("STRICT", &["DISABLE"]), Converted),
        (None, None, ports("STRICT", &["STRICT"]), Static),
        (None, None, ports("STRICT", &[]), Static),
        (None, None, ports("STRICT", &["UNSET"]), Static),
        // The workload says PERMISSIVE or DISABLE.
        (strict, None, ports("PERMISSIVE", &["STRICT"]), Converted),
        (strict, None, ports("DISABLE", &["STRICT"]), Converted),
        (strict, None, ports("PERMISSIVE", &["PERMISSIVE"]), Nothing),
        (strict, strict, ports("DISABLE", &[]), Nothing),
        // The workload inherits STRICT.
        (strict, None, ports("UNSET", &["PERMISSIVE"]), Converted),
        (
            None,
            strict,
            ports("UNSET", &["PERMISSIVE", "STRICT"]),
            Converted,
        ),
        (strict, None, ports("UNSET", &["DISABLE"]), Static),
        (strict, None, ports("UNSET", &["STRICT"]), Static),
        (strict, None, ports("UNSET", &[]), Static),
        // It inherits STRICT of the mesh through a namespace that states nothing.
        (
            strict,
            Some("UNSET"),
            ports("UNSET", &["PERMISSIVE"]),
            Converted,
        ),
        (strict, Some("UNSET"), ports("UNSET", &[]), Static),
        // The workload inherits something else.
        (None, None, ports("UNSET", &["STRICT"]), Converted),
        (strict, permissive, ports("UNSET", &["STRICT"]), Converted),
        (strict, permissive, ports("UNSET", &["PERMISSIVE"]), Nothing),
        (strict, Some("DISABLE"), ports("UNSET", &[]), Nothing),
        (None, None, ports("UNSET", &[]), Nothing),
    ] {
        assert_eq!(
            attached(mesh, namespace, own.clone()),
            expected,
            "{mesh:?} {namespace:?} {own}"
        );
    }
}

#[test]
fn wider_levels() {
    let mesh = Mesh::default();
    let keys = |root: &[PeerFacts], own: &[PeerFacts]| {
        Candidates::new(&mesh, root, own)
            .policies_of(&mesh, &cart())
            .map(|k| k.to_string())
    };
    let strict = "istio-system/istio_converted_static_strict".to_owned();
    let root = [peer("istio-system", "default", mode("STRICT"))];
    assert_eq!(keys(&root, &[]), Some(strict.clone()));
    assert_eq!(
        keys(&[], &[peer("shop", "default", mode("STRICT"))]),
        Some(strict)
    );
    assert_eq!(
        keys(&root, &[peer("shop", "default", mode("PERMISSIVE"))]),
        None
    );
    assert_eq!(keys(&[], &[]), None);

    // A selector in the root namespace selects nothing; an empty one reaches its namespace only.
    let selecting =
        json!({"selector": {"matchLabels": {"app": "cart"}}, "mtls": {"mode": "STRICT"}});
    assert_eq!(keys(&[peer("istio-system", "s", selecting)], &[]), None);
    let empty = json!({"selector": {}, "mtls": {"mode": "STRICT"}});
    assert_eq!(keys(&[peer("istio-system", "s", empty)], &[]), None);
}

#[test]
fn the_oldest_wins() {
    let mesh = Mesh::default();
    let mut young = peer("shop", "a", mode("STRICT"));
    young.created = "2031-01-01T00:00:00Z".parse().ok();
    let old = peer("shop", "b", mode("PERMISSIVE"));
    let both = [young.clone(), old.clone()];
    let candidates = Candidates::new(&mesh, &[], &both);
    assert_eq!(candidates.policies_of(&mesh, &cart()), None);
    let found = findings(&mesh, &young, candidates.winner(&mesh, &young));
    assert_eq!(
        found.iter().map(|f| f.code).collect::<Vec<_>>(),
        [Code::OlderWins]
    );
    assert!(findings(&mesh, &old, candidates.winner(&mesh, &old)).is_empty());
}

#[test]
fn converted_policies() {
    let mesh = Mesh::default();
    let exempt = peer(
        "shop",
        "own",
        ports("STRICT", &["PERMISSIVE", "STRICT", "DISABLE"]),
    );
    let only = peer(
        "shop",
        "own",
        ports("PERMISSIVE", &["STRICT", "PERMISSIVE", "STRICT"]),
    );
    let convert = |facts: &PeerFacts| {
        Candidates::new(&mesh, &[], [facts])
            .converted(facts)
            .unwrap()
            .rules
    };
    insta::assert_debug_snapshot!((convert(&exempt), convert(&only)));
    insta::assert_debug_snapshot!(static_strict(&mesh));
}

#[test]
fn what_is_said() {
    let mesh = Mesh::default();
    let codes = |facts: &PeerFacts| {
        findings(&mesh, facts, None)
            .iter()
            .map(|f| f.code)
            .collect::<Vec<_>>()
    };
    assert_eq!(codes(&peer("shop", "p", mode("STRICT"))), []);
    assert_eq!(
        codes(&peer("shop", "p", mode("DISABLE"))),
        [Code::DisableIsPermissive]
    );
    assert_eq!(
        codes(&peer("istio-system", "p", ports("STRICT", &[]))),
        [Code::SelectorInRootNamespace]
    );
    let bad = json!({"portLevelMtls": {"99999": {"mode": "STRICT"}, "80": {"mode": "STRICT"}}});
    assert_eq!(
        codes(&peer("shop", "p", bad)),
        [Code::InvalidPort, Code::PortsWithoutSelector]
    );
}
