//! The phases of a request, in their order. `docs/life-of-a-request.md` has the table.
//!
//! A phase sees the request and what earlier ones have put into its [`Exchange`]; it lets the
//! request go on, or answers it. None names another.

pub(crate) mod authenticate;
pub(crate) mod authorize;
pub(crate) mod authorize_external;
pub(crate) mod cors;
pub(crate) mod headers;
pub(crate) mod mirror;
pub(crate) mod normalize;
pub(crate) mod upgrade;

use std::sync::Arc;

use ambit_model::access::Token;
use ambit_model::route::{Action, Head, Redirect, Rule, location, rewrite};
use http::request::Parts;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, Version, header,
};
use hyper::body::Incoming;

use crate::body::Body;
use crate::failure::Failure;
use crate::forward;
use crate::record::Record;
use crate::serve::Inbound;
use crate::upstream::Back;

use authorize_external::authorize_external;

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const CLIENT_CERTIFICATE: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What phases know of a request beside its head.
pub(crate) struct Exchange {
    /// Host, with the port if the client named one.
    pub(crate) authority: String,
    /// Path without the query, normalized.
    pub(crate) path: String,
    /// What stands behind the question mark.
    pub(crate) query: Option<String>,
    /// What the request's token says, if there was one and it is believed.
    pub(crate) token: Option<Arc<Token>>,
}

/// An answer for the client, and the connection that is free after it.
pub(crate) type Answered = (Response<Body>, Option<Back>);

/// Takes a request through all phases.
pub(crate) async fn answer(
    inbound: &Inbound,
    request: Request<Incoming>,
    record: &mut Record,
) -> Result<Answered, Failure> {
    let (mut parts, body) = request.into_parts();
    let mut exchange = normalize::normalize(&mut parts)?;
    let body = Body::Incoming(body);
    let passed = authorize_external(inbound, &mut parts, body, &mut exchange).await?;
    let (mut response, back) = answer_passed(inbound, parts, passed.body, exchange, record).await?;
    for (name, value) in passed.to_client {
        response.headers_mut().append(name, value);
    }
    Ok((response, back))
}

/// Takes a request through the phases behind `authorize-external`.
async fn answer_passed(
    inbound: &Inbound,
    mut parts: Parts,
    body: Body,
    mut exchange: Exchange,
    record: &mut Record,
) -> Result<Answered, Failure> {
    authenticate::authenticate(inbound, &mut parts, &mut exchange)?;
    authorize::authorize(inbound, &parts, &exchange)?;
    let met = route(inbound, &parts, &exchange)?;
    let Some(met) = met else {
        let upgrade = prepare(&mut parts, &exchange);
        let answer = forward::forward(inbound, None, parts, body, record).await?;
        return Ok(finish(answer, upgrade, |_, _| {}));
    };
    let rule: &Rule = &met;
    let origin = cors::origin(rule.cors.as_ref(), &parts);
    if let Some(preflight) = cors::preflight(rule.cors.as_ref(), &parts) {
        return Ok((preflight, None));
    }
    headers::change(&mut parts.headers, &rule.request_headers);
    let forward = match &rule.action {
        Action::Fail(reason) => return Err(Failure::Misconfigured(reason.to_string())),
        Action::Redirect(redirect) => {
            let mut response = redirected(inbound, &parts, &exchange, &met, redirect);
            headers::change(response.headers_mut(), &rule.response_headers);
            return Ok((response, None));
        }
        Action::Forward(forward) => forward,
    };
    if let Some(path) = &forward.rewrite.path {
        exchange.path = rewrite(&exchange.path, met.path.as_ref(), path);
    }
    if let Some(host) = &forward.rewrite.host {
        exchange.authority = host.to_string();
    }
    let upgrade = prepare(&mut parts, &exchange);
    let answer = forward::forward(inbound, Some(rule), parts, body, record).await?;
    let backends = &forward.backends;
    Ok(finish(answer, upgrade, |headers, backend| {
        let of_backend = backend.and_then(|number| backends.get(number));
        if let Some(backend) = of_backend {
            headers::change(headers, &backend.response_headers);
        }
        headers::change(headers, &rule.response_headers);
        cors::allow(rule.cors.as_ref(), origin.as_ref(), headers);
    }))
}

/// A rule that a request has met: what of it outlives the look at the table.
struct Met {
    route: Arc<ambit_model::route::Route>,
    number: usize,
    path: Option<ambit_model::route::PathMatch>,
}

impl std::ops::Deref for Met {
    type Target = Rule;

    fn deref(&self) -> &Rule {
        &self.route.rules[self.number]
    }
}

/// The rule of the service that a request meets; `None` where there are no routes.
fn route(inbound: &Inbound, parts: &Parts, exchange: &Exchange) -> Result<Option<Met>, Failure> {
    let Some(service) = inbound.destination.service() else {
        return Ok(None);
    };
    let port = inbound.destination.port();
    let state = inbound.worker.shared.l7.load();
    let Some(rules) = state
        .rules(&service.key(), port)
        .filter(|rules| !rules.is_empty())
    else {
        return Ok(None);
    };
    let headers = pairs(&parts.headers);
    let met = rules
        .find(&head(parts, exchange, port, &headers))
        .ok_or(Failure::NoRoute)?;
    Ok(Some(Met {
        route: met.route.clone(),
        number: met.number,
        path: met.matched.path.clone(),
    }))
}

