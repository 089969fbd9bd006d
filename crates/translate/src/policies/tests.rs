use super::*;
use ambit_model::policy::{Match, Rule, StringMatch};
use serde_json::{Value, json};

fn policy(spec: Value) -> PolicyFacts {
    let object = json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": spec});
    PolicyFacts::of(&serde_json::from_value(object).unwrap())
}

fn translated(spec: Value) -> Translation {
    translate(&Mesh::default(), &policy(spec))
}

fn rules(action: &str, rules: Value) -> Vec<Rule> {
    translated(json!({"action": action, "rules": rules}))
        .authorization
        .unwrap()
        .rules
}

fn codes(translation: &Translation) -> Vec<Code> {
    translation.findings.iter().map(|f| f.code).collect()
}

fn principal(name: &str) -> StringMatch {
    StringMatch::Exact(format!("cluster.local/ns/shop/sa/{name}").into())
}

const CART: &str = "cluster.local/ns/shop/sa/cart";

fn never() -> Match {
    Match::default()
}

#[test]
fn everything_that_connections_have() {
    let translation = translated(json!({
        "selector": {"matchLabels": {"app": "cart"}},
        "action": "ALLOW",
        "rules": [{
            "from": [
                {"source": {
                    "principals": [CART, "*/sa/web", "cluster.local/*", "*"],
                    "notPrincipals": ["cluster.local/ns/bad/*"],
                    "namespaces": ["shop"], "notNamespaces": ["test*"],
                    "ipBlocks": ["10.0.0.0/8"], "notIpBlocks": ["10.0.0.1"]
                }},
                {"source": {"serviceAccounts": ["web", "other/web"], "notServiceAccounts": ["x"]}}
            ],
            "to": [{"operation": {"ports": ["80"], "notPorts": ["81"]}}],
            "when": [
                {"key": "source.ip", "values": ["10.1.0.0/16"]},
                {"key": "source.namespace", "notValues": ["a"]},
                {"key": "source.principal", "values": ["*"]},
                {"key": "source.serviceAccount", "values": ["web"]},
                {"key": "destination.ip", "values": ["10.0.0.9"]},
                {"key": "destination.port", "notValues": ["22"]}
            ]
        }]
    }));
    assert_eq!(translation.findings, vec![]);
    assert_eq!(translation.enforcement, Enforcement::AsWritten);
    insta::assert_debug_snapshot!(translation.authorization.unwrap());
}

#[test]
fn scopes() {
    let mesh = Mesh::default();
    let scope = |namespace: &str, spec: Value| {
        let mut facts = policy(spec);
        facts.key.namespace = namespace.into();
        facts.scope(&mesh)
    };
    let selector = json!({"selector": {"matchLabels": {"app": "a"}}});
    assert_eq!(scope("shop", json!({})), PolicyScope::Namespace);
    assert_eq!(scope("istio-system", json!({})), PolicyScope::Global);
    assert_eq!(
        scope("shop", selector.clone()),
        PolicyScope::WorkloadSelector
    );
    assert_eq!(
        scope("istio-system", selector),
        PolicyScope::WorkloadSelector
    );
}

#[test]
fn emptiness() {
    // No rules: an ALLOW policy lets nobody in, a DENY policy does nothing, and says so.
    let allow = translated(json!({}));
    assert_eq!(allow.authorization.unwrap().rules, Vec::<Rule>::new());
    assert_eq!(allow.findings, vec![]);
    let deny = translated(json!({"action": "DENY"}));
    assert_eq!(codes(&deny), [Code::DenyWithoutRules]);
    // An empty rule matches everything.
    assert_eq!(rules("ALLOW", json!([{}])), vec![Rule::new()]);
    // An entry that says nothing matches nobody.
    for (action, entry) in [
        ("ALLOW", json!({"from": [{}]})),
        ("DENY", json!({"from": [{"source": {}}]})),
        ("DENY", json!({"to": [{"operation": {}}]})),
        ("DENY", json!({"when": [{"key": "source.ip"}]})),
    ] {
        let translation = translated(json!({"action": action, "rules": [entry]}));
        assert_eq!(codes(&translation), [Code::EmptyEntry], "{entry}");
        assert_eq!(
            translation.authorization.unwrap().rules,
            vec![vec![vec![never()]]],
            "{entry}"
        );
    }
}

