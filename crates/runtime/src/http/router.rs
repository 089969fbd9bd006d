//! From a request to a reply: exact paths, one or more methods each.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use ::http::header::{ALLOW, CONTENT_TYPE};
use ::http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use bytes::Bytes;
use http_body_util::Full;
use serde::Serialize;

/// A whole reply.
pub type Reply = Response<Full<Bytes>>;

/// What a handler gets to see.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The path, without the query.
    pub path: String,
    /// The decoded query.
    pub query: Query,
    /// The header fields.
    pub headers: HeaderMap,
    /// The body, at most 1 MiB.
    pub body: Bytes,
}

/// The pairs of a query string, in order. A key without `=` has an empty value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(pub Vec<(String, String)>);

/// The future of a handler.
type HandlerFuture = Pin<Box<dyn Future<Output = Reply> + Send>>;

/// An asynchronous function from request to reply.
pub type Handler = Arc<dyn Fn(Request) -> HandlerFuture + Send + Sync>;

/// A table of routes.
#[derive(Clone, Default)]
pub struct Router {
    routes: BTreeMap<String, Vec<(Method, Handler)>>,
}

impl Query {
    /// Decodes a query string.
    pub fn parse(query: &str) -> Self {
        let pairs = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                (decode(key), decode(value))
            });
        Self(pairs.collect())
    }

    /// The first value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(k, _)| k == key)
            .map(|(_, v)| v.as_str())
    }
}

impl Router {
    /// An empty table: everything is 404.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a route. `GET` routes answer `HEAD` too.
    pub fn route<F, R>(mut self, method: Method, path: &str, handler: F) -> Self
    where
        F: Fn(Request) -> R + Send + Sync + 'static,
        R: Future<Output = Reply> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |request| Box::pin(handler(request)));
        self.routes
            .entry(path.to_owned())
            .or_default()
            .push((method, handler));
        self
    }

    /// Adds a `GET` route.
    pub fn get<F, R>(self, path: &str, handler: F) -> Self
    where
        F: Fn(Request) -> R + Send + Sync + 'static,
        R: Future<Output = Reply> + Send + 'static,
    {
        self.route(Method::GET, path, handler)
    }

    /// Adds a `POST` route.
    pub fn post<F, R>(self, path: &str, handler: F) -> Self
    where
        F: Fn(Request) -> R + Send + Sync + 'static,
        R: Future<Output = Reply> + Send + 'static,
    {
        self.route(Method::POST, path, handler)
    }

    /// Adds the routes of another table.
    pub fn merge(mut self, other: Router) -> Self {
        for (path, methods) in other.routes {
            self.routes.entry(path).or_default().extend(methods);
        }
        self
    }

    /// The paths that have a `GET` route, sorted: the links of an index page.
    pub fn pages(&self) -> Vec<String> {
        let has_get = |methods: &[(Method, Handler)]| methods.iter().any(|(m, _)| m == Method::GET);
        self.routes
            .iter()
            .filter(|(_, m)| has_get(m))
            .map(|(path, _)| path.clone())
            .collect()
    }

    /// Answers a request: 404 for an unknown path, 405 for a method that the path does not have.
    pub async fn answer(&self, request: Request) -> Reply {
        let Some(methods) = self.routes.get(&request.path) else {
            return text(StatusCode::NOT_FOUND, "not found\n");
        };
        let wanted = if request.method == Method::HEAD {
            Method::GET
        } else {
            request.method.clone()
        };
        match methods.iter().find(|(method, _)| *method == wanted) {
            Some((_, handler)) => handler(request).await,
            None => method_not_allowed(methods),
        }
    }
}

/// A reply with a content type.
pub fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    reply
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

/// A plain text reply.
pub fn text(status: StatusCode, body: impl Into<String>) -> Reply {
    reply(status, "text/plain; charset=utf-8", body.into())
}

/// A pretty-printed JSON reply.
pub fn json<T: Serialize + ?Sized>(value: &T) -> Reply {
    match serde_json::to_vec_pretty(value) {
        Ok(mut body) => {
            body.push(b'\n');
            reply(StatusCode::OK, "application/json", body)
        }
        Err(error) => {
            let message = format!("the reply could not be written as JSON: {error}\n");
            text(StatusCode::INTERNAL_SERVER_ERROR, message)
        }
    }
}

fn method_not_allowed(methods: &[(Method, Handler)]) -> Reply {
    let allowed: Vec<&str> = methods.iter().map(|(method, _)| method.as_str()).collect();
    let allowed = allowed.join(", ");
    let mut reply = text(StatusCode::METHOD_NOT_ALLOWED, format!("use {allowed}\n"));
    if let Ok(value) = HeaderValue::from_str(&allowed) {
        reply.headers_mut().insert(ALLOW, value);
    }
    reply
}

/// Decodes `%xx` and `+`; what is not an escape stays as it is.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let escape = bytes
            .get(i + 1..i + 3)
            .and_then(|hex| std::str::from_utf8(hex).ok());
        match (
            bytes[i],
            escape.and_then(|hex| u8::from_str_radix(hex, 16).ok()),
        ) {
            (b'%', Some(byte)) => {
                out.push(byte);
                i += 2;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: Method, path: &str) -> Request {
        Request {
            method,
            path: path.to_owned(),
            query: Query::default(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("level=a%3Ddebug,info&reset&x=1+2&bad=%zz&%");
        assert_eq!(query.get("level"), Some("a=debug,info"));
        assert_eq!(query.get("reset"), Some(""));
        assert_eq!(query.get("x"), Some("1 2"));
        assert_eq!(query.get("bad"), Some("%zz"));
        assert_eq!(query.get("none"), None);
    }

    #[tokio::test]
    async fn unknown_paths_and_methods_are_refused() {
        let router = Router::new().get("/a", |_| async { text(StatusCode::OK, "a") });
        let status = async |method, path| router.answer(request(method, path)).await.status();
        assert_eq!(status(Method::GET, "/a").await, 200);
        assert_eq!(status(Method::HEAD, "/a").await, 200);
        assert_eq!(status(Method::POST, "/a").await, 405);
        assert_eq!(status(Method::GET, "/b").await, 404);
    }
}
