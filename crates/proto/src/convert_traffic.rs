//! Traffic policies: messages to model and back. Nothing here decides who may pass; what cannot be
//! read is refused as a whole, and the last good one holds.

use std::time::Duration;

use ambit_model::balance::locality::{LocalityKind, LocalityRule, Place, Scope, Share};
use ambit_model::traffic::{
    Balance, HashOn, HashTable, Limits, Outlier, RetryBudget, Settings, TrafficPolicy, Warmup,
};

use crate::convert::ConvertError;
use crate::convert_route::{service, service_key, span};
use crate::l7 as pb;

impl TryFrom<pb::TrafficPolicy> for TrafficPolicy {
    type Error = ConvertError;

    fn try_from(m: pb::TrafficPolicy) -> Result<Self, ConvertError> {
        let port = |(port, m): (u32, pb::TrafficSettings)| {
            let number = u16::try_from(port).map_err(|_| ConvertError::Missing("a port"))?;
            Ok((number, settings(m)?))
        };
        Ok(Self {
            namespace: m.namespace.into(),
            name: m.name.into(),
            created: m.created,
            service: service(m.service).ok_or(ConvertError::Missing("service"))?,
            settings: m.settings.map(settings).transpose()?.unwrap_or_default(),
            ports: m.ports.into_iter().map(port).collect::<Result<_, _>>()?,
            exported: m.exported,
            root: m.root,
        })
    }
}

fn settings(m: pb::TrafficSettings) -> Result<Settings, ConvertError> {
    use pb::traffic_settings::Balance as Pb;
    let balance = match m.balance.ok_or(ConvertError::Missing("balance"))? {
        Pb::LeastRequest(_) => Balance::LeastRequest,
        Pb::RoundRobin(_) => Balance::RoundRobin,
        Pb::Random(_) => Balance::Random,
        Pb::Hash(m) => hash(m)?,
    };
    let limits = m.limits.unwrap_or_default();
    let outlier = m.outlier.map(|m| {
        Ok::<_, ConvertError>(Outlier {
            consecutive_5xx: m.consecutive_5xx,
            consecutive_gateway: m.consecutive_gateway,
            base_ejection: time(m.base_ejection)?.unwrap_or_default(),
            max_ejection_percent: m.max_ejection_percent,
            min_health_percent: m.min_health_percent,
        })
    });
    Ok(Settings {
        balance,
        limits: Limits {
            connections: limits.connections,
            pending: limits.pending,
            requests: limits.requests,
            requests_per_connection: limits.requests_per_connection,
            retries: limits.retries,
            retry_budget: limits.retry_budget.map(|m| RetryBudget {
                percent: m.percent,
                minimum: m.minimum,
            }),
        },
        outlier: outlier.transpose()?,
        connect_timeout: time(m.connect_timeout)?,
        idle_timeout: time(m.idle_timeout)?,
        warmup: m.warmup.map(warmup).transpose()?,
        locality: m.locality.map(locality).transpose()?,
        // Another object says it.
        tls: None,
    })
}

fn warmup(m: pb::Warmup) -> Result<Warmup, ConvertError> {
    Ok(Warmup {
        duration: time(m.duration)?.ok_or(ConvertError::Missing("duration"))?,
        minimum: m.minimum,
        aggression: m.aggression,
    })
}

fn locality(m: pb::Locality) -> Result<LocalityRule, ConvertError> {
    use pb::locality::Kind;
    let missing = ConvertError::Missing;
    let kind = match m.kind.ok_or(missing("locality"))? {
        Kind::Failover(m) => {
            let regions = m.regions.into_iter();
            let regions = regions.map(|m| (m.name.into(), m.value.into()));
            LocalityKind::Failover(regions.collect())
        }
        Kind::Priority(m) => {
            let scope = |number: &i32| {
                let known = usize::try_from(*number).ok().and_then(|n| SCOPES.get(n));
                known.copied().ok_or(missing("a scope"))
            };
            LocalityKind::Priority(m.scopes.iter().map(scope).collect::<Result<_, _>>()?)
        }
        Kind::Distribute(m) => {
            let share = |m: pb::LocalityShare| Share {
                from: Place::parse(&m.from),
                to: m
                    .to
                    .into_iter()
                    .map(|m| (Place::parse(&m.place), m.weight))
                    .collect(),
            };
            LocalityKind::Distribute(m.shares.into_iter().map(share).collect())
        }
    };
    Ok(LocalityRule {
        kind,
        of_mesh: m.of_mesh,
    })
}

