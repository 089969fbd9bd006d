//! How the endpoints of a service are chosen and spared (`DestinationRule`): the form in which that
//! reaches a proxy.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::Text;
use crate::balance::locality::LocalityRule;
use crate::service::NamespacedHostname;

/// What one object says about traffic to a service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrafficPolicy {
    /// Namespace of the object.
    pub namespace: Text,
    /// Its name.
    pub name: Text,
    /// When it was made, seconds since 1970. Of several for one service the oldest holds.
    pub created: i64,
    /// The service that it is about.
    pub service: NamespacedHostname,
    /// Proxies of other namespaces see it, too.
    pub exported: bool,
    /// It is of the root namespace, and for all of them.
    pub root: bool,
    /// What holds for its ports.
    pub settings: Settings,
    /// What holds for single ports instead, as a whole.
    pub ports: BTreeMap<u16, Settings>,
}

impl TrafficPolicy {
    /// The key of the policy, `namespace/name`.
    pub fn key(&self) -> Text {
        format!("{}/{}", self.namespace, self.name).into()
    }

    /// How near the object is to a proxy of this namespace: the least holds. `None` if it is not for
    /// this proxy. (The lookup of `DestinationRule`: the proxy's namespace, the service's, the root.)
    pub fn distance(&self, proxy: &Text) -> Option<u8> {
        match self {
            _ if self.namespace == *proxy => Some(0),
            _ if !self.exported => None,
            _ if self.namespace == self.service.namespace => Some(1),
            _ => self.root.then_some(2),
        }
    }

    /// What holds for a port.
    pub fn of_port(&self, port: u16) -> &Settings {
        self.ports.get(&port).unwrap_or(&self.settings)
    }
}

/// How endpoints are chosen and spared. The default is Istio's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// How one is chosen of those that fit equally well.
    pub balance: Balance,
    /// How much may be under way.
    pub limits: Limits,
    /// When one is left out for a while.
    pub outlier: Option<Outlier>,
    /// Longest wait for a TCP connection; none is the mesh's.
    pub connect_timeout: Option<Duration>,
    /// How long a connection waits for a request; none is the proxy's own time.
    pub idle_timeout: Option<Duration>,
    /// New endpoints get less at first.
    pub warmup: Option<Warmup>,
    /// What place means for a choice; what the service says of itself without.
    pub locality: Option<LocalityRule>,
    /// TLS to endpoints, within the tunnel where there is one.
    pub tls: Option<Arc<Origination>>,
}

/// How new endpoints are warmed up: their weight grows until they are as the others (Envoy's slow
/// start).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Warmup {
    /// How long it takes.
    pub duration: Duration,
    /// The part of its weight that an endpoint has at least.
    pub minimum: f64,
    /// How quickly it grows: 1 is evenly, more is faster at first.
    pub aggression: f64,
}

impl Warmup {
    /// The part of its weight that an endpoint of this age has; `None` once it is warm.
    pub fn part(&self, age: Duration) -> Option<f64> {
        if age >= self.duration {
            return None;
        }
        let grown = age.as_secs_f64() / self.duration.as_secs_f64();
        let exponent = 1.0 / self.aggression.max(f64::MIN_POSITIVE);
        Some(grown.powf(exponent).max(self.minimum).min(1.0))
    }
}

/// What one object says about TLS to the endpoints of services (`BackendTLSPolicy`).
#[derive(Clone, Debug, PartialEq)]
pub struct BackendTls {
    /// Namespace of the object.
    pub namespace: Text,
    /// Its name.
    pub name: Text,
    /// When it was made, seconds since 1970. Of several for the same the oldest holds.
    pub created: i64,
    /// Services, or one port of them, which goes before the whole.
    pub targets: Vec<(NamespacedHostname, Option<u16>)>,
    /// What it says.
    pub tls: Arc<Origination>,
}

impl BackendTls {
    /// The key of the object, `namespace/name`.
    pub fn key(&self) -> Text {
        format!("{}/{}", self.namespace, self.name).into()
    }

    /// How well it fits a port of a service: for the port, then for the service, then the oldest.
    /// `None` if it does not.
    pub fn fit(&self, service: &NamespacedHostname, port: u16) -> Option<(bool, i64, &Text)> {
        let of_service = self.targets.iter().filter(|(target, _)| target == service);
        let mut whole = None;
        for (_, only) in of_service {
            match only {
                Some(only) if *only == port => return Some((false, self.created, &self.name)),
                Some(_) => {}
                None => whole = Some((true, self.created, &self.name)),
            }
        }
        whole
    }
}

