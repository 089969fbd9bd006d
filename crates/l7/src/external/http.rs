//! A provider of HTTP: it gets a request of the same method and path, and answers 200 or not.

use ambit_model::access::{HttpCheck, Provider};
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};

use super::{Answer, Changes, Denial, Header, Shown, is_of_one_hop};
use crate::body::Body;
use crate::serve::Inbound;

/// Says whether there is more of the body than is shown.
const PARTIAL: HeaderName = HeaderName::from_static("x-envoy-auth-partial-body");
/// Headers of an answer that a client needs to understand it.
const OF_DENIALS: [HeaderName; 3] = [
    http::header::LOCATION,
    http::header::WWW_AUTHENTICATE,
    http::header::CONTENT_TYPE,
];

pub(super) async fn ask(
    inbound: &Inbound,
    provider: &Provider,
    check: &HttpCheck,
    shown: &Shown<'_>,
) -> Result<Answer, String> {
    let request = request(provider, check, shown)?;
    let (head, body) = super::send(inbound, provider, false, request).await?;
    answer(check, head.status(), head.headers(), body.to_bytes())
}

fn request(
    provider: &Provider,
    check: &HttpCheck,
    shown: &Shown<'_>,
) -> Result<Request<Body>, String> {
    let Shown {
        parts, exchange, ..
    } = shown;
    let query = exchange.query.as_deref().map(|query| format!("?{query}"));
    let target = format!(
        "{}{}{}",
        check.path_prefix,
        exchange.path,
        query.unwrap_or_default()
    );
    let mut request = Request::new(match shown.body.is_empty() {
        true => Body::empty(),
        false => Body::Kept(Some(shown.body.clone()), None),
    });
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = target
        .parse()
        .map_err(|_| format!("{target} is no path to ask for"))?;
    let headers = request.headers_mut();
    for (name, value) in &parts.headers {
        let listed = || HttpCheck::lists(&check.request_headers, name.as_str());
        if (name == AUTHORIZATION || listed()) && !is_of_one_hop(name) {
            headers.append(name, value.clone());
        }
    }
    for (name, value) in &check.additional_headers {
        if let Some((name, value)) = super::header(name, value.as_bytes()) {
            headers.insert(name, value);
        }
    }
    if let Ok(host) = HeaderValue::from_str(&exchange.authority) {
        headers.insert(HOST, host);
    }
    if provider.body.is_some() {
        let partial = if shown.partial { "true" } else { "false" };
        headers.insert(PARTIAL, HeaderValue::from_static(partial));
    }
    Ok(request)
}

/// What an answer means.
fn answer(
    check: &HttpCheck,
    status: StatusCode,
    headers: &HeaderMap,
    body: bytes::Bytes,
) -> Result<Answer, String> {
    let chosen = |wanted: &dyn Fn(&HeaderName) -> bool| -> Vec<Header> {
        let headers = headers.iter();
        headers
            .filter(|(name, _)| !is_of_one_hop(name) && wanted(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    };
    if status == StatusCode::OK {
        return Ok(Answer::Allow(Box::new(Changes {
            set: chosen(&|name| HttpCheck::lists(&check.to_backend, name.as_str())),
            to_client: chosen(&|name| HttpCheck::lists(&check.to_client_on_allow, name.as_str())),
            ..Changes::default()
        })));
    }
    if status.is_server_error() {
        return Err(format!("it answered {status}"));
    }
    let listed = &check.to_client_on_deny;
    Ok(Answer::Deny(Box::new(Denial {
        status,
        headers: chosen(&|name| {
            listed.is_empty()
                || OF_DENIALS.contains(name)
                || HttpCheck::lists(listed, name.as_str())
        }),
        body,
    })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ambit_model::policy::StringMatch;

    fn headers() -> HeaderMap {
        let pairs = [
            ("x-user", "me"),
            ("x-other", "1"),
            ("location", "/login"),
            ("content-length", "2"),
        ];
        let pairs = pairs.map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)));
        pairs.into_iter().collect()
    }

    fn names(headers: &[Header]) -> Vec<&str> {
        headers.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn what_of_an_answer_goes_on() {
        let user = || vec![StringMatch::Exact("x-user".into())];
        let check = HttpCheck {
            to_backend: user(),
            to_client_on_deny: user(),
            ..HttpCheck::default()
        };
        let ask = |check: &HttpCheck, status| answer(check, status, &headers(), "no".into());
        let Ok(Answer::Allow(changes)) = ask(&check, StatusCode::OK) else {
            panic!("it passes")
        };
        assert_eq!(names(&changes.set), ["x-user"]);
        assert!(changes.to_client.is_empty());
        let Ok(Answer::Deny(denial)) = ask(&check, StatusCode::FOUND) else {
            panic!("it does not pass")
        };
        assert_eq!(names(&denial.headers), ["x-user", "location"]);
        let Ok(Answer::Deny(denial)) = ask(&HttpCheck::default(), StatusCode::FORBIDDEN) else {
            panic!("it does not pass")
        };
        assert_eq!(names(&denial.headers), ["x-user", "x-other", "location"]);
        assert!(ask(&check, StatusCode::BAD_GATEWAY).is_err());
    }
}
