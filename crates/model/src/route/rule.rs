//! What a rule does with the requests that meet it: the form in which routes reach a proxy.

use std::time::Duration;

use super::{Match, Replace};
use crate::Text;
use crate::service::NamespacedHostname;

/// What a route speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteKind {
    /// `HTTPRoute`.
    #[default]
    Http,
    /// `GRPCRoute`.
    Grpc,
    /// `TCPRoute`.
    Tcp,
    /// `TLSRoute`.
    Tls,
}

impl RouteKind {
    /// The name of the kind in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "HTTPRoute",
            Self::Grpc => "GRPCRoute",
            Self::Tcp => "TCPRoute",
            Self::Tls => "TLSRoute",
        }
    }

    /// Its rules look into requests.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Grpc)
    }
}

/// What one object of the user says about requests.
#[derive(Clone, Debug, Default)]
pub struct Route {
    /// Kind of the object.
    pub kind: RouteKind,
    /// Its namespace.
    pub namespace: Text,
    /// Its name.
    pub name: Text,
    /// When it was made, seconds since 1970. The older comes first where all else is equal.
    pub created: i64,
    /// The services that it is about.
    pub parents: Vec<Parent>,
    /// Rules, in the order in which they are written.
    pub rules: Vec<Rule>,
}

impl Route {
    /// The key of the route, `kind/namespace/name`.
    pub fn key(&self) -> Text {
        format!("{}/{}/{}", self.kind.name(), self.namespace, self.name).into()
    }
}

/// A service that a route is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Parent {
    /// The service.
    pub service: NamespacedHostname,
    /// One port of it; all of them without.
    pub port: Option<u16>,
}

/// One rule.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    /// Name, if the user gave it one.
    pub name: Text,
    /// Alternatives of which one must hold; without any, every request meets the rule.
    pub matches: Vec<Match>,
    /// What is done with a request.
    pub action: Action,
    /// Changes of the request's headers.
    pub request_headers: HeaderChanges,
    /// Changes of the response's headers.
    pub response_headers: HeaderChanges,
    /// Cross-origin requests.
    pub cors: Option<Cors>,
}

/// What a rule does with a request.
#[derive(Clone, Debug)]
pub enum Action {
    /// Sends it to a backend.
    Forward(Forward),
    /// Answers with another place.
    Redirect(Redirect),
    /// The rule cannot be understood, for this reason: 500.
    Fail(Text),
}

impl Default for Action {
    fn default() -> Self {
        Self::Forward(Forward::default())
    }
}

/// Where requests go, and how often it is tried.
#[derive(Clone, Debug, Default)]
pub struct Forward {
    /// Backends by weight. Without any, or with none of weight, the answer is 500.
    pub backends: Vec<Backend>,
    /// Another host and path for the backend.
    pub rewrite: Rewrite,
    /// Who gets copies.
    pub mirrors: Vec<Mirror>,
    /// Time for all tries together; none is no limit.
    pub timeout: Option<Duration>,
    /// Time for each try.
    pub try_timeout: Option<Duration>,
    /// What is tried again; `None` is the mesh's default.
    pub retry: Option<Retry>,
    /// Requests of one client keep their backend.
    pub session: Option<Session>,
}

/// A backend with its share.
#[derive(Clone, Debug, Default)]
pub struct Backend {
    /// Where it is; `None` if it does not exist: its share is answered 500.
    pub target: Option<Target>,
    /// Its share of the sum of all weights.
    pub weight: u32,
    /// Changes of the request's headers for it, after those of the rule.
    pub request_headers: HeaderChanges,
    /// Changes of the response's headers from it, before those of the rule.
    pub response_headers: HeaderChanges,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The service.
    pub service: NamespacedHostname,
    /// Its port.
    pub port: u16,
}

/// A copy of requests, whose responses nobody sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Where to.
    pub target: Target,
    /// How many of [`Self::of`] requests are copied.
    pub share: u32,
    /// See [`Self::share`]; not 0.
    pub of: u32,
}

