use serde_json::json;

use super::*;

fn dump() -> Dump {
    let certificate = |serial: &str| {
        json!({"pem": "", "serialNumber": serial, "validFrom": "2026-01-01T09:58:00Z",
               "expirationTime": "2026-01-02T10:00:00Z"})
    };
    let value = json!({
        "workloads": [
            {"uid": "w2", "name": "db-0", "namespace": "shop", "workloadIps": ["10.244.2.5"], "node": "worker-b",
             "protocol": "HBONE", "status": "Unhealthy"},
            {"uid": "w1", "name": "cart-7d9f-x2k", "namespace": "shop", "workloadIps": ["10.244.1.17", "fd00::17"],
             "node": "worker-a", "protocol": "HBONE", "status": "Healthy",
             "waypoint": {"destination": "shop/shop-wp.shop.svc.cluster.local", "hboneMtlsPort": 15008}},
            {"uid": "w3", "name": "vm", "namespace": "Edge", "hostname": "vm.example.com", "protocol": "TCP", "status": "Healthy",
             "waypoint": {"destination": "net/10.96.9.9", "hboneMtlsPort": 15008}},
            {"uid": "w4", "name": "odd", "namespace": "shop", "workloadIps": ["10.244.1.9"], "node": "worker-a", "protocol": "TCP",
             "status": "Healthy", "waypoint": {"destination": "net/10.0.0.99", "hboneMtlsPort": 15008}}
        ],
        "services": {
            "a": {"name": "shop-wp", "namespace": "shop", "hostname": "shop-wp.shop.svc.cluster.local", "vips": ["net/10.96.9.9"],
                  "endpoints": {}},
            "b": {"name": "db", "namespace": "shop", "hostname": "db.shop.svc.cluster.local", "vips": ["net/10.96.30.8", "net/fd01::8"],
                  "endpoints": {"w1": {"workloadUid": "w1"}, "w2": {"workloadUid": "w2"}, "gone": {"workloadUid": "gone"}},
                  "waypoint": {"destination": "net/10.96.9.9"}}
        },
        "policies": [
            {"name": "only-web", "namespace": "shop", "action": "Allow", "scope": "WorkloadSelector"},
            {"name": "deny", "namespace": "istio-system", "action": "Deny", "scope": "Global"}
        ],
        "certificates": [
            {"identity": "spiffe://cluster.local/ns/shop/sa/cart", "state": "Available",
             "certChain": [certificate("4171"), certificate("17")], "rootCerts": [certificate("18")]},
            {"identity": "spiffe://cluster.local/ns/shop/sa/db", "state": "Unavailable: no answer", "certChain": [], "rootCerts": []}
        ],
        "workloadState": {
            "u1": {"state": "Up", "info": {"name": "cart-7d9f-x2k", "namespace": "shop"}, "connections": {
                "inbound": [{"src": "10.244.2.5:55000", "originalDst": null, "actualDst": "10.244.1.17:8080", "protocol": "HBONE"}],
                "outbound": [{"src": "10.244.1.17:41022", "originalDst": "10.96.30.8:5432", "actualDst": "10.244.2.5:15008",
                              "protocol": "HBONE"}]}},
            "u2": {"state": "Up", "info": {"name": "a", "namespace": "edge"}, "connections": {
                "inbound": [], "outbound": [{"src": "[fd00::99]:1", "originalDst": "192.0.2.1:443", "actualDst": "192.0.2.1:443",
                                             "protocol": "TCP"}]}}
        }
    });
    Dump::parse(&value.to_string()).expect("dump")
}

fn now() -> jiff::Timestamp {
    "2026-01-01T12:00:00Z".parse().expect("time")
}

#[test]
fn all_tables_with_titles() {
    insta::assert_snapshot!(all_tables(&dump(), true, now()));
}

#[test]
fn workloads_are_filtered_without_regard_to_case() {
    let names = |filter: workloads::Filter<'_>| -> Vec<String> {
        let view = workloads::view(&dump(), &filter);
        let all = view.objects.as_array().expect("list").iter();
        all.map(|w| w["name"].as_str().expect("name").to_owned())
            .collect()
    };
    let none = workloads::Filter::default;
    assert_eq!(names(none()), ["vm", "cart-7d9f-x2k", "db-0", "odd"]);
    assert_eq!(
        names(workloads::Filter {
            namespace: Some("edge"),
            ..none()
        }),
        ["vm"]
    );
    assert_eq!(
        names(workloads::Filter {
            node: Some("WORKER-B"),
            ..none()
        }),
        ["db-0"]
    );
    assert_eq!(
        names(workloads::Filter {
            address: Some("FD00::17"),
            ..none()
        }),
        ["cart-7d9f-x2k"]
    );
    let pod = PodFilter {
        namespace: "shop".into(),
        name: "odd".into(),
    };
    assert_eq!(
        names(workloads::Filter {
            pod: Some(&pod),
            ..none()
        }),
        ["odd"]
    );
}

#[test]
fn connections_by_direction_and_raw() {
    let table = |filter: connections::Filter<'_>| connections::view(&dump(), &filter).table;
    let none = connections::Filter::default;
    let outbound = table(connections::Filter {
        direction: "outbound",
        ..none()
    });
    assert!(outbound.contains(
        "cart-7d9f-x2k.shop Outbound  cart-7d9f-x2k.shop:41022 db-0.shop:15008 db.shop.svc.cluster.local:5432 HBONE"
    ), "{outbound}");
    assert!(!outbound.contains("Inbound"));
    let raw = table(connections::Filter {
        direction: "inbound",
        raw: true,
        namespace: Some("shop"),
        ..none()
    });
    assert_eq!(raw.lines().count(), 2, "{raw}");
    assert!(raw.contains("10.244.1.17:8080 10.244.2.5:55000"), "{raw}");
    let exact = table(connections::Filter {
        namespace: Some("SHOP"),
        ..none()
    });
    assert_eq!(exact.lines().count(), 1, "this filter is exact: {exact}");
}

#[test]
fn what_is_no_dump_is_refused() {
    assert!(Dump::parse("").is_err());
    assert!(Dump::parse("[]").is_err());
    assert!(
        Dump::parse("{}")
            .expect_err("no dump")
            .to_string()
            .contains("neither")
    );
}
