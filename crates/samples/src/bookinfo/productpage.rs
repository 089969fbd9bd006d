//! Bookinfo productpage: the page that puts details and reviews together.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::header::{CONTENT_TYPE, COOKIE, LOCATION, REFERER, SET_COOKIE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::page;

/// How long details, reviews and ratings are waited for, each.
const PATIENCE: Duration = Duration::from_secs(3);
const SESSION_COOKIE: &str = "session";

/// Where the other services are, and how much is asked of them.
#[derive(Clone, Debug)]
pub struct Upstreams {
    /// Base URL of details.
    pub details: String,
    /// Base URL of reviews.
    pub reviews: String,
    /// Base URL of ratings.
    pub ratings: String,
    /// `FLOOD_FACTOR`: further requests to reviews, made at the same time and thrown away.
    pub flood: usize,
}

impl Upstreams {
    /// Reads the environment.
    pub fn from_env() -> Self {
        Self {
            details: super::base_url("details"),
            reviews: super::base_url("reviews"),
            ratings: super::base_url("ratings"),
            flood: std::env::var("FLOOD_FACTOR")
                .ok()
                .and_then(|v| v.parse().ok())
                .unwrap_or(0),
        }
    }
}

#[derive(Clone)]
struct App {
    upstreams: Arc<Upstreams>,
    /// Answers of the other services by service and status, for `/metrics`.
    results: Arc<Mutex<BTreeMap<(&'static str, u16), u64>>>,
}

/// The routes.
pub fn router(upstreams: Upstreams) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/index.html", get(index))
        .route("/health", get(|| async { "Product page is healthy" }))
        .route("/productpage", get(product_page))
        .route("/login", post(login))
        .route("/logout", get(logout))
        .route("/api/v1/products", get(products))
        .route("/api/v1/products/{id}", get(product))
        .route("/api/v1/products/{id}/reviews", get(product_reviews))
        .route("/api/v1/products/{id}/ratings", get(product_ratings))
        .route("/static/style.css", get(style))
        .route("/metrics", get(metrics))
        .with_state(App {
            upstreams: Arc::new(upstreams),
            results: Arc::default(),
        })
}

async fn index(State(app): State<App>) -> Html<String> {
    Html(page::index(&app.upstreams))
}

async fn style() -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/css")], page::STYLE)
}

async fn product_page(State(app): State<App>, headers: HeaderMap) -> Html<String> {
    let user = session_user(&headers);
    for _ in 0..app.upstreams.flood {
        let (app, headers) = (app.clone(), headers.clone());
        tokio::spawn(async move { app.reviews("0", &headers).await });
    }
    let (details, reviews) = tokio::join!(app.details("0", &headers), app.reviews("0", &headers));
    Html(page::product(user.as_deref(), &details, &reviews))
}

async fn login(headers: HeaderMap, body: String) -> Response {
    let user = url::form_urlencoded::parse(body.as_bytes())
        .find(|(name, _)| name == "username")
        .map(|(_, user)| user.into_owned())
        .unwrap_or_default();
    let user = percent_encoding::utf8_percent_encode(&user, percent_encoding::NON_ALPHANUMERIC);
    back(
        &headers,
        &format!("{SESSION_COOKIE}={user}; Path=/; HttpOnly"),
    )
}

async fn logout(headers: HeaderMap) -> Response {
    back(&headers, &format!("{SESSION_COOKIE}=; Path=/; Max-Age=0"))
}

/// Sends the browser back to where it came from, with a cookie.
fn back(headers: &HeaderMap, cookie: &str) -> Response {
    let to = headers
        .get(REFERER)
        .cloned()
        .unwrap_or(HeaderValue::from_static("/productpage"));
    let mut response = (StatusCode::FOUND, "").into_response();
    response.headers_mut().insert(LOCATION, to);
    if let Ok(cookie) = HeaderValue::from_str(cookie) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}

async fn products() -> Json<Value> {
    Json(json!([{ "id": 0, "title": page::TITLE, "descriptionHtml": page::DESCRIPTION }]))
}

async fn product(
    State(app): State<App>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> (StatusCode, Json<Value>) {
    let (status, body) = app.details(&id, &headers).await;
    (status, Json(body))
}

async fn product_reviews(
    State(app): State<App>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> (StatusCode, Json<Value>) {
    let (status, body) = app.reviews(&id, &headers).await;
    (status, Json(body))
}

async fn product_ratings(
    State(app): State<App>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> (StatusCode, Json<Value>) {
    let url = format!("{}/ratings/{id}", app.upstreams.ratings);
    let (status, body) = app.ask("ratings", "product ratings", url, &headers).await;
    (status, Json(body))
}

async fn metrics(State(app): State<App>) -> String {
    let mut text = String::from("# TYPE request_result_total counter\n");
    for ((service, code), count) in app
        .results
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .iter()
    {
        let labels = format!("destination_app=\"{service}\",response_code=\"{code}\"");
        let _ = writeln!(text, "request_result_total{{{labels}}} {count}");
    }
    text
}

impl App {
    async fn details(&self, id: &str, headers: &HeaderMap) -> (StatusCode, Value) {
        let url = format!("{}/details/{id}", self.upstreams.details);
        self.ask("details", "product details", url, headers).await
    }

    /// Reviews are asked twice: the original retries once, which a delay fault is shown against.
    async fn reviews(&self, id: &str, headers: &HeaderMap) -> (StatusCode, Value) {
        let url = format!("{}/reviews/{id}", self.upstreams.reviews);
        let first = self
            .ask("reviews", "product reviews", url.clone(), headers)
            .await;
        if first.0 == StatusCode::OK {
            return first;
        }
        self.ask("reviews", "product reviews", url, headers).await
    }

    async fn ask(
        &self,
        service: &'static str,
        what: &str,
        url: String,
        headers: &HeaderMap,
    ) -> (StatusCode, Value) {
        let asked = super::ask_json(url, outgoing(headers), PATIENCE).await;
        let (status, body) = match asked {
            Ok((status, body)) => (status, Some(body)),
            Err(error) => {
                eprintln!("{service} did not answer: {error}");
                (StatusCode::INTERNAL_SERVER_ERROR, None)
            }
        };
        *self
            .results
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry((service, status.as_u16()))
            .or_default() += 1;
        match body {
            Some(body) if status == StatusCode::OK => (status, body),
            _ => {
                let error = format!("Sorry, {what} are currently unavailable for this book.");
                (status, json!({ "error": error }))
            }
        }
    }
}

/// Headers for the other services: `end-user` says who is logged in here, never what a client claims.
fn outgoing(headers: &HeaderMap) -> HeaderMap {
    let mut out = super::forwarded(headers);
    out.remove("end-user");
    if let Some(user) = session_user(headers)
        && let Ok(value) = HeaderValue::from_str(&user)
    {
        out.insert("end-user", value);
    }
    out
}

fn session_user(headers: &HeaderMap) -> Option<String> {
    let cookies = headers.get(COOKIE)?.to_str().ok()?;
    let value = cookies
        .split(';')
        .filter_map(|cookie| cookie.trim().split_once('='))
        .find(|(name, _)| *name == SESSION_COOKIE)?
        .1;
    let user = percent_encoding::percent_decode_str(value)
        .decode_utf8()
        .ok()?
        .into_owned();
    (!user.is_empty()).then_some(user)
}