/// TLS that a proxy begins.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Origination {
    /// Like this.
    Tls(ClientTls),
    /// Nothing can be sent, for this reason: never in plain text.
    Unusable(Text),
}

/// How a server is asked for, and what it must show.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientTls {
    /// The name that is asked for.
    pub server: Text,
    /// Names of which its certificate must have one; without any, the one that is asked for.
    pub names: Vec<TlsName>,
    /// Authorities in PEM; those of the system without.
    pub authorities: Option<Text>,
}

/// A name in a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TlsName {
    /// A DNS name.
    Dns(Text),
    /// A URI.
    Uri(Text),
}

/// How an endpoint is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Balance {
    /// Of two drawn by weight, the one with fewer requests under way.
    #[default]
    LeastRequest,
    /// In turn, by weight.
    RoundRobin,
    /// Drawn by weight.
    Random,
    /// The same for the same request.
    Hash(HashOn, HashTable),
}

/// What of a request decides.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HashOn {
    /// A header, by name in lower case.
    Header(Text),
    /// A cookie; with a lifetime, one is given to a client that has none.
    Cookie {
        /// Its name.
        name: Text,
        /// Path that it is for.
        path: Text,
        /// How long it lives; zero is until the client ends.
        lifetime: Option<Duration>,
    },
    /// The client's address.
    SourceIp,
    /// A parameter of the query.
    Parameter(Text),
}

/// How hashes are spread over endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HashTable {
    /// A ring with at least so many places.
    Ring(u64),
    /// Maglev, with a table of so many places, a prime.
    Maglev(u64),
}

/// How much may be under way to a service's port, for one proxy; none is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Connections of HTTP/1 and TCP.
    pub connections: Option<u32>,
    /// Requests that wait for one of those.
    pub pending: Option<u32>,
    /// Requests.
    pub requests: Option<u32>,
    /// Requests on one connection, until it is closed.
    pub requests_per_connection: Option<u32>,
    /// Requests that are tried again.
    pub retries: Option<u32>,
    /// How many of those there may be for each hundred requests.
    pub retry_budget: Option<RetryBudget>,
}

/// How many of the requests under way may be tries again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// Of a hundred.
    pub percent: u32,
    /// So many in any case.
    pub minimum: u32,
}

/// When an endpoint is left out for a while (outlier detection).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlier {
    /// Statuses of 5xx, and connections that failed, in a row; 0 is never.
    pub consecutive_5xx: u32,
    /// The same of 502, 503 and 504 alone; 0 is never.
    pub consecutive_gateway: u32,
    /// The first time; each further one is as much longer.
    pub base_ejection: Duration,
    /// How many of a hundred may be left out; one may always be.
    pub max_ejection_percent: u32,
    /// With fewer usable ones of a hundred, all of them are used (panic).
    pub min_health_percent: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_warmed_up() {
        let warmup = |aggression| Warmup {
            duration: Duration::from_secs(100),
            minimum: 0.1,
            aggression,
        };
        let part = |aggression, age| warmup(aggression).part(Duration::from_secs(age));
        assert_eq!(part(1.0, 0), Some(0.1));
        assert_eq!(part(1.0, 50), Some(0.5));
        assert_eq!(part(2.0, 25), Some(0.5));
        assert_eq!(part(1.0, 100), None);
        assert_eq!(part(0.0, 50), Some(0.1));
    }

    #[test]
    fn the_nearest_object_holds() {
        let distance = |namespace: &str, exported, root| {
            let policy = TrafficPolicy {
                namespace: namespace.into(),
                service: NamespacedHostname::new("shop", "cart"),
                exported,
                root,
                ..TrafficPolicy::default()
            };
            policy.distance(&"gate".into())
        };
        assert_eq!(distance("gate", false, false), Some(0));
        assert_eq!(distance("shop", true, false), Some(1));
        assert_eq!(distance("istio-system", true, true), Some(2));
        assert_eq!(distance("shop", false, false), None);
        assert_eq!(distance("other", true, false), None);
    }
}
