//! Policies: messages to model and back.
//!
//! A part of a policy that cannot be read never widens access. What is unreadable in an ALLOW
//! makes its match narrower, down to one that is never true; what is unreadable in a DENY makes
//! its match wider, up to one that is always true. The policy itself is kept in both cases:
//! leaving out a whole DENY because of one bad entry would be the widest reading of all.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use ambit_model::policy::{
    Action, Authorization, Clause, Match, PolicyScope, Rule, ServiceAccountMatch, StringMatch,
};

use crate::convert::{ConvertError, ip_bytes, ip_from};
use crate::security as pb;

impl TryFrom<pb::Authorization> for Authorization {
    type Error = ConvertError;

    fn try_from(m: pb::Authorization) -> Result<Self, ConvertError> {
        let scope = match pb::Scope::try_from(m.scope) {
            Ok(pb::Scope::Global) => PolicyScope::Global,
            Ok(pb::Scope::Namespace) => PolicyScope::Namespace,
            Ok(pb::Scope::WorkloadSelector) => PolicyScope::WorkloadSelector,
            Err(_) => {
                return Err(ConvertError::UnsupportedValue {
                    field: "scope",
                    value: m.scope,
                });
            }
        };
        let action = match pb::Action::try_from(m.action) {
            Ok(pb::Action::Allow) => Action::Allow,
            Ok(pb::Action::Deny) => Action::Deny,
            Err(_) => {
                return Err(ConvertError::UnsupportedValue {
                    field: "action",
                    value: m.action,
                });
            }
        };
        let read_clause = |clause: pb::Clause| -> Clause {
            clause
                .matches
                .into_iter()
                .map(|m| read_match(action, m))
                .collect()
        };
        let read_rule =
            |rule: pb::Rule| -> Rule { rule.clauses.into_iter().map(read_clause).collect() };
        Ok(Authorization {
            name: m.name.into(),
            namespace: m.namespace.into(),
            scope,
            action,
            rules: m.rules.into_iter().map(read_rule).collect(),
            dry_run: m.dry_run,
        })
    }
}

/// What became of a match while its entries were read.
struct Reading {
    action: Action,
    /// An ALLOW lost an entry that narrowed it.
    never: bool,
    /// A DENY lost an entry that was part of its condition.
    widened: bool,
}

impl Reading {
    fn positive<W, T>(&mut self, wire: Vec<W>, read: fn(W) -> Option<T>) -> Vec<T> {
        let count = wire.len();
        let list: Vec<T> = wire.into_iter().filter_map(read).collect();
        if list.len() == count {
            return list;
        }
        match self.action {
            Action::Allow => {
                self.never |= list.is_empty();
                list
            }
            Action::Deny => {
                self.widened = true;
                Vec::new()
            }
        }
    }

    fn negative<W, T>(&mut self, wire: Vec<W>, read: fn(W) -> Option<T>) -> Vec<T> {
        let count = wire.len();
        let list: Vec<T> = wire.into_iter().filter_map(read).collect();
        if list.len() != count {
            match self.action {
                Action::Allow => self.never = true,
                Action::Deny => self.widened = true,
            }
        }
        list
    }
}

fn read_match(action: Action, m: pb::Match) -> Match {
    let mut r = Reading {
        action,
        never: false,
        widened: false,
    };
    let read = Match {
        namespaces: r.positive(m.namespaces, string_match),
        not_namespaces: r.negative(m.not_namespaces, string_match),
        principals: r.positive(m.principals, string_match),
        not_principals: r.negative(m.not_principals, string_match),
        service_accounts: r.positive(m.service_accounts, service_account),
        not_service_accounts: r.negative(m.not_service_accounts, service_account),
        source_ips: r.positive(m.source_ips, network),
        not_source_ips: r.negative(m.not_source_ips, network),
        destination_ips: r.positive(m.destination_ips, network),
        not_destination_ips: r.negative(m.not_destination_ips, network),
        destination_ports: r.positive(m.destination_ports, port),
        not_destination_ports: r.negative(m.not_destination_ports, port),
    };
    if r.never {
        // Without attributes a match is never true.
        return Match::default();
    }
    if r.widened && read == Match::default() {
        return Match {
            destination_ips: everywhere(),
            ..Match::default()
        };
    }
    read
}

fn everywhere() -> Vec<IpNet> {
    let v4 = Ipv4Net::new(Ipv4Addr::UNSPECIFIED, 0).map(IpNet::V4);
    let v6 = Ipv6Net::new(Ipv6Addr::UNSPECIFIED, 0).map(IpNet::V6);
    v4.into_iter().chain(v6).collect()
}