/// The table of the reference: HTTP attributes under DENY and ALLOW.
#[test]
fn http_attributes() {
    let from = json!([{"source": {"principals": [CART]}}]);
    let is_cart = Match {
        principals: vec![principal("cart")],
        ..Match::default()
    };
    let port_80 = Match {
        destination_ports: vec![80],
        ..Match::default()
    };
    for (rule, deny) in [
        (
            json!({"to": [{"operation": {"paths": ["/a"]}}]}),
            vec![vec![vec![never()]]],
        ),
        (
            json!({"from": from, "to": [{"operation": {"paths": ["/a"]}}]}),
            vec![vec![vec![never()], vec![is_cart.clone()]]],
        ),
        (
            json!({"from": from, "to": [{"operation": {"paths": ["/a"], "ports": ["80"]}}]}),
            vec![vec![vec![port_80.clone()], vec![is_cart.clone()]]],
        ),
        (
            json!({"to": [{"operation": {"paths": ["/a"]}}, {"operation": {"ports": ["80"]}}]}),
            vec![vec![vec![never(), port_80]]],
        ),
        (
            json!({"from": [{"source": {"principals": [CART], "requestPrincipals": ["a/b"]}}]}),
            vec![vec![vec![is_cart.clone()]]],
        ),
        (
            json!({"from": from, "when": [{"key": "request.headers[x]", "values": ["1"]}]}),
            vec![vec![vec![is_cart], vec![never()]]],
        ),
    ] {
        assert_eq!(rules("DENY", json!([rule])), deny, "{rule}");
        assert_eq!(rules("ALLOW", json!([rule])), Vec::<Rule>::new(), "{rule}");
    }
}

#[test]
fn http_findings_name_the_attributes_and_the_consequence() {
    let path = json!({"to": [{"operation": {"paths": ["/a"], "methods": ["GET"]}}]});
    let none_left = translated(json!({"action": "DENY", "rules": [path]}));
    assert_eq!(
        none_left.enforcement,
        Enforcement::WithoutHttp { effective: false }
    );
    assert!(
        none_left.findings[0]
            .message
            .contains("(found: methods, paths)")
    );
    assert!(none_left.findings[0].message.contains("no effect"));
    let some_left = translated(json!({"action": "DENY", "rules": [path, {}]}));
    assert_eq!(
        some_left.enforcement,
        Enforcement::WithoutHttp { effective: true }
    );
    let allow = translated(json!({"rules": [path]}));
    assert!(allow.findings[0].message.contains("more restrictive"));
    assert_eq!(codes(&allow), [Code::HttpAttributes]);
}

#[test]
fn what_is_not_known_never_lets_more_in() {
    let from = json!([{"source": {"principals": [CART]}}]);
    let cart = vec![vec![Match {
        principals: vec![principal("cart")],
        ..Match::default()
    }]];
    for (rule, deny) in [
        // Beside something known, in the same entry.
        (
            json!({"from": [{"source": {"principals": [CART], "moons": ["full"]}}]}),
            cart.clone(),
        ),
        // Alone in its entry: taken as true.
        (json!({"from": [{"source": {"moons": ["full"]}}]}), vec![]),
        (json!({"from": [{"moons": ["full"]}]}), vec![]),
        (
            json!({"from": from, "to": [{"operation": {"colour": ["red"]}}]}),
            cart.clone(),
        ),
        (
            json!({"from": from, "when": [{"key": "source.moon", "values": ["full"]}]}),
            cart.clone(),
        ),
        (json!({"from": from, "unless": [{}]}), cart.clone()),
        // Together with HTTP attributes only: taken as true as well.
        (
            json!({"to": [{"operation": {"paths": ["/a"], "colour": ["red"]}}]}),
            vec![],
        ),
    ] {
        let translation = translated(json!({"action": "DENY", "rules": [rule]}));
        assert!(
            codes(&translation).contains(&Code::UnknownAttribute),
            "{rule}"
        );
        assert_eq!(
            translation.authorization.unwrap().rules,
            vec![deny],
            "{rule}"
        );
        assert_eq!(rules("ALLOW", json!([rule])), Vec::<Rule>::new(), "{rule}");
    }
    let whole = translated(json!({"colour": "red", "rules": [{}]}));
    assert_eq!(whole.authorization.unwrap().rules, Vec::<Rule>::new());
}

#[test]
fn values_that_nobody_can_have() {
    for (source, code) in [
        (
            json!({"principals": ["spiffe://cluster.local/ns/a/sa/b"]}),
            Code::InvalidPrincipal,
        ),
        (json!({"principals": ["a*b"]}), Code::InvalidPrincipal),
        (json!({"namespaces": ["a*b"]}), Code::InvalidValue),
        (
            json!({"serviceAccounts": ["a/b/c"]}),
            Code::InvalidServiceAccount,
        ),
        (json!({"ipBlocks": ["10.0.0"]}), Code::InvalidIpBlock),
        (json!({"trustDomains": ["a/b"]}), Code::InvalidValue),
    ] {
        for action in ["ALLOW", "DENY"] {
            let translation =
                translated(json!({"action": action, "rules": [{"from": [{"source": source}]}]}));
            assert_eq!(codes(&translation), [code], "{source}");
            assert_eq!(translation.enforcement, Enforcement::InPart);
            let rules = translation.authorization.unwrap().rules;
            assert_eq!(rules, vec![vec![vec![never()]]], "{action} {source}");
        }
    }
    // A good value beside a bad one stays.
    let mixed = rules(
        "ALLOW",
        json!([{"from": [{"source": {"principals": [CART, "a*b"]}}]}]),
    );
    assert_eq!(mixed[0][0][0].principals, [principal("cart")]);
    // A bad one does not widen a list beside it.
    let both = json!([{"from": [{"source": {"principals": ["a*b"], "namespaces": ["shop"]}}]}]);
    assert_eq!(rules("ALLOW", both), vec![vec![vec![never()]]]);
}

