//! Sending a request to a backend: which, how often, how long.

use std::sync::Arc;
use std::time::Duration;

use ambit_model::route::{Action, Backend, Forward, Retry, Rule, Target};
use ambit_model::service::AppProtocol;
use http::request::Parts;
use http::{Request, Response, Version};
use hyper::body::Incoming;
use rand::RngExt;
use tokio::time::{Instant, timeout_at};

use crate::body::{Body, Replay, Watched};
use crate::choose::{self, Chosen, Wish};
use crate::cluster::Cluster;
use crate::dispatch::Destination;
use crate::external::Header;
use crate::failure::{Failure, is_grpc};
use crate::health::{Retrying, Seen};
use crate::phases;
use crate::record::{Counted, Record};
use crate::serve::Inbound;
use crate::shared::Shared;
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
    /// Headers for the client.
    pub(crate) to_client: Vec<Header>,
}

/// What a try gives: the answer, the connection that is free after it, and who has answered.
type Answered = (Response<Incoming>, Option<Back>, Endpoint);

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
        Some(_) => Some(match of_session(inbound, forward, &parts) {
            Some(backend) => backend,
            None => draw(&forward.backends)?,
        }),
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
    let cluster = choose::cluster(inbound, &destination)?;
    let settings = cluster.as_ref().map(|cluster| &cluster.settings);
    let session = forward.session.as_ref();
    let mut tries = Tries {
        inbound,
        destination: &destination,
        retry: explicit.cloned().unwrap_or_else(Retry::mesh_default),
        deadline: forward.timeout.map(|time| Instant::now() + time),
        try_timeout: forward.try_timeout,
        wish: Wish::of(inbound, settings, session, &parts),
        cluster,
    };
    let (response, back, endpoint) = tries.run(&parts, &mut body, record).await?;
    let stay = tries.wish.stay(session, &endpoint);
    Ok(Answer {
        response,
        back,
        backend: backend.map(|(number, _)| number),
        to_client: stay.into_iter().chain(tries.wish.cookie).collect(),
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

/// The backend that has the endpoint which the client's session belongs to, whatever its weight: a
/// split decides where sessions begin (GEP-1619).
fn of_session<'a>(
    inbound: &Inbound,
    forward: &'a Forward,
    parts: &Parts,
) -> Option<(usize, &'a Backend)> {
    let session = forward.session.as_ref()?;
    if forward.backends.len() < 2 {
        return None;
    }
    let address = choose::session_of(session, &parts.headers)?;
    let has_it = |backend: &Backend| {
        let destination = service_of(inbound, backend).ok()?;
        let cluster = choose::cluster(inbound, &destination).ok()??;
        cluster.at(address).map(drop)
    };
    let mut backends = forward.backends.iter().enumerate();
    backends.find(|(_, backend)| has_it(backend).is_some())
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
    find_service(&inbound.worker.shared, target)
}

/// The service and port of a target.
pub(crate) fn find_service(shared: &Shared, target: &Target) -> Result<Destination, Failure> {
    let state = shared.store.load();
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
    cluster: Option<Arc<Cluster>>,
    wish: Wish,
}

impl Tries<'_> {
    async fn run(
        &mut self,
        parts: &Parts,
        body: &mut Replay,
        record: &mut Record,
    ) -> Result<Answered, Failure> {
        let grpc = is_grpc(&parts.headers);
        let mut left = self.retry.attempts;
        // While it lasts, this request counts as one that is tried again.
        let mut retrying = None;
        loop {
            let result = self.once(parts, body, record).await;
            let again = match &result {
                Ok((response, ..)) => body.is_whole() && self.is_worth(response, grpc),
                Err((failure, sent)) => match failure {
                    Failure::Timeout => body.is_whole() && self.try_timeout.is_some(),
                    Failure::Connect(_) | Failure::Reset(_) => !sent || body.is_whole(),
                    _ => false,
                },
            };
            let late = self
                .deadline
                .is_some_and(|deadline| deadline <= Instant::now());
            if !again || left == 0 || late || !self.may_retry(&mut retrying) {
                return result.map_err(|(failure, _)| failure);
            }
            drop(result);
            self.pause(self.retry.attempts - left).await;
            left -= 1;
        }
    }

    /// Whether the service's limits let this request be tried again.
    fn may_retry(&self, retrying: &mut Option<Retrying>) -> bool {
        let Some(cluster) = &self.cluster else {
            return true;
        };
        if retrying.is_none() {
            *retrying = cluster.load.retry(&cluster.settings.limits);
        }
        retrying.is_some()
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
        &mut self,
        parts: &Parts,
        body: &mut Replay,
        record: &mut Record,
    ) -> Result<Answered, (Failure, bool)> {
        let chosen = choose::choose(
            self.inbound,
            self.destination,
            self.cluster.as_ref(),
            &self.wish,
        );
        let Chosen {
            endpoint,
            mut under_way,
            ..
        } = chosen.map_err(|f| (f, false))?;
        self.wish.tried.push(endpoint.workload.uid.clone());
        record.chosen(self.destination.service(), &endpoint, &parts.headers);
        let Some(next) = body.next() else {
            return Err((Failure::Reset("the body cannot be sent again".into()), true));
        };
        let counted = Watched::new(next, record.counted());
        let mut request = request_to(self.destination, parts, counted);
        if endpoint.tls.is_some() {
            phases::secure(request.uri_mut());
        }
        let http2 = request.version() == Version::HTTP_2;
        // In a box of its own: what is moved around until a request begins is small that way.
        let sending = Box::pin(async {
            if !http2 && let Some(cluster) = &self.cluster {
                let permit = cluster.load.connection(&cluster.settings.limits).await;
                match (permit, &mut under_way) {
                    (Ok(permit), Some(under_way)) => under_way.hold(permit),
                    (Ok(_), None) => {}
                    (Err(failure), _) => {
                        return Err(SendError::NotSent(Box::new(request), failure));
                    }
                }
            }
            upstream::send(&self.inbound.worker, &endpoint, http2, request).await
        });
        let own = self.try_timeout.map(|time| Instant::now() + time);
        let until = match (self.deadline, own) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let result = match until {
            None => Ok(sending.await),
            Some(until) => timeout_at(until, sending).await,
        };
        if let Some(under_way) = under_way {
            match &result {
                Ok(Ok((response, _))) => {
                    under_way.seen(Seen::Status(response.status().as_u16()));
                }
                // Too much of our own is no fault of the endpoint.
                Ok(Err(SendError::NotSent(_, Failure::Overflow))) => {}
                Ok(Err(_)) | Err(_) => under_way.seen(Seen::Nothing),
            }
            record.under_way(under_way);
        }
        match result {
            Ok(Ok((response, back))) => Ok((response, back, endpoint)),
            Ok(Err(SendError::NotSent(request, failure))) => {
                body.give_back(request.into_body().into_inner());
                Err((failure, false))
            }
            Ok(Err(SendError::Failed(failure))) => Err((failure, true)),
            Err(_) => Err((Failure::Timeout, true)),
        }
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

/// A body of a copy of a request.
pub(crate) fn uncounted(body: Body) -> Sent {
    Watched::new(body, Counted::default())
}
