//! Sending a request to a backend: which, how often, how long.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ambit_model::balance::{self, Host, Purpose};
use ambit_model::outbound;
use ambit_model::route::{Action, Backend, Forward, Retry, Rule, Target};
use ambit_model::service::AppProtocol;
use ambit_model::state::MeshState;
use ambit_model::workload::Protocol;
use ambit_model::{Identity, Service, Workload};
use http::request::Parts;
use http::{Request, Response, Version};
use hyper::body::Incoming;
use rand::RngExt;
use tokio::time::{Instant, timeout_at};

use crate::body::{Body, Replay, Watched};
use crate::dispatch::Destination;
use crate::failure::{Failure, is_grpc};
use crate::phases;
use crate::record::{Counted, Record};
use crate::serve::Inbound;
use crate::upstream::{self, Back, Endpoint, SendError, Sent};

/// Bytes of a body that are kept so that it can be sent again.
const KEPT: usize = 64 * 1024;
/// The longest pause between two tries, as a multiple of the first.
const LONGEST_PAUSE: u32 = 10;

/// An answer of a backend.
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    pub(crate) back: Option<Back>,
    /// The backend that was drawn, where the rule names some.
    pub(crate) backend: Option<usize>,
}

/// Sends a request by a rule; without one, to where the client wanted to go.
pub(crate) async fn forward(
    inbound: &Inbound,
    rule: Option<&Rule>,
    mut parts: Parts,
    body: Body,
    record: &mut Record,
) -> Result<Answer, Failure> {
    let everything = Forward::default();
    let forward = match rule.map(|rule| &rule.action) {
        Some(Action::Forward(forward)) => forward,
        _ => &everything,
    };
    let backend = match rule {
        Some(_) => Some(draw(&forward.backends)?),
        None => None,
    };
    if let Some((_, backend)) = backend {
        phases::headers::change(&mut parts.headers, &backend.request_headers);
    }
    let destination = match backend {
        None => (*inbound.destination).clone(),
        Some((_, backend)) => service_of(inbound, backend)?,
    };
    let explicit = forward.retry.as_ref();
    let mut body = match explicit.is_some() || !forward.mirrors.is_empty() {
        true => Replay::kept(body, KEPT)
            .await
            .map_err(|_| Failure::ClientGone)?,
        false => Replay::streamed(body),
    };
    phases::mirror::copy(inbound, forward, &parts, &body);
    let tries = Tries {
        inbound,
        destination: &destination,
        retry: explicit.cloned().unwrap_or_else(Retry::mesh_default),
        deadline: forward.timeout.map(|time| Instant::now() + time),
        try_timeout: forward.try_timeout,
    };
    let (response, back) = tries.run(&parts, &mut body, record).await?;
    Ok(Answer {
        response,
        back,
        backend: backend.map(|(number, _)| number),
    })
}

/// The service of a backend that is drawn by weight.
pub(crate) fn draw_service(
    inbound: &Inbound,
    backends: &[Backend],
) -> Result<Destination, Failure> {
    let (_, backend) = draw(backends)?;
    service_of(inbound, backend)
}

/// Draws a backend by weight.
fn draw(backends: &[Backend]) -> Result<(usize, &Backend), Failure> {
    let total: u64 = backends.iter().map(|b| u64::from(b.weight)).sum();
    if total == 0 {
        return Err(Failure::Misconfigured(
            "the rule has no backend of weight".into(),
        ));
    }
    let mut draw = rand::rng().random_range(0..total);
    for (number, backend) in backends.iter().enumerate() {
        let weight = u64::from(backend.weight);
        if draw < weight {
            return Ok((number, backend));
        }
        draw -= weight;
    }
    Err(Failure::Misconfigured(
        "the rule has no backend of weight".into(),
    ))
}

fn service_of(inbound: &Inbound, backend: &Backend) -> Result<Destination, Failure> {
    let Some(target) = &backend.target else {
        return Err(Failure::Misconfigured("the backend does not exist".into()));
    };
    find_service(inbound, target)
}

/// The service and port of a target.
pub(crate) fn find_service(inbound: &Inbound, target: &Target) -> Result<Destination, Failure> {
    let state = inbound.worker.shared.store.load();
    let found = state
        .service(&target.service)
        .map(|(service, _)| service.clone());
    match found.filter(|service| service.ports.contains_key(&target.port)) {
        Some(service) => Ok(Destination::Service(service, target.port)),
        None => Err(Failure::Misconfigured(format!(
            "{}:{} is not there",
            target.service, target.port
        ))),
    }
}

/// The tries of one request.
struct Tries<'a> {
    inbound: &'a Inbound,
    destination: &'a Destination,
    retry: Retry,
    deadline: Option<Instant>,
    try_timeout: Option<Duration>,
}