fn string_match(m: pb::StringMatch) -> Option<StringMatch> {
    use pb::string_match::MatchType;
    Some(match m.match_type? {
        MatchType::Exact(text) => StringMatch::Exact(text.into()),
        MatchType::Prefix(text) => StringMatch::Prefix(text.into()),
        MatchType::Suffix(text) => StringMatch::Suffix(text.into()),
        MatchType::Presence(_) => StringMatch::Presence,
    })
}

fn service_account(m: pb::ServiceAccountMatch) -> Option<ServiceAccountMatch> {
    Some(ServiceAccountMatch {
        namespace: m.namespace.into(),
        service_account: m.service_account.into(),
    })
}

fn port(number: u32) -> Option<u16> {
    u16::try_from(number).ok()
}

fn network(m: pb::Address) -> Option<IpNet> {
    let ip = ip_from(&m.address).ok()?;
    // An IPv4 address in IPv6 clothes: its prefix counts the 96 bits in front.
    let length = match m.address.len() {
        16 if ip.is_ipv4() => m.length.checked_sub(96)?,
        _ => m.length,
    };
    IpNet::new(ip, u8::try_from(length).ok()?)
        .ok()
        .map(|net| net.trunc())
}

impl From<&Authorization> for pb::Authorization {
    fn from(policy: &Authorization) -> Self {
        let clause = |clause: &Clause| pb::Clause {
            matches: clause.iter().map(Into::into).collect(),
        };
        Self {
            name: policy.name.to_string(),
            namespace: policy.namespace.to_string(),
            scope: match policy.scope {
                PolicyScope::Global => pb::Scope::Global,
                PolicyScope::Namespace => pb::Scope::Namespace,
                PolicyScope::WorkloadSelector => pb::Scope::WorkloadSelector,
            }
            .into(),
            action: match policy.action {
                Action::Allow => pb::Action::Allow,
                Action::Deny => pb::Action::Deny,
            }
            .into(),
            rules: policy
                .rules
                .iter()
                .map(|rule| pb::Rule {
                    clauses: rule.iter().map(clause).collect(),
                })
                .collect(),
            dry_run: policy.dry_run,
            extensions: Vec::new(),
        }
    }
}

impl From<&Match> for pb::Match {
    fn from(m: &Match) -> Self {
        fn all<T, W: for<'a> From<&'a T>>(list: &[T]) -> Vec<W> {
            list.iter().map(Into::into).collect()
        }
        let networks = |list: &[IpNet]| -> Vec<pb::Address> {
            list.iter()
                .map(|net| pb::Address {
                    address: ip_bytes(net.addr()),
                    length: net.prefix_len().into(),
                })
                .collect()
        };
        let ports = |list: &[u16]| -> Vec<u32> { list.iter().map(|p| u32::from(*p)).collect() };
        Self {
            namespaces: all(&m.namespaces),
            not_namespaces: all(&m.not_namespaces),
            principals: all(&m.principals),
            not_principals: all(&m.not_principals),
            source_ips: networks(&m.source_ips),
            not_source_ips: networks(&m.not_source_ips),
            destination_ips: networks(&m.destination_ips),
            not_destination_ips: networks(&m.not_destination_ips),
            destination_ports: ports(&m.destination_ports),
            not_destination_ports: ports(&m.not_destination_ports),
            service_accounts: all(&m.service_accounts),
            not_service_accounts: all(&m.not_service_accounts),
            extensions: Vec::new(),
        }
    }
}

impl From<&StringMatch> for pb::StringMatch {
    fn from(m: &StringMatch) -> Self {
        use pb::string_match::MatchType;
        Self {
            match_type: Some(match m {
                StringMatch::Exact(text) => MatchType::Exact(text.to_string()),
                StringMatch::Prefix(text) => MatchType::Prefix(text.to_string()),
                StringMatch::Suffix(text) => MatchType::Suffix(text.to_string()),
                StringMatch::Presence => MatchType::Presence(()),
            }),
        }
    }
}

impl From<&ServiceAccountMatch> for pb::ServiceAccountMatch {
    fn from(m: &ServiceAccountMatch) -> Self {
        Self {
            namespace: m.namespace.to_string(),
            service_account: m.service_account.to_string(),
        }
    }
}

#[cfg(test)]
#[path = "convert_policy_tests.rs"]
mod tests;
