use super::*;
use ambit_model::workload::Locality;
use ambit_runtime::log;
use ambit_runtime::metrics::Registry;
use ambit_transport::copy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn workload(name: &str, namespace: &str, account: &str) -> Arc<Workload> {
    Arc::new(Workload {
        name: format!("{name}-x2").into(),
        workload_name: name.into(),
        namespace: namespace.into(),
        service_account: account.into(),
        canonical_name: name.into(),
        canonical_revision: "v1".into(),
        locality: Locality {
            region: "r1".into(),
            ..Locality::default()
        },
        ..Workload::default()
    })
}

fn service() -> Arc<Service> {
    Arc::new(Service {
        name: "pay".into(),
        namespace: "shop".into(),
        hostname: "pay.shop.svc.cluster.local".into(),
        ..Service::default()
    })
}

/// A connection from cart to pay. The port of the client tells the lines of the tests apart.
fn connection(reporter: Reporter, port: u16) -> Connection {
    let (cart, pay) = (
        workload("cart", "shop", "cart"),
        workload("pay", "shop", "pay"),
    );
    Connection {
        reporter,
        source_address: format!("10.244.1.7:{port}").parse().unwrap(),
        destination_address: "[::ffff:10.244.2.9]:15008".parse().unwrap(),
        hbone_target: Some("10.244.2.9:8080".into()),
        source: Party {
            identity: Some(cart.identity()),
            workload: Some(cart),
            baggage: None,
        },
        destination: Party {
            identity: Some(pay.identity()),
            workload: Some(pay),
            baggage: None,
        },
        service: Some(service()),
        mutual_tls: true,
    }
}

fn line_of(capture: &log::Capture, port: u16) -> String {
    let needle = format!(":{port} ");
    let lines = capture.lines();
    let found: Vec<&String> = lines.iter().filter(|line| line.contains(&needle)).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].split_once('\t').unwrap().1.to_owned()
}

/// Moves five bytes from the client to the server and three back.
async fn exchange(counters: &Counters) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let pair = async || {
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        (client.unwrap(), accepted.unwrap().0)
    };
    let ((mut client, downstream), (upstream, mut server)) = (pair().await, pair().await);
    let ends = async {
        client.write_all(b"hello").await.unwrap();
        client.shutdown().await.unwrap();
        let mut text = String::new();
        server.read_to_string(&mut text).await.unwrap();
        server.write_all(b"bye").await.unwrap();
        drop(server);
        client.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hellobye");
    };
    let (copied, ()) = tokio::join!(copy::bidirectional(downstream, upstream, counters), ends);
    copied.unwrap();
}

#[tokio::test]
async fn both_sides_leave_one_line_and_one_set_of_metrics() {
    let capture = log::capture();
    let registry = Registry::new();
    let telemetry = Telemetry::register(&registry);
    for (reporter, port) in [(Reporter::Source, 41234), (Reporter::Destination, 41235)] {
        let record = ConnectionRecord::open(&telemetry, connection(reporter, port), Instant::now());
        exchange(record.counters()).await;
        let side = if reporter == Reporter::Source {
            "source"
        } else {
            "destination"
        };
        let value = |family: &str| {
            let page = registry.encode();
            let start = format!("istio_tcp_{family}_total{{reporter=\"{side}\"");
            let line = page
                .lines()
                .find(|line| line.starts_with(&start))
                .map(str::to_owned);
            line.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
        };
        // Bytes of open connections are there already, and are not counted twice.
        assert_eq!(
            (value("received_bytes"), value("sent_bytes")),
            (Some(5), Some(3))
        );
        assert_eq!(
            (value("connections_opened"), value("connections_closed")),
            (Some(1), None)
        );
        record.finish(Ok(()));
        assert_eq!(
            (value("received_bytes"), value("sent_bytes")),
            (Some(5), Some(3))
        );
        assert_eq!(value("connections_closed"), Some(1));
        assert_eq!(value("connections_failed"), None);
    }
    let expected = |port, direction, sent, received| {
        format!(
            "info\taccess\tconnection complete\tsrc.addr=10.244.1.7:{port} \
             src.workload=\"cart-x2\" src.namespace=\"shop\" \
             src.identity=\"spiffe://cluster.local/ns/shop/sa/cart\" src.cluster=\"Kubernetes\" \
             dst.addr=10.244.2.9:15008 dst.hbone_addr=10.244.2.9:8080 \
             dst.service=\"pay.shop.svc.cluster.local\" dst.workload=\"pay-x2\" \
             dst.namespace=\"shop\" dst.identity=\"spiffe://cluster.local/ns/shop/sa/pay\" \
             dst.cluster=\"Kubernetes\" direction=\"{direction}\" bytes_sent={sent} \
             bytes_recv={received} duration=\""
        )
    };
    let outbound = line_of(&capture, 41234);
    assert!(
        outbound.starts_with(&expected(41234, "outbound", 5, 3)),
        "{outbound}"
    );
    assert!(outbound.ends_with("ms\""), "{outbound}");
    let inbound = line_of(&capture, 41235);
    assert!(
        inbound.starts_with(&expected(41235, "inbound", 3, 5)),
        "{inbound}"
    );
}

