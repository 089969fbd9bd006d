use super::*;

fn all_of_it() -> Route {
    let target = Target {
        service: NamespacedHostname::new("shop", "cart.shop.svc.cluster.local"),
        port: 8080,
    };
    let changes = HeaderChanges {
        set: vec![("a".into(), "1".into())],
        add: vec![("b".into(), "2".into())],
        remove: vec!["c".into()],
    };
    let field = |value| Field {
        name: "x".into(),
        value,
        negated: true,
    };
    let matches = [
        PathMatch::Exact("/a".into()),
        PathMatch::Segments("/a".into()),
        PathMatch::IgnoringCase(Box::new(PathMatch::Prefix("/a".into()))),
        PathMatch::Regex(Pattern::new("/a.*").unwrap()),
    ]
    .map(|path| Match {
        path: Some(path),
        method: Some(TextMatch::Exact("GET".into())),
        headers: vec![
            field(TextMatch::Present),
            field(TextMatch::Prefix("y".into())),
        ],
        query: vec![field(TextMatch::Regex(Pattern::new("z").unwrap()))],
        port: Some(80),
        ..Match::default()
    });
    let forward = Forward {
        backends: vec![
            Backend {
                target: Some(target.clone()),
                weight: 9,
                request_headers: changes.clone(),
                response_headers: changes.clone(),
            },
            Backend {
                weight: 1,
                ..Backend::default()
            },
        ],
        rewrite: Rewrite {
            host: Some("h".into()),
            path: Some(Replace::Prefix("/n".into())),
        },
        mirrors: vec![Mirror {
            target,
            share: 1,
            of: 3,
        }],
        timeout: Some(Duration::from_millis(1500)),
        try_timeout: Some(Duration::from_secs(1)),
        retry: Some(Retry {
            attempts: 3,
            statuses: vec![503],
            backoff: Duration::from_millis(10),
        }),
        session: Some(Session {
            name: "s".into(),
            header: false,
            lifetime: Some(Duration::from_secs(60)),
        }),
    };
    let redirect = Redirect {
        scheme: Some("https".into()),
        host: Some("h".into()),
        port: Some(8443),
        path: Some(Replace::Full("/f".into())),
        status: 301,
    };
    let cors = Cors {
        origins: vec![
            Origin::Any,
            Origin::Exact("https://a".into()),
            Origin::Wildcard("https://".into(), ".a".into()),
        ],
        methods: vec!["GET".into()],
        headers: vec!["x".into()],
        expose: vec!["y".into()],
        credentials: true,
        max_age: Duration::from_secs(5),
    };
    let rule = |action, cors| Rule {
        name: "r".into(),
        matches: matches.to_vec(),
        action,
        request_headers: changes.clone(),
        response_headers: HeaderChanges::default(),
        cors,
    };
    Route {
        kind: RouteKind::Grpc,
        namespace: "shop".into(),
        name: "r".into(),
        created: 7,
        parents: vec![Parent {
            service: NamespacedHostname::new("shop", "h"),
            port: Some(80),
        }],
        rules: vec![
            rule(Action::Forward(forward), Some(cors)),
            rule(Action::Redirect(redirect), None),
            rule(Action::Fail("no".into()), None),
        ],
    }
}

#[test]
fn what_is_sent_is_what_is_read() {
    let route = all_of_it();
    let read = Route::try_from(pb::Route::from(&route)).unwrap();
    assert_eq!(format!("{read:?}"), format!("{route:?}"));
}

#[test]
fn a_rule_that_cannot_be_read_fails_alone() {
    let mut message = pb::Route::from(&all_of_it());
    let bad = pb::path_match::Kind::Regex("(".into());
    message.rules[0].matches[3].path.as_mut().unwrap().kind = Some(bad);
    message.rules[1].action = None;
    let read = Route::try_from(message).unwrap();
    assert!(matches!(&read.rules[0].action, Action::Fail(reason) if reason.contains('(')));
    assert_eq!(read.rules[0].matches.len(), 3);
    assert!(matches!(&read.rules[1].action, Action::Fail(_)));
    assert_eq!(read.rules.len(), 3);
}
