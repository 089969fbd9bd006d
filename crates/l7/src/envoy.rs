//! What a waypoint knows, in the words of Envoy's admin pages: `configs` of `/config_dump`
//! (`envoy.admin.v3`), and `/clusters?format=json`. Tools that read those of Istio's waypoints find
//! listeners, routes, clusters, endpoints and certificates under the same names.

mod route;

use std::net::SocketAddr;
use std::sync::Arc;

use ambit_model::balance::{self, Host, Purpose};
use ambit_model::route::Rules;
use ambit_model::state::MeshState;
use ambit_model::traffic::{Balance, HashTable, Origination, Settings};
use ambit_model::{Service, Workload, outbound};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::config::HBONE;
use crate::dispatch::{Destination, Spoken};
use crate::shared::Shared;
use crate::state::L7State;

/// What stands in the place of a key.
const REDACTED: &str = "W3JlZGFjdGVkXQ==";

/// A port of a service.
struct Port<'a> {
    service: &'a Arc<Service>,
    entry: &'a ambit_model::state::ServiceEntry,
    port: u16,
    /// Somebody asks this waypoint for it.
    served: bool,
}

/// The state that a page is made of.
struct Seen<'a> {
    shared: &'a Shared,
    mesh: &'a MeshState,
    l7: &'a L7State,
    own: Arc<Workload>,
    now: String,
}

/// `configs` of `/config_dump`.
pub(crate) fn configs(shared: &Shared) -> Value {
    let (mesh, l7) = (shared.store.load(), shared.l7.load());
    let seen = Seen::new(shared, &mesh, &l7);
    json!([
        seen.bootstrap(),
        seen.clusters(),
        seen.listeners(),
        seen.routes(),
        seen.secrets(),
        seen.endpoints(),
    ])
}

/// `/clusters?format=json`.
pub(crate) fn clusters(shared: &Shared) -> Value {
    let (mesh, l7) = (shared.store.load(), shared.l7.load());
    let seen = Seen::new(shared, &mesh, &l7);
    let statuses = seen.ports().into_iter().map(|port| {
        let hosts = seen.hosts(&port).into_iter().map(|(workload, address)| {
            json!({
                "address": socket_address(address),
                "health_status": {"eds_health_status": "HEALTHY"},
                "weight": workload.capacity,
                "locality": locality(workload),
            })
        });
        json!({
            "name": port.name(), "added_via_api": true, "observability_name": port.name(),
            "host_statuses": hosts.collect::<Vec<_>>(),
        })
    });
    json!({"cluster_statuses": statuses.collect::<Vec<_>>()})
}

/// The name of a port of a service as what requests are sent to.
fn cluster_name(host: &str, port: u16, is_tcp: bool) -> String {
    let spoken = if is_tcp { "tcp" } else { "http" };
    format!("inbound-vip|{port}|{spoken}|{host}")
}

impl Port<'_> {
    fn is_tcp(&self) -> bool {
        let spoken = Destination::Service(self.service.clone(), self.port).spoken();
        matches!(spoken, Spoken::Tcp)
    }

    fn name(&self) -> String {
        cluster_name(&self.service.hostname, self.port, self.is_tcp())
    }
}

fn socket_address(address: SocketAddr) -> Value {
    json!({"socket_address": {
        "address": address.ip().to_string(), "port_value": address.port(),
    }})
}

fn locality(workload: &Workload) -> Value {
    let parts = [
        ("region", &workload.locality.region),
        ("zone", &workload.locality.zone),
        ("sub_zone", &workload.locality.subzone),
    ];
    let known = parts.into_iter().filter(|(_, text)| !text.is_empty());
    let known = known.map(|(key, text)| (key.to_owned(), Value::from(&**text)));
    Value::Object(known.collect())
}

/// A message of Envoy's, with its type.
fn typed(kind: &str, mut fields: Value) -> Value {
    fields["@type"] = format!("type.googleapis.com/{kind}").into();
    fields
}

impl<'a> Seen<'a> {
    fn new(shared: &'a Shared, mesh: &'a MeshState, l7: &'a L7State) -> Self {
        Self {
            shared,
            mesh,
            l7,
            own: shared.workload(),
            now: Timestamp::now().to_string(),
        }
    }