/// The request as the model sees it.
fn head<'a>(
    parts: &'a Parts,
    exchange: &'a Exchange,
    port: u16,
    headers: &'a [(&'a str, &'a str)],
) -> Head<'a> {
    Head {
        method: parts.method.as_str(),
        scheme: "http",
        authority: &exchange.authority,
        path: &exchange.path,
        query: exchange.query.as_deref(),
        port,
        headers,
    }
}

/// Names and values of headers that are text.
pub(crate) fn pairs(headers: &HeaderMap) -> Vec<(&str, &str)> {
    headers
        .iter()
        .filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)))
        .collect()
}

fn redirected(
    inbound: &Inbound,
    parts: &Parts,
    exchange: &Exchange,
    met: &Met,
    redirect: &Redirect,
) -> Response<Body> {
    let headers = pairs(&parts.headers);
    let head = head(parts, exchange, inbound.destination.port(), &headers);
    let location = location(&head, met.path.as_ref(), redirect);
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::from_u16(redirect.status).unwrap_or(StatusCode::FOUND);
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// Gives a request what names it in logs and traces, and what says how it came, where the client has
/// not: before anything is decided, so that refusals have them, too.
pub(crate) fn identify(headers: &mut HeaderMap) {
    if !headers.contains_key(REQUEST_ID) {
        let id = uuid::Builder::from_random_bytes(rand::random()).into_uuid();
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        let text = id.hyphenated().encode_lower(&mut text);
        if let Ok(value) = HeaderValue::from_str(text) {
            headers.insert(REQUEST_ID, value);
        }
    }
    if !headers.contains_key(FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
}

/// Tells policies and the application who the caller is, and who it has called: from the tunnel, and
/// never from what a client says of itself.
pub(crate) fn show_caller(inbound: &Inbound, headers: &mut HeaderMap) {
    headers.remove(CLIENT_CERTIFICATE);
    let own = &inbound.worker.shared.identity;
    let caller = inbound.client.identity.as_ref();
    let text = caller.map(|caller| format!("By={own};URI={caller}"));
    if let Some(value) = text.and_then(|text| HeaderValue::try_from(text).ok()) {
        headers.insert(CLIENT_CERTIFICATE, value);
    }
}

/// Writes what phases have decided into the head, and takes out what ends here. An upgrade that the
/// client asks for is asked of the backend.
fn prepare(parts: &mut Parts, exchange: &Exchange) -> Option<upgrade::Asked> {
    let upgrade = upgrade::asked(parts);
    headers::strip_hop_by_hop(&mut parts.headers);
    if let Ok(host) = HeaderValue::from_str(&exchange.authority) {
        parts.headers.insert(header::HOST, host);
    }
    let target = match &exchange.query {
        Some(query) => format!("{}?{query}", exchange.path),
        None => exchange.path.clone(),
    };
    if let Ok(target) = target.parse() {
        let mut uri = Uri::builder().path_and_query::<http::uri::PathAndQuery>(target);
        uri = uri.scheme("http").authority(exchange.authority.as_str());
        if let Ok(uri) = uri.build() {
            parts.uri = uri;
        }
    }
    if let Some(upgrade) = &upgrade {
        upgrade.ask(parts);
    }
    upgrade
}

/// The target of a request: whole in HTTP/2, where scheme and host are part of it; path and query
/// alone in HTTP/1.
pub(crate) fn target(parts: &Parts, version: Version) -> Uri {
    if version == Version::HTTP_2 {
        return parts.uri.clone();
    }
    let mut target = http::uri::Parts::default();
    target.path_and_query = parts.uri.path_and_query().cloned();
    // Without a path there is no target; the one of everything is `/`.
    Uri::from_parts(target).unwrap_or_else(|_| Uri::from_static("/"))
}

/// The target of a request that goes out over TLS of its own.
pub(crate) fn secure(target: &mut Uri) {
    let mut parts = target.clone().into_parts();
    if parts.scheme.is_some() {
        parts.scheme = Some(http::uri::Scheme::HTTPS);
        if let Ok(secured) = Uri::from_parts(parts) {
            *target = secured;
        }
    }
}

/// The answer as it goes to the client.
fn finish(
    answer: forward::Answer,
    upgrade: Option<upgrade::Asked>,
    change: impl FnOnce(&mut HeaderMap, Option<usize>),
) -> Answered {
    let forward::Answer {
        mut response,
        back,
        backend,
        to_client,
    } = answer;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        if let Some(upgrade) = upgrade {
            upgrade.carry(&mut response);
        }
        let (parts, _) = response.into_parts();
        return (Response::from_parts(parts, Body::empty()), None);
    }
    let (mut parts, body) = response.into_parts();
    headers::strip_hop_by_hop(&mut parts.headers);
    change(&mut parts.headers, backend);
    for (name, value) in to_client {
        parts.headers.append(name, value);
    }
    // The client's version is what it speaks, whatever the backend does.
    parts.version = Version::default();
    (Response::from_parts(parts, Body::Incoming(body)), back)
}
