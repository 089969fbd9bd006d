//! `DestinationRule` → [`TrafficPolicy`].
//!
//! What waypoints do not do yet is found and left out: the rest holds.

use std::time::Duration;

use ambit_kube_api::networking::destination_rule::{
    ConnectionPool, ConsistentHash, DestinationRule, DestinationRuleSpec, LoadBalancer,
    OutlierDetection, RetryBudget as ApiBudget, TrafficPolicy as ApiPolicy,
};
use ambit_model::balance::locality::LocalityRule;
use ambit_model::service::NamespacedHostname;
use ambit_model::traffic::{
    Balance, HashOn, HashTable, Outlier, RetryBudget, Settings, TrafficPolicy, Warmup,
};

use crate::durations;
use crate::findings::{Code, Finding};
use crate::key::ObjectKey;
use crate::labels::{Labels, labels_from};
use crate::locality;
use crate::mesh::Mesh;

/// Places of a ring where nobody says (Envoy's default).
const RING: u64 = 1024;
/// Places of a table of Maglev where nobody says (Envoy's default).
const MAGLEV: u64 = 65_537;
/// Places that a table may have at most (Envoy's limit).
const MOST_PLACES: u64 = 5_000_011;

/// The least of a hundred that a new endpoint gets where nobody says (Istio's default).
const WARMUP_PERCENT: f64 = 10.0;

/// What is known about one object.
#[derive(Clone, Debug, PartialEq)]
pub struct TrafficFacts {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Labels of the object itself.
    pub labels: Labels,
    created: i64,
    spec: DestinationRuleSpec,
}

/// An object as it is sent to waypoints, and what is to be said about it.
#[derive(Clone, Debug, PartialEq)]
pub struct TrafficTranslation {
    /// What is sent, if anything.
    pub policy: Option<TrafficPolicy>,
    /// What is to be said.
    pub findings: Vec<Finding>,
}

impl TrafficFacts {
    /// The facts about an object.
    pub fn of(object: &DestinationRule) -> Self {
        let created = object.metadata.creation_timestamp.as_ref();
        Self {
            key: ObjectKey::of(object),
            labels: labels_from(object.metadata.labels.as_ref()),
            created: created.map_or(0, |time| time.0.as_second()),
            spec: object.spec.clone(),
        }
    }
}

/// The object as it is sent to waypoints.
pub fn translate(mesh: &Mesh, facts: &TrafficFacts) -> TrafficTranslation {
    let mut reader = Reader {
        mesh,
        findings: Vec::new(),
    };
    let spec = &facts.spec;
    if !spec.subsets.is_empty() {
        reader.not_yet("spec.subsets", "no rule of a route names subsets yet");
    }
    if spec.workload_selector.is_some() {
        let message = "it is for client pods with sidecars; waypoints have no such labels";
        reader.not_yet("spec.workloadSelector", message);
    }
    let policy = service(mesh, &facts.key, &spec.host).map(|service| TrafficPolicy {
        namespace: facts.key.namespace.clone(),
        name: facts.key.name.clone(),
        created: facts.created,
        service,
        exported: spec.export_to.is_empty() || spec.export_to.iter().any(|to| to == "*"),
        root: facts.key.namespace == mesh.root_namespace,
        settings: reader.settings("spec.trafficPolicy", spec.traffic_policy.as_ref()),
        ports: reader.ports(spec.traffic_policy.as_ref()),
    });
    if policy.is_none() {
        let message = format!(
            "{:?} is no name of a service here; names with * have no effect yet",
            spec.host
        );
        reader.not_yet("spec.host", &message);
    }
    TrafficTranslation {
        policy: policy.filter(|_| spec.workload_selector.is_none()),
        findings: reader.findings,
    }
}

