//! Policies: each rule of reading on its own, and all against a naive evaluator.

use super::*;
use crate::policy::PolicyScope;
use proptest::prelude::*;

fn connection() -> Connection {
    Connection {
        identity: Some(Identity::new("td", "shop", "cart")),
        source: "10.0.0.1".parse().unwrap(),
        destination: "10.0.1.1:8080".parse().unwrap(),
    }
}

fn plaintext() -> Connection {
    Connection {
        identity: None,
        ..connection()
    }
}

fn policy(name: &str, action: Action, rules: Vec<Rule>) -> Authorization {
    Authorization {
        name: name.into(),
        namespace: "ns".into(),
        scope: PolicyScope::Namespace,
        action,
        rules,
        dry_run: false,
    }
}

fn one(action: Action, m: Match) -> Authorization {
    policy("p", action, vec![vec![vec![m]]])
}

fn decide(policies: &[Authorization], c: &Connection) -> Result<(), Rejection> {
    authorize(policies.iter(), c).verdict
}

fn allows(m: Match, c: &Connection) -> bool {
    decide(&[one(Action::Allow, m)], c).is_ok()
}

fn exact(text: &str) -> Vec<StringMatch> {
    vec![StringMatch::Exact(text.into())]
}

#[test]
fn without_policies_everything_is_let_in() {
    assert_eq!(decide(&[], &connection()), Ok(()));
    assert_eq!(decide(&[], &plaintext()), Ok(()));
}

#[test]
fn emptiness_from_the_outside_in() {
    let c = connection();
    let allow = |rules| decide(&[policy("p", Action::Allow, rules)], &c).is_ok();
    assert!(!allow(vec![]), "no rules: never");
    assert!(allow(vec![vec![]]), "no clauses: always");
    assert!(allow(vec![vec![vec![]]]), "no matches: true");
    assert!(
        !allow(vec![vec![vec![Match::default()]]]),
        "only empty matches: false"
    );
    let real = Match {
        destination_ports: vec![8080],
        ..Match::default()
    };
    assert!(
        allow(vec![vec![vec![Match::default(), real]]]),
        "an empty match is skipped"
    );
}

#[test]
fn principals_have_no_scheme() {
    let with = |principals| Match {
        principals,
        ..Match::default()
    };
    assert!(allows(with(exact("td/ns/shop/sa/cart")), &connection()));
    assert!(!allows(
        with(exact("spiffe://td/ns/shop/sa/cart")),
        &connection()
    ));
    assert!(allows(
        with(vec![StringMatch::Prefix("td/ns/shop/".into())]),
        &connection()
    ));
    assert!(allows(
        with(vec![StringMatch::Suffix("/sa/cart".into())]),
        &connection()
    ));
    assert!(!allows(with(exact("TD/ns/shop/sa/cart")), &connection()));
}

#[test]
fn strict_is_a_deny_of_absent_principals() {
    let strict = one(
        Action::Deny,
        Match {
            not_principals: vec![StringMatch::Presence],
            ..Match::default()
        },
    );
    assert_eq!(decide(std::slice::from_ref(&strict), &connection()), Ok(()));
    let refused = decide(&[strict], &plaintext()).unwrap_err();
    assert_eq!(refused.to_string(), "explicitly denied by: ns/p");
}

#[test]
fn without_identity_positive_is_false_and_negative_true() {
    let sa = |s: &str| ServiceAccountMatch {
        namespace: "shop".into(),
        service_account: s.into(),
    };
    let cases = [
        Match {
            namespaces: exact("shop"),
            ..Match::default()
        },
        Match {
            principals: vec![StringMatch::Presence],
            ..Match::default()
        },
        Match {
            service_accounts: vec![sa("cart")],
            ..Match::default()
        },
    ];
    for m in cases {
        assert!(allows(m.clone(), &connection()), "{m:?}");
        assert!(!allows(m.clone(), &plaintext()), "{m:?}");
    }
    let negative = Match {
        not_namespaces: exact("shop"),
        not_service_accounts: vec![sa("cart")],
        ..Match::default()
    };
    assert!(allows(negative.clone(), &plaintext()));
    assert!(!allows(negative, &connection()));
}

