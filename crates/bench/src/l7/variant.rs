//! What a waypoint is configured with.

/// A configuration, and what is sent through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// One route, HTTP/1.1.
    Http1,
    /// One route, HTTP/2.
    Http2,
    /// 5,000 routes by the beginning of the path, HTTP/1.1; requests meet them in turn.
    Routes,
    /// One route, an authorization by principal, method, path and claim, and a token of ES256 with
    /// each request, HTTP/1.1.
    Policy,
    /// One route, HTTP/1.1, and as many connections of one client as a large service has.
    Connections,
}

impl Variant {
    pub const ALL: [Self; 5] = [
        Self::Http1,
        Self::Http2,
        Self::Routes,
        Self::Policy,
        Self::Connections,
    ];

    /// Routes that there are.
    pub fn routes(self) -> usize {
        match self {
            Self::Routes => 5000,
            _ => 1,
        }
    }

    /// The paths that routes begin with.
    pub fn paths(self) -> impl Iterator<Item = String> {
        (0..self.routes()).map(|number| format!("/route-{number}"))
    }

    /// Workers of the waypoint: one, whose processor time is measured; two, where it is asked whether
    /// all have something to do.
    pub fn workers(self) -> usize {
        match self {
            Self::Connections => 2,
            _ => 1,
        }
    }

    /// HTTP/2 is spoken.
    pub fn http2(self) -> bool {
        self == Self::Http2
    }
}
