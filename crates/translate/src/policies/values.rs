//! Single values of a policy. `None` means that no connection can ever have the value.

use std::net::IpAddr;

use ambit_model::Identity;
use ambit_model::policy::{ServiceAccountMatch, StringMatch};
use ipnet::IpNet;

/// `*` is presence, `*x` a suffix, `x*` a prefix, anything else exact. A star elsewhere stands for
/// nothing, and an empty value is nobody's.
pub(super) fn string(value: &str) -> Option<StringMatch> {
    if value == "*" {
        return Some(StringMatch::Presence);
    }
    let (wrap, rest): (fn(_) -> StringMatch, &str) = if let Some(rest) = value.strip_prefix('*') {
        (StringMatch::Suffix, rest)
    } else if let Some(rest) = value.strip_suffix('*') {
        (StringMatch::Prefix, rest)
    } else {
        (StringMatch::Exact, value)
    };
    (!rest.is_empty() && !rest.contains('*')).then(|| wrap(rest.into()))
}

/// A principal: `<trust domain>/ns/<namespace>/sa/<service account>`, or a part of it with a star.
pub(super) fn principal(value: &str) -> Option<StringMatch> {
    let matching = string(value)?;
    let possible = match &matching {
        StringMatch::Exact(name) => format!("spiffe://{name}").parse::<Identity>().is_ok(),
        StringMatch::Prefix(start) => !start.contains("://"),
        StringMatch::Suffix(end) => !end.contains("://"),
        StringMatch::Presence => true,
    };
    possible.then_some(matching)
}

/// A namespace, or a part of its name with a star.
pub(super) fn namespace(value: &str) -> Option<StringMatch> {
    string(value).filter(|_| !value.contains('/'))
}

/// A service account, `<name>` in the namespace of the policy or `<namespace>/<name>`.
pub(super) fn service_account(value: &str, policy_namespace: &str) -> Option<ServiceAccountMatch> {
    let (namespace, name) = value.split_once('/').unwrap_or((policy_namespace, value));
    let is_name = |s: &str| !s.is_empty() && !s.contains(['/', '*']);
    (is_name(namespace) && is_name(name)).then(|| ServiceAccountMatch {
        namespace: namespace.into(),
        service_account: name.into(),
    })
}

/// An address or a range.
pub(super) fn ip_block(value: &str) -> Option<IpNet> {
    match value.parse::<IpNet>() {
        Ok(net) => Some(net.trunc()),
        Err(_) => value.parse::<IpAddr>().ok().map(IpNet::from),
    }
}

/// A port.
pub(super) fn port(value: &str) -> Option<u16> {
    value.parse().ok().filter(|p| *p > 0)
}

/// How a trust domain can be said of a principal.
pub(super) enum TrustDomain {
    /// As this.
    Principal(StringMatch),
    /// Nobody can have it.
    Nobody,
    /// A suffix cannot be said: the trust domain is the beginning of a principal.
    Inexpressible,
}

/// A trust domain: every principal of it begins with its name and a slash.
pub(super) fn trust_domain(value: &str) -> TrustDomain {
    if value.contains('/') {
        return TrustDomain::Nobody;
    }
    match string(value) {
        Some(StringMatch::Exact(name)) => {
            TrustDomain::Principal(StringMatch::Prefix(format!("{name}/").into()))
        }
        Some(StringMatch::Suffix(_)) => TrustDomain::Inexpressible,
        Some(other) => TrustDomain::Principal(other),
        None => TrustDomain::Nobody,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings() {
        let exact = |s: &str| Some(StringMatch::Exact(s.into()));
        assert_eq!(string("*"), Some(StringMatch::Presence));
        assert_eq!(string("*x"), Some(StringMatch::Suffix("x".into())));
        assert_eq!(string("x*"), Some(StringMatch::Prefix("x".into())));
        assert_eq!(string("x"), exact("x"));
        for nobody in ["", "**", "*x*", "a*b"] {
            assert_eq!(string(nobody), None, "{nobody:?}");
        }
    }

    #[test]
    fn principals() {
        for good in ["cluster.local/ns/a/sa/b", "cluster.local/*", "*/sa/b", "*"] {
            assert!(principal(good).is_some(), "{good}");
        }
        for bad in [
            "spiffe://cluster.local/ns/a/sa/b",
            "spiffe://cluster.local/*",
            "cluster.local/a/b",
            "b",
            "a*b",
            "",
        ] {
            assert!(principal(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn accounts_blocks_and_ports() {
        let account = service_account("b", "a").unwrap();
        assert_eq!((&*account.namespace, &*account.service_account), ("a", "b"));
        assert_eq!(service_account("a/b", "x"), Some(account));
        for bad in ["", "a/", "/b", "a/b/c", "a/*"] {
            assert_eq!(service_account(bad, "ns"), None, "{bad}");
        }
        assert_eq!(ip_block("10.1.2.3/8").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(ip_block("10.1.2.3").unwrap().to_string(), "10.1.2.3/32");
        assert_eq!(ip_block("fd00::1").unwrap().to_string(), "fd00::1/128");
        assert_eq!((ip_block("10.1.2"), ip_block("10.0.0.0/33")), (None, None));
        assert_eq!(
            (port("80"), port("0"), port("65536"), port("http")),
            (Some(80), None, None, None)
        );
    }
}
