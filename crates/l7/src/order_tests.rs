//! The order of the phases: a test for each two that follow each other. Each is a request that would
//! end otherwise if the two changed places.

use std::sync::Arc;

use ambit_model::access::{
    AccessPolicy, AccessRule, Action as Access, Attachment, CheckProtocol, Condition, HttpCheck,
    Key, Value, Values,
};
use ambit_model::policy::StringMatch;
use ambit_model::route::{
    Action, Backend, Cors, Forward, HeaderChanges, Match, Mirror, Origin, Parent, PathMatch,
    Redirect, Route, Rule, Target,
};
use ambit_model::service::NamespacedHostname;
use ambit_model::state::Change;
use ambit_model::token::{Authentication, TokenRule, usual_places};
use ambit_proto::l7 as pb;
use ambit_wire::xds::{Handler, Received};
use serde_json::json;

use crate::external_tests::{asking, get, provider};
use crate::state::{AuthenticationHandler, PolicyHandler, RouteHandler};
use crate::testbed::{Testbed, service_key, service_of};
use crate::tokens::tests::Issuer;

fn received<M>(name: ambit_model::Text, message: M) -> Vec<Received<M>> {
    vec![Received {
        name,
        aliases: Vec::new(),
        message,
    }]
}

/// One rule for what begins with a path.
fn route(testbed: &Testbed, path: &str, rule: Rule) {
    let route = Route {
        namespace: "shop".into(),
        name: "r".into(),
        parents: vec![Parent {
            service: service_key(),
            port: None,
        }],
        rules: vec![Rule {
            matches: vec![Match {
                path: Some(PathMatch::Segments(path.into())),
                ..Match::default()
            }],
            ..rule
        }],
        ..Route::default()
    };
    let message = pb::Route::from(&route);
    RouteHandler(testbed.l7()).handle(received(route.key(), message), vec![]);
}

fn backend(service: NamespacedHostname) -> Action {
    Action::Forward(Forward {
        backends: vec![Backend {
            target: Some(Target { service, port: 80 }),
            weight: 1,
            ..Backend::default()
        }],
        ..Forward::default()
    })
}

fn policy(testbed: &Testbed, action: Access, rule: AccessRule) {
    let policy = AccessPolicy {
        namespace: "shop".into(),
        name: "p".into(),
        attachments: vec![Attachment::Service(service_key())],
        action,
        provider: None,
        rules: vec![rule],
        dry_run: false,
        requires: Vec::new(),
    };
    let message = pb::Policy::from(&policy);
    PolicyHandler(testbed.l7()).handle(received(policy.key(), message), vec![]);
}

/// Tokens of an issuer are believed.
fn believe(testbed: &Testbed, issuer: &Issuer) {
    let authentication = Authentication {
        namespace: "shop".into(),
        name: "a".into(),
        attachments: vec![Attachment::Service(service_key())],
        rules: vec![TokenRule {
            issuer: "me".into(),
            keys: json!({"keys": [issuer.jwk()]}).to_string().into(),
            places: usual_places(),
            ..TokenRule::default()
        }],
    };
    let message = pb::Authentication::from(&authentication);
    let handler = AuthenticationHandler(testbed.l7());
    handler.handle(received(authentication.key(), message), vec![]);
}

fn token(issuer: &Issuer) -> String {
    let later = jsonwebtoken::get_current_timestamp() + 1000;
    issuer.sign(json!({"iss": "me", "sub": "you", "exp": later}))
}

fn of_you() -> AccessRule {
    AccessRule {
        when: vec![Condition {
            key: Key::AuthPrincipal,
            values: Values {
                any: vec![Value::Text(StringMatch::Exact("me/you".into()))],
                none: Vec::new(),
            },
        }],
        ..AccessRule::default()
    }
}

fn status(answer: &str) -> u16 {
    let status = answer.split(' ').nth(1).unwrap_or_default();
    status.parse().unwrap_or_default()
}

fn asked_over_http() -> CheckProtocol {
    CheckProtocol::Http(Box::new(HttpCheck {
        request_headers: vec![StringMatch::Prefix("x-".into())],
        to_backend: vec![
            StringMatch::Exact("authorization".into()),
            StringMatch::Exact("x-saw".into()),
        ],
        ..HttpCheck::default()
    }))
}

#[tokio::test]
async fn normalize_before_authorize_external() {
    let testbed = asking(Some(provider(asked_over_http()))).await;
    let request = "GET /a/../b/c HTTP/1.1\r\nhost: echo\r\nx-ext-authz: allow\r\n\r\n";
    let (_, got) = testbed.exchange(request.as_bytes()).await;
    assert_eq!(got[0].values("x-saw"), ["GET /b/c"]);
}

#[tokio::test]
async fn authorize_external_before_authenticate() {
    let testbed = asking(Some(provider(asked_over_http()))).await;
    let issuer = Issuer::new("k");
    believe(&testbed, &issuer);
    // The provider gives the token that is then believed.
    let header = format!("x-ext-authz: allow\r\nx-token: Bearer {}", token(&issuer));
    let (answer, _) = get(&testbed, &header).await;
    assert_eq!(status(&answer), 200, "{answer}");
    let bad = "x-ext-authz: allow\r\nx-token: Bearer bad.bad.bad";
    let (answer, got) = get(&testbed, bad).await;
    assert!(status(&answer) == 401 && got.is_empty(), "{answer}");
    assert!(answer.contains("invalid_token"), "{answer}");
}

