//! Connections that are not HTTP: policy by what is known of them, an endpoint, bytes both ways.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ambit_model::access::{self, AccessPolicy};
use ambit_model::route::{Action, Connected, Rule, Rules};
use ambit_proxy_core::metrics::{Changes, Reporter, ResponseFlags};
use ambit_proxy_core::record::{Connection, ConnectionRecord, Failure as Broken, Party};
use ambit_transport::copy;
use ambit_transport::tls::{self, Hello};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use crate::access_log::{self, Remembered};
use crate::choose::{self, Chosen};
use crate::dispatch::Destination;
use crate::expression::Known;
use crate::failure::Failure;
use crate::forward;
use crate::health::Seen;
use crate::phases::authorize;
use crate::phases::authorize_external::authorize_connection;
use crate::record;
use crate::reporting::Reporting;
use crate::serve::Inbound;
use crate::shared::{Client, Worker};
use crate::upstream::{self, Endpoint, Io};

/// The longest beginning of a connection in which a name is looked for.
const HELLO_LIMIT: usize = 64 * 1024;
/// How long it may take to come in.
const HELLO_TIME: Duration = Duration::from_secs(10);

/// Serves one connection to its end. `seen` is what was read of it already.
pub(crate) async fn serve<S: AsyncRead + Unpin + copy::Endpoint>(
    worker: &Arc<Worker>,
    client: &Arc<Client>,
    destination: &Arc<Destination>,
    asked: SocketAddr,
    mut seen: Bytes,
    mut stream: S,
) {
    let start = Instant::now();
    let remembered = Remembered::connection();
    let reporting = reporting(worker, destination);
    let mut inbound = Inbound {
        worker: worker.clone(),
        client: client.clone(),
        destination: destination.clone(),
        asked,
        server_name: None,
    };
    let chosen = decide(&mut inbound, &mut seen, &mut stream).await;
    let endpoint = chosen.as_ref().ok().map(|chosen| &chosen.endpoint);
    let upstream = endpoint.map(|endpoint| endpoint.address);
    let record = open(&inbound, endpoint, (start, &reporting, &remembered));
    let result = match chosen {
        Ok(chosen) => {
            let result = carry(&inbound, &chosen, seen, stream, &record).await;
            drop(chosen);
            result
        }
        Err(failure) => Err(match failure {
            Failure::Denied(reason) => Broken::denied(reason),
            Failure::Refused(_) => Broken::denied("the provider refuses it".to_owned()),
            Failure::NoVerdict(_, reason) => Broken::denied(reason),
            other => Broken::new(other.reason().unwrap_or(other.details())),
        }),
    };
    if reporting.remembers() {
        let counters = record.counters();
        let ended = access_log::Ended {
            received: counters.sent(),
            sent: counters.received(),
            milliseconds: start.elapsed().as_millis(),
            ..ended(&inbound, upstream, result.as_ref().err())
        };
        let known = Known {
            remembered: &remembered,
            ended: &ended,
        };
        record::log(worker, &reporting, known, None);
    }
    record.finish(result);
}

/// Who may pass, and where to. Where routes or policies go by the name that a client of TLS asks for,
/// its first bytes are read, and stand in `seen` then.
async fn decide<S: AsyncRead + Unpin>(
    inbound: &mut Inbound,
    seen: &mut Bytes,
    stream: &mut S,
) -> Result<Chosen, Failure> {
    let (rules, by_name) = {
        let state = inbound.worker.shared.l7.load();
        let service = inbound.destination.service().map(|service| service.key());
        let by_name = state
            .policies(service.as_ref())
            .any(AccessPolicy::by_server_name);
        let port = inbound.destination.port();
        let rules = service.and_then(|service| state.rules(&service, port).cloned());
        (rules, by_name)
    };
    if by_name || rules.as_ref().is_some_and(|rules| rules.by_name()) {
        inbound.server_name = name(seen, stream).await?;
    }
    authorize_connection(inbound).await?;
    authorized(inbound)?;
    choose(inbound, rules.as_deref()).await
}

fn reporting(worker: &Worker, destination: &Destination) -> Arc<Reporting> {
    let state = worker.shared.l7.load();
    let service = destination.service().map(Arc::as_ref);
    state.reporting(service).clone()
}

/// What is known of a connection, but for what has passed.
fn ended<'a>(
    inbound: &'a Inbound,
    upstream: Option<SocketAddr>,
    broken: Option<&'a Broken>,
) -> access_log::Ended<'a> {
    let service = inbound.destination.service();
    access_log::Ended {
        code: 0,
        flags: match broken.map(|broken| broken.flags) {
            None | Some(ResponseFlags::Deny) => "-",
            Some(_) if upstream.is_none() => "UH",
            Some(_) => "UF",
        },
        details: match broken.map(|broken| broken.flags) {
            Some(ResponseFlags::Deny) => "rbac_access_denied_matched_policy",
            _ => "-",
        },
        reason: broken.map(|broken| broken.error.as_str()),
        received: 0,
        sent: 0,
        milliseconds: 0,
        service_milliseconds: None,
        grpc: None,
        upstream,
        service: service.map(|service| (&*service.hostname, inbound.destination.port())),
        spoken: "tcp",
        asked: inbound.asked,
        client: inbound.client.address,
        identity: inbound.client.identity.as_ref(),
        server_name: inbound.server_name.as_deref(),
    }
}

fn authorized(inbound: &Inbound) -> Result<(), Failure> {
    let state = inbound.worker.shared.l7.load();
    let service = inbound.destination.service().map(|service| service.key());
    let policies = state.policies(service.as_ref());
    authorize::with_request(inbound, None, |request| {
        authorize::verdict(access::decide(policies, request))
    })
}