#[test]
fn the_trust_domain_does_not_matter_for_service_accounts() {
    let sa = ServiceAccountMatch {
        namespace: "shop".into(),
        service_account: "cart".into(),
    };
    let m = Match {
        service_accounts: vec![sa],
        ..Match::default()
    };
    let other = Connection {
        identity: Some(Identity::new("elsewhere", "shop", "cart")),
        ..connection()
    };
    assert!(allows(m, &other));
}

#[test]
fn addresses_and_ports() {
    let net = |s: &str| vec![s.parse::<IpNet>().unwrap()];
    let c = connection();
    assert!(allows(
        Match {
            source_ips: net("10.0.0.0/24"),
            ..Match::default()
        },
        &c
    ));
    assert!(!allows(
        Match {
            not_source_ips: net("10.0.0.1/32"),
            ..Match::default()
        },
        &c
    ));
    assert!(!allows(
        Match {
            destination_ips: net("10.0.0.0/24"),
            ..Match::default()
        },
        &c
    ));
    assert!(!allows(
        Match {
            destination_ports: vec![15008],
            ..Match::default()
        },
        &c
    ));
    let both = Match {
        source_ips: net("10.0.0.0/24"),
        destination_ports: vec![81],
        ..Match::default()
    };
    assert!(!allows(both, &c), "kinds are all needed");
}

#[test]
fn deny_wins_and_names_itself() {
    let m = Match {
        destination_ports: vec![8080],
        ..Match::default()
    };
    let deny = Authorization {
        name: "d".into(),
        ..one(Action::Deny, m.clone())
    };
    let refused = decide(&[one(Action::Allow, m), deny], &connection());
    assert_eq!(refused, Err(Rejection::Denied("ns/d".into())));
}

#[test]
fn an_allow_that_does_not_match_refuses() {
    let m = Match {
        destination_ports: vec![1],
        ..Match::default()
    };
    let refused = decide(&[one(Action::Allow, m)], &connection()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "allow policies exist, but none allowed"
    );
}

#[test]
fn dry_run_only_tells() {
    let rehearse = |p: Authorization| Authorization { dry_run: true, ..p };
    let hit = Match {
        destination_ports: vec![8080],
        ..Match::default()
    };
    let miss = Match {
        destination_ports: vec![1],
        ..Match::default()
    };
    let run = |p: Authorization| authorize([p].iter(), &connection());

    let d = run(rehearse(one(Action::Deny, hit.clone())));
    assert_eq!(
        (d.verdict, d.dry_run),
        (Ok(()), vec![DryRun::Denied("ns/p".into())])
    );
    let d = run(rehearse(one(Action::Allow, hit)));
    assert_eq!(
        (d.verdict, d.dry_run),
        (Ok(()), vec![DryRun::Allowed("ns/p".into())])
    );
    let d = run(rehearse(one(Action::Allow, miss)));
    assert_eq!((d.verdict, d.dry_run), (Ok(()), vec![DryRun::NotAllowed]));
}

/// The table of the reference, written as plainly as possible.
mod naive {
    use super::*;

    fn string(m: &StringMatch, v: &Option<String>) -> bool {
        match (m, v) {
            (_, None) => false,
            (StringMatch::Exact(t), Some(v)) => v.as_bytes() == t.as_bytes(),
            (StringMatch::Prefix(t), Some(v)) => v.as_bytes().starts_with(t.as_bytes()),
            (StringMatch::Suffix(t), Some(v)) => v.as_bytes().ends_with(t.as_bytes()),
            (StringMatch::Presence, Some(v)) => !v.is_empty(),
        }
    }