/// In the order of their numbers on the wire.
const SCOPES: [Scope; 4] = [Scope::Network, Scope::Region, Scope::Zone, Scope::Subzone];

fn of_locality(rule: &LocalityRule) -> pb::Locality {
    use pb::locality::Kind;
    let kind = match &rule.kind {
        LocalityKind::Failover(regions) => {
            let regions = regions.iter().map(|(from, to)| pb::Header {
                name: from.to_string(),
                value: to.to_string(),
            });
            Kind::Failover(pb::LocalityFailover {
                regions: regions.collect(),
            })
        }
        LocalityKind::Priority(scopes) => {
            let number = |scope: &Scope| {
                let place = SCOPES.iter().position(|other| other == scope);
                place
                    .and_then(|n| i32::try_from(n).ok())
                    .unwrap_or_default()
            };
            Kind::Priority(pb::LocalityPriority {
                scopes: scopes.iter().map(number).collect(),
            })
        }
        LocalityKind::Distribute(shares) => {
            let share = |share: &Share| pb::LocalityShare {
                from: share.from.to_string(),
                to: share
                    .to
                    .iter()
                    .map(|(place, weight)| pb::PlaceWeight {
                        place: place.to_string(),
                        weight: *weight,
                    })
                    .collect(),
            };
            Kind::Distribute(pb::LocalityDistribute {
                shares: shares.iter().map(share).collect(),
            })
        }
    };
    pb::Locality {
        kind: Some(kind),
        of_mesh: rule.of_mesh,
    }
}

fn hash(m: pb::HashBalance) -> Result<Balance, ConvertError> {
    use pb::hash_balance::{On, Table};
    let on = match m.on.ok_or(ConvertError::Missing("hash.on"))? {
        On::Header(name) => HashOn::Header(name.into()),
        On::Cookie(m) => HashOn::Cookie {
            name: m.name.into(),
            path: m.path.into(),
            lifetime: time(m.lifetime)?,
        },
        On::SourceIp(_) => HashOn::SourceIp,
        On::Parameter(name) => HashOn::Parameter(name.into()),
    };
    let table = match m.table.ok_or(ConvertError::Missing("hash.table"))? {
        Table::Ring(places) => HashTable::Ring(places),
        Table::Maglev(places) => HashTable::Maglev(places),
    };
    Ok(Balance::Hash(on, table))
}

fn time(m: Option<prost_types::Duration>) -> Result<Option<Duration>, ConvertError> {
    m.map(|m| Duration::try_from(m).map_err(|_| ConvertError::Missing("a duration")))
        .transpose()
}

impl From<&TrafficPolicy> for pb::TrafficPolicy {
    fn from(policy: &TrafficPolicy) -> Self {
        let ports = policy.ports.iter();
        Self {
            namespace: policy.namespace.to_string(),
            name: policy.name.to_string(),
            created: policy.created,
            service: Some(service_key(&policy.service)),
            settings: Some((&policy.settings).into()),
            exported: policy.exported,
            root: policy.root,
            ports: ports
                .map(|(port, settings)| (u32::from(*port), settings.into()))
                .collect(),
        }
    }
}

impl From<&Settings> for pb::TrafficSettings {
    fn from(settings: &Settings) -> Self {
        use pb::traffic_settings::Balance as Pb;
        let nothing = pb::Nothing {};
        let limits = &settings.limits;
        Self {
            balance: Some(match &settings.balance {
                Balance::LeastRequest => Pb::LeastRequest(nothing),
                Balance::RoundRobin => Pb::RoundRobin(nothing),
                Balance::Random => Pb::Random(nothing),
                Balance::Hash(on, table) => Pb::Hash(of_hash(on, *table)),
            }),
            limits: Some(pb::TrafficLimits {
                connections: limits.connections,
                pending: limits.pending,
                requests: limits.requests,
                requests_per_connection: limits.requests_per_connection,
                retries: limits.retries,
                retry_budget: limits.retry_budget.map(|budget| pb::RetryBudget {
                    percent: budget.percent,
                    minimum: budget.minimum,
                }),
            }),
            outlier: settings.outlier.map(|outlier| pb::Outlier {
                consecutive_5xx: outlier.consecutive_5xx,
                consecutive_gateway: outlier.consecutive_gateway,
                base_ejection: Some(span(outlier.base_ejection)),
                max_ejection_percent: outlier.max_ejection_percent,
                min_health_percent: outlier.min_health_percent,
            }),
            connect_timeout: settings.connect_timeout.map(span),
            idle_timeout: settings.idle_timeout.map(span),
            warmup: settings.warmup.map(|warmup| pb::Warmup {
                duration: Some(span(warmup.duration)),
                minimum: warmup.minimum,
                aggression: warmup.aggression,
            }),
            locality: settings.locality.as_ref().map(of_locality),
        }
    }
}

