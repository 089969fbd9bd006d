use super::*;
use crate::route::{Parent, PathMatch, Pattern, RouteKind};

fn host() -> NamespacedHostname {
    NamespacedHostname::new("shop", "cart.shop.svc.cluster.local")
}

fn route(name: &str, created: i64, port: Option<u16>, paths: &[&str]) -> Arc<Route> {
    let rule = |path: &&str| Rule {
        name: format!("{name}{path}").into(),
        matches: vec![Match {
            path: Some(PathMatch::Segments(path.trim_end_matches('/').into())),
            ..Match::default()
        }],
        ..Rule::default()
    };
    Arc::new(Route {
        namespace: "shop".into(),
        name: name.into(),
        created,
        parents: vec![Parent {
            service: host(),
            port,
        }],
        rules: paths.iter().map(rule).collect(),
        ..Route::default()
    })
}

fn met(routes: &Routes, port: u16, path: &str) -> Option<String> {
    let head = Head {
        method: "GET",
        scheme: "http",
        authority: "cart",
        path,
        query: None,
        port,
        headers: &[],
    };
    let rules = routes.rules(&host(), port)?;
    Some(
        rules
            .find(&head)
            .map_or("404".into(), |met| met.rule.name.to_string()),
    )
}

#[test]
fn routes_of_a_service_are_one_table() {
    let mut routes = Routes::default();
    assert_eq!(met(&routes, 80, "/"), None);
    routes.change(vec![route("old", 1, None, &["/a"])], []);
    routes.change(vec![route("new", 2, None, &["/a", "/a/b"])], []);
    assert_eq!(met(&routes, 80, "/a/b/c").unwrap(), "new/a/b");
    assert_eq!(met(&routes, 80, "/a").unwrap(), "old/a");
    assert_eq!(met(&routes, 80, "/x").unwrap(), "404");
    routes.change(vec![], ["HTTPRoute/shop/old".into()]);
    assert_eq!(met(&routes, 80, "/a").unwrap(), "new/a");
    routes.change(vec![], ["HTTPRoute/shop/new".into()]);
    assert_eq!(met(&routes, 80, "/a"), None);
}

#[test]
fn a_route_of_a_port_is_for_that_port() {
    let mut routes = Routes::default();
    routes.change(vec![route("all", 1, None, &["/"])], []);
    routes.change(vec![route("one", 2, Some(81), &["/a"])], []);
    assert_eq!(met(&routes, 80, "/a").unwrap(), "all/");
    assert_eq!(met(&routes, 81, "/a").unwrap(), "one/a");
    assert_eq!(met(&routes, 81, "/b").unwrap(), "all/");
    // The same route again, for another port.
    routes.change(vec![route("one", 2, Some(82), &["/a"])], []);
    assert_eq!(met(&routes, 81, "/a").unwrap(), "all/");
    assert_eq!(met(&routes, 82, "/a").unwrap(), "one/a");
}

#[test]
fn connections_follow_the_oldest_route() {
    let mut routes = Routes::default();
    let tcp = |name, created| {
        let mut route = Arc::unwrap_or_clone(route(name, created, None, &["/"]));
        route.kind = RouteKind::Tcp;
        Arc::new(route)
    };
    routes.change(vec![tcp("new", 2)], []);
    routes.change(vec![tcp("old", 1)], []);
    let rules = routes.rules(&host(), 80).unwrap();
    assert!(rules.is_empty(), "requests pass as they are");
    let Connected::Rule(rule) = rules.connected(None) else {
        panic!("there is a route")
    };
    assert_eq!(&*rule.name, "old/");
}

#[test]
fn many_changes_at_once_are_as_one_after_the_other() {
    let mut routes = Routes::default();
    let first = vec![
        route("a", 1, None, &["/a"]),
        route("b", 2, Some(81), &["/b"]),
    ];
    routes.change(first, []);
    let second = vec![route("a", 1, None, &["/c"]), route("d", 3, None, &["/d"])];
    routes.change(second, ["HTTPRoute/shop/b".into()]);
    assert_eq!(met(&routes, 80, "/a").unwrap(), "404");
    assert_eq!(met(&routes, 80, "/c").unwrap(), "a/c");
    assert_eq!(met(&routes, 81, "/d").unwrap(), "d/d");
    assert_eq!(met(&routes, 81, "/b").unwrap(), "404");
}

#[test]
fn connections_of_tls_follow_the_most_exact_name() {
    let tls = |name: &str, created, wanted: TextMatch| {
        let mut route = Arc::unwrap_or_clone(route(name, created, None, &["/"]));
        route.kind = RouteKind::Tls;
        route.rules[0].matches = vec![Match {
            authority: Some(wanted),
            ..Match::default()
        }];
        Arc::new(route)
    };
    let ends = |pattern: &str| TextMatch::Regex(Pattern::new(pattern).unwrap());
    let mut routes = Routes::default();
    let all = vec![
        tls("short", 1, ends(r".+\.b")),
        tls("long", 2, ends(r".+\.a\.b")),
        tls("exact", 3, TextMatch::Exact("x.a.b".into())),
    ];
    routes.change(all, []);
    let to = |routes: &Routes, name: Option<&str>| {
        let rules = routes.rules(&host(), 80).unwrap();
        match rules.connected(name) {
            Connected::Rule(rule) => rule.name.to_string(),
            Connected::NoRule => "none".into(),
            Connected::AsItIs => "as it is".into(),
        }
    };
    assert_eq!(to(&routes, Some("x.a.b")), "exact/");
    assert_eq!(to(&routes, Some("y.a.b")), "long/");
    assert_eq!(to(&routes, Some("y.b")), "short/");
    assert_eq!(to(&routes, Some("c")), "none");
    assert_eq!(to(&routes, None), "none");
    // A route of TCP takes what no name does.
    let mut tcp = Arc::unwrap_or_clone(route("tcp", 9, None, &["/"]));
    tcp.kind = RouteKind::Tcp;
    routes.change(vec![Arc::new(tcp)], []);
    assert_eq!(to(&routes, Some("c")), "tcp/");
    assert_eq!(to(&routes, Some("y.b")), "short/");
}