    fn matches(m: &Match, c: &Connection) -> bool {
        let ns = Some(
            c.identity
                .as_ref()
                .map(|i| i.namespace.to_string())
                .unwrap_or_default(),
        );
        let who = c.identity.as_ref().map(|i| {
            i.to_string()
                .strip_prefix("spiffe://")
                .map(str::to_owned)
                .unwrap_or_default()
        });
        let mut all = Vec::new();
        let mut list = |positive: Vec<bool>, negative: Vec<bool>| {
            if !positive.is_empty() {
                all.push(positive.contains(&true));
            }
            if !negative.is_empty() {
                all.push(!negative.contains(&true));
            }
        };
        let strings =
            |l: &[StringMatch], v: &Option<String>| l.iter().map(|m| string(m, v)).collect();
        let ips = |l: &[IpNet], ip: IpAddr| l.iter().map(|n| n.contains(&ip)).collect();
        let ports = |l: &[u16]| l.iter().map(|p| *p == c.destination.port()).collect();
        list(strings(&m.namespaces, &ns), strings(&m.not_namespaces, &ns));
        list(
            strings(&m.principals, &who),
            strings(&m.not_principals, &who),
        );
        list(
            ips(&m.source_ips, c.source),
            ips(&m.not_source_ips, c.source),
        );
        let d = c.destination.ip();
        list(ips(&m.destination_ips, d), ips(&m.not_destination_ips, d));
        list(ports(&m.destination_ports), ports(&m.not_destination_ports));
        !all.is_empty() && !all.contains(&false)
    }

    pub fn allowed(policies: &[Authorization], c: &Connection) -> bool {
        let hit = |p: &Authorization| {
            p.rules.iter().any(|r| {
                r.iter()
                    .all(|clause| clause.is_empty() || clause.iter().any(|m| matches(m, c)))
            })
        };
        let of = |a| policies.iter().filter(move |p| p.action == a && !p.dry_run);
        if of(Action::Deny).any(hit) {
            return false;
        }
        of(Action::Allow).count() == 0 || of(Action::Allow).any(hit)
    }
}

fn string_match() -> impl Strategy<Value = StringMatch> {
    let text = prop_oneof![
        Just("a"),
        Just("b"),
        Just("td/ns/a/sa/b"),
        Just("td/"),
        Just("/sa/b"),
        Just(""),
    ];
    (text, 0..4u8).prop_map(|(text, kind)| match kind {
        0 => StringMatch::Exact(text.into()),
        1 => StringMatch::Prefix(text.into()),
        2 => StringMatch::Suffix(text.into()),
        _ => StringMatch::Presence,
    })
}

fn few<T: std::fmt::Debug>(s: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
    proptest::collection::vec(s, 0..2)
}

fn net() -> impl Strategy<Value = IpNet> {
    prop_oneof![
        Just("10.0.0.0/24"),
        Just("10.0.1.1/32"),
        Just("0.0.0.0/0"),
        Just("::/0")
    ]
    .prop_map(|s| s.parse().unwrap())
}

fn a_match() -> impl Strategy<Value = Match> {
    let strings = (
        few(string_match()),
        few(string_match()),
        few(string_match()),
        few(string_match()),
    );
    let nets = (few(net()), few(net()), few(net()), few(net()));
    let ports = (few(80..82u16), few(80..82u16));
    (strings, nets, ports).prop_map(|(s, n, p)| Match {
        namespaces: s.0,
        not_namespaces: s.1,
        principals: s.2,
        not_principals: s.3,
        source_ips: n.0,
        not_source_ips: n.1,
        destination_ips: n.2,
        not_destination_ips: n.3,
        destination_ports: p.0,
        not_destination_ports: p.1,
        ..Match::default()
    })
}

fn a_policy() -> impl Strategy<Value = Authorization> {
    (few(few(few(a_match()))), any::<bool>(), any::<bool>()).prop_map(|(rules, deny, dry_run)| {
        let action = if deny { Action::Deny } else { Action::Allow };
        Authorization {
            dry_run,
            ..policy("p", action, rules)
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn agrees_with_the_naive_reading(
        policies in proptest::collection::vec(a_policy(), 0..4),
        identity in proptest::option::of((prop_oneof![Just("a"), Just("b")], Just("b"))),
        source in prop_oneof![Just("10.0.0.1"), Just("10.0.1.1"), Just("fd00::1")],
        port in 80..82u16,
    ) {
        let c = Connection {
            identity: identity.map(|(ns, sa)| Identity::new("td", ns, sa)),
            source: source.parse().unwrap(),
            destination: SocketAddr::new("10.0.1.1".parse().unwrap(), port),
        };
        prop_assert_eq!(decide(&policies, &c).is_ok(), naive::allowed(&policies, &c));
    }
}
