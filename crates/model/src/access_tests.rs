use super::*;
use proptest::prelude::*;

fn exact(text: &str) -> Values<StringMatch> {
    Values {
        any: vec![path::string_match(text)],
        none: Vec::new(),
    }
}

fn policy(name: &str, action: Action, rules: Vec<AccessRule>) -> AccessPolicy {
    AccessPolicy {
        namespace: "shop".into(),
        name: name.into(),
        attachments: Vec::new(),
        action,
        rules,
        dry_run: false,
        provider: None,
        requires: Vec::new(),
    }
}

fn to(operation: Operation) -> AccessRule {
    AccessRule {
        to: vec![operation],
        ..AccessRule::default()
    }
}

fn only_get() -> AccessRule {
    to(Operation {
        methods: exact("GET"),
        ..Operation::default()
    })
}

fn identity() -> Identity {
    "spiffe://cluster.local/ns/web/sa/front".parse().unwrap()
}

fn with<T>(http: Option<Head<'_>>, ask: impl FnOnce(&Request<'_>) -> T) -> T {
    ask(&Request {
        identity: Some(&identity()),
        source: "10.0.0.1".parse().unwrap(),
        remote: "192.0.2.1".parse().unwrap(),
        destination: "10.1.0.1:80".parse().unwrap(),
        sni: None,
        http,
    })
}

fn head<'a>(method: &'a str, path: &'a str, token: Option<&'a Token>) -> Option<Head<'a>> {
    Some(Head {
        method,
        authority: "Cart.shop:80",
        path,
        headers: &[("x-a", "1"), ("x-b", "2"), ("x-a", "3")],
        token,
    })
}

fn passes(policies: &[AccessPolicy], http: Option<Head<'_>>) -> bool {
    with(http, |request| {
        decide(policies.iter(), request).verdict == Verdict::Pass
    })
}

#[test]
fn without_policies_everything_passes() {
    assert!(passes(&[], head("GET", "/", None)));
    assert!(!passes(
        &[policy("none", Action::Allow, vec![])],
        head("GET", "/", None)
    ));
    assert!(passes(
        &[policy("none", Action::Deny, vec![])],
        head("GET", "/", None)
    ));
}

#[test]
fn a_deny_is_stronger_than_an_allow() {
    let everything = || vec![AccessRule::default()];
    let allow = policy("allow", Action::Allow, everything());
    let deny = policy("deny", Action::Deny, vec![only_get()]);
    assert!(passes(std::slice::from_ref(&allow), head("GET", "/", None)));
    let both = [allow, deny];
    assert!(!passes(&both, head("GET", "/", None)));
    assert!(passes(&both, head("POST", "/", None)));
}

#[test]
fn of_a_connection_http_is_not_known() {
    assert!(!passes(
        &[policy("a", Action::Allow, vec![only_get()])],
        None
    ));
    assert!(!passes(
        &[policy("d", Action::Deny, vec![only_get()])],
        None
    ));
    let port = to(Operation {
        ports: Values {
            any: vec![81],
            none: vec![],
        },
        ..Operation::default()
    });
    assert!(passes(&[policy("d", Action::Deny, vec![port])], None));
}

#[test]
fn what_is_not_known_closes() {
    let newer = |action| {
        let mut policy = policy("p", action, vec![AccessRule::default()]);
        policy.requires = vec!["telepathy".into()];
        policy
    };
    assert!(!passes(&[newer(Action::Allow)], head("GET", "/", None)));
    assert!(!passes(&[newer(Action::Deny)], head("GET", "/", None)));
    let mut rule = only_get();
    rule.requires = vec!["telepathy".into()];
    let deny = policy("d", Action::Deny, vec![rule]);
    assert!(!passes(&[deny], head("POST", "/", None)));
}

