//! Envoy as a waypoint, as Istio configures it: tunnels end in one listener, an internal one sees
//! the requests, and another one opens the tunnels to endpoints.

use std::path::Path;

use ambit_testkit::Process;
use anyhow::Result;
use serde_json::{Value, json};

use super::places::{APPLICATION, HBONE, ISSUER, identity};
use super::rig::Place;
use super::variant::Variant;

/// Bytes that may wait on a stream of a tunnel, as Ambit's waypoint has them.
const STREAM_WINDOW: u32 = 4 << 20;
/// The same for all streams of a tunnel.
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Starts it.
pub fn start(program: &Path, place: &Place<'_>) -> Result<Process> {
    let config = place.files.join("envoy.json");
    std::fs::write(&config, serde_json::to_string_pretty(&bootstrap(place))?)?;
    let mut command = place.pod.namespace().command(program);
    command
        .args(["--concurrency", &place.variant.workers().to_string()])
        .args(["--log-level", "warning"])
        .args(["--use-dynamic-base-id", "--disable-hot-restart", "-c"])
        .arg(config);
    Process::start(&mut command)
}

/// A typed configuration of an extension.
fn typed(kind: &str, value: Value) -> Value {
    let mut value = value;
    value["@type"] = format!("type.googleapis.com/{kind}").into();
    value
}

fn extension(name: &str, kind: &str, value: Value) -> Value {
    json!({"name": name, "typed_config": typed(kind, value)})
}

fn bootstrap(place: &Place<'_>) -> Value {
    json!({
        "node": {"id": "waypoint", "cluster": "waypoint"},
        "bootstrap_extensions": [extension(
            "envoy.bootstrap.internal_listener",
            "envoy.extensions.bootstrap.internal_listener.v3.InternalListener",
            json!({}),
        )],
        "static_resources": {
            "listeners": [terminate(place), requests(place), originate(place)],
            "clusters": [
                internal("requests", json!({})),
                internal("originate", upstream_protocols()),
                tunnels(place),
            ],
        },
    })
}

/// What a connection of HTTP, or of a tunnel, is served with.
fn http_filter_chain(prefix: &str, routes: Value, filters: Vec<Value>, more: Value) -> Value {
    let mut manager = json!({
        "stat_prefix": prefix,
        "route_config": {
            "name": prefix,
            "virtual_hosts": [{"name": prefix, "domains": ["*"], "routes": routes}],
            "validate_clusters": false,
        },
        "http_filters": filters,
        "normalize_path": true,
        "server_header_transformation": "PASS_THROUGH",
        "use_remote_address": false,
    });
    if let (Some(manager), Some(more)) = (manager.as_object_mut(), more.as_object()) {
        manager.extend(more.clone());
    }
    extension(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        manager,
    )
}

fn router() -> Value {
    extension(
        "envoy.filters.http.router",
        "envoy.extensions.filters.http.router.v3.Router",
        json!({}),
    )
}

/// Certificates, the authority, and who may be at the other end.
fn tls_context(place: &Place<'_>, peer: &str) -> Value {
    let file = |name: &str| json!({"filename": place.files.join(name)});
    json!({
        "alpn_protocols": ["h2"],
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_3",
            "tls_maximum_protocol_version": "TLSv1_3",
        },
        "tls_certificates": [{
            "certificate_chain": file("waypoint.chain"),
            "private_key": file("waypoint.key"),
        }],
        "validation_context": {
            "trusted_ca": file("roots"),
            "match_typed_subject_alt_names": [{
                "san_type": "URI",
                "matcher": {"exact": identity(peer).to_string()},
            }],
        },
    })
}

/// Where tunnels end.
fn terminate(place: &Place<'_>) -> Value {
    let routes = json!([{
        "match": {"connect_matcher": {}},
        "route": {
            "cluster": "requests",
            "timeout": "0s",
            "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}],
        },
    }]);
    let more = json!({
        "codec_type": "HTTP2",
        "upgrade_configs": [{"upgrade_type": "CONNECT"}],
        "http2_protocol_options": {
            "allow_connect": true,
            "initial_stream_window_size": STREAM_WINDOW,
            "initial_connection_window_size": CONNECTION_WINDOW,
        },
        "stream_idle_timeout": "0s",
    });
    json!({
        "name": "terminate",
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": HBONE}},
        "filter_chains": [{
            "transport_socket": extension(
                "envoy.transport_sockets.tls",
                "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                json!({
                    "require_client_certificate": true,
                    "common_tls_context": tls_context(place, "client"),
                }),
            ),
            "filters": [http_filter_chain("terminate", routes, vec![router()], more)],
        }],
    })
}