/// The endpoint of the backend that a route draws, or of the service itself.
async fn choose(inbound: &Inbound, rules: Option<&Rules>) -> Result<Chosen, Failure> {
    let name = inbound.server_name.as_deref();
    let connected = rules.map(|rules| rules.connected(name));
    let destination = match connected {
        Some(Connected::Rule(Rule {
            action: Action::Forward(forward),
            ..
        })) => forward::draw_service(inbound, &forward.backends)?,
        Some(Connected::Rule(_)) => {
            return Err(Failure::Misconfigured(
                "the rule cannot be understood".into(),
            ));
        }
        Some(Connected::NoRule) => return Err(Failure::NoRoute),
        Some(Connected::AsItIs) | None => (*inbound.destination).clone(),
    };
    let mut chosen = choose::any(inbound, &destination)?;
    if let (Some(cluster), Some(under_way)) = (&chosen.cluster, &mut chosen.under_way) {
        let limits = &cluster.settings.limits;
        under_way.hold(cluster.load.connection(limits).await?);
    }
    Ok(chosen)
}

/// The name that a client of TLS asks for; `None` of another one, and of one that asks for none.
async fn name<S: AsyncRead + Unpin>(
    seen: &mut Bytes,
    stream: &mut S,
) -> Result<Option<String>, Failure> {
    let mut read = BytesMut::from(&seen[..]);
    let reading = async {
        loop {
            match tls::hello(&read) {
                Hello::Tls(name) => return Ok(name),
                Hello::Other => return Ok(None),
                Hello::More if read.len() > HELLO_LIMIT => return Ok(None),
                Hello::More => {}
            }
            let more = stream.read_buf(&mut read).await;
            if more.map_err(|_| Failure::ClientGone)? == 0 {
                return Ok(None);
            }
        }
    };
    // Who says nothing is no client of TLS.
    let name = tokio::time::timeout(HELLO_TIME, reading).await;
    *seen = read.freeze();
    name.unwrap_or(Ok(None))
}

fn open(
    inbound: &Inbound,
    endpoint: Option<&Endpoint>,
    (start, reporting, remembered): (Instant, &Reporting, &Remembered),
) -> ConnectionRecord {
    let client = &inbound.client;
    let connection = Connection {
        reporter: Reporter::Waypoint,
        source_address: client.address,
        destination_address: inbound.asked,
        hbone_target: endpoint
            .filter(|e| e.tunnel)
            .map(|e| e.address.to_string().into()),
        source: Party {
            workload: client.workload.clone(),
            baggage: client.baggage.clone(),
            identity: client.identity.clone(),
        },
        destination: Party {
            workload: endpoint.map(|e| e.workload.clone()),
            baggage: None,
            identity: endpoint.filter(|e| e.tunnel).map(|e| e.workload.identity()),
        },
        service: inbound.destination.service().cloned(),
        mutual_tls: true,
    };
    let telemetry = &inbound.worker.shared.telemetry;
    let ended = ended(inbound, endpoint.map(|endpoint| endpoint.address), None);
    let known = Known {
        remembered,
        ended: &ended,
    };
    let changes = |metric| reporting.labels(metric, known);
    let changes: Option<&Changes<'_>> = match reporting.changes_metrics() {
        true => Some(&changes),
        false => None,
    };
    ConnectionRecord::open_changed(telemetry, connection, start, changes)
}

async fn carry<S: copy::Endpoint>(
    inbound: &Inbound,
    chosen: &Chosen,
    seen: Bytes,
    stream: S,
    record: &ConnectionRecord,
) -> Result<(), Broken> {
    let connected = upstream::connect(&inbound.worker, &chosen.endpoint, upstream::ANYTHING).await;
    if let Some(under_way) = &chosen.under_way {
        // A connection that stands is as good as an answer.
        under_way.seen(match connected {
            Ok(_) => Seen::Status(200),
            Err(_) => Seen::Nothing,
        });
    }
    let mut io = connected.map_err(|f| Broken::new(f.reason().unwrap_or(f.details())))?;
    if !seen.is_empty() {
        let sent = io.write_all(&seen).await;
        sent.map_err(|e| Broken::new(format_args!("io error: {e}")))?;
    }
    let copied = match io {
        Io::Tunnel(upstream) => copy::bidirectional(stream, *upstream, record.counters()).await,
        Io::Plain(upstream) => copy::bidirectional(stream, upstream, record.counters()).await,
        Io::Tls(upstream) => copy::bidirectional(stream, *upstream, record.counters()).await,
    };
    copied.map_err(|e| Broken::from(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was read stands in front of the rest, whatever it is.
    #[tokio::test]
    async fn what_is_read_for_a_name_is_not_lost() {
        for (before, after) in [("GET ", "/ HTTP/1.1"), ("", "\x16\x03\x01"), ("", "")] {
            let mut seen = Bytes::from(before);
            let mut stream = std::io::Cursor::new(after.as_bytes());
            assert!(matches!(name(&mut seen, &mut stream).await, Ok(None)));
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.unwrap();
            let whole = [&seen[..], &rest].concat();
            assert_eq!(whole, [before, after].concat().as_bytes());
        }
    }

    #[tokio::test]
    async fn a_client_that_breaks_off_ends_the_connection() {
        let mut broken = broken_stream();
        let gone = name(&mut Bytes::new(), &mut broken).await;
        assert_eq!(gone, Err(Failure::ClientGone));
    }

    /// A stream that fails at the first read.
    fn broken_stream() -> impl AsyncRead + Unpin {
        struct Broken;
        impl AsyncRead for Broken {
            fn poll_read(
                self: std::pin::Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
                _: &mut tokio::io::ReadBuf<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                std::task::Poll::Ready(Err(std::io::ErrorKind::ConnectionReset.into()))
            }
        }
        Broken
    }
}