#[test]
fn every_field() {
    let token = Token {
        principal: "iss/sub".into(),
        audiences: vec!["a".into(), "b".into()],
        presenter: "app".into(),
        claims: vec![
            ("groups".into(), Claim::List(vec!["x".into(), "y".into()])),
            (
                "deep".into(),
                Claim::Object(vec![("er".into(), Claim::Text("z".into()))]),
            ),
        ],
    };
    let holds = |rule: AccessRule| {
        passes(
            &[policy("a", Action::Allow, vec![rule])],
            head("GET", "/a/b", Some(&token)),
        )
    };
    let from = |source| AccessRule {
        from: vec![source],
        ..AccessRule::default()
    };
    let none = Source::default;
    let of = |principals| {
        from(Source {
            principals,
            ..none()
        })
    };
    assert!(holds(of(exact("cluster.local/ns/web/sa/front"))));
    assert!(holds(of(exact("*"))) && !holds(of(exact("cluster.local/ns/web/sa/f"))));
    let named = |namespaces| {
        from(Source {
            namespaces,
            ..none()
        })
    };
    assert!(holds(named(exact("w*"))) && !holds(named(exact("shop"))));
    let domain = |trust_domains| {
        from(Source {
            trust_domains,
            ..none()
        })
    };
    assert!(holds(domain(exact("cluster.local"))) && !holds(domain(exact("other"))));
    let spoken = |request_principals| {
        from(Source {
            request_principals,
            ..none()
        })
    };
    assert!(holds(spoken(exact("iss/*"))) && !holds(spoken(exact("x/*"))));
    let ip = |range: &str| Values {
        any: vec![range.parse().unwrap()],
        none: vec![],
    };
    let near = |ips| from(Source { ips, ..none() });
    assert!(holds(near(ip("10.0.0.0/8"))) && !holds(near(ip("192.0.2.1/32"))));
    let far = |remote_ips| {
        from(Source {
            remote_ips,
            ..none()
        })
    };
    assert!(holds(far(ip("192.0.2.0/24"))) && !holds(far(ip("10.0.0.0/8"))));
    assert!(!holds(from(Source {
        never: true,
        ..none()
    })));

    let on = |hosts| {
        to(Operation {
            hosts,
            ..Operation::default()
        })
    };
    assert!(holds(on(exact("cart.SHOP"))) && holds(on(exact("cart.shop:80"))));
    assert!(!holds(on(exact("cart"))));

    let when = |key, value: &str| AccessRule {
        when: vec![Condition {
            key,
            values: Values {
                any: vec![Value::Text(path::string_match(value))],
                none: vec![],
            },
        }],
        ..AccessRule::default()
    };
    assert!(holds(when(Key::Header("x-a".into()), "1,3")));
    assert!(!holds(when(Key::Header("x-c".into()), "*")));
    assert!(holds(when(Key::AuthAudiences, "b")) && !holds(when(Key::AuthAudiences, "c")));
    assert!(holds(when(Key::AuthPresenter, "app")));
    assert!(holds(when(Key::AuthClaim(vec!["groups".into()]), "y")));
    assert!(holds(when(
        Key::AuthClaim(vec!["deep".into(), "er".into()]),
        "z"
    )));
    assert!(!holds(when(Key::AuthClaim(vec!["deep".into()]), "z")));
}

#[test]
fn who_is_asked_and_what_is_noted() {
    let mut dry = policy("dry", Action::Deny, vec![AccessRule::default()]);
    dry.dry_run = true;
    let policies = [
        policy("ask", Action::Custom("judge".into()), vec![only_get()]),
        policy("note", Action::Audit, vec![only_get()]),
        dry,
    ];
    with(head("GET", "/", None), |request| {
        let decision = decide(policies.iter(), request);
        assert_eq!(decision.verdict, Verdict::Pass);
        let asked = asked(policies.iter(), request);
        assert_eq!(&**asked[0].provider, "judge");
        assert_eq!(&*decision.audit[0].name, "note");
        assert!(matches!(decision.dry_run, Some(Verdict::Denied(_))));
    });
    // What cannot be known of a connection asks.
    with(None, |request| {
        assert_eq!(asked(policies.iter(), request).len(), 1)
    });
    with(head("POST", "/", None), |request| {
        let decision = decide(policies.iter(), request);
        assert!(decision.audit.is_empty());
        assert!(asked(policies.iter(), request).is_empty());
    });
}

