//! Which endpoint a request goes to: what of the request decides, and that it is under way there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ambit_model::balance;
use ambit_model::route::Session;
use ambit_model::traffic::{Balance, HashOn, Settings};
use ambit_model::{Text, Workload};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::cluster::{self, Cluster};
use crate::dispatch::Destination;
use crate::external::Header;
use crate::failure::Failure;
use crate::health::UnderWay;
use crate::phases::headers::{cookie, parameter};
use crate::serve::Inbound;
use crate::shared::Worker;
use crate::upstream::Endpoint;

/// An endpoint for a request.
pub(crate) struct Chosen {
    pub(crate) endpoint: Endpoint,
    /// Until it is dropped, the request is under way there.
    pub(crate) under_way: Option<UnderWay>,
    /// What it was chosen from; none where the client named the workload itself.
    pub(crate) cluster: Option<Arc<Cluster>>,
}

/// What of a request decides about its endpoint.
#[derive(Default)]
pub(crate) struct Wish {
    hash: Option<u64>,
    /// The endpoint that the client's session belongs to.
    session: Option<SocketAddr>,
    /// For the client, so that its next request decides the same.
    pub(crate) cookie: Option<Header>,
    /// Workloads that did not answer.
    pub(crate) tried: Vec<Text>,
}

/// The cluster of a destination; `None` for a workload itself.
pub(crate) fn cluster(
    inbound: &Inbound,
    destination: &Destination,
) -> Result<Option<Arc<Cluster>>, Failure> {
    let Destination::Service(service, port) = destination else {
        return Ok(None);
    };
    let worker = &inbound.worker;
    let cluster = worker.clusters.of(&worker.shared, &service.key(), *port);
    cluster.map(Some).ok_or(Failure::NoEndpoint)
}

/// Chooses an endpoint of a destination.
pub(crate) fn choose(
    inbound: &Inbound,
    destination: &Destination,
    cluster: Option<&Arc<Cluster>>,
    wish: &Wish,
) -> Result<Chosen, Failure> {
    match (destination, cluster) {
        (Destination::Workload(workload, port), _) => Ok(itself(inbound, workload, *port)),
        (Destination::Service(..), None) => Err(Failure::NoEndpoint),
        (Destination::Service(..), Some(cluster)) => of_cluster(cluster, wish),
    }
}

fn of_cluster(cluster: &Arc<Cluster>, wish: &Wish) -> Result<Chosen, Failure> {
    let own = wish.session.filter(|_| wish.tried.is_empty());
    let member = own
        .and_then(|address| cluster.at(address))
        .or_else(|| cluster.choose(wish.hash, &wish.tried))
        .ok_or(Failure::NoEndpoint)?;
    let Settings {
        limits, outlier, ..
    } = &cluster.settings;
    let under_way = cluster.load.begin(&member.health, limits, *outlier)?;
    Ok(Chosen {
        endpoint: member.endpoint.clone(),
        under_way: Some(under_way),
        cluster: Some(cluster.clone()),
    })
}

/// Chooses for what is no client's request: a copy, a question, a connection.
pub(crate) fn any(inbound: &Inbound, destination: &Destination) -> Result<Chosen, Failure> {
    let cluster = cluster(inbound, destination)?;
    let settings = cluster.as_ref().map(|cluster| &cluster.settings);
    let wish = Wish {
        hash: settings.and_then(|settings| match settings.balance {
            Balance::Hash(HashOn::SourceIp, _) => Some(of_client(inbound)),
            _ => None,
        }),
        ..Wish::default()
    };
    choose(inbound, destination, cluster.as_ref(), &wish)
}

/// Chooses for what the waypoint itself has to say.
pub(crate) fn for_ourselves(
    worker: &Arc<Worker>,
    destination: &Destination,
) -> Result<Chosen, Failure> {
    let Destination::Service(service, port) = destination else {
        return Err(Failure::NoEndpoint);
    };
    let cluster = worker.clusters.of(&worker.shared, &service.key(), *port);
    of_cluster(&cluster.ok_or(Failure::NoEndpoint)?, &Wish::default())
}

/// The workload that the client named, at the address that it named.
fn itself(inbound: &Inbound, workload: &Arc<Workload>, port: u16) -> Chosen {
    let address = SocketAddr::new(inbound.asked.ip(), port);
    Chosen {
        endpoint: cluster::endpoint(workload, None, address, &Settings::default(), None),
        under_way: None,
        cluster: None,
    }
}