/// Another host or path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// The host.
    pub host: Option<Text>,
    /// The path.
    pub path: Option<Replace>,
}

/// The place where a client is sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`; the request's without.
    pub scheme: Option<Text>,
    /// The host; the request's without.
    pub host: Option<Text>,
    /// The port; see [`location`](super::location).
    pub port: Option<u16>,
    /// The path; the request's without.
    pub path: Option<Replace>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// Changes of headers, made in this order: set, add, remove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderChanges {
    /// In the place of all of that name.
    pub set: Vec<(Text, Text)>,
    /// Beside those that are there.
    pub add: Vec<(Text, Text)>,
    /// Not there any more.
    pub remove: Vec<Text>,
}

impl HeaderChanges {
    /// There is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }
}

/// When a request is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Tries beside the first.
    pub attempts: u32,
    /// Statuses of responses that are tried again, beside connections that failed.
    pub statuses: Vec<u16>,
    /// Pause before the first; each further one waits twice as long, with jitter.
    pub backoff: Duration,
}

impl Retry {
    /// What holds where nobody says anything (Istio's `defaultHttpRetryPolicy`): two further tries
    /// of what was not answered.
    pub fn mesh_default() -> Self {
        Self {
            attempts: 2,
            statuses: Vec::new(),
            backoff: Duration::from_millis(25),
        }
    }
}

/// How requests of one client keep their backend (`sessionPersistence`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Name of the cookie or header.
    pub name: Text,
    /// In a header, not in a cookie.
    pub header: bool,
    /// Longest life; none is that of the client's session.
    pub lifetime: Option<Duration>,
}

/// Who may read responses from pages of another origin (`CORS` of the Gateway API, `corsPolicy`).
#[derive(Clone, Debug, Default)]
pub struct Cors {
    /// Origins: exact, with `*` for the beginning of the host, or any.
    pub origins: Vec<Origin>,
    /// Methods; `*` is all.
    pub methods: Vec<Text>,
    /// Request headers; `*` is all.
    pub headers: Vec<Text>,
    /// Response headers that scripts may see.
    pub expose: Vec<Text>,
    /// Cookies and the like may be sent.
    pub credentials: bool,
    /// How long a preflight's answer may be kept.
    pub max_age: Duration,
}

/// An origin that is let in.
#[derive(Clone, Debug)]
pub enum Origin {
    /// Any.
    Any,
    /// This one.
    Exact(Text),
    /// Scheme with `://`, and the end of a host behind the wildcard: `https://*.example.com`.
    Wildcard(Text, Text),
    /// All of it matches.
    Regex(super::Pattern),
    /// It begins with this.
    Prefix(Text),
}

impl Origin {
    /// Whether it is this one. Origins are compared without regard to case, as hosts are.
    pub fn matches(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(wanted) => wanted.eq_ignore_ascii_case(origin),
            Self::Prefix(prefix) => starts_with(origin, prefix),
            Self::Regex(pattern) => pattern.matches(origin),
            Self::Wildcard(scheme, end) => {
                // The wildcard stands for at least one character.
                starts_with(origin, scheme)
                    && origin.len() > scheme.len() + end.len()
                    && origin
                        .get(origin.len() - end.len()..)
                        .is_some_and(|tail| tail.eq_ignore_ascii_case(end))
            }
        }
    }
}

fn starts_with(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len())
        .is_some_and(|head| head.eq_ignore_ascii_case(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins() {
        let wildcard = Origin::Wildcard("https://".into(), ".example.com".into());
        assert!(wildcard.matches("https://a.example.com"));
        assert!(wildcard.matches("https://A.B.Example.Com"));
        assert!(!wildcard.matches("https://.example.com"));
        assert!(!wildcard.matches("http://a.example.com"));
        assert!(!wildcard.matches("https://a.example.com:8443"));
        assert!(Origin::Exact("https://a".into()).matches("https://A"));
        assert!(!Origin::Exact("https://a".into()).matches("https://a:1"));
    }
}
