//! The metrics port: `/metrics` and `/stats/prometheus`.

use std::io::Write;

use ::http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, HeaderName, VARY};
use ::http::{HeaderMap, HeaderValue, StatusCode};

use super::Registry;
use crate::http::{Reply, Request, Router, reply};

const OPEN_METRICS: &str = "application/openmetrics-text;charset=utf-8;version=1.0.0";
const PLAIN: &str = "text/plain; charset=utf-8";

/// The routes of a metrics port.
pub fn routes(registry: Registry) -> Router {
    let other = registry.clone();
    Router::new()
        .get("/metrics", move |request| {
            let registry = registry.clone();
            async move { page(&registry, &request) }
        })
        .get("/stats/prometheus", move |request| {
            let registry = other.clone();
            async move { page(&registry, &request) }
        })
}

fn page(registry: &Registry, request: &Request) -> Reply {
    let open_metrics = offers(&request.headers, ACCEPT, "application/openmetrics-text");
    let content_type = if open_metrics { OPEN_METRICS } else { PLAIN };
    let body = registry.encode().into_bytes();
    let compressed = if offers(&request.headers, ACCEPT_ENCODING, "gzip") {
        gzip(&body)
    } else {
        None
    };
    let mut reply = match compressed {
        Some(body) => {
            let mut reply = reply(StatusCode::OK, content_type, body);
            reply
                .headers_mut()
                .insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            reply
        }
        None => reply(StatusCode::OK, content_type, body),
    };
    reply
        .headers_mut()
        .insert(VARY, HeaderValue::from_static("accept, accept-encoding"));
    reply
}

/// Whether a list header has an element of this name, with any parameters but `q=0`.
fn offers(headers: &HeaderMap, header: HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(header);
    let elements = values
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|v| v.split(','));
    elements.into_iter().any(|element| {
        let mut parts = element.split(';').map(str::trim);
        let named = parts
            .next()
            .is_some_and(|name| name.eq_ignore_ascii_case(wanted));
        named && !parts.any(|parameter| matches!(parameter, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
    })
}

fn gzip(body: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(
        Vec::with_capacity(body.len() / 8),
        flate2::Compression::fast(),
    );
    encoder.write_all(body).ok()?;
    encoder.finish().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Query;
    use ::http::Method;
    use ::http::header::CONTENT_TYPE;
    use bytes::Bytes;
    use http_body_util::BodyExt;
    use std::io::Read;

    async fn get(headers: &[(HeaderName, &'static str)]) -> Reply {
        let headers = headers
            .iter()
            .map(|(k, v)| (k.clone(), HeaderValue::from_static(v)));
        let request = Request {
            method: Method::GET,
            path: "/stats/prometheus".to_owned(),
            query: Query::default(),
            headers: headers.collect(),
            body: Bytes::new(),
        };
        routes(Registry::new()).answer(request).await
    }

    #[tokio::test]
    async fn the_content_type_follows_accept() {
        let reply = get(&[]).await;
        assert_eq!(reply.headers()[CONTENT_TYPE], PLAIN);
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.75,text/plain;q=0.5";
        let reply = get(&[(ACCEPT, prometheus)]).await;
        assert_eq!(reply.headers()[CONTENT_TYPE], OPEN_METRICS);
        assert_eq!(
            reply.into_body().collect().await.unwrap().to_bytes(),
            "# EOF\n"
        );
    }

    #[tokio::test]
    async fn compresses_on_request() {
        let reply = get(&[(ACCEPT_ENCODING, "br, gzip")]).await;
        assert_eq!(reply.headers()[CONTENT_ENCODING], "gzip");
        let body = reply.into_body().collect().await.unwrap().to_bytes();
        let mut text = String::new();
        flate2::read::GzDecoder::new(&body[..])
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "# EOF\n");
        let reply = get(&[(ACCEPT_ENCODING, "gzip;q=0")]).await;
        assert!(!reply.headers().contains_key(CONTENT_ENCODING));
    }
}
