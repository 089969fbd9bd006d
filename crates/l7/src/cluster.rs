//! The endpoints of a service's port as they are used: those that fit best and are not left out, and
//! how one of them is chosen. Made anew when the mesh, its policies or their health change, so that a
//! choice looks at no more than it needs.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use ambit_model::balance::locality::LocalityRule;
use ambit_model::balance::{self, Bucket, Host, Maglev, Purpose, Ring, Weights};
use ambit_model::service::{LoadBalancing, LoadBalancingMode, NamespacedHostname};
use ambit_model::traffic::{Balance, HashTable, Origination, Settings, TlsName};
use ambit_model::workload::Protocol;
use ambit_model::{Identity, Service, Text, Workload, outbound};
use ambit_transport::tls::{Origin, OriginName, OriginRoots};
use parking_lot::Mutex;

use crate::health::{Health, Load};
use crate::shared::{CONNECT_TIMEOUT, Shared};
use crate::upstream::{Endpoint, Key};

/// How often another endpoint is looked for than those that were tried.
const OTHERS: usize = 5;

/// The clusters of one worker.
#[derive(Default)]
pub(crate) struct Clusters(Mutex<HashMap<(NamespacedHostname, u16), Arc<Cluster>>>);

/// What a cluster was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    mesh: u64,
    policies: u64,
    health: u64,
}

/// See the module's description.
pub(crate) struct Cluster {
    version: Version,
    pub(crate) settings: Settings,
    pub(crate) load: Arc<Load>,
    members: Vec<Member>,
    weights: Weights,
    turn: AtomicU64,
    table: OnceLock<Table>,
    /// Until then its weights are right: endpoints that are warmed up gain some.
    until: Option<Instant>,
}

/// An endpoint.
pub(crate) struct Member {
    pub(crate) endpoint: Endpoint,
    pub(crate) health: Arc<Health>,
    weight: u32,
}

enum Table {
    Ring(Ring),
    Maglev(Maglev),
}

impl Clusters {
    /// The cluster of a service's port; `None` if the service is not there.
    pub(crate) fn of(
        &self,
        shared: &Shared,
        service: &NamespacedHostname,
        port: u16,
    ) -> Option<Arc<Cluster>> {
        let key = (service.clone(), port);
        let mut clusters = self.0.lock();
        let mut version = Version {
            mesh: shared.store.changes(),
            policies: shared.l7.traffic_changes(),
            health: 0,
        };
        if let Some(cluster) = clusters.get(&key) {
            version.health = cluster.load.changes();
            let right = cluster.until.is_none_or(|until| Instant::now() < until);
            if cluster.version == version && right {
                return Some(cluster.clone());
            }
        }
        let load = shared.loads.of(service, port);
        version.health = load.changes();
        let Some(cluster) = Cluster::new(shared, service, port, load, version) else {
            clusters.remove(&key);
            return None;
        };
        let cluster = Arc::new(cluster);
        clusters.insert(key, cluster.clone());
        Some(cluster)
    }

    /// Forgets what belongs to another state of the mesh: what is still used is made again.
    pub(crate) fn sweep(&self, shared: &Shared) {
        let mesh = shared.store.changes();
        self.0
            .lock()
            .retain(|_, cluster| cluster.version.mesh == mesh);
    }
}

