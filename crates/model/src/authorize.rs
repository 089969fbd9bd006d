//! May this connection reach that workload? (`AuthorizationPolicy` at L4.)
//!
//! A DENY that matches refuses; then, if there are ALLOW policies, one of them must match. How
//! emptiness is read, from the outside in: a policy without rules never matches; a rule without
//! clauses always does; a clause without matches is true; a match without attributes is skipped,
//! so that a clause of nothing but such matches is false. A peer without identity has no
//! principal, no namespace and no service account: every positive condition on them is false and
//! every negative one is true, which is what makes STRICT mutual TLS a DENY policy.

use std::cell::OnceCell;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::policy::{Action, Authorization, Clause, Match, Rule, ServiceAccountMatch, StringMatch};
use crate::{Identity, Text};

/// What policies look at. Addresses are canonical: IPv4 is never dressed as IPv6.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Who the peer proved to be; `None` for plaintext.
    pub identity: Option<Identity>,
    /// Address of the TCP peer.
    pub source: IpAddr,
    /// Address and application port that are dialled, never the tunnel's.
    pub destination: SocketAddr,
}

/// Why a connection is refused. Its text is the reason in the access log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// A DENY policy matches.
    #[error("explicitly denied by: {0}")]
    Denied(Text),
    /// There are ALLOW policies and none matches.
    #[error("allow policies exist, but none allowed")]
    NotAllowed,
}

/// What a dry-run policy would have done; for the log only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DryRun {
    /// The DENY policy of this key matches.
    Denied(Text),
    /// The ALLOW policy of this key matches.
    Allowed(Text),
    /// All ALLOW policies are in dry run, and none matches.
    NotAllowed,
}

impl fmt::Display for DryRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(key) => write!(f, "dry-run: deny policy match: {key}"),
            Self::Allowed(key) => write!(f, "dry-run: allow policy match: {key}"),
            Self::NotAllowed => f.write_str("dry-run: no allow policies match"),
        }
    }
}

/// The answer of [`authorize`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Let in, or why not.
    pub verdict: Result<(), Rejection>,
    /// What dry-run policies would have done.
    pub dry_run: Vec<DryRun>,
}

/// Decides over all `policies` that cover the destination workload, in any order.
pub fn authorize<'a, P>(policies: P, connection: &Connection) -> Decision
where
    P: Iterator<Item = &'a Authorization> + Clone,
{
    let subject = Subject {
        connection,
        principal: OnceCell::new(),
    };
    let mut dry_run = Vec::new();

    for policy in policies.clone().filter(|p| p.action == Action::Deny) {
        if !subject.matches(policy) {
            continue;
        }
        if policy.dry_run {
            dry_run.push(DryRun::Denied(policy.key()));
        } else {
            return Decision {
                verdict: Err(Rejection::Denied(policy.key())),
                dry_run,
            };
        }
    }

    let (mut enforced, mut rehearsed, mut would_allow) = (false, false, false);
    for policy in policies.filter(|p| p.action == Action::Allow) {
        if policy.dry_run {
            rehearsed = true;
            if subject.matches(policy) {
                would_allow = true;
                dry_run.push(DryRun::Allowed(policy.key()));
            }
        } else if subject.matches(policy) {
            return Decision {
                verdict: Ok(()),
                dry_run,
            };
        } else {
            enforced = true;
        }
    }
    if rehearsed && !would_allow && !enforced {
        dry_run.push(DryRun::NotAllowed);
    }
    let verdict = if enforced {
        Err(Rejection::NotAllowed)
    } else {
        Ok(())
    };
    Decision { verdict, dry_run }
}

/// A connection, with what is derived from it at most once.
struct Subject<'a> {
    connection: &'a Connection,
    principal: OnceCell<Option<String>>,
}

impl Subject<'_> {
    fn principal(&self) -> Option<&str> {
        self.principal
            .get_or_init(|| self.connection.identity.as_ref().map(Identity::principal))
            .as_deref()
    }

    fn matches(&self, policy: &Authorization) -> bool {
        policy.rules.iter().any(|rule| self.rule(rule))
    }

    fn rule(&self, rule: &Rule) -> bool {
        rule.iter().all(|clause| self.clause(clause))
    }

    fn clause(&self, clause: &Clause) -> bool {
        clause.is_empty() || clause.iter().any(|m| !is_empty(m) && self.satisfies(m))
    }

    fn satisfies(&self, m: &Match) -> bool {
        let c = self.connection;
        let ip_in = |ip: IpAddr| move |net: &IpNet| net.contains(&ip);
        kind(&m.destination_ports, &m.not_destination_ports, |p| {
            *p == c.destination.port()
        }) && kind(&m.source_ips, &m.not_source_ips, ip_in(c.source))
            && kind(
                &m.destination_ips,
                &m.not_destination_ips,
                ip_in(c.destination.ip()),
            )
            && kind(&m.namespaces, &m.not_namespaces, |s| {
                text(s, Some(c.identity.as_ref().map_or("", |id| &*id.namespace)))
            })
            && kind(&m.service_accounts, &m.not_service_accounts, |s| {
                self.service_account(s)
            })
            && kind(&m.principals, &m.not_principals, |s| {
                text(s, self.principal())
            })
    }

    fn service_account(&self, wanted: &ServiceAccountMatch) -> bool {
        self.connection.identity.as_ref().is_some_and(|id| {
            id.namespace == wanted.namespace && id.service_account == wanted.service_account
        })
    }
}

/// One kind of attribute: an empty positive list does not constrain.
fn kind<T>(positive: &[T], negative: &[T], holds: impl Fn(&T) -> bool) -> bool {
    (positive.is_empty() || positive.iter().any(&holds)) && !negative.iter().any(&holds)
}

fn text(wanted: &StringMatch, value: Option<&str>) -> bool {
    let Some(value) = value else { return false };
    match wanted {
        StringMatch::Exact(text) => value == &**text,
        StringMatch::Prefix(text) => value.starts_with(&**text),
        StringMatch::Suffix(text) => value.ends_with(&**text),
        StringMatch::Presence => !value.is_empty(),
    }
}

fn is_empty(m: &Match) -> bool {
    m.namespaces.is_empty()
        && m.not_namespaces.is_empty()
        && m.principals.is_empty()
        && m.not_principals.is_empty()
        && m.service_accounts.is_empty()
        && m.not_service_accounts.is_empty()
        && m.source_ips.is_empty()
        && m.not_source_ips.is_empty()
        && m.destination_ips.is_empty()
        && m.not_destination_ips.is_empty()
        && m.destination_ports.is_empty()
        && m.not_destination_ports.is_empty()
}

#[cfg(test)]
#[path = "authorize_tests.rs"]
mod tests;
