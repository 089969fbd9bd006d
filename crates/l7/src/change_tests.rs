//! Routes that change under load: every request is answered, by the routes before or after a change.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ambit_model::route::{
    Action, Backend, Forward, HeaderChanges, Match, Parent, PathMatch, Route, Rule, Target,
};
use ambit_wire::xds::{Handler, Received};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::sniff::Protocol;
use crate::state::{RouteHandler, Store};
use crate::testbed::{Testbed, service_key};

/// As many as the mesh may see in a minute.
const CHANGES: usize = 1000;
/// Routes that change in turn.
const ROUTES: usize = 50;

/// A route that says which version of it a request has met.
fn route(number: usize, version: usize) -> Route {
    let target = Target {
        service: service_key(),
        port: 80,
    };
    let backend = Backend {
        target: Some(target),
        weight: 1,
        ..Backend::default()
    };
    Route {
        namespace: "shop".into(),
        name: format!("r{number}").into(),
        parents: vec![Parent {
            service: service_key(),
            port: None,
        }],
        rules: vec![Rule {
            matches: vec![Match {
                path: Some(PathMatch::Segments(format!("/{number}").into())),
                ..Match::default()
            }],
            action: Action::Forward(Forward {
                backends: vec![backend],
                ..Forward::default()
            }),
            response_headers: HeaderChanges {
                set: vec![("x-version".into(), version.to_string().into())],
                ..HeaderChanges::default()
            },
            ..Rule::default()
        }],
        ..Route::default()
    }
}

fn change(store: &Store, route: &Route) {
    let received = Received {
        name: route.key(),
        aliases: Vec::new(),
        message: route.into(),
    };
    let rejected = RouteHandler(store.clone()).handle(vec![received], vec![]);
    assert!(rejected.is_empty());
}

/// Asks until told to stop: how often, and the last version that was seen.
async fn ask<S>(mut send: S, number: usize, stop: Arc<AtomicBool>) -> (usize, usize)
where
    S: AsyncFnMut(Request<Empty<Bytes>>) -> hyper::Result<http::Response<hyper::body::Incoming>>,
{
    let (mut asked, mut last) = (0, 0);
    loop {
        // One more, so that the last change is seen.
        let enough = stop.load(Ordering::Relaxed);
        let request = Request::get(format!("http://echo/{number}/item"))
            .header(header::HOST, "echo")
            .body(Empty::new())
            .unwrap();
        let response = send(request).await.unwrap();
        assert_eq!(response.status(), 200);
        let version = response.headers()["x-version"].to_str().unwrap();
        let version: usize = version.parse().unwrap();
        assert!(version >= last, "an older route than before");
        last = version;
        response.into_body().collect().await.unwrap();
        asked += 1;
        if enough {
            return (asked, last);
        }
    }
}

#[tokio::test]
async fn routes_change_without_a_failed_request() {
    let testbed = Testbed::new().await;
    let store = testbed.l7();
    for number in 0..ROUTES {
        change(&store, &route(number, 0));
    }
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = Vec::new();
    for number in 0..4 {
        let io = TokioIo::new(testbed.connect(Protocol::Http1));
        let (mut sender, connection) = http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let send = async move |request| {
            sender.ready().await?;
            sender.send_request(request).await
        };
        clients.push(tokio::spawn(ask(send, number, stop.clone())));
    }
    let io = TokioIo::new(testbed.connect(Protocol::Http2));
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let send = async move |request| sender.send_request(request).await;
    clients.push(tokio::spawn(ask(send, 4, stop.clone())));

    for version in 1..=CHANGES {
        change(&store, &route(version % ROUTES, version));
        // Requests go on between the changes.
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    // Every client sees the last change of its route.
    let mut newest = [0; 5];
    for version in 1..=CHANGES {
        if let Some(seen) = newest.get_mut(version % ROUTES) {
            *seen = version;
        }
    }
    stop.store(true, Ordering::Relaxed);
    for (client, newest) in clients.into_iter().zip(newest) {
        let (asked, last) = client.await.unwrap();
        assert!(asked > 0);
        assert_eq!(last, newest);
    }
    assert_eq!(
        store.load().routes().count(),
        ROUTES,
        "nothing is left over"
    );
}