    /// Ports of all services, in order.
    fn ports(&self) -> Vec<Port<'a>> {
        let own = self.shared.own();
        let mut all: Vec<Port<'a>> = Vec::new();
        for (service, entry) in self.mesh.services() {
            let served = own.serves(self.mesh, service);
            all.extend(service.ports.keys().map(|port| Port {
                service,
                entry,
                port: *port,
                served,
            }));
        }
        all.sort_by(|a, b| {
            let key = |port: &Port<'_>| (port.service.key(), port.port);
            key(a).cmp(&key(b))
        });
        all
    }

    fn served(&self) -> impl Iterator<Item = Port<'a>> {
        self.ports().into_iter().filter(|port| port.served)
    }

    fn rules(&self, port: &Port<'_>) -> Option<&'a Arc<Rules>> {
        self.l7.rules(&port.service.key(), port.port)
    }

    /// Where a port leads.
    fn hosts(&self, port: &Port<'a>) -> Vec<(&'a Arc<Workload>, SocketAddr)> {
        let vip = port.service.vips.first().map(|vip| vip.address);
        let like = SocketAddr::new(
            vip.unwrap_or(std::net::Ipv4Addr::UNSPECIFIED.into()),
            port.port,
        );
        let candidates = balance::candidates(
            port.service,
            port.entry,
            &self.own,
            port.port,
            Purpose::Standard,
        );
        let hosts = candidates.filter_map(|(candidate, _)| {
            let host: Host = balance::host(candidate.workload, Some(port.service), like)?;
            let address = outbound::dialled(&host, candidate.port)?;
            Some((candidate.workload, address))
        });
        hosts.collect()
    }

    fn bootstrap(&self) -> Value {
        let config = &self.shared.config;
        let node = json!({
            "id": config.node_id(),
            "cluster": format!("{}.{}", config.gateway, config.pod.namespace),
            "user_agent_name": "ambit",
            "user_agent_version": env!("CARGO_PKG_VERSION"),
            "locality": locality(&self.own),
            "metadata": {
                "NAME": &*config.pod.name, "NAMESPACE": &*config.pod.namespace,
                "SERVICE_ACCOUNT": &*config.pod.service_account,
                "CLUSTER_ID": &*config.cluster_id, "MESH_ID": &*config.trust_domain,
                "WORKLOAD_NAME": &*config.gateway,
            },
        });
        let admin = json!({"address": {"socket_address": {
            "address": "127.0.0.1", "port_value": config.admin_port,
        }}});
        typed(
            "envoy.admin.v3.BootstrapConfigDump",
            json!({"bootstrap": {"node": node, "admin": admin}, "last_updated": self.now}),
        )
    }

    fn clusters(&self) -> Value {
        let clusters = self.ports().into_iter().map(|port| {
            let settings = self.l7.traffic(&port.service.key(), port.port);
            json!({
                "version_info": "1", "last_updated": self.now,
                "cluster": self.cluster(&port, &settings),
            })
        });
        typed(
            "envoy.admin.v3.ClustersConfigDump",
            json!({
                "version_info": "1",
                "dynamic_active_clusters": clusters.collect::<Vec<_>>(),
            }),
        )
    }

    fn cluster(&self, port: &Port<'_>, settings: &Settings) -> Value {
        let service = port.service;
        let timeout = settings.connect_timeout;
        let timeout = timeout.unwrap_or(crate::shared::CONNECT_TIMEOUT);
        let name = port.name();
        let mut cluster = json!({
            "name": name,
            "type": "EDS",
            "eds_cluster_config": {
                "eds_config": {"ads": {}, "resource_api_version": "V3"}, "service_name": name,
            },
            "connect_timeout": seconds(timeout),
            "lb_policy": match &settings.balance {
                Balance::LeastRequest => "LEAST_REQUEST",
                Balance::RoundRobin => "ROUND_ROBIN",
                Balance::Random => "RANDOM",
                Balance::Hash(_, HashTable::Ring(_)) => "RING_HASH",
                Balance::Hash(_, HashTable::Maglev(_)) => "MAGLEV",
            },
            "metadata": {"filter_metadata": {"istio": {"services": [{
                "host": &*service.hostname, "name": &*service.name,
                "namespace": &*service.namespace,
            }]}}},
        });
        let mut policies = self.l7.traffic_policies();
        if let Some(policy) = policies.find(|policy| policy.service == service.key()) {
            let config = format!(
                "/apis/networking.istio.io/v1/namespaces/{}/destination-rule/{}",
                policy.namespace, policy.name
            );
            cluster["metadata"]["filter_metadata"]["istio"]["config"] = config.into();
        }
        if let Some(thresholds) = thresholds(settings) {
            cluster["circuit_breakers"] = json!({"thresholds": [thresholds]});
        }
        if let Some(outlier) = &settings.outlier {
            cluster["outlier_detection"] = json!({
                "consecutive_5xx": outlier.consecutive_5xx,
                "consecutive_gateway_failure": outlier.consecutive_gateway,
                "base_ejection_time": seconds(outlier.base_ejection),
                "max_ejection_percent": outlier.max_ejection_percent,
            });
        }
        if let Some(Origination::Tls(tls)) = settings.tls.as_deref() {
            cluster["transport_socket"] = json!({
                "name": "envoy.transport_sockets.tls",
                "typed_config": typed(
                    "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                    json!({"sni": &*tls.server}),
                ),
            });
        }
        typed("envoy.config.cluster.v3.Cluster", cluster)
    }

    fn listeners(&self) -> Value {
        let terminate = json!({
            "name": "connect_terminate",
            "address": {"socket_address": {"address": "0.0.0.0", "port_value": HBONE}},
            "filter_chains": [{"name": "default"}],
        });
        let chains = self.served().map(|port| chain(&port)).collect::<Vec<_>>();
        let internal = json!({
            "name": "main_internal", "internal_listener": {}, "filter_chains": chains,
        });
        let listeners = [terminate, internal].map(|listener| {
            json!({
                "name": listener["name"],
                "active_state": {
                    "version_info": "1", "last_updated": self.now,
                    "listener": typed("envoy.config.listener.v3.Listener", listener),
                },
            })
        });
        typed(
            "envoy.admin.v3.ListenersConfigDump",
            json!({"version_info": "1", "dynamic_listeners": listeners}),
        )
    }

    fn routes(&self) -> Value {
        let is_tcp = |service: &ambit_model::service::NamespacedHostname, number| {
            let found = self.mesh.service(service);
            found.is_some_and(|(service, _)| {
                let spoken = Destination::Service(service.clone(), number).spoken();
                matches!(spoken, Spoken::Tcp)
            })
        };
        let served = self.served().filter(|port| !port.is_tcp());
        let configs = served.map(|port| {
            let host = &port.service.hostname;
            let rules = self.rules(&port).map(Arc::as_ref);
            let routes = route::routes(rules, &port.name(), &is_tcp);
            let config = json!({
                "name": port.name(),
                "virtual_hosts": [{
                    "name": format!("{host}:{}", port.port), "domains": ["*"], "routes": routes,
                }],
                "validate_clusters": false,
            });
            json!({
                "version_info": "1", "last_updated": self.now,
                "route_config": typed("envoy.config.route.v3.RouteConfiguration", config),
            })
        });
        typed(
            "envoy.admin.v3.RoutesConfigDump",
            json!({"dynamic_route_configs": configs.collect::<Vec<_>>()}),
        )
    }

    /// The own certificate and the mesh's roots; never a key.
    fn secrets(&self) -> Value {
        let dump = self.shared.certificates.dump();
        let own = self.shared.identity.to_string();
        let all = dump.as_array().map(Vec::as_slice).unwrap_or_default();
        let entry = all.iter().find(|entry| entry["identity"] == *own);
        let secret = |name: &str, fields: Value| {
            let mut secret = fields;
            secret["name"] = name.into();
            json!({
                "name": name, "version_info": "1", "last_updated": self.now,
                "secret": typed("envoy.extensions.transport_sockets.tls.v3.Secret", secret),
            })
        };
        let inline = |entry: &Value, key: &str| json!({"inline_bytes": joined(&entry[key])});
        let secrets = entry.map(|entry| {
            [
                secret(
                    "default",
                    json!({"tls_certificate": {
                        "certificate_chain": inline(entry, "certChain"),
                        "private_key": {"inline_bytes": REDACTED},
                    }}),
                ),
                secret(
                    "ROOTCA",
                    json!({"validation_context": {"trusted_ca": inline(entry, "rootCerts")}}),
                ),
            ]
        });
        let secrets: Vec<Value> = secrets.into_iter().flatten().collect();
        typed(
            "envoy.admin.v3.SecretsConfigDump",
            json!({"dynamic_active_secrets": secrets}),
        )
    }

    fn endpoints(&self) -> Value {
        let configs = self.ports().into_iter().map(|port| {
            let endpoints = self.hosts(&port).into_iter().map(|(workload, address)| {
                let described = [
                    &workload.workload_name,
                    &workload.namespace,
                    &workload.canonical_name,
                    &workload.canonical_revision,
                    &workload.cluster_id,
                ];
                json!({
                    "locality": locality(workload),
                    "lb_endpoints": [{
                        "endpoint": {"address": socket_address(address)},
                        "health_status": "HEALTHY",
                        "load_balancing_weight": workload.capacity,
                        "metadata": {"filter_metadata": {"istio": {
                            "workload": described.map(|text| &**text).join(";"),
                        }}},
                    }],
                })
            });
            let assignment = json!({
                "cluster_name": port.name(), "endpoints": endpoints.collect::<Vec<_>>(),
            });
            json!({"endpoint_config": typed(
                "envoy.config.endpoint.v3.ClusterLoadAssignment", assignment,
            )})
        });
        typed(
            "envoy.admin.v3.EndpointsConfigDump",
            json!({"dynamic_endpoint_configs": configs.collect::<Vec<_>>()}),
        )
    }
}

