//! Discovery from end to end: our client and our server over TLS, and what others may try.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use ambit_proto::discovery::DeltaDiscoveryRequest;
use ambit_proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use ambit_runtime::metrics::Registry;
use ambit_wire::xds::client::ClientOptions;
use ambit_wire::xds::metrics::ClientMetrics;
use ambit_wire::xds::{Client, Handler, Logs, Received, Rejected};
use common::*;
use parking_lot::Mutex;
use tempfile::NamedTempFile;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::{Code, Request, Status};

/// What a client holds, and the responses that brought it there.
#[derive(Clone, Default)]
struct Store(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    held: BTreeMap<String, String>,
    /// Names in each response; removals with a minus.
    responses: Vec<Vec<String>>,
}

impl Handler<String> for Store {
    fn handle(&self, resources: Vec<Received<String>>, removed: Vec<String>) -> Vec<Rejected> {
        let mut inner = self.0.lock();
        let mut names: Vec<String> = resources.iter().map(|r| r.name.to_string()).collect();
        names.extend(removed.iter().map(|name| format!("-{name}")));
        inner.responses.push(names);
        let mut rejected = Vec::new();
        for Received { name, message, .. } in resources {
            if message == "bad" {
                rejected.push(Rejected {
                    name,
                    reason: "it is bad".to_owned(),
                });
            } else {
                inner.held.insert(name.to_string(), message);
            }
        }
        for name in removed {
            inner.held.remove(&name);
        }
        rejected
    }
}

impl Store {
    fn holds(&self, expected: &[(&str, &str)]) -> bool {
        let held = &self.0.lock().held;
        held.iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .eq(expected.iter().copied())
    }

    fn last_response(&self) -> Vec<String> {
        self.0.lock().responses.last().cloned().unwrap_or_default()
    }
}

struct Fixture {
    authority: Arc<ambit_wire::ca::Authority>,
    roots: NamedTempFile,
    logs: Logs,
}

impl Fixture {
    fn new() -> Self {
        let authority = new_authority();
        let roots = NamedTempFile::new().unwrap();
        std::fs::write(&roots, authority.root_pem()).unwrap();
        Self {
            authority,
            roots,
            logs: logs(),
        }
    }

    async fn start(&self, port: u16) -> ControlPlane {
        ControlPlane::start(port, &self.authority, self.logs.clone()).await
    }

    fn client(&self, server: &ControlPlane, token: &str, registry: &Registry) -> RunningClient {
        let (store, other) = (Store::default(), Store::default());
        let options = ClientOptions {
            target: target(server.address, self.roots.path()),
            credentials: credentials(token),
            node: node("istio-system"),
        };
        let client = Client::new(options, ClientMetrics::register(registry))
            .watch(TYPE, store.clone())
            .watch(OTHER, other);
        let synced = client.synced();
        RunningClient {
            store,
            synced,
            task: tokio::spawn(client.run()),
        }
    }
}