/// The same question, answered rule by rule as the API's text says it.
fn naive(policies: &[AccessPolicy], method: &str, path: &str, port: u16) -> bool {
    let holds = |rule: &AccessRule| {
        rule.to.is_empty()
            || rule.to.iter().any(|o| {
                let list = |any: bool, empty: bool, none: bool| (empty || any) && !none;
                let methods = |list: &[StringMatch]| list.iter().any(|m| text(m, method));
                let paths = |list: &[PathPattern]| list.iter().any(|p| p.matches(path));
                list(
                    methods(&o.methods.any),
                    o.methods.any.is_empty(),
                    methods(&o.methods.none),
                ) && list(
                    paths(&o.paths.any),
                    o.paths.any.is_empty(),
                    paths(&o.paths.none),
                ) && list(
                    o.ports.any.contains(&port),
                    o.ports.any.is_empty(),
                    o.ports.none.contains(&port),
                )
            })
    };
    let matches = |p: &AccessPolicy| p.rules.iter().any(holds);
    let of = |action: &Action| {
        policies
            .iter()
            .filter(|p| p.action == *action)
            .collect::<Vec<_>>()
    };
    if of(&Action::Deny).into_iter().any(matches) {
        return false;
    }
    let allow = of(&Action::Allow);
    allow.is_empty() || allow.into_iter().any(matches)
}

fn operations() -> impl Strategy<Value = Operation> {
    let methods = prop::collection::vec(prop::sample::select(vec!["GET", "POST", "P*", "*"]), 0..2);
    let paths = prop::collection::vec(
        prop::sample::select(vec!["/a", "/a*", "*b", "/{*}/b"]),
        0..2,
    );
    let ports = prop::collection::vec(80u16..83, 0..2);
    (methods, paths, ports, any::<[bool; 3]>()).prop_map(|(methods, paths, ports, negated)| {
        fn values<T>(list: Vec<T>, negated: bool) -> Values<T> {
            match negated {
                true => Values {
                    any: vec![],
                    none: list,
                },
                false => Values {
                    any: list,
                    none: vec![],
                },
            }
        }
        let methods = methods.into_iter().map(path::string_match).collect();
        let paths = paths
            .into_iter()
            .map(|p| PathPattern::parse(p).unwrap())
            .collect();
        Operation {
            methods: values(methods, negated[0]),
            paths: values(paths, negated[1]),
            ports: values(ports, negated[2]),
            ..Operation::default()
        }
    })
}

proptest! {
    #[test]
    fn decisions_are_those_of_the_naive_model(
        policies in prop::collection::vec((any::<bool>(), prop::collection::vec(prop::collection::vec(operations(), 0..3), 0..3)), 0..4),
        method in prop::sample::select(vec!["GET", "POST", "DELETE"]),
        path in prop::sample::select(vec!["/a", "/ab", "/a/b", "/", "/c"]),
        port in 80u16..83,
    ) {
        let policies: Vec<AccessPolicy> = policies.into_iter().map(|(allow, rules)| {
            let action = if allow { Action::Allow } else { Action::Deny };
            let rules = rules.into_iter().map(|to| AccessRule { to, ..AccessRule::default() }).collect();
            policy("p", action, rules)
        }).collect();
        let request = Request {
            identity: None,
            source: "10.0.0.1".parse().unwrap(),
            remote: "10.0.0.1".parse().unwrap(),
            destination: format!("10.1.0.1:{port}").parse().unwrap(),
            sni: None,
            http: Some(Head { method, authority: "h", path, headers: &[], token: None }),
        };
        let passes = decide(policies.iter(), &request).verdict == Verdict::Pass;
        prop_assert_eq!(passes, naive(&policies, method, path, port));
    }
}