/// A duration as protobuf's JSON writes it.
fn seconds(duration: std::time::Duration) -> String {
    format!("{}s", duration.as_secs_f64())
}

fn thresholds(settings: &Settings) -> Option<Value> {
    let limits = &settings.limits;
    let known = [
        ("max_connections", limits.connections),
        ("max_pending_requests", limits.pending),
        ("max_requests", limits.requests),
        ("max_retries", limits.retries),
    ];
    let known = known
        .into_iter()
        .filter_map(|(key, limit)| Some((key.to_owned(), Value::from(limit?))));
    let known: Map<String, Value> = known.collect();
    (!known.is_empty()).then_some(Value::Object(known))
}

/// How connections to a port of a service are taken.
fn chain(port: &Port<'_>) -> Value {
    let name = port.name();
    let ranges = port.service.vips.iter().map(|vip| {
        let length = if vip.address.is_ipv4() { 32 } else { 128 };
        json!({"address_prefix": vip.address.to_string(), "prefix_len": length})
    });
    let filter = match port.is_tcp() {
        true => json!({
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": typed(
                "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                json!({"stat_prefix": name, "cluster": name}),
            ),
        }),
        false => json!({
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": typed(
                "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                json!({
                    "stat_prefix": name,
                    "rds": {
                        "config_source": {"ads": {}, "resource_api_version": "V3"},
                        "route_config_name": name,
                    },
                }),
            ),
        }),
    };
    json!({
        "name": name,
        "filter_chain_match": {
            "destination_port": port.port, "prefix_ranges": ranges.collect::<Vec<_>>(),
        },
        "filters": [filter],
    })
}