#[tokio::test]
async fn authenticate_before_authorize() {
    let testbed = Testbed::new().await;
    let issuer = Issuer::new("k");
    believe(&testbed, &issuer);
    policy(&testbed, Access::Allow, of_you());
    let header = format!("authorization: Bearer {}", token(&issuer));
    assert_eq!(status(&get(&testbed, &header).await.0), 200);
    assert_eq!(status(&get(&testbed, "x: y").await.0), 403);
}

#[tokio::test]
async fn authorize_before_route() {
    let testbed = Testbed::new().await;
    route(&testbed, "/other", Rule::default());
    policy(&testbed, Access::Deny, AccessRule::default());
    // There is no rule for the path, which nobody who may not ask is told.
    assert_eq!(status(&get(&testbed, "x: y").await.0), 403);
}

const PREFLIGHT: &str = "OPTIONS /a HTTP/1.1\r\nhost: echo\r\norigin: https://page\r\n\
                         access-control-request-method: GET\r\n\r\n";

fn cors() -> Option<Cors> {
    Some(Cors {
        origins: vec![Origin::Exact("https://page".into())],
        methods: vec!["GET".into()],
        ..Cors::default()
    })
}

#[tokio::test]
async fn route_before_cors() {
    let testbed = Testbed::new().await;
    let rule = || Rule {
        cors: cors(),
        ..Rule::default()
    };
    route(&testbed, "/other", rule());
    let (answer, _) = testbed.exchange(PREFLIGHT.as_bytes()).await;
    assert_eq!(status(&String::from_utf8(answer).unwrap()), 404);
    route(&testbed, "/a", rule());
    let (answer, _) = testbed.exchange(PREFLIGHT.as_bytes()).await;
    assert_eq!(status(&String::from_utf8(answer).unwrap()), 200);
}

#[tokio::test]
async fn cors_before_request_headers() {
    let testbed = Testbed::new().await;
    let rule = Rule {
        cors: cors(),
        action: Action::Redirect(Redirect {
            host: Some("elsewhere".into()),
            status: 302,
            ..Redirect::default()
        }),
        ..Rule::default()
    };
    route(&testbed, "/a", rule);
    // A preflight that is sent elsewhere has failed (the Fetch standard).
    let (answer, _) = testbed.exchange(PREFLIGHT.as_bytes()).await;
    assert_eq!(status(&String::from_utf8(answer).unwrap()), 200);
    assert_eq!(status(&get(&testbed, "x: y").await.0), 302);
}

/// A rule that copies requests to the service itself and sends them to `service`.
fn mirroring(service: NamespacedHostname) -> Rule {
    let Action::Forward(mut forward) = backend(service) else {
        unreachable!("it forwards")
    };
    forward.mirrors = vec![Mirror {
        target: Target {
            service: service_key(),
            port: 80,
        },
        share: 1,
        of: 1,
    }];
    Rule {
        action: Action::Forward(forward),
        request_headers: HeaderChanges {
            set: vec![("x-rule".into(), "yes".into())],
            ..HeaderChanges::default()
        },
        ..Rule::default()
    }
}

/// The copy comes when it comes.
async fn copies(testbed: &Testbed, count: usize) -> Vec<crate::testbed::Got> {
    let mut got = Vec::new();
    let coming = async {
        while got.len() < count {
            got.append(&mut testbed.take());
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    let came = tokio::time::timeout(std::time::Duration::from_secs(20), coming).await;
    assert!(came.is_ok(), "no copy came");
    got
}

#[tokio::test]
async fn request_headers_before_mirror() {
    let testbed = Testbed::new().await;
    route(&testbed, "/a", mirroring(service_key()));
    let (answer, mut got) = get(&testbed, "x: y").await;
    assert_eq!(status(&answer), 200);
    let left = 2 - got.len();
    got.append(&mut copies(&testbed, left).await);
    assert!(
        got.iter().all(|got| got.values("x-rule") == ["yes"]),
        "{got:?}"
    );
}

#[tokio::test]
async fn mirror_before_forward() {
    let mut testbed = Testbed::new().await;
    let nobody = NamespacedHostname::new("shop", "nobody");
    let service = service_of(nobody.clone(), 80);
    testbed.know(vec![Change::Service(Arc::new(service))]);
    route(&testbed, "/a", mirroring(nobody));
    // Forwarding fails, and the copy is on its way.
    let (answer, got) = get(&testbed, "x: y").await;
    assert_eq!(status(&answer), 503, "{answer}");
    let left = 1usize.saturating_sub(got.len());
    copies(&testbed, left).await;
}

#[tokio::test]
async fn forward_before_response_headers() {
    let testbed = Testbed::new().await;
    let rule = Rule {
        action: backend(service_key()),
        response_headers: HeaderChanges {
            set: vec![("x-from".into(), "rule".into())],
            ..HeaderChanges::default()
        },
        ..Rule::default()
    };
    route(&testbed, "/a", rule);
    let (answer, got) = get(&testbed, "x: y").await;
    assert!(answer.contains("x-from: rule"), "{answer}");
    assert!(got[0].values("x-from").is_empty());
}

#[tokio::test]
async fn response_headers_before_record() {
    let testbed = Testbed::new().await;
    let rule = Rule {
        action: Action::Redirect(Redirect {
            host: Some("elsewhere".into()),
            status: 307,
            ..Redirect::default()
        }),
        ..Rule::default()
    };
    route(&testbed, "/a", rule);
    get(&testbed, "x: y").await;
    let page = testbed.metrics();
    let counted = |line: &&str| {
        line.starts_with("istio_requests_total{") && line.contains("response_code=\"307\"")
    };
    assert_eq!(page.lines().filter(counted).count(), 1, "{page}");
}
