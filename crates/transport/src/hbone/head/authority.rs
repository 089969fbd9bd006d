//! The `:authority` of a CONNECT request.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// Where a request is to go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Authority {
    /// An address.
    Address(SocketAddr),
    /// A name that the receiver resolves, between networks.
    Host {
        /// Host name.
        host: String,
        /// Port.
        port: u16,
    },
}

/// Why an authority cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// The request has another method.
    #[error("expected method CONNECT, got {0}")]
    Method(String),
    /// It is empty, has no port, or is no host.
    #[error("no valid authority pseudo header: {0:?}")]
    Invalid(String),
}

impl Authority {
    /// The port.
    pub fn port(&self) -> u16 {
        match self {
            Self::Address(a) => a.port(),
            Self::Host { port, .. } => *port,
        }
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(a) => a.fmt(f),
            Self::Host { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl FromStr for Authority {
    type Err = AuthorityError;

    fn from_str(s: &str) -> Result<Self, AuthorityError> {
        if let Ok(address) = s.parse::<SocketAddr>() {
            return Ok(Self::Address(crate::socket::canonical(address)));
        }
        let refuse = || AuthorityError::Invalid(s.to_owned());
        let (host, port) = s.rsplit_once(':').ok_or_else(refuse)?;
        // `u16::from_str` would take "+80".
        if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(refuse());
        }
        let port = port.parse().map_err(|_| refuse())?;
        if !is_host_name(host) || host.parse::<IpAddr>().is_ok() {
            return Err(refuse());
        }
        Ok(Self::Host {
            host: host.to_owned(),
            port,
        })
    }
}

fn is_host_name(host: &str) -> bool {
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && l.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    host.len() <= 253 && host.strip_suffix('.').unwrap_or(host).split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names() {
        let parse = |s: &str| s.parse::<Authority>().unwrap();
        assert_eq!(
            parse("10.0.0.1:80"),
            Authority::Address("10.0.0.1:80".parse().unwrap())
        );
        assert_eq!(
            parse("[fd00::1]:80"),
            Authority::Address("[fd00::1]:80".parse().unwrap())
        );
        assert_eq!(parse("[::ffff:10.0.0.1]:80").to_string(), "10.0.0.1:80");
        let named = parse("pay.shop.svc.cluster.local:8080");
        assert_eq!(named.to_string(), "pay.shop.svc.cluster.local:8080");
        assert_eq!(named.port(), 8080);
    }

    #[test]
    fn everything_else_is_refused() {
        for s in [
            "",
            ":",
            ":80",
            "10.0.0.1",
            "10.0.0.1:",
            "10.0.0.1:+80",
            "10.0.0.1:65536",
            "host",
            "host:",
            "a..b:80",
            "user@host:80",
            "fd00::1:80",
            "[fd00::1]",
            "a b:80",
            "host:80:90",
            "ho/st:80",
        ] {
            assert!(s.parse::<Authority>().is_err(), "{s:?} was accepted");
        }
    }
}
