//! Keys and values of conditions, as the API writes them.

use super::{Key, Value};
use crate::policy::{ServiceAccountMatch, StringMatch};

impl Key {
    /// Reads a key; `None` for one that is not known.
    pub fn parse(key: &str) -> Option<Self> {
        Some(match key {
            "source.ip" => Self::SourceIp,
            "remote.ip" => Self::RemoteIp,
            "source.namespace" => Self::SourceNamespace,
            "source.principal" => Self::SourcePrincipal,
            "source.serviceAccount" => Self::SourceServiceAccount,
            "source.trustDomain" => Self::SourceTrustDomain,
            "destination.ip" => Self::DestinationIp,
            "destination.port" => Self::DestinationPort,
            "connection.sni" => Self::Sni,
            "request.auth.principal" => Self::AuthPrincipal,
            "request.auth.audiences" => Self::AuthAudiences,
            "request.auth.presenter" => Self::AuthPresenter,
            other => return Self::parse_bracketed(other),
        })
    }

    fn parse_bracketed(key: &str) -> Option<Self> {
        let inside = |rest: &str| {
            rest.strip_suffix(']')
                .filter(|r| !r.is_empty())
                .map(str::to_owned)
        };
        if let Some(rest) = key.strip_prefix("request.headers[") {
            let name = inside(rest)?;
            let bad = name.contains(['[', ']']);
            return (!bad).then(|| Self::Header(name.to_ascii_lowercase().into()));
        }
        let path = inside(key.strip_prefix("request.auth.claims[")?)?;
        let names: Vec<_> = path.split("][").collect();
        let good = names
            .iter()
            .all(|name| !name.is_empty() && !name.contains(['[', ']']));
        good.then(|| Self::AuthClaim(names.into_iter().map(Into::into).collect()))
    }

    /// The key as the API writes it.
    pub fn text(&self) -> String {
        let fixed = match self {
            Self::SourceIp => "source.ip",
            Self::RemoteIp => "remote.ip",
            Self::SourceNamespace => "source.namespace",
            Self::SourcePrincipal => "source.principal",
            Self::SourceServiceAccount => "source.serviceAccount",
            Self::SourceTrustDomain => "source.trustDomain",
            Self::DestinationIp => "destination.ip",
            Self::DestinationPort => "destination.port",
            Self::Sni => "connection.sni",
            Self::AuthPrincipal => "request.auth.principal",
            Self::AuthAudiences => "request.auth.audiences",
            Self::AuthPresenter => "request.auth.presenter",
            Self::Header(name) => return format!("request.headers[{name}]"),
            Self::AuthClaim(path) => return format!("request.auth.claims[{}]", path.join("][")),
        };
        fixed.to_owned()
    }
}

impl Value {
    /// Reads a value of a key; `None` for one that nothing can have. `namespace` is the policy's.
    pub fn parse(key: &Key, value: &str, namespace: &str) -> Option<Self> {
        match key {
            Key::SourceIp | Key::RemoteIp | Key::DestinationIp => range(value).map(Self::Range),
            Key::DestinationPort => value.parse().ok().filter(|p| *p > 0).map(Self::Port),
            Key::SourceServiceAccount => {
                let (namespace, name) = value.split_once('/').unwrap_or((namespace, value));
                let good = |s: &str| !s.is_empty() && !s.contains(['/', '*']);
                (good(namespace) && good(name)).then(|| {
                    Self::Account(ServiceAccountMatch {
                        namespace: namespace.into(),
                        service_account: name.into(),
                    })
                })
            }
            _ => Some(Self::Text(super::path::string_match(value))),
        }
    }

    /// The value as the API writes it.
    pub fn text(&self) -> String {
        match self {
            Self::Text(StringMatch::Exact(text)) => text.to_string(),
            Self::Text(StringMatch::Prefix(text)) => format!("{text}*"),
            Self::Text(StringMatch::Suffix(text)) => format!("*{text}"),
            Self::Text(StringMatch::Presence) => "*".to_owned(),
            Self::Range(range) => range.to_string(),
            Self::Port(port) => port.to_string(),
            Self::Account(account) => format!("{}/{}", account.namespace, account.service_account),
        }
    }
}

/// An address or a range.
pub fn range(value: &str) -> Option<ipnet::IpNet> {
    match value.parse::<ipnet::IpNet>() {
        Ok(range) => Some(range.trunc()),
        Err(_) => value.parse::<std::net::IpAddr>().ok().map(Into::into),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_as_they_are_written() {
        for key in [
            "source.ip",
            "remote.ip",
            "destination.port",
            "connection.sni",
            "request.headers[x-a]",
            "request.auth.claims[a]",
            "request.auth.claims[a][b]",
        ] {
            assert_eq!(Key::parse(key).unwrap().text(), key);
        }
        for bad in [
            "source.ports",
            "request.headers[]",
            "request.headers[a",
            "request.auth.claims[a][]",
            "request.auth.claims",
            "",
        ] {
            assert_eq!(Key::parse(bad), None, "{bad}");
        }
        assert_eq!(
            Key::parse("request.headers[X-A]"),
            Key::parse("request.headers[x-a]")
        );
    }

    #[test]
    fn values_read_as_they_are_written() {
        let read = |key: &str, value: &str| Value::parse(&Key::parse(key).unwrap(), value, "ns");
        for (key, value) in [
            ("source.ip", "10.0.0.0/8"),
            ("destination.port", "80"),
            ("source.serviceAccount", "a/b"),
            ("source.principal", "a*"),
        ] {
            assert_eq!(read(key, value).unwrap().text(), value);
        }
        assert_eq!(read("source.serviceAccount", "b").unwrap().text(), "ns/b");
        assert_eq!(read("source.ip", "x"), None);
        assert_eq!(read("destination.port", "0"), None);
    }
}
