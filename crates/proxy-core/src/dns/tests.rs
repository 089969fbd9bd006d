//! The DNS proxy over real sockets on loopback, with a nameserver of its own.

use std::net::Ipv4Addr;

use ambit_model::service::PortMap;
use ambit_model::state::Change;
use ambit_model::workload::NetworkAddress;
use ambit_model::{Service, Workload};
use ambit_runtime::metrics::Registry;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::*;
use crate::store;

struct Rig {
    udp: SocketAddr,
    tcp: SocketAddr,
    registry: Registry,
    stop: CancellationToken,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Answers every question with 192.0.2.53, or NXDOMAIN below `missing.`, and keeps odd flags.
async fn nameserver() -> SocketAddr {
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = udp.local_addr().unwrap();
    let tcp = TcpListener::bind(address).await.unwrap();
    let reply = |bytes: &[u8]| {
        let asked = Message::from_vec(bytes).unwrap();
        let mut reply = Message::response(asked.metadata.id, OpCode::Query);
        reply.metadata.authentic_data = true;
        let name = asked.queries[0].name().clone();
        reply.add_queries(asked.queries.iter().cloned());
        if name.to_ascii().contains("missing") {
            reply.metadata.response_code = ResponseCode::NXDomain;
        } else {
            let data = RData::A(A(Ipv4Addr::new(192, 0, 2, 53)));
            reply.add_answer(Record::from_rdata(name, 5, data));
        }
        reply.to_vec().unwrap()
    };
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((n, from)) = udp.recv_from(&mut buffer).await {
            udp.send_to(&reply(&buffer[..n]), from).await.unwrap();
        }
    });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = tcp.accept().await {
            while let Ok(Some(question)) = read_framed(&mut stream).await {
                write_framed(&mut stream, &reply(&question)).await.unwrap();
            }
        }
    });
    address
}