impl Tries<'_> {
    async fn run(
        &self,
        parts: &Parts,
        body: &mut Replay,
        record: &mut Record,
    ) -> Result<upstream::Answered, Failure> {
        let grpc = is_grpc(&parts.headers);
        let mut left = self.retry.attempts;
        loop {
            let result = self.once(parts, body, record).await;
            let again = match &result {
                Ok((response, _)) => body.is_whole() && self.is_worth(response, grpc),
                Err((failure, sent)) => match failure {
                    Failure::Timeout => body.is_whole() && self.try_timeout.is_some(),
                    Failure::Connect(_) | Failure::Reset(_) => !sent || body.is_whole(),
                    _ => false,
                },
            };
            let late = self
                .deadline
                .is_some_and(|deadline| deadline <= Instant::now());
            if !again || left == 0 || late {
                return result.map_err(|(failure, _)| failure);
            }
            drop(result);
            self.pause(self.retry.attempts - left).await;
            left -= 1;
        }
    }

    /// The answer is one that is asked for again.
    fn is_worth(&self, response: &Response<Incoming>, grpc: bool) -> bool {
        let status = response.status().as_u16();
        if self.retry.statuses.contains(&status) {
            return true;
        }
        // `cancelled` and `unavailable`, where the call was not begun.
        let call = response.headers().get("grpc-status").map(|v| v.as_bytes());
        grpc && matches!(call, Some(b"1" | b"14"))
    }

    async fn pause(&self, before: u32) {
        let times = 2u32.saturating_pow(before).min(LONGEST_PAUSE);
        let most = self.retry.backoff.saturating_mul(times);
        let pause = most.mul_f64(rand::rng().random_range(0.0..=1.0));
        match self.deadline {
            Some(deadline) => tokio::time::sleep_until(deadline.min(Instant::now() + pause)).await,
            None => tokio::time::sleep(pause).await,
        }
    }

    /// One try. A failure comes with whether anything was sent.
    async fn once(
        &self,
        parts: &Parts,
        body: &mut Replay,
        record: &mut Record,
    ) -> Result<upstream::Answered, (Failure, bool)> {
        let endpoint = choose(self.inbound, self.destination).map_err(|f| (f, false))?;
        record.chosen(self.destination.service(), &endpoint, &parts.headers);
        let Some(next) = body.next() else {
            return Err((Failure::Reset("the body cannot be sent again".into()), true));
        };
        let counted = Watched::new(next, Counted(record.request_bytes()));
        let request = request_to(self.destination, parts, counted);
        let http2 = request.version() == Version::HTTP_2;
        let sending = upstream::send(&self.inbound.worker, &endpoint, http2, request);
        let own = self.try_timeout.map(|time| Instant::now() + time);
        let until = match (self.deadline, own) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let result = match until {
            None => sending.await,
            Some(until) => match timeout_at(until, sending).await {
                Ok(result) => result,
                Err(_) => return Err((Failure::Timeout, true)),
            },
        };
        result.map_err(|error| match error {
            SendError::NotSent(request, failure) => {
                body.give_back(request.into_body().into_inner());
                (failure, false)
            }
            SendError::Failed(failure) => (failure, true),
        })
    }
}

/// The request as it goes to an endpoint: in the version that is spoken there.
fn request_to(destination: &Destination, parts: &Parts, body: Sent) -> Request<Sent> {
    let declared = destination
        .service()
        .and_then(|service| service.app_protocols.get(&destination.port()));
    let version = match declared {
        Some(AppProtocol::Http2 | AppProtocol::Grpc) => Version::HTTP_2,
        // What the client speaks: a call of gRPC stays one.
        _ if parts.version == Version::HTTP_2 => Version::HTTP_2,
        _ => Version::HTTP_11,
    };
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = phases::target(parts, version);
    *request.version_mut() = version;
    *request.headers_mut() = parts.headers.clone();
    if version == Version::HTTP_2 {
        request.headers_mut().remove(http::header::HOST);
    }
    request
}

/// An endpoint for a request.
pub(crate) fn choose(inbound: &Inbound, destination: &Destination) -> Result<Endpoint, Failure> {
    let shared = &inbound.worker.shared;
    let state = shared.store.load();
    match destination {
        Destination::Service(service, port) => {
            let own = shared.workload();
            of_service(&state, service, *port, &own, inbound.asked).ok_or(Failure::NoEndpoint)
        }
        Destination::Workload(workload, port) => {
            let address = SocketAddr::new(inbound.asked.ip(), *port);
            Ok(endpoint(workload, None, address))
        }
    }
}

fn of_service(
    state: &MeshState,
    service: &Service,
    port: u16,
    own: &Workload,
    like: SocketAddr,
) -> Option<Endpoint> {
    let (service, entry) = state.service(&service.key())?;
    let purpose = Purpose::Standard;
    let picked = balance::pick(service, entry, own, port, purpose, &mut rand::rng())?;
    let host = balance::host(picked.workload, Some(service), like)?;
    let address = outbound::dialled(&host, picked.port)?;
    debug_assert!(matches!(host, Host::Ip(_)));
    Some(endpoint(picked.workload, Some(service), address))
}

fn endpoint(workload: &Arc<Workload>, service: Option<&Service>, address: SocketAddr) -> Endpoint {
    let listed = service
        .map(|s| &s.subject_alt_names[..])
        .unwrap_or_default();
    let expected: Vec<Identity> = listed
        .iter()
        .filter_map(|name| name.parse().ok())
        .chain([workload.identity()])
        .collect();
    Endpoint {
        workload: workload.clone(),
        address,
        expected: expected.into(),
        tunnel: workload.protocol == Protocol::Hbone,
    }
}

/// A body of a copy of a request.
pub(crate) fn uncounted(body: Body) -> Sent {
    Watched::new(body, Counted(Arc::default()))
}