/// The service of a host: a short name is one of the object's own namespace.
fn service(mesh: &Mesh, key: &ObjectKey, host: &str) -> Option<NamespacedHostname> {
    if host.is_empty() || host.contains('*') {
        return None;
    }
    let mut labels = host.split('.');
    let (name, rest) = (labels.next()?, labels.next());
    let Some(namespace) = rest else {
        let hostname = mesh.hostname(&key.namespace, name);
        return Some(NamespacedHostname::new(key.namespace.clone(), hostname));
    };
    let whole = mesh.hostname(namespace, name);
    let of_kubernetes = [
        format!("{name}.{namespace}"),
        format!("{name}.{namespace}.svc"),
        whole.to_string(),
    ];
    match of_kubernetes.iter().any(|form| form == host) {
        true => Some(NamespacedHostname::new(namespace, whole)),
        // Of a ServiceEntry in the object's namespace.
        false => Some(NamespacedHostname::new(key.namespace.clone(), host)),
    }
}

struct Reader<'a> {
    mesh: &'a Mesh,
    findings: Vec<Finding>,
}

impl Reader<'_> {
    fn not_yet(&mut self, path: &str, message: &str) {
        let finding = Finding::new(Code::NotEnforced, path.to_owned(), message.to_owned());
        self.findings.push(finding);
    }

    fn time(&mut self, path: &str, text: Option<&String>) -> Option<Duration> {
        let text = text?;
        let time = durations::parse(text);
        if time.is_none() {
            let message = format!("{text:?} is no duration such as 1.5s");
            let finding = Finding::new(Code::InvalidValue, path.to_owned(), message);
            self.findings.push(finding);
        }
        time.filter(|time| !time.is_zero())
    }

    fn settings(&mut self, path: &str, api: Option<&ApiPolicy>) -> Settings {
        let Some(api) = api else {
            return Settings::default();
        };
        if api.tunnel.is_some() {
            self.not_yet(&format!("{path}.tunnel"), "waypoints open no such tunnels");
        }
        if api.proxy_protocol.is_some() {
            let message = "waypoints do not speak the PROXY protocol to endpoints";
            self.not_yet(&format!("{path}.proxyProtocol"), message);
        }
        let mode = api.tls.as_ref().and_then(|tls| tls.mode.as_deref());
        self.tls(path, mode);
        let mut settings = self.read(
            path,
            api.load_balancer.as_ref(),
            api.connection_pool.as_ref(),
            api.outlier_detection.as_ref(),
        );
        settings.limits.retry_budget = api.retry_budget.as_ref().map(budget);
        settings
    }

    fn ports(&mut self, api: Option<&ApiPolicy>) -> std::collections::BTreeMap<u16, Settings> {
        let ports = api
            .map(|api| &api.port_level_settings[..])
            .unwrap_or_default();
        let mut settings = std::collections::BTreeMap::new();
        for (index, api) in ports.iter().enumerate() {
            let path = format!("spec.trafficPolicy.portLevelSettings[{index}]");
            let number = api.port.as_ref().map_or(0, |port| port.number);
            let Some(number) = u16::try_from(number).ok().filter(|number| *number != 0) else {
                let message = format!("{number} is no port");
                let finding = Finding::new(Code::InvalidPort, path, message);
                self.findings.push(finding);
                continue;
            };
            self.tls(&path, api.tls.as_ref().and_then(|tls| tls.mode.as_deref()));
            let read = self.read(
                &path,
                api.load_balancer.as_ref(),
                api.connection_pool.as_ref(),
                api.outlier_detection.as_ref(),
            );
            settings.insert(number, read);
        }
        settings
    }

    /// Tunnels to endpoints are always mutual TLS of the mesh; another one within is not there yet.
    fn tls(&mut self, path: &str, mode: Option<&str>) {
        if let Some(mode @ ("SIMPLE" | "MUTUAL")) = mode {
            let message = format!("waypoints do not begin TLS of mode {mode} yet");
            self.not_yet(&format!("{path}.tls"), &message);
        }
    }

    fn read(
        &mut self,
        path: &str,
        balancer: Option<&LoadBalancer>,
        pool: Option<&ConnectionPool>,
        outlier: Option<&OutlierDetection>,
    ) -> Settings {
        let mut settings = Settings {
            balance: balancer.map_or_else(Balance::default, |api| self.balance(path, api)),
            outlier: outlier.map(|api| self.outlier(path, api)),
            ..Settings::default()
        };
        if let Some(pool) = pool {
            self.pool(path, pool, &mut settings);
        }
        settings.locality = self.locality(path, balancer, outlier.is_some());
        settings.warmup = balancer.and_then(|api| self.warmup(path, api));
        settings
    }

    /// New endpoints get less at first, where endpoints are chosen by weight.
    fn warmup(&mut self, path: &str, api: &LoadBalancer) -> Option<Warmup> {
        let path = format!("{path}.loadBalancer.warmup");
        let (text, minimum, aggression) = match (&api.warmup, &api.warmup_duration_secs) {
            (Some(api), _) => (&api.duration, api.minimum_percent, api.aggression),
            (None, Some(text)) => (text, None, None),
            (None, None) => return None,
        };
        let by_weight = matches!(
            api.simple.as_deref(),
            None | Some("UNSPECIFIED" | "ROUND_ROBIN" | "LEAST_REQUEST" | "LEAST_CONN")
        );
        if !by_weight || api.consistent_hash.is_some() {
            let message = "it has an effect with ROUND_ROBIN and LEAST_REQUEST alone";
            self.not_yet(&path, message);
            return None;
        }
        Some(Warmup {
            duration: self.time(&path, Some(text))?,
            minimum: minimum.unwrap_or(WARMUP_PERCENT) / 100.0,
            aggression: aggression.unwrap_or(1.0),
        })
    }

    /// What the object says about places, or else the mesh.
    fn locality(
        &mut self,
        path: &str,
        balancer: Option<&LoadBalancer>,
        watched: bool,
    ) -> Option<LocalityRule> {
        let own = balancer.and_then(|api| api.locality_lb_setting.as_ref());
        let findings = &mut self.findings;
        let mut found = |field: &str, message: String| {
            let path = format!("{path}.loadBalancer.localityLbSetting{field}");
            findings.push(Finding::new(Code::NotEnforced, path, message));
        };
        match own {
            Some(own) => locality::rule(own, false, watched, &mut found),
            None => locality::rule(&self.mesh.locality, true, watched, &mut |_, _| {}),
        }
    }

    fn balance(&mut self, path: &str, api: &LoadBalancer) -> Balance {
        let path = format!("{path}.loadBalancer");
        for (name, there) in [
            ("zoneAwareLbSetting", api.zone_aware_lb_setting.is_some()),
            ("backendUtilization", api.backend_utilization.is_some()),
        ] {
            if there {
                self.not_yet(&format!("{path}.{name}"), "it has no effect yet");
            }
        }
        if let Some(api) = &api.consistent_hash {
            return self.hash(&path, api);
        }
        match api.simple.as_deref() {
            Some("ROUND_ROBIN") => Balance::RoundRobin,
            Some("RANDOM") => Balance::Random,
            Some("PASSTHROUGH") => {
                let message = "a waypoint chooses an endpoint: the address that the client asks \
                               for is the service's";
                self.not_yet(&format!("{path}.simple"), message);
                Balance::default()
            }
            _ => Balance::LeastRequest,
        }
    }

    fn hash(&mut self, path: &str, api: &ConsistentHash) -> Balance {
        let on = if !api.http_header_name.is_empty() {
            HashOn::Header(api.http_header_name.to_ascii_lowercase().into())
        } else if let Some(cookie) = &api.http_cookie {
            if !cookie.attributes.is_empty() {
                let path = format!("{path}.consistentHash.httpCookie.attributes");
                self.not_yet(&path, "cookies are given without them");
            }
            let lifetime = cookie.ttl.as_ref();
            HashOn::Cookie {
                name: cookie.name.as_str().into(),
                path: cookie.path.as_str().into(),
                lifetime: lifetime.and_then(|ttl| durations::parse(ttl)),
            }
        } else if !api.http_query_parameter_name.is_empty() {
            HashOn::Parameter(api.http_query_parameter_name.as_str().into())
        } else if api.use_source_ip {
            HashOn::SourceIp
        } else {
            return Balance::default();
        };
        let ring = api
            .ring_hash
            .as_ref()
            .and_then(|ring| ring.minimum_ring_size);
        let ring = ring.or(api.minimum_ring_size).filter(|size| *size > 0);
        let table = match &api.maglev {
            None => HashTable::Ring(ring.unwrap_or(RING)),
            Some(maglev) => HashTable::Maglev(self.places(path, maglev.table_size)),
        };
        Balance::Hash(on, table)
    }

    /// Maglev works with a prime alone.
    fn places(&mut self, path: &str, size: Option<u64>) -> u64 {
        let Some(size) = size.filter(|size| *size > 0) else {
            return MAGLEV;
        };
        if size < MOST_PLACES && is_prime(size) {
            return size;
        }
        let message = format!("{size} is no prime below {MOST_PLACES}; {MAGLEV} holds");
        let path = format!("{path}.consistentHash.maglev.tableSize");
        self.findings
            .push(Finding::new(Code::InvalidValue, path, message));
        MAGLEV
    }

    fn pool(&mut self, path: &str, api: &ConnectionPool, settings: &mut Settings) {
        let limit = |number: i32| u32::try_from(number).ok().filter(|number| *number > 0);
        let path = format!("{path}.connectionPool");
        if let Some(tcp) = &api.tcp {
            settings.limits.connections = limit(tcp.max_connections);
            let place = format!("{path}.tcp.connectTimeout");
            settings.connect_timeout = self.time(&place, tcp.connect_timeout.as_ref());
            for (name, there) in [
                ("tcpKeepalive", tcp.tcp_keepalive.is_some()),
                (
                    "maxConnectionDuration",
                    tcp.max_connection_duration.is_some(),
                ),
                ("idleTimeout", tcp.idle_timeout.is_some()),
            ] {
                if there {
                    self.not_yet(&format!("{path}.tcp.{name}"), "it has no effect yet");
                }
            }
        }
        if let Some(http) = &api.http {
            let limits = &mut settings.limits;
            limits.pending = limit(http.http1_max_pending_requests);
            limits.requests = limit(http.http2_max_requests);
            limits.requests_per_connection = limit(http.max_requests_per_connection);
            limits.retries = limit(http.max_retries);
            let place = format!("{path}.http.idleTimeout");
            settings.idle_timeout = self.time(&place, http.idle_timeout.as_ref());
            for (name, there) in [
                (
                    "h2UpgradePolicy",
                    http.h2_upgrade_policy.as_deref() == Some("UPGRADE"),
                ),
                ("maxConcurrentStreams", http.max_concurrent_streams > 0),
                ("http2KeepAlive", http.http2_keep_alive.is_some()),
            ] {
                if there {
                    self.not_yet(&format!("{path}.http.{name}"), "it has no effect yet");
                }
            }
        }
    }

    fn outlier(&mut self, path: &str, api: &OutlierDetection) -> Outlier {
        let path = format!("{path}.outlierDetection");
        for (name, there) in [
            (
                "splitExternalLocalOriginErrors",
                api.split_external_local_origin_errors,
            ),
            (
                "outlierDetectionHttpErrorCodes",
                !api.outlier_detection_http_error_codes.is_empty(),
            ),
        ] {
            if there {
                self.not_yet(&format!("{path}.{name}"), "it has no effect yet");
            }
        }
        let place = format!("{path}.baseEjectionTime");
        let base = self.time(&place, api.base_ejection_time.as_ref());
        let percent = |number: i32| u32::try_from(number).unwrap_or(0).min(100);
        let older = u32::try_from(api.consecutive_errors).unwrap_or(0);
        Outlier {
            consecutive_5xx: api.consecutive_5xx_errors.unwrap_or(match older {
                0 => 5,
                number => number,
            }),
            consecutive_gateway: api.consecutive_gateway_errors.unwrap_or(0),
            base_ejection: base.unwrap_or(Duration::from_secs(30)),
            max_ejection_percent: match percent(api.max_ejection_percent) {
                0 => 10,
                percent => percent,
            },
            min_health_percent: percent(api.min_health_percent),
        }
    }
}