#[test]
fn labels_come_in_istios_order() {
    let registry = Registry::new();
    let telemetry = Telemetry::register(&registry);
    let record = ConnectionRecord::open(
        &telemetry,
        connection(Reporter::Source, 41300),
        Instant::now(),
    );
    let page = registry.encode();
    record.finish(Ok(()));
    let line = page
        .lines()
        .find(|l| l.starts_with("istio_tcp_connections_opened_total"))
        .unwrap();
    let expected = "istio_tcp_connections_opened_total{reporter=\"source\",\
        source_workload=\"cart\",source_canonical_service=\"cart\",source_canonical_revision=\"v1\",\
        source_workload_namespace=\"shop\",\
        source_principal=\"spiffe://cluster.local/ns/shop/sa/cart\",source_app=\"cart\",\
        source_version=\"v1\",source_cluster=\"Kubernetes\",\
        destination_service=\"pay.shop.svc.cluster.local\",\
        destination_service_namespace=\"shop\",destination_service_name=\"pay\",\
        destination_workload=\"pay\",destination_canonical_service=\"pay\",\
        destination_canonical_revision=\"v1\",destination_workload_namespace=\"shop\",\
        destination_principal=\"spiffe://cluster.local/ns/shop/sa/pay\",destination_app=\"pay\",\
        destination_version=\"v1\",destination_cluster=\"Kubernetes\",request_protocol=\"tcp\",\
        response_flags=\"-\",connection_security_policy=\"mutual_tls\",source_region=\"r1\",\
        source_zone=\"unknown\",destination_region=\"r1\",destination_zone=\"unknown\"} 1";
    assert_eq!(line, expected);
}

#[test]
fn plaintext_shows_no_identities_in_the_log() {
    let capture = log::capture();
    let registry = Registry::new();
    let telemetry = Telemetry::register(&registry);
    let mut plain = connection(Reporter::Destination, 41400);
    plain.mutual_tls = false;
    plain.hbone_target = None;
    plain.source.identity = None;
    plain.destination.identity = None;
    let record = ConnectionRecord::open(&telemetry, plain, Instant::now());
    let denied = "explicitly denied by: istio-system/istio_converted_static_strict";
    record.finish(Err(Failure::denied(denied)));
    let line = line_of(&capture, 41400);
    assert!(
        line.starts_with("error\taccess\tconnection complete\t"),
        "{line}"
    );
    assert!(
        !line.contains("identity") && !line.contains("hbone"),
        "{line}"
    );
    let error = format!(" error=\"connection closed due to policy rejection: {denied}\"");
    assert!(line.ends_with(&error), "{line}");
    let page = registry.encode();
    let failed = page
        .lines()
        .find(|l| l.starts_with("istio_tcp_connections_failed_total"))
        .unwrap();
    for part in [
        "source_principal=\"unknown\"",
        "destination_principal=\"spiffe://cluster.local/ns/shop/sa/pay\"",
        "response_flags=\"DENY\",connection_security_policy=\"unknown\"",
    ] {
        assert!(failed.contains(part), "{part}: {failed}");
    }
    let closed = page
        .lines()
        .filter(|l| l.starts_with("istio_tcp_connections_closed_total"));
    assert_eq!(
        closed
            .filter(|l| l.contains("response_flags=\"DENY\""))
            .count(),
        1
    );
}

