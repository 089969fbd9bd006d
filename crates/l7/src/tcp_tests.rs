//! Connections that are not HTTP, by the name that a client of TLS asks for.

use std::sync::Arc;

use ambit_model::access::{
    AccessPolicy, AccessRule, Action as Access, Attachment, Condition, Key, Value, Values,
};
use ambit_model::policy::StringMatch;
use ambit_model::route::{
    Action, Backend, Forward, Match, Parent, Route, RouteKind, Rule, Target, TextMatch,
};
use ambit_model::service::NamespacedHostname;
use ambit_model::state::Change;
use ambit_proto::l7 as pb;
use ambit_transport::tls::{self, Hello};
use ambit_wire::xds::{Handler, Received};
use bytes::BytesMut;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::state::{PolicyHandler, RouteHandler};
use crate::testbed::{Testbed, endpoint_of, service_key, service_of};

fn received<T>(name: impl Into<ambit_model::Text>, message: T) -> Vec<Received<T>> {
    vec![Received {
        name: name.into(),
        aliases: Vec::new(),
        message,
    }]
}

fn key(name: &str) -> NamespacedHostname {
    NamespacedHostname::new("shop", name)
}

/// A backend of this name that answers with its name and with how the connection began.
async fn backend(testbed: &mut Testbed, name: &'static str) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut read = BytesMut::new();
            while tls::hello(&read) == Hello::More {
                if stream.read_buf(&mut read).await.unwrap() == 0 {
                    break;
                }
            }
            let answer = [name.as_bytes(), &read].concat();
            stream.write_all(&answer).await.unwrap();
        }
    });
    testbed.know(vec![
        Change::Service(Arc::new(service_of(key(name), port))),
        Change::Workload(Arc::new(endpoint_of(name, key(name)))),
    ]);
}

/// Routes to a backend: all connections, or those of TLS that ask for a name.
fn route(testbed: &Testbed, backend: &str, name: Option<TextMatch>) {
    let target = Target {
        service: key(backend),
        port: 80,
    };
    let forward = Forward {
        backends: vec![Backend {
            target: Some(target),
            weight: 1,
            ..Backend::default()
        }],
        ..Forward::default()
    };
    let route = Route {
        kind: match name {
            Some(_) => RouteKind::Tls,
            None => RouteKind::Tcp,
        },
        namespace: "shop".into(),
        name: backend.into(),
        parents: vec![Parent {
            service: service_key(),
            port: None,
        }],
        rules: vec![Rule {
            matches: vec![Match {
                authority: name,
                ..Match::default()
            }],
            action: Action::Forward(forward),
            ..Rule::default()
        }],
        ..Route::default()
    };
    let message = pb::Route::from(&route);
    RouteHandler(testbed.l7()).handle(received(route.key(), message), vec![]);
}

/// A policy about the name that is asked for.
fn policy(testbed: &Testbed, action: Access, name: StringMatch) {
    let condition = Condition {
        key: Key::Sni,
        values: Values {
            any: vec![Value::Text(name)],
            none: Vec::new(),
        },
    };
    let policy = AccessPolicy {
        namespace: "shop".into(),
        name: "p".into(),
        attachments: vec![Attachment::Service(service_key())],
        action,
        provider: None,
        rules: vec![AccessRule {
            when: vec![condition],
            ..AccessRule::default()
        }],
        dry_run: false,
        requires: Vec::new(),
    };
    let message = pb::Policy::from(&policy);
    PolicyHandler(testbed.l7()).handle(received(policy.key(), message), vec![]);
}

/// What a client of TLS says first.
fn hello(name: &str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = name.to_owned().try_into().unwrap();
    let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

/// Which backend answers a connection that begins so; `None` where it is closed.
async fn answers(testbed: &Testbed, begin: &[u8]) -> Option<String> {
    let mut client = testbed.connect_tcp().await;
    client.write_all(begin).await.unwrap();
    let mut answer = Vec::new();
    // A connection that is refused may be reset.
    let _ = client.read_to_end(&mut answer).await;
    if answer.is_empty() {
        return None;
    }
    // What was read for a name goes on with the rest.
    let name = answer.strip_suffix(begin).expect("all bytes");
    Some(String::from_utf8(name.to_vec()).unwrap())
}

#[tokio::test]
async fn routes_by_name() {
    let mut testbed = Testbed::new().await;
    for name in ["one", "two"] {
        backend(&mut testbed, name).await;
    }
    let exact = TextMatch::Exact("a.example".into());
    route(&testbed, "one", Some(exact));
    route(&testbed, "two", Some(TextMatch::Prefix("x.b.".into())));
    for (begin, wanted) in [
        (hello("a.example"), Some("one")),
        (hello("A.Example"), Some("one")),
        (hello("x.b.example"), Some("two")),
        (hello("c.example"), None),
        (b"no TLS".to_vec(), None),
    ] {
        assert_eq!(answers(&testbed, &begin).await.as_deref(), wanted);
    }
}

#[tokio::test]
async fn policies_by_name() {
    let mut testbed = Testbed::new().await;
    backend(&mut testbed, "one").await;
    route(&testbed, "one", None);
    let (bad, good, plain) = (hello("bad.example"), hello("good.example"), b"no TLS");
    let all = async |testbed: &Testbed| {
        let mut all = Vec::new();
        for begin in [&bad[..], &good, plain] {
            all.push(answers(testbed, begin).await.is_some());
        }
        all
    };
    assert_eq!(all(&testbed).await, [true; 3]);
    policy(
        &testbed,
        Access::Deny,
        StringMatch::Exact("bad.example".into()),
    );
    assert_eq!(all(&testbed).await, [false, true, true]);
    let good = StringMatch::Prefix("good.".into());
    policy(&testbed, Access::Allow, good);
    assert_eq!(all(&testbed).await, [false, true, false]);
}
