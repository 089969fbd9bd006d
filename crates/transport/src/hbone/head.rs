//! The head of a CONNECT request: where it goes, and what the sender says about itself.
//!
//! Everything but the authority is a hint for telemetry. None of it may widen access; identity comes
//! from TLS alone.

mod authority;
mod baggage;

use std::fmt;
use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Method};

pub use authority::{Authority, AuthorityError};
pub use baggage::Baggage;

use super::ConnectError;

pub(super) const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const FORWARDED_NETWORK: HeaderName = HeaderName::from_static("x-forwarded-network");
const ISTIO_SOURCE: HeaderName = HeaderName::from_static("x-istio-source");

/// A CONNECT request to send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectRequest {
    /// `ip:port`, `[v6]:port` or `host:port`.
    pub authority: String,
    /// The source workload.
    pub baggage: Option<Baggage>,
    /// Where the connection comes from, and what it was meant for.
    pub forwarded: Option<Forwarded>,
    /// Correlates log lines of the two proxies.
    pub traceparent: Option<TraceParent>,
    /// The sender's network, on the inner request of a tunnel in a tunnel.
    pub forwarded_network: Option<String>,
    /// `waypoint`, `gateway` or `sidecar`, from such senders to a gateway.
    pub source_kind: Option<String>,
}

impl ConnectRequest {
    /// A request with nothing but its authority.
    pub fn new(authority: impl Into<String>) -> Self {
        Self {
            authority: authority.into(),
            ..Self::default()
        }
    }

    pub(super) fn to_http(&self) -> Result<http::Request<()>, ConnectError> {
        let invalid = |e: http::Error| ConnectError::InvalidRequest(e.to_string().into());
        let mut request = http::Request::connect(self.authority.as_str())
            .body(())
            .map_err(invalid)?;
        let headers = request.headers_mut();
        let mut put = |name: HeaderName, value: Option<String>| -> Result<(), ConnectError> {
            if let Some(value) = value.filter(|v| !v.is_empty()) {
                let value = HeaderValue::try_from(value).map_err(|e| invalid(e.into()))?;
                headers.insert(name, value);
            }
            Ok(())
        };
        put(BAGGAGE, self.baggage.as_ref().map(Baggage::to_string))?;
        put(FORWARDED, self.forwarded.as_ref().map(Forwarded::to_string))?;
        put(
            TRACEPARENT,
            self.traceparent.as_ref().map(TraceParent::to_string),
        )?;
        put(FORWARDED_NETWORK, self.forwarded_network.clone())?;
        put(ISTIO_SOURCE, self.source_kind.clone())?;
        Ok(request)
    }
}

/// The head of a request that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectHead {
    /// Where it is to go, or why that cannot be told: the answer is then 400.
    pub authority: Result<Authority, AuthorityError>,
    /// The source workload as the sender describes it.
    pub baggage: Option<Baggage>,
    /// The service that the sender meant, from `forwarded`.
    pub forwarded_host: Option<String>,
    /// The sender's trace, if it is well formed.
    pub traceparent: Option<TraceParent>,
    /// The sender's network, if the request came through a gateway.
    pub forwarded_network: Option<String>,
    /// The kind of sender, to a gateway.
    pub source_kind: Option<String>,
}

impl ConnectHead {
    pub(super) fn from_http(request: &http::request::Parts) -> Self {
        let headers = &request.headers;
        Self {
            authority: authority_of(request),
            baggage: Baggage::from_headers(headers),
            forwarded_host: text(headers, &FORWARDED).and_then(Forwarded::host_of),
            traceparent: text(headers, &TRACEPARENT).and_then(TraceParent::parse),
            forwarded_network: text(headers, &FORWARDED_NETWORK).map(str::to_owned),
            source_kind: text(headers, &ISTIO_SOURCE).map(str::to_owned),
        }
    }
}

fn authority_of(request: &http::request::Parts) -> Result<Authority, AuthorityError> {
    if request.method != Method::CONNECT {
        return Err(AuthorityError::Method(request.method.to_string()));
    }
    let authority = request.uri.authority().map_or("", |a| a.as_str());
    authority.parse()
}

/// A header's value, if it is visible ASCII.
fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name).and_then(|v| v.to_str().ok())
}

/// The `forwarded` header (RFC 7239), as far as the mesh uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarded {
    /// Where the connection comes from.
    pub source: SocketAddr,
    /// The service that it was meant for.
    pub host: Option<String>,
}