struct RunningClient {
    store: Store,
    synced: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl Drop for RunningClient {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn a_client_follows_the_log() {
    let fixture = Fixture::new();
    let server = fixture.start(0).await;
    publish(&fixture.logs, &[("a", "1"), ("b", "1")], &[]);
    let registry = Registry::new();
    let mut client = fixture.client(&server, "good:istio-system", &registry);
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    assert!(
        client.store.0.lock().responses.is_empty(),
        "nothing before the logs are open"
    );
    fixture.logs.open();
    tokio::time::timeout(LIMIT, client.synced.wait_for(|s| *s))
        .await
        .unwrap()
        .unwrap();
    assert!(client.store.holds(&[("a", "1"), ("b", "1")]));
    publish(&fixture.logs, &[("b", "2"), ("c", "1")], &["a"]);
    eventually("the change", || {
        client.store.holds(&[("b", "2"), ("c", "1")])
    })
    .await;
    assert_eq!(client.store.last_response(), ["b", "c", "-a"]);
    let page = registry.encode();
    assert!(
        page.contains(&format!("istio_xds_message_total{{url=\"{TYPE}\"}} 2\n")),
        "{page}"
    );
    assert!(
        page.contains(&format!(
            "istio_xds_message_bytes_total{{url=\"{OTHER}\"}} "
        )),
        "{page}"
    );
}

#[tokio::test]
async fn a_lost_stream_is_opened_again_and_only_the_difference_sent() {
    let fixture = Fixture::new();
    let server = fixture.start(0).await;
    publish(&fixture.logs, &[("a", "1"), ("b", "1"), ("c", "1")], &[]);
    fixture.logs.open();
    let registry = Registry::new();
    let client = fixture.client(&server, "good:istio-system", &registry);
    eventually("the first state", || client.store.0.lock().held.len() == 3).await;
    let port = server.address.port();
    server.kill();
    publish(&fixture.logs, &[("b", "2"), ("d", "1")], &["c"]);
    assert_eq!(
        client.store.0.lock().held.len(),
        3,
        "what was received stays"
    );
    let _server = fixture.start(port).await;
    eventually("the new state", || {
        client.store.holds(&[("a", "1"), ("b", "2"), ("d", "1")])
    })
    .await;
    assert_eq!(client.store.last_response(), ["b", "d", "-c"]);
    assert!(
        registry
            .encode()
            .contains("istio_xds_connection_terminations_total{reason=")
    );
}

#[tokio::test]
async fn rejected_resources_are_reported_and_asked_for_again() {
    let fixture = Fixture::new();
    let server = fixture.start(0).await;
    publish(&fixture.logs, &[("a", "bad"), ("b", "1")], &[]);
    fixture.logs.open();
    let client = fixture.client(&server, "good:istio-system", &Registry::new());
    eventually("the good one", || client.store.holds(&[("b", "1")])).await;
    assert!(
        !*client.synced.borrow(),
        "a refused first response is no sync"
    );
    let port = server.address.port();
    server.kill();
    let server = fixture.start(port).await;
    eventually("a second response", || {
        client.store.0.lock().responses.len() >= 2
    })
    .await;
    assert_eq!(client.store.last_response(), ["a"], "b is held, a is not");
    publish(&fixture.logs, &[("a", "good")], &[]);
    eventually("the fix", || {
        client.store.holds(&[("a", "good"), ("b", "1")])
    })
    .await;
    eventually("the sync", || *client.synced.borrow()).await;
    drop(server);
}

/// Opens a stream by hand and returns how the server ends it.
async fn refusal(token: &str, requests: Vec<DeltaDiscoveryRequest>) -> Status {
    let fixture = Fixture::new();
    let server = fixture.start(0).await;
    fixture.logs.open();
    let channel = target(server.address, fixture.roots.path())
        .connect()
        .await
        .unwrap();
    // The stream stays open: it is the server that ends it.
    let stream = futures_util::StreamExt::chain(
        tokio_stream::iter(requests),
        futures_util::stream::pending(),
    );
    let mut request = Request::new(stream);
    credentials(token)
        .add_to(request.metadata_mut())
        .await
        .unwrap();
    let answer = async {
        let mut service = AggregatedDiscoveryServiceClient::new(channel);
        let mut responses = service
            .delta_aggregated_resources(request)
            .await?
            .into_inner();
        while responses.message().await?.is_some() {}
        Ok::<(), Status>(())
    };
    tokio::time::timeout(LIMIT, answer)
        .await
        .unwrap()
        .unwrap_err()
}

fn first_request(namespace: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: TYPE.to_owned(),
        node: Some(node(namespace)),
        ..Default::default()
    }
}

#[tokio::test]
async fn without_a_good_token_there_is_no_stream() {
    for token in ["", "bad"] {
        let status = refusal(token, vec![first_request("istio-system")]).await;
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
        assert_eq!(status.message(), "request authenticate failure");
    }
}

#[tokio::test]
async fn a_stream_is_for_the_tokens_node() {
    let status = refusal("good:shop", vec![first_request("istio-system")]).await;
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    let mut other = first_request("istio-system");
    other.node.as_mut().unwrap().id = "ztunnel~1.1.1.1~b.istio-system~x".to_owned();
    other.type_url = OTHER.to_owned();
    let both = vec![first_request("istio-system"), other];
    let status = refusal("good:istio-system", both).await;
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    let nobody = DeltaDiscoveryRequest {
        type_url: TYPE.to_owned(),
        ..Default::default()
    };
    let status = refusal("good:istio-system", vec![nobody]).await;
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
}

#[tokio::test]
async fn a_refused_client_goes_on_trying() {
    let fixture = Fixture::new();
    let server = fixture.start(0).await;
    fixture.logs.open();
    let registry = Registry::new();
    let client = fixture.client(&server, "bad", &registry);
    let refused = |line: &str| {
        let count = line.strip_prefix("istio_xds_connection_terminations_total{reason=\"Error\"} ");
        count.is_some_and(|count| count.parse::<u64>().is_ok_and(|count| count >= 2))
    };
    eventually("two refusals", || registry.encode().lines().any(refused)).await;
    assert!(client.store.0.lock().responses.is_empty());
}

#[tokio::test]
async fn a_server_with_another_root_or_name_is_not_trusted() {
    let fixture = Fixture::new();
    let server = fixture.start(0).await;
    let other = NamedTempFile::new().unwrap();
    std::fs::write(&other, new_authority().root_pem()).unwrap();
    let error = target(server.address, other.path())
        .connect()
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("certificate"), "{error}");
    let roots = ambit_wire::tls::Roots::File(fixture.roots.path().to_owned());
    let address = server.address.to_string();
    let unnamed = ambit_wire::tls::Target::new(&address, roots, None).unwrap();
    let error = unnamed.connect().await.unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
}