/// Where requests are seen.
fn requests(place: &Place<'_>) -> Value {
    let route = |path: String| {
        json!({
            "match": {"path_separated_prefix": path},
            "route": {
                "cluster": "originate",
                "timeout": "0s",
                "retry_policy": {
                    "retry_on": "connect-failure,refused-stream,unavailable,cancelled",
                    "num_retries": 2,
                },
            },
        })
    };
    let routes = place.variant.paths().map(route).collect();
    let mut filters = Vec::new();
    if place.variant == Variant::Policy {
        filters.push(tokens(place));
        filters.push(policy());
    }
    filters.push(router());
    let chain = http_filter_chain("requests", routes, filters, json!({"codec_type": "AUTO"}));
    json!({
        "name": "requests",
        "internal_listener": {},
        "filter_chains": [{"filters": [chain]}],
    })
}

fn tokens(place: &Place<'_>) -> Value {
    extension(
        "envoy.filters.http.jwt_authn",
        "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        json!({
            "providers": {"issuer": {
                "issuer": ISSUER,
                "forward": true,
                "payload_in_metadata": "payload",
                "local_jwks": {"inline_string": place.tokens.keys.to_string()},
            }},
            "rules": [{"match": {"prefix": "/"}, "requires": {"requires_any": {"requirements": [
                {"provider_name": "issuer"}, {"allow_missing": {}},
            ]}}}],
        }),
    )
}

fn policy() -> Value {
    let claim = |name: &str, value: &str| {
        json!({"metadata": {
            "filter": "envoy.filters.http.jwt_authn",
            "path": [{"key": "payload"}, {"key": name}],
            "value": {"string_match": {"exact": value}},
        }})
    };
    let header =
        |name: &str, value: Value| json!({"header": {"name": name, "string_match": value}});
    let who = json!([{"and_ids": {"ids": [claim("iss", ISSUER), claim("sub", "somebody"), claim("group", "shoppers")]}}]);
    let what = json!([{"and_rules": {"rules": [
        header(":method", json!({"exact": "GET"})),
        {"url_path": {"path": {"prefix": "/route-"}}},
    ]}}]);
    extension(
        "envoy.filters.http.rbac",
        "envoy.extensions.filters.http.rbac.v3.RBAC",
        json!({"rules": {"action": "ALLOW", "policies": {"shoppers": {
            "permissions": what,
            "principals": who,
        }}}}),
    )
}

/// Where tunnels to endpoints begin.
fn originate(place: &Place<'_>) -> Value {
    let proxy = extension(
        "envoy.filters.network.tcp_proxy",
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        json!({
            "stat_prefix": "originate",
            "cluster": "tunnels",
            "tunneling_config": {"hostname": format!("{}:{APPLICATION}", place.server)},
        }),
    );
    json!({
        "name": "originate",
        "internal_listener": {},
        "filter_chains": [{"filters": [proxy]}],
    })
}

/// No bound of connections and requests: Ambit has none either.
fn unbounded() -> Value {
    let most = u32::MAX;
    json!({"thresholds": [{
        "max_connections": most,
        "max_pending_requests": most,
        "max_requests": most,
        "max_retries": most,
    }]})
}

/// A cluster that is a listener of this process.
fn internal(listener: &str, options: Value) -> Value {
    json!({
        "name": listener,
        "connect_timeout": "10s",
        "circuit_breakers": unbounded(),
        "typed_extension_protocol_options": options,
        "load_assignment": {"cluster_name": listener, "endpoints": [{"lb_endpoints": [{
            "endpoint": {"address": {"envoy_internal_address": {
                "server_listener_name": listener,
                "endpoint_id": listener,
            }}},
        }]}]},
        "transport_socket": extension(
            "envoy.transport_sockets.internal_upstream",
            "envoy.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport",
            json!({"transport_socket": extension(
                "envoy.transport_sockets.raw_buffer",
                "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
                json!({}),
            )}),
        ),
    })
}

fn protocols(value: Value) -> Value {
    let name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    json!({name: typed(name, value)})
}

/// What the client speaks is spoken to the endpoint.
fn upstream_protocols() -> Value {
    protocols(json!({"use_downstream_protocol_config": {"http2_protocol_options": {}}}))
}

/// The tunnels to the endpoint.
fn tunnels(place: &Place<'_>) -> Value {
    let options = json!({"explicit_http_config": {"http2_protocol_options": {
        "allow_connect": true,
        "initial_stream_window_size": STREAM_WINDOW,
        "initial_connection_window_size": CONNECTION_WINDOW,
    }}});
    json!({
        "name": "tunnels",
        "connect_timeout": "10s",
        "circuit_breakers": unbounded(),
        "typed_extension_protocol_options": protocols(options),
        "load_assignment": {"cluster_name": "tunnels", "endpoints": [{"lb_endpoints": [{
            "endpoint": {"address": {"socket_address": {
                "address": place.server.to_string(),
                "port_value": HBONE,
            }}},
        }]}]},
        "transport_socket": extension(
            "envoy.transport_sockets.tls",
            "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            json!({"common_tls_context": tls_context(place, "server")}),
        ),
    })
}
