use std::time::Duration;

use ambit_model::access::{CheckProtocol, HttpCheck, Provider, ShownBody};

use super::*;
use ambit_model::service::NamespacedHostname;

fn values<T>(any: T, none: T) -> Values<T> {
    Values {
        any: vec![any],
        none: vec![none],
    }
}

fn all_of_it() -> AccessPolicy {
    let strings = || values(StringMatch::Prefix("a".into()), StringMatch::Presence);
    let nets = || values(range("10.0.0.0/8").unwrap(), range("fd00::1").unwrap());
    let account = |name: &str| ServiceAccountMatch {
        namespace: "ns".into(),
        service_account: name.into(),
    };
    let source = Source {
        principals: strings(),
        request_principals: strings(),
        namespaces: strings(),
        service_accounts: values(account("a"), account("b")),
        trust_domains: strings(),
        ips: nets(),
        remote_ips: nets(),
        never: true,
    };
    let path = |text: &str| PathPattern::parse(text).unwrap();
    let operation = Operation {
        hosts: strings(),
        ports: values(80, 81),
        methods: strings(),
        paths: values(path("/a/{*}"), path("*x")),
        never: true,
    };
    let key = Key::parse("request.auth.claims[a][b]").unwrap();
    let value = |text: &str| Value::parse(&key, text, "ns").unwrap();
    let condition = Condition {
        values: values(value("x*"), value("y")),
        key: key.clone(),
    };
    AccessPolicy {
        namespace: "ns".into(),
        name: "p".into(),
        attachments: vec![
            Attachment::Service(NamespacedHostname::new("ns", "h")),
            Attachment::Gateway("ns".into(), "waypoint".into()),
            Attachment::Class("istio-waypoint".into()),
        ],
        action: Action::Custom("judge".into()),
        rules: vec![AccessRule {
            from: vec![source],
            to: vec![operation],
            when: vec![condition],
            requires: vec!["jwt".into()],
        }],
        dry_run: true,
        provider: Some(judge()),
        requires: vec!["custom".into()],
    }
}

fn judge() -> Provider {
    let list = || {
        vec![
            StringMatch::Exact("a".into()),
            StringMatch::Prefix("b".into()),
        ]
    };
    Provider {
        service: NamespacedHostname::new("ns", "judge"),
        port: 9000,
        timeout: Duration::from_millis(1500),
        fail_open: true,
        status_on_error: 503,
        body: Some(ShownBody {
            max_bytes: 7,
            partial: true,
            raw: true,
        }),
        protocol: CheckProtocol::Http(Box::new(HttpCheck {
            path_prefix: "/check".into(),
            request_headers: list(),
            additional_headers: vec![("n".into(), "v".into())],
            to_backend: list(),
            to_client_on_allow: list(),
            to_client_on_deny: list(),
        })),
    }
}

#[test]
fn a_provider_that_cannot_be_read_is_none() {
    let mut message = pb::Policy::from(&all_of_it());
    message.asks.as_mut().unwrap().protocol = None;
    assert_eq!(AccessPolicy::try_from(message).unwrap().provider, None);
}

#[test]
fn what_is_sent_is_what_is_read() {
    let policy = all_of_it();
    let read = AccessPolicy::try_from(pb::Policy::from(&policy)).unwrap();
    assert_eq!(read, policy);
}

#[test]
fn a_rule_that_cannot_be_read_closes() {
    let close: [fn(&mut pb::AccessRule); 3] = [
        |rule| rule.from[0].principals[0].kind = None,
        |rule| rule.to[0].paths[0] = "/{a}".into(),
        |rule| rule.when[0].key = "request.mood".into(),
    ];
    for close in close {
        let mut message = pb::Policy::from(&all_of_it());
        close(&mut message.rules[0]);
        let read = AccessPolicy::try_from(message).unwrap();
        assert_eq!(read.rules[0].requires, [UNREADABLE.into()]);
    }
}