fn budget(api: &ApiBudget) -> RetryBudget {
    let percent = api.percent.unwrap_or(20.0).clamp(0.0, 100.0);
    RetryBudget {
        // Whole percents will do: requests are counted, not measured.
        percent: percent.round() as u32,
        minimum: api.min_retry_concurrency.unwrap_or(3),
    }
}

fn is_prime(number: u64) -> bool {
    number > 1
        && (2..)
            .take_while(|divisor| divisor * divisor <= number)
            .all(|divisor| !number.is_multiple_of(divisor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ambit_model::traffic::Limits;
    use serde_json::{Value, json};

    fn of(namespace: &str, spec: Value) -> TrafficTranslation {
        let object = json!({"metadata": {"name": "r", "namespace": namespace}, "spec": spec});
        let facts = TrafficFacts::of(&serde_json::from_value(object).unwrap());
        translate(&Mesh::default(), &facts)
    }

    fn settings(policy: Value) -> (Settings, Vec<String>) {
        let read = of("shop", json!({"host": "cart", "trafficPolicy": policy}));
        let paths = read.findings.iter().map(|f| f.field.clone());
        (read.policy.unwrap().settings, paths.collect())
    }

    #[test]
    fn hosts() {
        let host = |host: &str| {
            let policy = of("shop", json!({"host": host})).policy?;
            Some(policy.service.to_string())
        };
        let cart = Some("shop/cart.shop.svc.cluster.local".to_owned());
        for form in [
            "cart",
            "cart.shop",
            "cart.shop.svc",
            "cart.shop.svc.cluster.local",
        ] {
            assert_eq!(host(form), cart, "{form}");
        }
        assert_eq!(
            host("cart.other"),
            Some("other/cart.other.svc.cluster.local".into())
        );
        assert_eq!(host("api.example.com"), Some("shop/api.example.com".into()));
        assert_eq!(host("*.shop.svc.cluster.local"), None);
    }

    #[test]
    fn whom_it_is_for() {
        let reach = |namespace: &str, spec: Value| {
            let policy = of(namespace, spec).policy.unwrap();
            (policy.exported, policy.root)
        };
        assert_eq!(reach("shop", json!({"host": "a"})), (true, false));
        assert_eq!(reach("istio-system", json!({"host": "a.b"})), (true, true));
        assert_eq!(
            reach("shop", json!({"host": "a", "exportTo": ["."]})),
            (false, false)
        );
        let selected = json!({"host": "a", "workloadSelector": {"matchLabels": {"a": "b"}}});
        assert_eq!(of("shop", selected).policy, None);
    }

    #[test]
    fn balancers() {
        let balance = |api: Value| settings(json!({"loadBalancer": api})).0.balance;
        assert_eq!(balance(json!({})), Balance::LeastRequest);
        assert_eq!(
            balance(json!({"simple": "LEAST_CONN"})),
            Balance::LeastRequest
        );
        assert_eq!(
            balance(json!({"simple": "ROUND_ROBIN"})),
            Balance::RoundRobin
        );
        assert_eq!(balance(json!({"simple": "RANDOM"})), Balance::Random);
        let hash = |api: Value| balance(json!({"consistentHash": api}));
        assert_eq!(
            hash(json!({"httpHeaderName": "X-User"})),
            Balance::Hash(HashOn::Header("x-user".into()), HashTable::Ring(1024))
        );
        assert_eq!(
            hash(json!({"useSourceIp": true, "ringHash": {"minimumRingSize": 7}})),
            Balance::Hash(HashOn::SourceIp, HashTable::Ring(7))
        );
        assert_eq!(
            hash(json!({"httpQueryParameterName": "q", "maglev": {"tableSize": 101}})),
            Balance::Hash(HashOn::Parameter("q".into()), HashTable::Maglev(101))
        );
        let cookie = HashOn::Cookie {
            name: "c".into(),
            path: "/".into(),
            lifetime: Some(Duration::ZERO),
        };
        assert_eq!(
            hash(json!({"httpCookie": {"name": "c", "path": "/", "ttl": "0s"}, "maglev": {}})),
            Balance::Hash(cookie, HashTable::Maglev(65_537))
        );
        let api = json!({"loadBalancer": {"consistentHash": {
            "useSourceIp": true, "maglev": {"tableSize": 100},
        }}});
        assert_eq!(settings(api).1.len(), 1, "100 is no prime");
    }

    #[test]
    fn warmup() {
        let read = |api: Value| settings(json!({"loadBalancer": api}));
        let seconds = |duration: u64, minimum, aggression| {
            Some(Warmup {
                duration: Duration::from_secs(duration),
                minimum,
                aggression,
            })
        };
        let (warm, findings) = read(json!({"warmup": {
            "duration": "30s", "minimumPercent": 20.0, "aggression": 2.0,
        }}));
        assert_eq!((warm.warmup, findings.len()), (seconds(30, 0.2, 2.0), 0));
        let (old, _) = read(json!({"simple": "ROUND_ROBIN", "warmupDurationSecs": "10s"}));
        assert_eq!(old.warmup, seconds(10, 0.1, 1.0));
        let (drawn, findings) = read(json!({"simple": "RANDOM", "warmup": {"duration": "1s"}}));
        assert_eq!((drawn.warmup, findings.len()), (None, 1));
    }

    #[test]
    fn pools_and_outliers() {
        let (read, findings) = settings(json!({
            "connectionPool": {
                "tcp": {"maxConnections": 1, "connectTimeout": "0.5s"},
                "http": {
                    "http1MaxPendingRequests": 2, "http2MaxRequests": 3,
                    "maxRequestsPerConnection": 4, "maxRetries": 5, "idleTimeout": "1m",
                },
            },
            "outlierDetection": {"consecutiveGatewayErrors": 2, "baseEjectionTime": "3m"},
            "retryBudget": {"percent": 12.4},
        }));
        assert_eq!(findings, Vec::<String>::new());
        assert_eq!(
            read.limits,
            Limits {
                connections: Some(1),
                pending: Some(2),
                requests: Some(3),
                requests_per_connection: Some(4),
                retries: Some(5),
                retry_budget: Some(RetryBudget {
                    percent: 12,
                    minimum: 3
                }),
            }
        );
        assert_eq!(read.connect_timeout, Some(Duration::from_millis(500)));
        assert_eq!(read.idle_timeout, Some(Duration::from_secs(60)));
        let outlier = read.outlier.unwrap();
        assert_eq!(
            (outlier.consecutive_5xx, outlier.consecutive_gateway),
            (5, 2)
        );
        assert_eq!(outlier.base_ejection, Duration::from_secs(180));
        assert_eq!(outlier.max_ejection_percent, 10);
    }

    #[test]
    fn a_ports_settings_stand_for_the_whole() {
        let policy = json!({
            "loadBalancer": {"simple": "RANDOM"},
            "connectionPool": {"http": {"maxRetries": 1}},
            "portLevelSettings": [
                {"port": {"number": 81}, "loadBalancer": {"simple": "ROUND_ROBIN"}},
                {"port": {"number": 70_000}},
            ],
        });
        let read = of("shop", json!({"host": "cart", "trafficPolicy": policy}));
        let policy = read.policy.unwrap();
        assert_eq!(policy.of_port(80).balance, Balance::Random);
        assert_eq!(policy.of_port(81).balance, Balance::RoundRobin);
        assert_eq!(policy.of_port(81).limits, Limits::default());
        assert_eq!(read.findings.len(), 1);
    }

    #[test]
    fn what_has_no_effect_is_said() {
        let spec = json!({
            "host": "cart",
            "subsets": [{"name": "v1"}],
            "trafficPolicy": {
                "tls": {"mode": "SIMPLE"},
                "proxyProtocol": {"version": "V2"},
                "tunnel": {"targetHost": "a", "targetPort": 1},
                "loadBalancer": {"simple": "PASSTHROUGH", "warmup": {"duration": "1s"}},
                "connectionPool": {
                    "tcp": {"idleTimeout": "1s"},
                    "http": {"h2UpgradePolicy": "UPGRADE", "idleTimeout": "soon"},
                },
                "outlierDetection": {"splitExternalLocalOriginErrors": true},
            },
        });
        let paths: Vec<_> = of("shop", spec)
            .findings
            .into_iter()
            .map(|finding| finding.field)
            .collect();
        insta::assert_debug_snapshot!(paths);
    }
}
