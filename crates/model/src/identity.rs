//! SPIFFE identities of the form `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.

use std::fmt;
use std::str::FromStr;

use crate::Text;

/// The trust domain that an empty `trust_domain` field stands for.
pub const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";

/// Who a workload is: the only form of SPIFFE identifier that Istio issues.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// Trust domain, for example `cluster.local`.
    pub trust_domain: Text,
    /// Kubernetes namespace.
    pub namespace: Text,
    /// Kubernetes service account.
    pub service_account: Text,
}

/// Why a string is not an [`Identity`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an identity of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>"
)]
pub struct ParseIdentityError(pub String);

impl Identity {
    /// An identity from its three parts.
    pub fn new(
        trust_domain: impl Into<Text>,
        namespace: impl Into<Text>,
        service_account: impl Into<Text>,
    ) -> Self {
        Self {
            trust_domain: trust_domain.into(),
            namespace: namespace.into(),
            service_account: service_account.into(),
        }
    }

    /// The identity without its scheme, which is what policies call a principal.
    pub fn principal(&self) -> String {
        format!(
            "{}/ns/{}/sa/{}",
            self.trust_domain, self.namespace, self.service_account
        )
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "spiffe://{}/ns/{}/sa/{}",
            self.trust_domain, self.namespace, self.service_account
        )
    }
}

impl FromStr for Identity {
    type Err = ParseIdentityError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let refuse = || ParseIdentityError(s.to_owned());
        let path = s.strip_prefix("spiffe://").ok_or_else(refuse)?;
        let parts: Vec<&str> = path.split('/').collect();
        match parts[..] {
            [td, "ns", ns, "sa", sa] if !td.is_empty() && !ns.is_empty() && !sa.is_empty() => {
                Ok(Identity::new(td, ns, sa))
            }
            _ => Err(refuse()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_what_it_parses() {
        let s = "spiffe://cluster.local/ns/shop/sa/cart";
        let id: Identity = s.parse().unwrap();
        assert_eq!(id, Identity::new("cluster.local", "shop", "cart"));
        assert_eq!(id.to_string(), s);
        assert_eq!(id.principal(), "cluster.local/ns/shop/sa/cart");
    }

    #[test]
    fn refuses_other_forms() {
        for s in [
            "",
            "spiffe://",
            "spiffe://td",
            "spiffe://td/ns/a/sa/",
            "spiffe://td/ns/a/sa/b/c",
            "spiffe://td/sa/b/ns/a",
            "https://td/ns/a/sa/b",
        ] {
            assert!(s.parse::<Identity>().is_err(), "{s}");
        }
    }
}