fn of_hash(on: &HashOn, table: HashTable) -> pb::HashBalance {
    use pb::hash_balance::{On, Table};
    pb::HashBalance {
        on: Some(match on {
            HashOn::Header(name) => On::Header(name.to_string()),
            HashOn::Cookie {
                name,
                path,
                lifetime,
            } => On::Cookie(pb::HashCookie {
                name: name.to_string(),
                path: path.to_string(),
                lifetime: lifetime.map(span),
            }),
            HashOn::SourceIp => On::SourceIp(pb::Nothing {}),
            HashOn::Parameter(name) => On::Parameter(name.to_string()),
        }),
        table: Some(match table {
            HashTable::Ring(places) => Table::Ring(places),
            HashTable::Maglev(places) => Table::Maglev(places),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ambit_model::service::NamespacedHostname;

    #[test]
    fn what_is_sent_is_what_is_read() {
        let cookie = HashOn::Cookie {
            name: "c".into(),
            path: "/".into(),
            lifetime: Some(Duration::ZERO),
        };
        let rule = |kind| LocalityRule {
            kind,
            of_mesh: true,
        };
        let shares = vec![Share {
            from: Place::parse("eu/a/*"),
            to: vec![(Place::parse("eu/a/1"), 80), (Place::parse("us"), 20)],
        }];
        let mut localities = [
            LocalityKind::Failover(vec![("eu".into(), "us".into())]),
            LocalityKind::Priority(SCOPES.into()),
            LocalityKind::Distribute(shares),
        ]
        .map(rule)
        .into_iter();
        let balances = [
            Balance::LeastRequest,
            Balance::RoundRobin,
            Balance::Random,
            Balance::Hash(cookie, HashTable::Ring(1024)),
            Balance::Hash(HashOn::Header("h".into()), HashTable::Maglev(65_537)),
            Balance::Hash(HashOn::SourceIp, HashTable::Ring(1)),
            Balance::Hash(HashOn::Parameter("p".into()), HashTable::Ring(1)),
        ];
        for balance in balances {
            let settings = Settings {
                balance,
                limits: Limits {
                    connections: Some(1),
                    pending: Some(0),
                    requests: None,
                    requests_per_connection: Some(3),
                    retries: Some(4),
                    retry_budget: Some(RetryBudget {
                        percent: 20,
                        minimum: 3,
                    }),
                },
                outlier: Some(Outlier {
                    consecutive_5xx: 5,
                    consecutive_gateway: 0,
                    base_ejection: Duration::from_secs(30),
                    max_ejection_percent: 10,
                    min_health_percent: 50,
                }),
                connect_timeout: Some(Duration::from_millis(100)),
                idle_timeout: None,
                warmup: Some(Warmup {
                    duration: Duration::from_secs(30),
                    minimum: 0.1,
                    aggression: 1.5,
                }),
                locality: localities.next(),
                tls: None,
            };
            let policy = TrafficPolicy {
                namespace: "shop".into(),
                name: "p".into(),
                created: 7,
                service: NamespacedHostname::new("shop", "cart"),
                ports: [(81, Settings::default())].into(),
                exported: true,
                root: true,
                settings,
            };
            let read = TrafficPolicy::try_from(pb::TrafficPolicy::from(&policy)).unwrap();
            assert_eq!(read, policy);
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let policy = pb::TrafficPolicy::from(&TrafficPolicy::default());
        let mut none = policy.clone();
        none.service = None;
        assert!(TrafficPolicy::try_from(none).is_err());
        let mut newer = policy;
        newer.settings = Some(pb::TrafficSettings::default());
        assert!(TrafficPolicy::try_from(newer).is_err());
    }
}