/// Certificates of our own dump (PEM in base64, one each) as one.
fn joined(certificates: &Value) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let list = certificates
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let pems = list
        .iter()
        .filter_map(|certificate| STANDARD.decode(certificate["pem"].as_str()?).ok());
    STANDARD.encode(pems.flatten().collect::<Vec<u8>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ambit_model::route::{
        Backend, Field, Forward, Match, Parent, PathMatch, Redirect, Replace, Rewrite, Route, Rule,
        Target, TextMatch,
    };
    use ambit_model::traffic::{Outlier, TrafficPolicy};
    use ambit_wire::xds::{Handler, Received};

    use crate::state::{RouteHandler, TrafficHandler};
    use crate::testbed::{Testbed, service_key};

    const CLUSTER: &str = "inbound-vip|80|http|echo.shop.svc.cluster.local";

    fn route() -> Route {
        let target = || Target {
            service: service_key(),
            port: 80,
        };
        let backend = |target, weight| Backend {
            target,
            weight,
            ..Backend::default()
        };
        let split = Forward {
            backends: vec![backend(Some(target()), 3), backend(None, 1)],
            rewrite: Rewrite {
                host: Some("other".into()),
                path: Some(Replace::Prefix("/b".into())),
            },
            ..Forward::default()
        };
        let matched = Match {
            path: Some(PathMatch::Segments("/a".into())),
            method: Some(TextMatch::Exact("GET".into())),
            headers: vec![Field {
                name: "x-user".into(),
                value: TextMatch::Prefix("a".into()),
                negated: true,
            }],
            ..Match::default()
        };
        let redirect = Redirect {
            scheme: Some("https".into()),
            port: Some(8443),
            status: 301,
            ..Redirect::default()
        };
        Route {
            namespace: "shop".into(),
            name: "r".into(),
            parents: vec![Parent {
                service: service_key(),
                port: Some(80),
            }],
            rules: vec![
                Rule {
                    action: ambit_model::route::Action::Redirect(redirect),
                    ..Rule::default()
                },
                Rule {
                    name: "split".into(),
                    matches: vec![matched],
                    action: ambit_model::route::Action::Forward(split),
                    ..Rule::default()
                },
            ],
            ..Route::default()
        }
    }

    async fn testbed() -> Testbed {
        let testbed = Testbed::new().await;
        let (route, traffic) = (
            route(),
            TrafficPolicy {
                namespace: "shop".into(),
                name: "careful".into(),
                service: service_key(),
                settings: Settings {
                    balance: Balance::RoundRobin,
                    outlier: Some(Outlier {
                        consecutive_5xx: 5,
                        consecutive_gateway: 0,
                        base_ejection: std::time::Duration::from_secs(30),
                        max_ejection_percent: 10,
                        min_health_percent: 0,
                    }),
                    ..Settings::default()
                },
                ..TrafficPolicy::default()
            },
        );
        let received = Received {
            name: route.key(),
            aliases: Vec::new(),
            message: (&route).into(),
        };
        RouteHandler(testbed.l7()).handle(vec![received], vec![]);
        let received = Received {
            name: traffic.key(),
            aliases: Vec::new(),
            message: (&traffic).into(),
        };
        TrafficHandler(testbed.l7()).handle(vec![received], vec![]);
        testbed
    }

    #[tokio::test]
    async fn envoys_words() {
        let testbed = testbed().await;
        let configs = configs(testbed.shared());
        let part = |kind: &str| {
            let kind = format!("type.googleapis.com/envoy.admin.v3.{kind}ConfigDump");
            let all = configs.as_array().unwrap();
            all.iter().find(|part| part["@type"] == kind).unwrap()
        };
        let at = |kind: &str, path: &str| part(kind).pointer(path).cloned().unwrap_or_default();
        let node = at("Bootstrap", "/bootstrap/node/id");
        assert!(node.as_str().unwrap().starts_with("waypoint~"));
        let cluster = at("Clusters", "/dynamic_active_clusters/0/cluster");
        assert_eq!(cluster["name"], CLUSTER);
        assert_eq!(cluster["lb_policy"], "ROUND_ROBIN");
        assert_eq!(cluster["outlier_detection"]["base_ejection_time"], "30s");
        assert_eq!(
            cluster["metadata"]["filter_metadata"]["istio"]["config"],
            "/apis/networking.istio.io/v1/namespaces/shop/destination-rule/careful"
        );
        let listeners = at("Listeners", "/dynamic_listeners");
        let names: Vec<_> = listeners.as_array().unwrap().iter().collect();
        let names: Vec<_> = names.iter().map(|l| l["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["connect_terminate", "main_internal"]);
        let endpoint = at(
            "Endpoints",
            "/dynamic_endpoint_configs/0/endpoint_config/endpoints/0/lb_endpoints/0/endpoint",
        );
        let address = endpoint.pointer("/address/socket_address/address");
        assert_eq!(address, Some(&json!("127.0.0.1")));
        let statuses = clusters(testbed.shared());
        assert_eq!(statuses["cluster_statuses"][0]["name"], CLUSTER);
    }

    /// In the order in which they count, not in that in which they are written.
    #[tokio::test]
    async fn rules() {
        let testbed = testbed().await;
        let l7 = testbed.l7().load();
        let rules = l7.rules(&service_key(), 80).map(Arc::as_ref);
        let config = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproute/r";
        let metadata = json!({"filter_metadata": {"istio": {"config": config}}});
        assert_eq!(
            route::routes(rules, CLUSTER, &|_, _| false),
            [
                json!({
                    "name": "split",
                    "match": {
                        "path_separated_prefix": "/a",
                        "headers": [
                            {"name": ":method", "string_match": {"exact": "GET"}},
                            {
                                "name": "x-user", "string_match": {"prefix": "a"},
                                "invert_match": true,
                            },
                        ],
                    },
                    "metadata": metadata,
                    "route": {
                        "weighted_clusters": {"clusters": [
                            {"name": CLUSTER, "weight": 3},
                            {"name": "BlackHoleCluster", "weight": 1},
                        ]},
                        "timeout": "0s", "host_rewrite_literal": "other", "prefix_rewrite": "/b",
                    },
                }),
                json!({
                    "name": "shop.r",
                    "match": {"prefix": "/"},
                    "metadata": metadata,
                    "redirect": {
                        "response_code": "MOVED_PERMANENTLY", "scheme_redirect": "https",
                        "port_redirect": 8443,
                    },
                }),
            ]
        );
        let nothing = route::routes(None, CLUSTER, &|_, _| false);
        assert_eq!(nothing[0]["route"]["cluster"], CLUSTER);
    }
}
