use super::*;
use crate::route_status::{ParentState, route_parents};
use ambit_model::route::{Action, PathMatch, Replace, RouteKind};
use serde_json::{Value, json};

fn service(name: &str) -> ServiceFacts {
    let object = json!({
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"clusterIP": "10.96.0.5", "ports": [{"name": "http", "port": 80}]}
    });
    ServiceFacts::of(&serde_json::from_value(object).unwrap()).unwrap()
}

fn facts(kind: &str, spec: Value) -> RouteFacts {
    let object = json!({
        "metadata": {"name": "r", "namespace": "shop", "generation": 2, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": spec
    });
    match kind {
        "HTTPRoute" => RouteFacts::http(&serde_json::from_value(object).unwrap()),
        "TLSRoute" => RouteFacts::tls(&serde_json::from_value(object).unwrap()),
        "TCPRoute" => RouteFacts::tcp(&serde_json::from_value(object).unwrap()),
        _ => RouteFacts::grpc(&serde_json::from_value(object).unwrap()),
    }
}

fn with_services(facts: &RouteFacts) -> Translation {
    let services = ["reviews", "reviews-v1", "reviews-v2"].map(service);
    let services = services.map(|s| (s.key.clone(), s)).into();
    let world = World {
        mesh: &Mesh::default(),
        services: &services,
    };
    translate(world, facts)
}

fn parent() -> Value {
    json!([{"group": "", "kind": "Service", "name": "reviews", "port": 9080}])
}

fn http(rule: Value) -> Translation {
    with_services(&facts(
        "HTTPRoute",
        json!({"parentRefs": parent(), "rules": [rule]}),
    ))
}

#[test]
fn what_people_write() {
    let translation = http(json!({
        "name": "split",
        "matches": [
            {"path": {"type": "PathPrefix", "value": "/reviews/"}, "method": "GET",
             "headers": [{"name": "X-User", "value": "a"}, {"name": "x-user", "value": "b"}]},
            {"path": {"value": "/"}}
        ],
        "filters": [
            {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "X-A", "value": "1"}]}},
            {"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/r"}}},
            {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "reviews", "port": 80}, "percent": 10}}
        ],
        "backendRefs": [
            {"name": "reviews-v1", "port": 80, "weight": 9},
            {"name": "reviews-v2", "port": 80, "weight": 1}
        ],
        "timeouts": {"request": "10s", "backendRequest": "0s"}
    }));
    assert_eq!(translation.unresolved, []);
    insta::assert_debug_snapshot!(translation.route);
}

#[test]
fn what_leads_nowhere_keeps_its_share() {
    let translation = http(json!({"backendRefs": [
        {"name": "gone", "port": 80},
        {"name": "reviews-v1"},
        {"group": "x", "kind": "Y", "name": "z", "port": 1},
        {"name": "reviews-v1", "port": 80}
    ]}));
    let reasons: Vec<_> = translation.unresolved.iter().map(|u| u.reason).collect();
    assert_eq!(
        reasons,
        ["BackendNotFound", "InvalidDestination", "InvalidKind"]
    );
    let Action::Forward(forward) = &translation.route.rules[0].action else {
        panic!("{translation:?}")
    };
    let there: Vec<_> = forward
        .backends
        .iter()
        .map(|b| b.target.is_some())
        .collect();
    assert_eq!(there, [false, false, false, true]);
}

#[test]
fn what_cannot_be_understood_fails_its_rule_alone() {
    let good = json!({"backendRefs": [{"name": "reviews-v1", "port": 80}]});
    for (bad, reason) in [
        (
            json!({"filters": [{"type": "ExtensionRef"}]}),
            "InvalidFilter",
        ),
        (
            json!({"filters": [{"type": "URLRewrite"}]}),
            "InvalidFilter",
        ),
        (
            json!({"matches": [{"path": {"type": "RegularExpression", "value": "("}}]}),
            "InvalidConfiguration",
        ),
        (
            json!({"timeouts": {"request": "soon"}}),
            "InvalidConfiguration",
        ),
        (
            json!({"backendRefs": [{"name": "reviews", "port": 80, "filters": [{"type": "URLRewrite"}]}]}),
            "InvalidFilter",
        ),
    ] {
        let spec = json!({"parentRefs": parent(), "rules": [bad, good.clone()]});
        let translation = with_services(&facts("HTTPRoute", spec));
        assert_eq!(translation.unresolved[0].reason, reason);
        assert!(matches!(translation.route.rules[0].action, Action::Fail(_)));
        assert!(matches!(
            translation.route.rules[1].action,
            Action::Forward(_)
        ));
    }
}

#[test]
fn redirects() {
    let translation = http(
        json!({"filters": [{"type": "RequestRedirect", "requestRedirect": {
            "scheme": "https", "port": 8443, "statusCode": 301,
            "path": {"type": "ReplaceFullPath", "replaceFullPath": "/x"}
        }}]}),
    );
    let Action::Redirect(redirect) = &translation.route.rules[0].action else {
        panic!("{translation:?}")
    };
    assert_eq!((redirect.status, redirect.port), (301, Some(8443)));
    assert_eq!(redirect.path, Some(Replace::Full("/x".into())));
}

