//! May this request pass? `AuthorizationPolicy` where requests are seen: the form in which policies
//! reach a waypoint, and the decision.
//!
//! The order is Istio's: a `CUSTOM` policy that matches asks its provider first; then a `DENY` that
//! matches refuses; then, if there are `ALLOW` policies, one of them must match. Lists within a field
//! are alternatives, fields of an entry must all hold, entries are alternatives again.
//!
//! What a proxy does not know never lets more in: a policy or rule that asks for a feature that is
//! not among [`FEATURES`] does not match where it would allow, and matches where it would refuse.

mod attributes;
mod decide;
mod key;
mod path;
mod provider;

pub use attributes::{Claim, Head, Request, Token};
pub use decide::{Asked, Decision, Verdict, asked, decide};
pub use key::range;
pub use path::{PathPattern, string_match};
pub use provider::{CheckProtocol, HttpCheck, Provider, ShownBody};

use ipnet::IpNet;

use crate::policy::{ServiceAccountMatch, StringMatch};
use crate::service::NamespacedHostname;
use crate::{Identity, Text};

/// Features that this build enforces, beside what every proxy does.
pub const FEATURES: &[&str] = &["jwt", "custom"];

/// What a matching policy does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Lets pass; as soon as one such policy exists, what none of them matches is refused.
    Allow,
    /// Refuses.
    Deny,
    /// Notes.
    Audit,
    /// Asks the provider of this name.
    Custom(Text),
}

/// What a policy is attached to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Attachment {
    /// Requests to a service.
    Service(NamespacedHostname),
    /// All requests through the gateway of this namespace and name.
    Gateway(Text, Text),
    /// All requests through gateways of this class.
    Class(Text),
}

/// One policy.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessPolicy {
    /// Namespace of the object.
    pub namespace: Text,
    /// Its name.
    pub name: Text,
    /// What it is attached to.
    pub attachments: Vec<Attachment>,
    /// What it does.
    pub action: Action,
    /// Who is asked, for `CUSTOM`; `None` where nobody is known by that name, which closes.
    pub provider: Option<Provider>,
    /// Alternatives. Without any it never matches.
    pub rules: Vec<AccessRule>,
    /// It is only noted.
    pub dry_run: bool,
    /// What a proxy must know to enforce it.
    pub requires: Vec<Text>,
}

impl AccessPolicy {
    /// Somebody else is asked.
    pub fn asks(&self) -> bool {
        matches!(self.action, Action::Custom(_))
    }

    /// It looks at the name that a client of TLS asks for.
    pub fn by_server_name(&self) -> bool {
        let conditions = self.rules.iter().flat_map(|rule| &rule.when);
        conditions
            .into_iter()
            .any(|condition| condition.key == Key::Sni)
    }

    /// The key of the policy, `namespace/name`.
    pub fn key(&self) -> Text {
        format!("{}/{}", self.namespace, self.name).into()
    }
}

/// One rule: each part must hold; a part without entries does.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AccessRule {
    /// Alternatives for who asks.
    pub from: Vec<Source>,
    /// Alternatives for what is asked.
    pub to: Vec<Operation>,
    /// Conditions that must all hold.
    pub when: Vec<Condition>,
    /// What a proxy must know to enforce it.
    pub requires: Vec<Text>,
}

/// One of these, and none of those.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Values<T> {
    /// One must hold, unless there is none.
    pub any: Vec<T>,
    /// None may hold.
    pub none: Vec<T>,
}

impl<T> Default for Values<T> {
    fn default() -> Self {
        Self {
            any: Vec::new(),
            none: Vec::new(),
        }
    }
}

impl<T> Values<T> {
    /// Nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.any.is_empty() && self.none.is_empty()
    }

    fn hold(&self, holds: impl Fn(&T) -> bool) -> bool {
        (self.any.is_empty() || self.any.iter().any(&holds)) && !self.none.iter().any(&holds)
    }
}

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Source {
    /// The peer's identity without `spiffe://`.
    pub principals: Values<StringMatch>,
    /// Issuer and subject of the request's token, `issuer/subject`.
    pub request_principals: Values<StringMatch>,
    /// Namespace of the peer.
    pub namespaces: Values<StringMatch>,
    /// Service account of the peer.
    pub service_accounts: Values<ServiceAccountMatch>,
    /// Trust domain of the peer.
    pub trust_domains: Values<StringMatch>,
    /// Address of the client: at a waypoint, of the pod that the connection came from.
    pub ips: Values<IpNet>,
    /// Address of the client as the first trusted proxy in front of us says.
    pub remote_ips: Values<IpNet>,
    /// It says what nobody can be: it never holds.
    pub never: bool,
}

/// What is asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Operation {
    /// Host, in any case, with or without the port.
    pub hosts: Values<StringMatch>,
    /// Port of the service.
    pub ports: Values<u16>,
    /// Method.
    pub methods: Values<StringMatch>,
    /// Path without the query, normalized.
    pub paths: Values<PathPattern>,
    /// It says what nobody can ask: it never holds.
    pub never: bool,
}

/// A condition on one attribute.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// Which attribute.
    pub key: Key,
    /// Its values.
    pub values: Values<Value>,
}

/// An attribute that conditions name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// `source.ip`
    SourceIp,
    /// `remote.ip`
    RemoteIp,
    /// `source.namespace`
    SourceNamespace,
    /// `source.principal`
    SourcePrincipal,
    /// `source.serviceAccount`
    SourceServiceAccount,
    /// `source.trustDomain`
    SourceTrustDomain,
    /// `destination.ip`
    DestinationIp,
    /// `destination.port`
    DestinationPort,
    /// `connection.sni`
    Sni,
    /// `request.headers[name]`, in lower case
    Header(Text),
    /// `request.auth.principal`
    AuthPrincipal,
    /// `request.auth.audiences`
    AuthAudiences,
    /// `request.auth.presenter`
    AuthPresenter,
    /// `request.auth.claims[a][b]`
    AuthClaim(Vec<Text>),
}

impl Key {
    /// It can only be known of a request.
    pub fn is_http(&self) -> bool {
        matches!(
            self,
            Self::Header(_)
                | Self::AuthPrincipal
                | Self::AuthAudiences
                | Self::AuthPresenter
                | Self::AuthClaim(_)
        )
    }
}

/// A value of a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(StringMatch),
    /// A range of addresses.
    Range(IpNet),
    /// A port.
    Port(u16),
    /// A service account.
    Account(ServiceAccountMatch),
}

/// Whether a text is so.
fn text(wanted: &StringMatch, value: &str) -> bool {
    match wanted {
        StringMatch::Exact(text) => value == &**text,
        StringMatch::Prefix(text) => value.starts_with(&**text),
        StringMatch::Suffix(text) => value.ends_with(&**text),
        StringMatch::Presence => !value.is_empty(),
    }
}

fn account(wanted: &ServiceAccountMatch, identity: Option<&Identity>) -> bool {
    identity.is_some_and(|id| {
        id.namespace == wanted.namespace && id.service_account == wanted.service_account
    })
}

#[cfg(test)]
#[path = "access_tests.rs"]
mod tests;
