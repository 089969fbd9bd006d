//! Defaults, a cluster's settings, and everything that stops the start.

use super::*;

fn config(vars: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let env: Env = vars
        .iter()
        .map(|(k, v)| (k.to_string(), v.to_string()))
        .collect();
    Config::from_env(&env)
}

#[test]
fn defaults() {
    let c = config(&[]).unwrap();
    assert!(c.proxy && c.dns_proxy && c.reuse_port && c.ipv6 && c.baggage);
    assert_eq!(c.mark, Some(1337));
    assert_eq!(&*c.cluster_id, "Kubernetes");
    assert_eq!(c.xds.unwrap().target.address(), "localhost:15012");
    assert_eq!(c.termination, Duration::from_secs(5));
    assert_eq!(c.certificates.lifetime, Duration::from_secs(86_400));
    assert_eq!(
        (c.admin_port, c.stats_port, c.readiness_port),
        (15000, 15020, 15021)
    );
    assert_eq!(c.client.stream_window, 4 << 20);
    assert_eq!(c.client.max_header_list_size, 16 << 10);
    assert_eq!(c.server.max_header_list_size, 64 << 10);
}

#[test]
fn in_a_cluster() {
    let c = config(&[
        ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
        ("POD_NAME", "ztunnel-x"),
        ("POD_NAMESPACE", "istio-system"),
        ("INSTANCE_IP", "10.244.1.2"),
        ("NODE_NAME", "worker"),
        ("CLUSTER_ID", "c1"),
        ("ISTIO_META_DNS_CAPTURE", "false"),
        ("ISTIO_METAJSON_LABELS", r#"{"a":"b"}"#),
        ("TERMINATION_GRACE_PERIOD_SECONDS", "30"),
        ("ENABLE_ORIG_SRC", "true"),
        ("KEEPALIVE_ENABLED", "false"),
    ])
    .unwrap();
    assert_eq!(
        c.xds.as_ref().unwrap().target.address(),
        "istiod.istio-system.svc:15012"
    );
    assert_eq!(
        c.node_id(),
        "ztunnel~10.244.1.2~ztunnel-x.istio-system~istio-system.svc.cluster.local"
    );
    assert_eq!(c.metadata["NODE_NAME"], "worker");
    assert_eq!(c.metadata["LABELS"]["a"], "b");
    assert!(!c.dns_proxy);
    assert_eq!(c.termination, Duration::from_secs(25));
    assert_eq!(c.original_source, Transparent::Required);
    assert!(c.keepalive.is_none());
    assert_eq!(&*c.certificates.ca.credentials.cluster_id, "c1");
}

#[test]
fn an_empty_xds_address_is_off() {
    assert!(config(&[("XDS_ADDRESS", "")]).unwrap().xds.is_none());
}

#[test]
fn proxy_config_is_read() {
    let text = "discoveryAddress: cp.example:15012\nproxyAdminPort: 1\nstatsPort: 2\n\
                concurrency: 3\nproxyMetadata: {ISTIO_META_DNS_CAPTURE: 'no'}\nholdApplication: x";
    let c = config(&[("PROXY_CONFIG", text)]).unwrap();
    assert_eq!(c.xds.unwrap().target.address(), "cp.example:15012");
    assert_eq!((c.admin_port, c.stats_port, c.workers.get()), (1, 2, 3));
    assert!(!c.dns_proxy);
}

#[test]
fn what_cannot_be_used_stops_the_start() {
    for (name, value) in [
        ("ENABLE_PROXY", "perhaps"),
        ("PROXY_MODE", "dedicated"),
        ("UNSTABLE_ENABLE_SOCKS5", "true"),
        ("XDS_ON_DEMAND", "true"),
        ("FAKE_CA", "true"),
        ("CRL_PATH", "/crl.pem"),
        ("XDS_ADDRESS", "http://istiod:15010"),
        ("CA_ADDRESS", "https://"),
        ("LOCAL_XDS_PATH", "/no/such/file"),
        ("LOCAL_XDS", "workloads: [{uid: a, protocol: QUIC}]"),
        ("SECRET_TTL", "soon"),
        ("PACKET_MARK", "blue"),
        ("ENABLE_ORIG_SRC", "2"),
        ("KEEPALIVE_RETRIES", "nine"),
        ("HTTP2_FRAME_SIZE", "1"),
        ("HTTP2_STREAM_WINDOW_SIZE", "4294967295"),
        ("CONNECTION_TERMINATION_DEADLINE", "x"),
        ("COMPLIANCE_POLICY", "none"),
        ("PROXY_CONFIG", "statsPort: [1]"),
        ("ISTIO_METAJSON_X", "{"),
    ] {
        let error = config(&[(name, value)]).unwrap_err().to_string();
        assert!(error.contains(name), "{name}={value}: {error}");
    }
    let both = config(&[("LOCAL_XDS", "{}"), ("LOCAL_XDS_PATH", "x")]).unwrap_err();
    assert!(both.to_string().contains("LOCAL_XDS_PATH"));
}