#[test]
fn calls_are_paths() {
    let path = |method: Value| {
        let spec = json!({"parentRefs": parent(), "rules": [{"matches": [{"method": method}]}]});
        let translation = with_services(&facts("GRPCRoute", spec));
        assert_eq!(translation.unresolved, []);
        translation.route.rules[0].matches[0].path.clone()
    };
    let matches = |method: Value, p: &str| path(method).is_none_or(|m: PathMatch| m.matches(p));
    let both = json!({"service": "a.B", "method": "C"});
    assert!(matches(both.clone(), "/a.B/C") && !matches(both, "/a.B/D"));
    let service = json!({"service": "a.B"});
    assert!(matches(service.clone(), "/a.B/D") && !matches(service, "/a.BC/D"));
    let method = json!({"method": "C"});
    assert!(matches(method.clone(), "/x/C") && !matches(method, "/x/CD"));
    let regex = json!({"type": "RegularExpression", "service": "a|b"});
    assert!(matches(regex.clone(), "/b/C") && !matches(regex, "/c/C"));
    assert!(matches(json!({}), "/any/thing"));
}

#[test]
fn connections() {
    let spec = json!({"parentRefs": parent(), "rules": [{"backendRefs": [
        {"name": "reviews-v1", "port": 80, "weight": 3},
        {"name": "gone", "port": 80},
    ]}]});
    let facts = facts("TCPRoute", spec);
    let names: Vec<String> = facts.services().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["shop/gone", "shop/reviews", "shop/reviews-v1"]);
    let translation = with_services(&facts);
    assert_eq!(translation.route.kind, RouteKind::Tcp);
    let Action::Forward(forward) = &translation.route.rules[0].action else {
        panic!("{translation:?}")
    };
    let weights: Vec<_> = forward
        .backends
        .iter()
        .map(|backend| (backend.weight, backend.target.is_some()))
        .collect();
    assert_eq!(weights, [(3, true), (1, false)]);
    assert_eq!(translation.unresolved[0].reason, "BackendNotFound");
}

#[test]
fn names_of_tls() {
    let spec = json!({
        "parentRefs": parent(),
        "hostnames": ["A.example.com", "*.example.org"],
        "rules": [{"backendRefs": [{"name": "reviews-v1", "port": 80}]}],
    });
    let translation = with_services(&facts("TLSRoute", spec));
    assert_eq!(translation.route.kind, RouteKind::Tls);
    let names = &translation.route.rules[0].matches;
    let is = |name: &str| {
        let mut names = names.iter().filter_map(|m| m.authority.as_ref());
        names.any(|wanted| wanted.matches(name))
    };
    assert!(is("a.example.com") && is("x.example.org") && is("x.y.example.org"));
    assert!(!is("b.example.com") && !is("example.org") && !is("xexample.org"));
}

#[test]
fn what_a_route_depends_on() {
    let facts = facts(
        "HTTPRoute",
        json!({"parentRefs": parent(), "rules": [{
            "filters": [{"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "m", "port": 1}}}],
            "backendRefs": [{"name": "a", "port": 1}, {"name": "b", "namespace": "other", "port": 1}]
        }]}),
    );
    let names: Vec<String> = facts.services().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["other/b", "shop/a", "shop/m", "shop/reviews"]);
}

#[test]
fn statuses() {
    let of = |spec: Value, state: ParentState| {
        let facts = facts("HTTPRoute", spec);
        let translation = with_services(&facts);
        let parents = route_parents(&facts, &translation, |_| state);
        let conditions = parents.into_iter().flat_map(|p| p.conditions);
        let text = |c: ambit_kube_api::status::Condition| {
            let unset = || "-".to_owned();
            [c.type_, c.status, c.reason, c.message]
                .map(|t| t.unwrap_or_else(unset))
                .join(" ")
        };
        conditions.map(text).collect::<Vec<_>>()
    };
    let good = json!({"parentRefs": parent(), "rules": [{"backendRefs": [{"name": "reviews-v1", "port": 80}]}]});
    let bad =
        json!({"parentRefs": parent(), "rules": [{"backendRefs": [{"name": "gone", "port": 80}]}]});
    let far = json!({"parentRefs": [{"group": "", "kind": "Service", "name": "x", "namespace": "other"}]});
    let gateway = json!({"parentRefs": [{"name": "g"}]});
    insta::assert_debug_snapshot!([
        of(good.clone(), ParentState::Waypoint),
        of(good.clone(), ParentState::NoWaypoint),
        of(good, ParentState::Missing),
        of(bad, ParentState::Waypoint),
        of(far, ParentState::Waypoint),
        of(gateway, ParentState::Waypoint),
    ]);
}