async fn rig(nameservers: Vec<SocketAddr>) -> Rig {
    let (store, mut writer) = store::new(None);
    let vip = |ip: &str| NetworkAddress {
        network: "".into(),
        address: ip.parse().unwrap(),
    };
    let many = (0..200).map(|n| vip(&format!("10.1.1.{n}"))).collect();
    let service = |host: &str, vips: Vec<NetworkAddress>| {
        Change::Service(Arc::new(Service {
            name: host.into(),
            namespace: "shop".into(),
            hostname: host.into(),
            vips,
            ports: PortMap::from([(80, 80)]),
            ..Service::default()
        }))
    };
    let pod = PodName {
        name: "client".into(),
        namespace: "shop".into(),
        service_account: "default".into(),
    };
    writer.apply(vec![
        service("cart.shop.svc.cluster.local", vec![vip("10.1.0.1")]),
        service("many.shop.svc.cluster.local", many),
        service("www.example.com", vec![vip("10.1.0.3")]),
        Change::Workload(Arc::new(Workload {
            uid: "u".into(),
            name: pod.name.clone(),
            namespace: pod.namespace.clone(),
            canonical_name: "client".into(),
            ..Workload::default()
        })),
    ]);
    let registry = Registry::new();
    let server = Server {
        store,
        pod,
        netns: Netns::current().unwrap(),
        config: Arc::new(DnsConfig {
            cluster_domain: "cluster.local".into(),
            network: "".into(),
            preferred_namespace: None,
            ipv6: true,
            nameservers,
            mark: None,
        }),
        metrics: DnsMetrics::new(&registry),
    };
    let sockets = bind(0, false, None, false).unwrap();
    let (udp, tcp) = (
        sockets.udp[0].local_addr().unwrap(),
        sockets.tcp[0].local_addr().unwrap(),
    );
    let stop = CancellationToken::new();
    tokio::spawn(server.run(sockets, stop.clone()));
    Rig {
        udp,
        tcp,
        registry,
        stop,
    }
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

async fn ask_bytes(rig: &Rig, bytes: &[u8]) -> Vec<u8> {
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    udp.send_to(bytes, rig.udp).await.unwrap();
    let mut buffer = vec![0; 65536];
    let received = tokio::time::timeout(Duration::from_secs(10), udp.recv(&mut buffer)).await;
    buffer.truncate(received.expect("an answer").unwrap());
    buffer
}

async fn ask(rig: &Rig, message: &Message) -> Message {
    let bytes = message.to_vec().unwrap();
    Message::from_vec(&ask_bytes(rig, &bytes).await).unwrap()
}

fn addresses(message: &Message) -> Vec<String> {
    let ip = |record: &Record| match &record.data {
        RData::A(A(ip)) => Some(ip.to_string()),
        _ => None,
    };
    message.answers.iter().filter_map(ip).collect()
}

#[tokio::test]
async fn names_of_the_mesh_are_answered() {
    let rig = rig(vec![]).await;
    let asked = question("Cart.Shop.svc.cluster.local.", RecordType::A);
    let answer = ask(&rig, &asked).await;
    assert_eq!(addresses(&answer), ["10.1.0.1"]);
    assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
    assert_eq!(answer.metadata.id, asked.metadata.id);
    assert_eq!(answer.answers[0].ttl, 30);
    assert_eq!(
        answer.answers[0].name.to_ascii(),
        "cart.shop.svc.cluster.local."
    );
    assert_eq!(
        answer.queries[0].name().to_ascii(),
        "Cart.Shop.svc.cluster.local."
    );

    let other = ask(
        &rig,
        &question("cart.shop.svc.cluster.local.", RecordType::AAAA),
    )
    .await;
    assert_eq!(other.metadata.response_code, ResponseCode::NoError);
    assert!(other.answers.is_empty() && other.metadata.authoritative);
    let page = rig.registry.encode();
    assert!(
        page.contains(
            "istio_dns_requests_total{request_query_type=\"a\",request_protocol=\"udp\",\
             source_canonical_service=\"client\""
        ),
        "{page}"
    );
}

#[tokio::test]
async fn an_alias_comes_first() {
    let rig = rig(vec![]).await;
    let name = "www.example.com.shop.svc.cluster.local.";
    let answer = ask(&rig, &question(name, RecordType::A)).await;
    assert_eq!(answer.answers[0].record_type(), RecordType::CNAME);
    assert_eq!(answer.answers[0].name.to_ascii(), name);
    assert_eq!(answer.answers[1].name.to_ascii(), "www.example.com.");
    assert_eq!(addresses(&answer), ["10.1.0.3"]);
}

#[tokio::test]
async fn everything_else_is_forwarded_as_it_is() {
    let rig = rig(vec![nameserver().await]).await;
    let answer = ask(&rig, &question("elsewhere.example.", RecordType::A)).await;
    assert_eq!(addresses(&answer), ["192.0.2.53"]);
    assert!(answer.metadata.authentic_data, "flags are kept");
    assert_eq!(answer.answers[0].ttl, 5);
    let missing = ask(&rig, &question("missing.example.", RecordType::A)).await;
    assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
    // Other types of a name of the mesh too.
    let text = ask(
        &rig,
        &question("cart.shop.svc.cluster.local.", RecordType::TXT),
    )
    .await;
    assert!(text.metadata.authentic_data);
}

#[tokio::test]
async fn without_a_nameserver_that_answers_the_client_is_told() {
    let dead = UdpSocket::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let rig = rig(vec![dead]).await;
    let answer = ask(&rig, &question("elsewhere.example.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert!(
        rig.registry
            .encode()
            .contains("istio_dns_upstream_failures_total{")
    );
}

#[tokio::test]
async fn what_does_not_fit_is_asked_again_over_tcp() {
    let rig = rig(vec![nameserver().await]).await;
    let mut asked = question("many.shop.svc.cluster.local.", RecordType::A);
    let answer = ask(&rig, &asked).await;
    assert!(answer.metadata.truncation && answer.answers.is_empty());
    let mut edns = Edns::new();
    edns.set_max_payload(8192).set_dnssec_ok(true);
    asked.set_edns(edns);
    let answer = ask(&rig, &asked).await;
    assert_eq!(addresses(&answer).len(), 200);
    assert!(answer.edns.as_ref().is_some_and(|e| e.flags().dnssec_ok));

    let mut stream = TcpStream::connect(rig.tcp).await.unwrap();
    for name in ["many.shop.svc.cluster.local.", "elsewhere.example."] {
        let asked = question(name, RecordType::A);
        write_framed(&mut stream, &asked.to_vec().unwrap())
            .await
            .unwrap();
        let bytes = read_framed(&mut stream).await.unwrap().unwrap();
        let answer = Message::from_vec(&bytes).unwrap();
        assert_eq!(answer.metadata.id, asked.metadata.id);
        assert!(!addresses(&answer).is_empty(), "{name}");
    }
}

#[tokio::test]
async fn what_is_no_question_is_told_so() {
    let rig = rig(vec![]).await;
    let mut notify = question("a.", RecordType::A);
    notify.metadata.op_code = OpCode::Notify;
    assert_eq!(
        ask(&rig, &notify).await.metadata.response_code,
        ResponseCode::NotImp
    );
    let mut response = question("a.", RecordType::A);
    response.metadata.message_type = MessageType::Response;
    assert_eq!(
        ask(&rig, &response).await.metadata.response_code,
        ResponseCode::FormErr
    );
    let garbage = ask_bytes(
        &rig,
        &[0xab, 0xcd, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4, 5, 6, 7],
    )
    .await;
    assert_eq!(garbage[..2], [0xab, 0xcd]);
    assert_eq!(garbage[3] & 0xf, 1, "FORMERR");
    // Shorter than a header is not answered, and harms nobody.
    UdpSocket::bind("127.0.0.1:0")
        .await
        .unwrap()
        .send_to(&[1], rig.udp)
        .await
        .unwrap();
    let answer = ask(
        &rig,
        &question("cart.shop.svc.cluster.local.", RecordType::A),
    )
    .await;
    assert_eq!(addresses(&answer), ["10.1.0.1"]);
}
