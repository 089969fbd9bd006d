//! Phase `cors`: who may read responses from pages of another origin (the Fetch standard).

use ambit_model::Text;
use ambit_model::route::{Cors, Origin};
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderName, ORIGIN,
    VARY,
};
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode};

use crate::body::Body;

/// The origin of a request, if it is one that is let in.
pub(crate) fn origin(cors: Option<&Cors>, parts: &Parts) -> Option<HeaderValue> {
    let origin = parts.headers.get(ORIGIN)?;
    let text = origin.to_str().ok()?;
    cors?
        .origins
        .iter()
        .any(|o| o.matches(text))
        .then(|| origin.clone())
}

/// The answer to a preflight of an origin that is let in. Others are for the backend to answer.
pub(crate) fn preflight(cors: Option<&Cors>, parts: &Parts) -> Option<Response<Body>> {
    let asked = parts.headers.get(ACCESS_CONTROL_REQUEST_METHOD);
    if parts.method != Method::OPTIONS || asked.is_none() {
        return None;
    }
    let (origin, cors) = (origin(cors, parts)?, cors?);
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    allow_origin(cors, &origin, headers);
    let any = |list: &[Text]| list.iter().any(|item| **item == *"*");
    // With credentials a star means itself, and what was asked for is said instead.
    let list =
        |headers: &mut HeaderMap, name: HeaderName, list: &[Text], asked: Option<&HeaderValue>| {
            let value = match (any(list), cors.credentials) {
                (true, true) => asked.cloned(),
                _ => joined(list),
            };
            if let Some(value) = value {
                headers.insert(name, value);
            }
        };
    list(headers, ACCESS_CONTROL_ALLOW_METHODS, &cors.methods, asked);
    let asked = parts.headers.get(ACCESS_CONTROL_REQUEST_HEADERS);
    list(headers, ACCESS_CONTROL_ALLOW_HEADERS, &cors.headers, asked);
    headers.insert(ACCESS_CONTROL_MAX_AGE, cors.max_age.as_secs().into());
    Some(response)
}

/// Says in a response that the origin may read it.
pub(crate) fn allow(cors: Option<&Cors>, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
    let (Some(cors), Some(origin)) = (cors, origin) else {
        return;
    };
    allow_origin(cors, origin, headers);
    if let Some(exposed) = joined(&cors.expose) {
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
}

fn allow_origin(cors: &Cors, origin: &HeaderValue, headers: &mut HeaderMap) {
    let any = cors.origins.iter().any(|o| matches!(o, Origin::Any));
    let value = match any && !cors.credentials {
        true => HeaderValue::from_static("*"),
        false => {
            headers.append(VARY, HeaderValue::from_static("origin"));
            origin.clone()
        }
    };
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, value);
    if cors.credentials {
        let value = HeaderValue::from_static("true");
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, value);
    }
}

fn joined(list: &[Text]) -> Option<HeaderValue> {
    let text = list.join(", ");
    HeaderValue::from_str(&text)
        .ok()
        .filter(|_| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;
    use std::time::Duration;

    fn cors(credentials: bool) -> Cors {
        Cors {
            origins: vec![Origin::Exact("https://a".into())],
            methods: vec!["*".into()],
            headers: vec!["x-a".into(), "x-b".into()],
            expose: vec!["x-c".into()],
            credentials,
            max_age: Duration::from_secs(9),
        }
    }

    fn asked(origin: &str) -> Parts {
        let request = Request::builder()
            .method(Method::OPTIONS)
            .header(ORIGIN, origin)
            .header(ACCESS_CONTROL_REQUEST_METHOD, "PUT");
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn preflights() {
        let answer = |credentials, origin| {
            let response = preflight(Some(&cors(credentials)), &asked(origin))?;
            Some(response.into_parts().0.headers)
        };
        let headers = answer(false, "https://a").unwrap();
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_ORIGIN], "https://a");
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_METHODS], "*");
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_HEADERS], "x-a, x-b");
        assert_eq!(headers[ACCESS_CONTROL_MAX_AGE], "9");
        let headers = answer(true, "https://a").unwrap();
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_METHODS], "PUT");
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_CREDENTIALS], "true");
        assert!(answer(false, "https://b").is_none());
        assert!(preflight(None, &asked("https://a")).is_none());
    }
}
