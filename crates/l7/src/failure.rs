//! What went wrong, as the client, the log and the metrics see it: one translator for all.

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use crate::body::Body;
use crate::external::Denial;
use crate::tokens::Refusal;

/// Why a request was not answered by its backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It has no one meaning, for this reason.
    Malformed(&'static str),
    /// Its head is larger than heads may be.
    TooLarge,
    /// No rule of the service's routes is met.
    NoRoute,
    /// The rule cannot be understood, or its backend does not exist.
    Misconfigured(String),
    /// Its token is not believed.
    Unauthenticated(Refusal),
    /// A policy refuses it.
    Denied(String),
    /// The provider that a policy asks refuses it.
    Refused(Box<Denial>),
    /// The provider has not answered, for this reason: the status that the mesh wants then.
    NoVerdict(u16, String),
    /// Its body is larger than the provider may be shown.
    BodyTooLarge,
    /// More is under way than may be.
    Overflow,
    /// There is no usable endpoint.
    NoEndpoint,
    /// No connection to the endpoint.
    Connect(String),
    /// The endpoint ended the connection before it answered.
    Reset(String),
    /// No answer in time.
    Timeout,
    /// The client has gone.
    ClientGone,
}

/// How a failure is told.
struct Told {
    status: StatusCode,
    /// As Envoy abbreviates it.
    flag: &'static str,
    /// For the log (`%RESPONSE_CODE_DETAILS%`).
    details: &'static str,
    /// For the client.
    text: &'static str,
}

impl Failure {
    fn told(&self) -> Told {
        let told = |status, flag, details, text| Told {
            status,
            flag,
            details,
            text,
        };
        match self {
            Self::Malformed(reason) => {
                told(StatusCode::BAD_REQUEST, "DPE", "http1.codec_error", reason)
            }
            Self::TooLarge => told(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "DPE",
                "request_headers_too_large",
                "the head of the request is too large",
            ),
            Self::NoRoute => told(StatusCode::NOT_FOUND, "NR", "route_not_found", ""),
            Self::Misconfigured(_) => told(
                StatusCode::INTERNAL_SERVER_ERROR,
                "NC",
                "direct_response",
                "",
            ),
            Self::Unauthenticated(refusal) => told(
                StatusCode::UNAUTHORIZED,
                "-",
                "jwt_authn_access_denied",
                refusal.text(),
            ),
            Self::Denied(_) => told(
                StatusCode::FORBIDDEN,
                "-",
                "rbac_access_denied_matched_policy",
                "RBAC: access denied",
            ),
            Self::Refused(denial) => told(denial.status, "UAEX", "ext_authz_denied", ""),
            Self::NoVerdict(status, _) => told(
                StatusCode::from_u16(*status).unwrap_or(StatusCode::FORBIDDEN),
                "UAEX",
                "ext_authz_error",
                "",
            ),
            Self::BodyTooLarge => told(
                StatusCode::PAYLOAD_TOO_LARGE,
                "-",
                "request_payload_too_large",
                "Payload Too Large",
            ),
            Self::NoEndpoint => told(
                StatusCode::SERVICE_UNAVAILABLE,
                "UH",
                "no_healthy_upstream",
                "no healthy upstream",
            ),
            Self::Overflow => told(
                StatusCode::SERVICE_UNAVAILABLE,
                "UO",
                "overflow",
                "upstream connect error or disconnect/reset before headers. reset reason: overflow",
            ),
            Self::Connect(_) => told(
                StatusCode::SERVICE_UNAVAILABLE,
                "UF",
                "upstream_reset_before_response_started",
                "upstream connect error or disconnect/reset before headers. \
                 reset reason: connection failure",
            ),
            Self::Reset(_) => told(
                StatusCode::SERVICE_UNAVAILABLE,
                "UC",
                "upstream_reset_before_response_started",
                "upstream connect error or disconnect/reset before headers. \
                 reset reason: connection termination",
            ),
            Self::Timeout => told(
                StatusCode::GATEWAY_TIMEOUT,
                "UT",
                "response_timeout",
                "upstream request timeout",
            ),
            Self::ClientGone => told(
                StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
                "DC",
                "downstream_remote_disconnect",
                "",
            ),
        }
    }