impl Forwarded {
    fn host_of(value: &str) -> Option<String> {
        let host = value
            .split(';')
            .find_map(|part| part.trim().strip_prefix("host="))?;
        let host = host.trim_matches('"');
        (!host.is_empty()).then(|| host.to_owned())
    }
}

impl fmt::Display for Forwarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "for=\"{}\"", self.source)?;
        self.host
            .as_ref()
            .map_or(Ok(()), |host| write!(f, ";host={host}"))
    }
}

/// A W3C trace context; it only ties log lines together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// Trace id.
    pub trace: u128,
    /// Span id.
    pub span: u64,
}

impl TraceParent {
    /// A fresh trace.
    pub fn random() -> Self {
        Self {
            trace: rand::random(),
            span: rand::random(),
        }
    }

    /// Parses a header value; anything malformed counts as absent.
    pub fn parse(value: &str) -> Option<Self> {
        let parts: Vec<&str> = value.split('-').collect();
        let hex = |s: &str, digits| s.len() == digits && s.bytes().all(|b| b.is_ascii_hexdigit());
        match parts[..] {
            [version, trace, span, flags]
                if hex(version, 2) && hex(trace, 32) && hex(span, 16) && hex(flags, 2) =>
            {
                Some(Self {
                    trace: u128::from_str_radix(trace, 16).ok()?,
                    span: u64::from_str_radix(span, 16).ok()?,
                })
            }
            _ => None,
        }
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-00", self.trace, self.span)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn received(request: &ConnectRequest) -> ConnectHead {
        ConnectHead::from_http(&request.to_http().unwrap().into_parts().0)
    }

    #[test]
    fn a_request_arrives_as_it_was_sent() {
        let request = ConnectRequest {
            authority: "10.244.2.9:8080".into(),
            baggage: Some(Baggage {
                namespace: Some("shop".into()),
                ..Baggage::default()
            }),
            forwarded: Some(Forwarded {
                source: "[fd00::7]:41234".parse().unwrap(),
                host: Some("pay.shop.svc.cluster.local".into()),
            }),
            traceparent: Some(TraceParent::random()),
            forwarded_network: Some("west".into()),
            source_kind: None,
        };
        let http = request.to_http().unwrap();
        assert_eq!(
            http.headers()["forwarded"],
            "for=\"[fd00::7]:41234\";host=pay.shop.svc.cluster.local"
        );
        let head = received(&request);
        assert_eq!(
            head.authority,
            Ok(Authority::Address("10.244.2.9:8080".parse().unwrap()))
        );
        assert_eq!(head.baggage, request.baggage);
        assert_eq!(
            head.forwarded_host.as_deref(),
            Some("pay.shop.svc.cluster.local")
        );
        assert_eq!(head.traceparent, request.traceparent);
        assert_eq!(head.forwarded_network.as_deref(), Some("west"));
    }

    #[test]
    fn other_methods_are_named_in_the_error() {
        let parts = http::Request::get("http://10.0.0.1:80/")
            .body(())
            .unwrap()
            .into_parts()
            .0;
        let head = ConnectHead::from_http(&parts);
        let error = head.authority.unwrap_err().to_string();
        assert_eq!(error, "expected method CONNECT, got GET");
    }

    #[test]
    fn a_malformed_traceparent_counts_as_absent() {
        for value in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00_0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331_00",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
            "00-zaf7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
        ] {
            assert_eq!(TraceParent::parse(value), None, "{value}");
        }
    }

    #[test]
    fn a_value_that_no_header_can_hold_is_an_error_and_no_panic() {
        let mut request = ConnectRequest::new("10.0.0.1:80");
        request.forwarded_network = Some("a\nb".into());
        assert!(matches!(
            request.to_http(),
            Err(ConnectError::InvalidRequest(_))
        ));
        assert!(ConnectRequest::new("not an authority").to_http().is_err());
    }

    proptest! {
        #[test]
        fn traceparents_survive_the_wire(trace: u128, span: u64) {
            let t = TraceParent { trace, span };
            prop_assert_eq!(TraceParent::parse(&t.to_string()), Some(t));
        }

        #[test]
        fn parsers_take_any_text(s in "\\PC*") {
            let _ = TraceParent::parse(&s);
            let _ = Forwarded::host_of(&s);
            let _ = s.parse::<Authority>();
            let _ = Baggage::parse([s.as_str()].into_iter());
        }
    }
}