impl Cluster {
    fn new(
        shared: &Shared,
        key: &NamespacedHostname,
        port: u16,
        load: Arc<Load>,
        version: Version,
    ) -> Option<Self> {
        let state = shared.store.load();
        let (service, entry) = state.service(key)?;
        let settings = shared.l7.load().traffic(key, port);
        let own = shared.workload();
        let like = service.vips.first().map(|vip| vip.address);
        let like = like.unwrap_or(std::net::Ipv4Addr::UNSPECIFIED.into());
        let candidates = balance::candidates(service, entry, &own, port, Purpose::Standard);
        let tls = settings.tls.as_deref().map(origin);
        let says = |lb: &LoadBalancing| lb.mode != LoadBalancingMode::Standard;
        let of_service = service.load_balancing.as_ref().is_some_and(says);
        let locality = settings.locality.clone();
        let locality = locality.filter(|rule| !(rule.of_mesh && of_service));
        let candidates = candidates.filter_map(|(candidate, rank)| {
            let like = SocketAddr::new(like, port);
            let host = balance::host(candidate.workload, Some(service), like)?;
            debug_assert!(!matches!(host, Host::Remote));
            let address = outbound::dialled(&host, candidate.port)?;
            let tls = tls.clone();
            let endpoint = endpoint(candidate.workload, Some(service), address, &settings, tls);
            let rank = match &locality {
                Some(rule) => rule.kind.rank(&own, candidate.workload),
                None => rank,
            };
            Some((endpoint, rank))
        });
        let candidates: Vec<_> = candidates.collect();
        let names: Vec<Text> = candidates
            .iter()
            .map(|(endpoint, _)| endpoint.workload.uid.clone())
            .collect();
        let health = load.members(&names);
        let used = used(&health, &settings);
        let all = candidates.into_iter().zip(health);
        let all: Vec<_> = all
            .filter(|(_, (_, out))| used == Used::All || !out)
            .collect();
        let best = all.iter().map(|((_, rank), _)| *rank).max();
        let members: Vec<Member> = all
            .into_iter()
            .filter(|((_, rank), _)| Some(*rank) == best)
            .map(|((endpoint, _), (health, _))| Member {
                weight: endpoint.workload.capacity,
                endpoint,
                health,
            })
            .collect();
        let members = shared_out(members, locality.as_ref(), &own);
        let (members, until) = warmed_up(members, &settings, &load);
        let weights: Vec<u32> = members.iter().map(|member| member.weight).collect();
        Some(Self {
            until,
            version,
            settings,
            load,
            weights: Weights::new(&weights),
            members,
            turn: AtomicU64::new(rand::random()),
            table: OnceLock::new(),
        })
    }

    /// Chooses an endpoint: by the hash of the request, where there is one, and not one of those that
    /// were tried, if there are others.
    pub(crate) fn choose(&self, hash: Option<u64>, tried: &[Text]) -> Option<&Member> {
        let mut chosen = self.once(hash)?;
        for attempt in 0..OTHERS {
            if !tried.contains(&chosen.endpoint.workload.uid) {
                break;
            }
            let hash = hash.map(|hash| hash.wrapping_add(1 + attempt as u64));
            chosen = self.once(hash.map(|hash| balance::hash(&hash.to_le_bytes())))?;
        }
        Some(chosen)
    }

    /// The endpoint at an address, if it is used.
    pub(crate) fn at(&self, address: SocketAddr) -> Option<&Member> {
        self.members
            .iter()
            .find(|member| member.endpoint.address == address)
    }

    fn once(&self, hash: Option<u64>) -> Option<&Member> {
        let mut rng = rand::rng();
        let number = match (&self.settings.balance, hash) {
            (Balance::Hash(_, table), Some(hash)) => self.table(*table).find(hash),
            (Balance::RoundRobin, _) => {
                self.weights.turn(self.turn.fetch_add(1, Ordering::Relaxed))
            }
            (Balance::LeastRequest, _) => self
                .weights
                .less_loaded(&mut rng, |number| self.members[number].health.active()),
            (Balance::Random | Balance::Hash(..), _) => self.weights.draw(&mut rng),
        };
        self.members.get(number?)
    }

    fn table(&self, table: HashTable) -> &Table {
        self.table.get_or_init(|| {
            let bucket = |member: &Member| Bucket {
                name: member.endpoint.address.to_string(),
                weight: member.weight,
            };
            let buckets: Vec<_> = self.members.iter().map(bucket).collect();
            match table {
                HashTable::Ring(minimum) => Table::Ring(Ring::new(&buckets, minimum)),
                HashTable::Maglev(size) => Table::Maglev(Maglev::new(&buckets, size)),
            }
        })
    }
}

impl Table {
    fn find(&self, hash: u64) -> Option<usize> {
        match self {
            Self::Ring(ring) => ring.find(hash),
            Self::Maglev(maglev) => maglev.find(hash),
        }
    }
}