fn of_client(inbound: &Inbound) -> u64 {
    balance::hash(inbound.client.address.ip().to_string().as_bytes())
}

impl Wish {
    /// What decides, by the settings of the service and the session of the rule.
    pub(crate) fn of(
        inbound: &Inbound,
        settings: Option<&Settings>,
        session: Option<&Session>,
        parts: &Parts,
    ) -> Self {
        let mut wish = Self::default();
        if let Some(session) = session {
            wish.session = session_of(session, &parts.headers);
        }
        let Some(Balance::Hash(on, _)) = settings.map(|settings| &settings.balance) else {
            return wish;
        };
        let text = match on {
            HashOn::SourceIp => {
                wish.hash = Some(of_client(inbound));
                return wish;
            }
            HashOn::Header(name) => text_of(&parts.headers, name),
            HashOn::Parameter(name) => parameter(parts.uri.query().unwrap_or_default(), name),
            HashOn::Cookie {
                name,
                path,
                lifetime,
            } => cookie(&parts.headers, name).or_else(|| {
                let lifetime = (*lifetime)?;
                let value = format!("{:016x}", rand::random::<u64>());
                wish.cookie = set_cookie(name, &value, path, Some(lifetime));
                Some(value)
            }),
        };
        wish.hash = text.map(|text| balance::hash(text.as_bytes()));
        wish
    }

    /// What the client is told so that its session stays with the endpoint that has answered.
    pub(crate) fn stay(&self, session: Option<&Session>, answered: &Endpoint) -> Option<Header> {
        let session = session.filter(|_| self.session != Some(answered.address))?;
        let value = URL_SAFE_NO_PAD.encode(answered.address.to_string());
        if session.header {
            let name = HeaderName::from_bytes(session.name.as_bytes()).ok()?;
            return Some((name, HeaderValue::from_str(&value).ok()?));
        }
        set_cookie(&session.name, &value, "/", session.lifetime)
    }
}

/// The endpoint that a session belongs to, as the client says. It is used only if the service has it.
pub(crate) fn session_of(session: &Session, headers: &HeaderMap) -> Option<SocketAddr> {
    let value = match session.header {
        true => text_of(headers, &session.name)?,
        false => cookie(headers, &session.name)?,
    };
    let address = URL_SAFE_NO_PAD.decode(value).ok()?;
    std::str::from_utf8(&address).ok()?.parse().ok()
}

fn text_of(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

/// A cookie for the client; without a lifetime, or with none, it ends with the client's session.
fn set_cookie(name: &str, value: &str, path: &str, lifetime: Option<Duration>) -> Option<Header> {
    let mut text = format!("{name}=\"{value}\"");
    if let Some(lifetime) = lifetime.filter(|lifetime| !lifetime.is_zero()) {
        text.push_str(&format!("; Max-Age={}", lifetime.as_secs()));
    }
    if !path.is_empty() {
        text.push_str(&format!("; Path={path}"));
    }
    text.push_str("; HttpOnly");
    Some((header::SET_COOKIE, HeaderValue::from_str(&text).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        let value = HeaderValue::from_str(value).unwrap();
        [(HeaderName::from_static(name), value)]
            .into_iter()
            .collect()
    }

    #[test]
    fn cookies_for_the_client() {
        let (_, value) = set_cookie("c", "v", "/p", Some(Duration::from_secs(60))).unwrap();
        assert_eq!(value, "c=\"v\"; Max-Age=60; Path=/p; HttpOnly");
        let (_, value) = set_cookie("c", "v", "", Some(Duration::ZERO)).unwrap();
        assert_eq!(value, "c=\"v\"; HttpOnly");
    }

    #[test]
    fn sessions_name_their_endpoint() {
        let session = |header| Session {
            name: "s".into(),
            header,
            lifetime: None,
        };
        let value = URL_SAFE_NO_PAD.encode("10.0.0.1:80");
        let by_header = session_of(&session(true), &headers("s", &value));
        assert_eq!(by_header, Some("10.0.0.1:80".parse().unwrap()));
        let in_cookie = headers("cookie", &format!("s=\"{value}\""));
        assert_eq!(session_of(&session(false), &in_cookie), by_header);
        for nonsense in ["", "%", "bm8"] {
            assert_eq!(session_of(&session(true), &headers("s", nonsense)), None);
        }
    }
}
