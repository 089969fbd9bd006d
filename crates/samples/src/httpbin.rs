//! httpbin: answers with what it was asked, in the form of go-httpbin (header values are arrays).

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, Path, Query, Request};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use http_body_util::{BodyExt, Limited};
use serde_json::{Map, Value, json};

/// No answer repeats a body larger than this.
const MAX_BODY: usize = 1 << 20;
/// No answer is generated larger than this.
const MAX_BYTES: usize = 100 << 10;

/// The routes.
pub fn router() -> Router {
    Router::new()
        .route("/get", get(echo))
        .route("/post", post(echo))
        .route("/put", axum::routing::put(echo))
        .route("/delete", axum::routing::delete(echo))
        .route("/anything", any(echo))
        .route("/anything/{*path}", any(echo))
        .route(
            "/headers",
            get(|headers: HeaderMap| async move { Json(json!({"headers": all(&headers)})) }),
        )
        .route(
            "/ip",
            get(|request: Request| async move { Json(json!({"origin": origin(&request)})) }),
        )
        .route("/user-agent", get(user_agent))
        .route("/status/{code}", any(status))
        .route("/unstable", any(unstable))
        .route("/delay/{seconds}", any(delay))
        .route("/bytes/{count}", get(random_bytes))
        .route("/", get(|| async { "httpbin\n" }))
}

fn all(headers: &HeaderMap) -> Value {
    let mut map = Map::new();
    for name in headers.keys() {
        let values: Vec<Value> = headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into())
            .collect();
        map.insert(canonical(name.as_str()), values.into());
    }
    map.into()
}

/// `x-request-id` → `X-Request-Id`, as Go prints header names.
pub(crate) fn canonical(name: &str) -> String {
    let capital = |word: &str| {
        let mut chars = word.chars();
        chars
            .next()
            .map(|c| c.to_ascii_uppercase().to_string() + chars.as_str())
    };
    name.split('-')
        .map(|word| capital(word).unwrap_or_default())
        .collect::<Vec<_>>()
        .join("-")
}

fn origin(request: &Request) -> String {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    peer.map(|ConnectInfo(addr)| addr.ip().to_canonical().to_string())
        .unwrap_or_default()
}

fn query(uri: &Uri) -> Value {
    let mut args = Map::new();
    for (name, value) in url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
        if let Value::Array(values) = args
            .entry(name.into_owned())
            .or_insert_with(|| Value::Array(Vec::new()))
        {
            values.push(value.into_owned().into());
        }
    }
    args.into()
}

async fn echo(request: Request) -> Response {
    let (origin, method) = (origin(&request), request.method().to_string());
    let (parts, body) = request.into_parts();
    let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
        return (StatusCode::PAYLOAD_TOO_LARGE, "body too large\n").into_response();
    };
    let data = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    let host = parts
        .headers
        .get("host")
        .and_then(|h| h.to_str().ok())
        .unwrap_or_default();
    let answer = json!({
        "args": query(&parts.uri),
        "headers": all(&parts.headers),
        "method": method,
        "origin": origin,
        "url": format!("http://{host}{}", parts.uri),
        "json": serde_json::from_str::<Value>(&data).unwrap_or(Value::Null),
        "data": data,
    });
    Json(answer).into_response()
}

async fn user_agent(headers: HeaderMap) -> Json<Value> {
    let agent = headers
        .get("user-agent")
        .map(|v| String::from_utf8_lossy(v.as_bytes()));
    Json(json!({"user-agent": agent}))
}

async fn status(Path(code): Path<u16>) -> StatusCode {
    match StatusCode::from_u16(code) {
        Ok(status) if code >= 200 => status,
        _ => StatusCode::BAD_REQUEST,
    }
}

/// How often `/unstable` fails.
#[derive(serde::Deserialize)]
struct Unstable {
    failure_rate: Option<f64>,
}

/// Fails with 500 now and then: every other time unless `failure_rate` says otherwise.
async fn unstable(Query(Unstable { failure_rate }): Query<Unstable>) -> StatusCode {
    match rand::random::<f64>() < failure_rate.unwrap_or(0.5) {
        true => StatusCode::INTERNAL_SERVER_ERROR,
        false => StatusCode::OK,
    }
}

async fn delay(Path(seconds): Path<f64>, request: Request) -> Response {
    let bounded = seconds.clamp(0.0, 10.0);
    tokio::time::sleep(Duration::from_secs_f64(if bounded.is_nan() {
        0.0
    } else {
        bounded
    }))
    .await;
    echo(request).await
}

async fn random_bytes(Path(count): Path<usize>) -> Body {
    let mut bytes = vec![0; count.min(MAX_BYTES)];
    rand::fill(&mut bytes[..]);
    bytes.into()
}

#[cfg(test)]
mod tests {
    #[test]
    fn header_names_look_like_go_prints_them() {
        assert_eq!(super::canonical("x-request-id"), "X-Request-Id");
    }
}