/// Which endpoints are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Used {
    /// Those that are not left out.
    Healthy,
    /// All: too few would be left (panic).
    All,
}

fn used(health: &[(Arc<Health>, bool)], settings: &Settings) -> Used {
    let minimum = settings.outlier.map_or(0, |o| o.min_health_percent);
    let healthy = health.iter().filter(|(_, out)| !out).count();
    match (healthy as u64) * 100 < u64::from(minimum) * health.len() as u64 {
        true => Used::All,
        false => Used::Healthy,
    }
}

/// An endpoint at an address, with the identities that may answer there.
pub(crate) fn endpoint(
    workload: &Arc<Workload>,
    service: Option<&Service>,
    address: SocketAddr,
    settings: &Settings,
    tls: Option<Result<Origin, Text>>,
) -> Endpoint {
    let listed = service
        .map(|s| &s.subject_alt_names[..])
        .unwrap_or_default();
    let expected: Vec<Identity> = listed
        .iter()
        .filter_map(|name| name.parse().ok())
        .chain([workload.identity()])
        .collect();
    let expected: Arc<[Identity]> = expected.into();
    let tunnel = workload.protocol == Protocol::Hbone;
    Endpoint {
        key: Key::new(workload, address, &expected, tunnel, settings.tls.as_ref()),
        tls,
        workload: workload.clone(),
        address,
        expected,
        tunnel,
        connect_timeout: settings.connect_timeout.unwrap_or(CONNECT_TIMEOUT),
        idle_time: settings.idle_timeout.unwrap_or(crate::health::IDLE_TIME),
        requests: settings.limits.requests_per_connection,
    }
}

/// Weights by the shares of places; those without a share are not used.
fn shared_out(
    mut members: Vec<Member>,
    locality: Option<&LocalityRule>,
    own: &Workload,
) -> Vec<Member> {
    let weighed: Vec<(&Workload, u32)> = members
        .iter()
        .map(|member| (&*member.endpoint.workload, member.weight))
        .collect();
    let weights = locality.and_then(|rule| rule.kind.weights(own, &weighed));
    let Some(weights) = weights else {
        return members;
    };
    for (member, weight) in members.iter_mut().zip(weights) {
        member.weight = weight;
    }
    members.retain(|member| member.weight > 0);
    members
}

/// Weights of endpoints some of which are new, and until when they are right.
fn warmed_up(
    mut members: Vec<Member>,
    settings: &Settings,
    load: &Load,
) -> (Vec<Member>, Option<Instant>) {
    /// So that a small weight has small parts.
    const SCALE: f64 = 1_000.0;
    let Some(warmup) = settings.warmup else {
        return (members, None);
    };
    let parts: Vec<Option<f64>> = members
        .iter()
        .map(|member| warmup.part(load.age(&member.health)))
        .collect();
    if parts.iter().all(Option::is_none) {
        return (members, None);
    }
    for (member, part) in members.iter_mut().zip(parts) {
        let weight = f64::from(member.weight) * SCALE * part.unwrap_or(1.0);
        // The conversion keeps what is out of range within it.
        member.weight = (weight as u32).max(1);
    }
    let step = (warmup.duration / 20).clamp(Duration::from_millis(10), Duration::from_secs(1));
    (members, Some(Instant::now() + step))
}

/// What connections to endpoints are secured with.
fn origin(origination: &Origination) -> Result<Origin, Text> {
    let tls = match origination {
        Origination::Tls(tls) => tls,
        Origination::Unusable(reason) => return Err(reason.clone()),
    };
    let name = |name: &TlsName| match name {
        TlsName::Dns(name) => OriginName::Dns(name.to_string()),
        TlsName::Uri(uri) => OriginName::Uri(uri.to_string()),
    };
    let names: Vec<OriginName> = tls.names.iter().map(name).collect();
    let roots = match &tls.authorities {
        Some(pem) => OriginRoots::Pem(pem),
        None => OriginRoots::System,
    };
    Origin::new(roots, &tls.server, &names).map_err(|e| e.to_string().into())
}