#[test]
fn a_dropped_record_was_drained() {
    let capture = log::capture();
    let telemetry = Telemetry::register(&Registry::new());
    drop(ConnectionRecord::open(
        &telemetry,
        connection(Reporter::Source, 41500),
        Instant::now(),
    ));
    let line = line_of(&capture, 41500);
    assert!(line.starts_with("error\t"), "{line}");
    assert!(
        line.ends_with(" error=\"connection closed due to connection drain\""),
        "{line}"
    );
}

#[test]
fn what_is_not_known_is_left_out_or_told_by_the_peer() {
    let capture = log::capture();
    let registry = Registry::new();
    let telemetry = Telemetry::register(&registry);
    let baggage = Baggage {
        namespace: Some("far".to_owned()),
        service: Some("remote".to_owned()),
        workload: Some((
            ambit_model::workload::WorkloadType::Deployment,
            "remote-d".to_owned(),
        )),
        ..Baggage::default()
    };
    let mut remote = connection(Reporter::Destination, 41600);
    remote.source = Party {
        baggage: Some(Arc::new(baggage)),
        ..Party::default()
    };
    remote.destination = Party::default();
    remote.service = None;
    ConnectionRecord::open(&telemetry, remote, Instant::now()).finish(Ok(()));
    let line = line_of(&capture, 41600);
    let expected = "src.addr=10.244.1.7:41600 src.workload=\"remote\" src.namespace=\"far\" \
                    dst.addr=10.244.2.9:15008 dst.hbone_addr=10.244.2.9:8080 direction=\"inbound\"";
    assert!(line.contains(expected), "{line}");
    let page = registry.encode();
    assert!(page.contains("source_workload=\"remote-d\",source_canonical_service=\"remote\""));
    assert!(
        page.contains("source_app=\"remote-d\""),
        "derived from baggage, the app is the workload"
    );
}

#[test]
fn early_denies_leave_a_line_and_no_metrics() {
    let capture = log::capture();
    let source = "10.244.3.3:50130".parse().unwrap();
    let destination = "10.244.2.9:15008".parse().unwrap();
    refused(
        Reporter::Destination,
        source,
        destination,
        "tls handshake error: eof",
    );
    assert_eq!(
        line_of(&capture, 50130),
        "warn\taccess\tconnection failed\tsrc.addr=10.244.3.3:50130 dst.addr=10.244.2.9:15008 \
         direction=\"inbound\" error=\"tls handshake error: eof\""
    );
}

#[test]
fn counters_are_remembered_per_pair_of_workloads() {
    let registry = Registry::new();
    let telemetry = Telemetry::register(&registry);
    let first = connection(Reporter::Source, 41700);
    let mut other_identity = first.clone();
    other_identity.source.identity = Some(Identity::new("cluster.local", "shop", "other"));
    for connection in [first.clone(), first.clone(), other_identity] {
        ConnectionRecord::open(&telemetry, connection, Instant::now()).finish(Ok(()));
    }
    let page = registry.encode();
    let opened: Vec<&str> = page
        .lines()
        .filter(|l| l.starts_with("istio_tcp_connections_opened_total"))
        .collect();
    assert_eq!(opened.len(), 2, "{opened:?}");
    assert!(opened.iter().any(|line| line.ends_with(" 2")));
}
