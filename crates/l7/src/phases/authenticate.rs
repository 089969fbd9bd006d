//! Phase `authenticate`: tokens are looked for, checked, and told to later phases.

use ambit_model::token::Place;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;

use super::{Exchange, headers};
use crate::failure::Failure;
use crate::serve::Inbound;
use crate::tokens::{self, Believed, Places};

/// Checks the tokens of a request. Headers that say what a token said are ours alone: what a client
/// wrote there is taken out.
pub(crate) fn authenticate(
    inbound: &Inbound,
    parts: &mut Parts,
    exchange: &mut Exchange,
) -> Result<(), Failure> {
    let state = inbound.worker.shared.l7.load();
    let service = inbound.destination.service().map(|service| service.key());
    let mut issuers = state.issuers(service.as_ref()).peekable();
    if issuers.peek().is_none() {
        return Ok(());
    }
    let request = Request {
        headers: &parts.headers,
        query: exchange.query.as_deref().unwrap_or_default(),
    };
    let believed = tokens::check(issuers.clone(), &request).map_err(Failure::Unauthenticated)?;
    let rules = issuers.flat_map(|issuers| &issuers.authentication.rules);
    for rule in rules {
        let claims = rule.claim_headers.iter().map(|(header, _)| header);
        for header in claims.chain(&rule.payload_header) {
            parts.headers.remove(&**header);
        }
    }
    for believed in &believed {
        tell(believed, &mut parts.headers);
        if !believed.rule.forward {
            take_out(believed.place, &mut parts.headers, exchange);
        }
    }
    exchange.token = believed.into_iter().next().map(|believed| believed.token);
    Ok(())
}

/// Writes into headers what the rule of a token asks for.
fn tell(believed: &Believed<'_>, headers: &mut HeaderMap) {
    let mut put = |name: &str, value: &str| {
        let name = HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
            headers.insert(name, value);
        }
    };
    if let Some(header) = &believed.rule.payload_header {
        put(header, &believed.payload);
    }
    for (header, path) in &believed.rule.claim_headers {
        let values = believed.token.claim(path);
        if !values.is_empty() {
            put(header, &values.join(","));
        }
    }
}

fn take_out(place: &Place, headers: &mut HeaderMap, exchange: &mut Exchange) {
    match place {
        Place::Header(name, _) => drop(headers.remove(&**name)),
        Place::Parameter(name) => {
            let query = exchange.query.as_deref().unwrap_or_default();
            let is_other = |pair: &&str| pair.split('=').next() != Some(name);
            let others: Vec<&str> = query.split('&').filter(is_other).collect();
            exchange.query = (!others.is_empty()).then(|| others.join("&"));
        }
        // As in Envoy: other cookies stand in the same header.
        Place::Cookie(_) => {}
    }
}

/// A request as tokens are looked for in it.
struct Request<'a> {
    headers: &'a HeaderMap,
    query: &'a str,
}

impl Places for Request<'_> {
    fn header(&self, name: &str) -> Option<String> {
        let value = self.headers.get(name)?.to_str().ok()?;
        // The scheme of `Authorization` is written in any case (RFC 9110, 11.1).
        match (name == AUTHORIZATION.as_str(), value.split_once(' ')) {
            (true, Some((scheme, rest))) if scheme.eq_ignore_ascii_case("bearer") => {
                Some(format!("Bearer {rest}"))
            }
            _ => Some(value.to_owned()),
        }
    }

    fn parameter(&self, name: &str) -> Option<String> {
        headers::parameter(self.query, name)
    }

    fn cookie(&self, name: &str) -> Option<String> {
        headers::cookie(self.headers, name)
    }
}