#[test]
fn exceptions_that_nobody_can_have() {
    let rule = json!([{"from": [{"source": {"principals": [CART], "notPrincipals": ["b"]}}]}]);
    assert_eq!(rules("ALLOW", rule.clone()), Vec::<Rule>::new());
    let denied = rules("DENY", rule);
    assert_eq!(denied[0][0][0].principals, [principal("cart")]);
    // Everybody but nobody is everybody.
    let alone = json!([{"to": [{"operation": {"notPorts": ["http"]}}]}]);
    assert_eq!(rules("DENY", alone.clone()), vec![Rule::new()]);
    assert_eq!(rules("ALLOW", alone), Vec::<Rule>::new());
}

#[test]
fn trust_domains_hold_together_with_the_rest() {
    let td = |name: &str| StringMatch::Prefix(format!("{name}/").into());
    // Alone: the beginning of a principal.
    let alone = rules(
        "ALLOW",
        json!([{"from": [{"source": {"trustDomains": ["td1", "td2"]}}]}]),
    );
    assert_eq!(alone[0][0][0].principals, [td("td1"), td("td2")]);
    // Beside principals: both must hold, which takes a rule per entry of `from`.
    let both = rules(
        "DENY",
        json!([{
            "from": [
                {"source": {"principals": ["*/sa/cart"], "trustDomains": ["td1"]}},
                {"source": {"namespaces": ["shop"]}}
            ],
            "to": [{"operation": {"ports": ["80"]}}]
        }]),
    );
    assert_eq!(both.len(), 2);
    assert_eq!(both[0].len(), 3);
    assert_eq!(both[0][2][0].principals, [td("td1")]);
    assert_eq!(both[1].len(), 2);
    // As an exception.
    let not = rules(
        "DENY",
        json!([{"from": [{"source": {"notTrustDomains": ["td1"]}}]}]),
    );
    assert_eq!(not[0][0][0].not_principals, [td("td1")]);
    // A suffix cannot be said on the wire.
    let suffix =
        json!([{"from": [{"source": {"trustDomains": ["td1", "*2"], "namespaces": ["shop"]}}]}]);
    assert_eq!(rules("ALLOW", suffix.clone()), Vec::<Rule>::new());
    let denied = rules("DENY", suffix);
    assert_eq!(denied[0][0][0].principals, Vec::<StringMatch>::new());
    assert_eq!(denied[0][0][0].namespaces.len(), 1);
}

#[test]
fn what_is_not_sent() {
    for (spec, code, enforcement) in [
        (
            json!({"action": "AUDIT", "rules": [{}]}),
            Code::UnsupportedAction,
            Enforcement::Withheld,
        ),
        (
            json!({"action": "CUSTOM", "rules": [{}]}),
            Code::UnsupportedAction,
            Enforcement::Withheld,
        ),
    ] {
        let translation = translated(spec);
        assert_eq!(translation.authorization, None);
        assert_eq!(
            (codes(&translation), translation.enforcement),
            (vec![code], enforcement)
        );
    }
    // Waypoints enforce it.
    let targeted = translated(json!({"targetRefs": [{"kind": "Service", "name": "cart"}]}));
    assert_eq!(
        (targeted.authorization, targeted.enforcement),
        (None, Enforcement::Waypoint)
    );
}

#[test]
fn dry_run() {
    let object = json!({
        "metadata": {"name": "p", "namespace": "shop", "annotations": {"istio.io/dry-run": "true"}},
        "spec": {"rules": [{}]}
    });
    let facts = PolicyFacts::of(&serde_json::from_value(object).unwrap());
    let off = translate(&Mesh::default(), &facts);
    assert_eq!(
        (off.authorization.is_none(), codes(&off)),
        (true, vec![Code::DryRunOff])
    );
    let on = translate(
        &Mesh {
            dry_run: true,
            ..Mesh::default()
        },
        &facts,
    );
    assert!(on.authorization.unwrap().dry_run);
}

#[test]
fn findings_say_where_and_what_to_do() {
    let translation = translated(json!({
        "rules": [{}, {"from": [{"source": {"principals": ["spiffe://cluster.local/ns/a/sa/b"]}}]}]
    }));
    let text = translation.findings[0].to_string();
    assert!(
        text.starts_with("AMB-1001 spec.rules[1].from[0].source.principals: "),
        "{text}"
    );
    assert!(text.contains("without spiffe://"), "{text}");
}