    /// As Envoy abbreviates it, for the log and the metrics.
    pub(crate) fn flag(&self) -> &'static str {
        self.told().flag
    }

    /// For the log: Envoy's name of it.
    pub(crate) fn details(&self) -> &'static str {
        self.told().details
    }

    /// For the log: what exactly.
    pub(crate) fn reason(&self) -> Option<&str> {
        match self {
            Self::Misconfigured(why)
            | Self::Denied(why)
            | Self::NoVerdict(_, why)
            | Self::Connect(why)
            | Self::Reset(why) => Some(why),
            Self::Malformed(why) => Some(why),
            _ => None,
        }
    }

    /// The answer. Calls of gRPC get their own kind of status.
    pub(crate) fn response(&self, grpc: bool) -> Response<Body> {
        let told = self.told();
        if grpc {
            return grpc_response(grpc_status(told.status), told.text);
        }
        let mut response = Response::new(match (self, told.text) {
            (Self::Refused(denial), _) => Body::Kept(Some(denial.body.clone()), None),
            (_, "") => Body::empty(),
            (_, text) => Body::full(text),
        });
        *response.status_mut() = told.status;
        if let Self::Refused(denial) = self {
            for (name, value) in denial.headers.iter().cloned() {
                response.headers_mut().append(name, value);
            }
        }
        if !told.text.is_empty() {
            let plain = HeaderValue::from_static("text/plain");
            response.headers_mut().insert(header::CONTENT_TYPE, plain);
        }
        if matches!(self, Self::Unauthenticated(_)) {
            let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, challenge);
        }
        if matches!(self, Self::Malformed(_)) {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        response
    }
}

/// The request is a call of gRPC.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    content_type.is_some_and(|value| {
        value
            .strip_prefix(b"application/grpc")
            .is_some_and(|rest| rest.first().is_none_or(|c| matches!(c, b'+' | b';' | b' ')))
    })
}

/// The status of gRPC that says what a status of HTTP does (gRPC over HTTP2, "HTTP to gRPC").
pub(crate) fn grpc_status(status: StatusCode) -> u16 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// An answer of gRPC that is only a status.
pub(crate) fn grpc_response(status: u16, message: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    headers.insert("grpc-status", status.into());
    if let Ok(message) = HeaderValue::from_str(message)
        && !message.is_empty()
    {
        headers.insert("grpc-message", message);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_by_their_type() {
        let is = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(value));
            is_grpc(&headers)
        };
        assert!(
            is("application/grpc") && is("application/grpc+proto") && is("application/grpc;x=y")
        );
        assert!(!is("application/grpc-web") && !is("application/json"));
    }

    #[test]
    fn every_failure_has_its_answer() {
        for (failure, status, flag, grpc) in [
            (Failure::Malformed("x"), 400, "DPE", 13),
            (Failure::NoRoute, 404, "NR", 12),
            (Failure::Misconfigured("x".into()), 500, "NC", 2),
            (Failure::Unauthenticated(Refusal::Expired), 401, "-", 16),
            (Failure::Denied("x".into()), 403, "-", 7),
            (Failure::NoVerdict(503, "x".into()), 503, "UAEX", 14),
            (Failure::BodyTooLarge, 413, "-", 2),
            (Failure::Overflow, 503, "UO", 14),
            (Failure::NoEndpoint, 503, "UH", 14),
            (Failure::Connect("x".into()), 503, "UF", 14),
            (Failure::Reset("x".into()), 503, "UC", 14),
            (Failure::Timeout, 504, "UT", 14),
        ] {
            assert_eq!(failure.response(false).status(), status);
            assert_eq!(failure.flag(), flag);
            let call = failure.response(true);
            assert_eq!(call.status(), StatusCode::OK);
            assert_eq!(call.headers()["grpc-status"], HeaderValue::from(grpc));
        }
    }
}
