//! L4 authorization: the form in which policies reach a node proxy (`istio.security.Authorization`).
//!
//! Evaluation is in [`crate::authorize`]; how emptiness is read is the subtle part and stated there.

use ipnet::IpNet;

use crate::Text;

/// What a matching policy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Lets in; as soon as one such policy exists, what none of them matches is refused.
    Allow,
    /// Refuses.
    Deny,
}

/// Which workloads a policy covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PolicyScope {
    /// All.
    Global,
    /// Those of the policy's namespace.
    Namespace,
    /// Those that name the policy in `authorization_policies`.
    WorkloadSelector,
}

/// How a string attribute is compared: byte by byte, case counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StringMatch {
    /// Equal.
    Exact(Text),
    /// Begins with.
    Prefix(Text),
    /// Ends with.
    Suffix(Text),
    /// Is there and not empty.
    Presence,
}

/// A service account, by namespace and name; the trust domain does not matter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceAccountMatch {
    /// Namespace.
    pub namespace: Text,
    /// Name.
    pub service_account: Text,
}

/// One match: all the kinds of attribute that it names must hold (AND); within a positive list one
/// value must hold (OR), within a negative list none may.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// Namespace in the peer's identity.
    pub namespaces: Vec<StringMatch>,
    /// … none of these.
    pub not_namespaces: Vec<StringMatch>,
    /// The peer's identity without `spiffe://`.
    pub principals: Vec<StringMatch>,
    /// … none of these.
    pub not_principals: Vec<StringMatch>,
    /// Service account in the peer's identity.
    pub service_accounts: Vec<ServiceAccountMatch>,
    /// … none of these.
    pub not_service_accounts: Vec<ServiceAccountMatch>,
    /// Address of the TCP peer.
    pub source_ips: Vec<IpNet>,
    /// … none of these.
    pub not_source_ips: Vec<IpNet>,
    /// Address that is dialled.
    pub destination_ips: Vec<IpNet>,
    /// … none of these.
    pub not_destination_ips: Vec<IpNet>,
    /// Application port that is dialled.
    pub destination_ports: Vec<u16>,
    /// … none of these.
    pub not_destination_ports: Vec<u16>,
}

/// Alternatives (OR). No alternatives at all is true.
pub type Clause = Vec<Match>;

/// Conditions that all must hold (AND). No conditions at all is true.
pub type Rule = Vec<Clause>;

/// One policy. It matches when one of its rules does; without rules it never matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorization {
    /// Name.
    pub name: Text,
    /// Namespace.
    pub namespace: Text,
    /// Which workloads it covers.
    pub scope: PolicyScope,
    /// What it does.
    pub action: Action,
    /// Its rules.
    pub rules: Vec<Rule>,
    /// It is only logged.
    pub dry_run: bool,
}

impl Authorization {
    /// The key of the policy, `namespace/name`.
    pub fn key(&self) -> Text {
        format!("{}/{}", self.namespace, self.name).into()
    }
}
