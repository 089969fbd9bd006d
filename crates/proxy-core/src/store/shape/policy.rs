//! The form of policies.

use ambit_model::policy as model;
use ambit_model::{Authorization, Text};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::ShapeError;

/// Which workloads a policy covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Scope {
    Global,
    #[default]
    Namespace,
    WorkloadSelector,
}

/// What a policy does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Action {
    #[default]
    Allow,
    Deny,
}

/// How a text is compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum StringMatch {
    Exact(Text),
    Prefix(Text),
    Suffix(Text),
    /// An empty list, by convention.
    Presence([(); 0]),
}

/// A service account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs)]
pub struct ServiceAccount {
    pub namespace: Text,
    pub service_account: Text,
}

/// One match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct Match {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<StringMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_namespaces: Vec<StringMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub service_accounts: Vec<ServiceAccount>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_service_accounts: Vec<ServiceAccount>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub principals: Vec<StringMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_principals: Vec<StringMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_ips: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_source_ips: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destination_ips: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_destination_ips: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destination_ports: Vec<u16>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_destination_ports: Vec<u16>,
}

/// A policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct Policy {
    pub name: Text,
    pub namespace: Text,
    pub scope: Scope,
    pub action: Action,
    pub rules: Vec<Vec<Vec<Match>>>,
    pub dry_run: bool,
}

impl From<&Authorization> for Policy {
    fn from(policy: &Authorization) -> Self {
        let clause = |clause: &model::Clause| clause.iter().map(Match::from).collect();
        let rule = |rule: &model::Rule| rule.iter().map(clause).collect();
        Self {
            name: policy.name.clone(),
            namespace: policy.namespace.clone(),
            scope: match policy.scope {
                model::PolicyScope::Global => Scope::Global,
                model::PolicyScope::Namespace => Scope::Namespace,
                model::PolicyScope::WorkloadSelector => Scope::WorkloadSelector,
            },
            action: match policy.action {
                model::Action::Allow => Action::Allow,
                model::Action::Deny => Action::Deny,
            },
            rules: policy.rules.iter().map(rule).collect(),
            dry_run: policy.dry_run,
        }
    }
}

impl TryFrom<&Policy> for Authorization {
    type Error = ShapeError;

    fn try_from(policy: &Policy) -> Result<Self, ShapeError> {
        let clause = |clause: &Vec<Match>| clause.iter().map(TryInto::try_into).collect();
        let rule = |rule: &Vec<Vec<Match>>| rule.iter().map(clause).collect();
        Ok(Self {
            name: policy.name.clone(),
            namespace: policy.namespace.clone(),
            scope: match policy.scope {
                Scope::Global => model::PolicyScope::Global,
                Scope::Namespace => model::PolicyScope::Namespace,
                Scope::WorkloadSelector => model::PolicyScope::WorkloadSelector,
            },
            action: match policy.action {
                Action::Allow => model::Action::Allow,
                Action::Deny => model::Action::Deny,
            },
            rules: policy
                .rules
                .iter()
                .map(rule)
                .collect::<Result<_, ShapeError>>()?,
            dry_run: policy.dry_run,
        })
    }
}

impl From<&model::Match> for Match {
    fn from(m: &model::Match) -> Self {
        let texts = |list: &[model::StringMatch]| list.iter().map(Into::into).collect();
        let nets = |list: &[IpNet]| list.iter().map(ToString::to_string).collect();
        let accounts = |list: &[model::ServiceAccountMatch]| {
            let one = |m: &model::ServiceAccountMatch| ServiceAccount {
                namespace: m.namespace.clone(),
                service_account: m.service_account.clone(),
            };
            list.iter().map(one).collect()
        };
        Self {
            namespaces: texts(&m.namespaces),
            not_namespaces: texts(&m.not_namespaces),
            service_accounts: accounts(&m.service_accounts),
            not_service_accounts: accounts(&m.not_service_accounts),
            principals: texts(&m.principals),
            not_principals: texts(&m.not_principals),
            source_ips: nets(&m.source_ips),
            not_source_ips: nets(&m.not_source_ips),
            destination_ips: nets(&m.destination_ips),
            not_destination_ips: nets(&m.not_destination_ips),
            destination_ports: m.destination_ports.clone(),
            not_destination_ports: m.not_destination_ports.clone(),
        }
    }
}

impl TryFrom<&Match> for model::Match {
    type Error = ShapeError;

    fn try_from(m: &Match) -> Result<Self, ShapeError> {
        let texts = |list: &[StringMatch]| list.iter().map(Into::into).collect();
        let nets = |list: &[String]| -> Result<Vec<IpNet>, ShapeError> {
            list.iter().map(|text| network(text)).collect()
        };
        let accounts = |list: &[ServiceAccount]| {
            let one = |m: &ServiceAccount| model::ServiceAccountMatch {
                namespace: m.namespace.clone(),
                service_account: m.service_account.clone(),
            };
            list.iter().map(one).collect()
        };
        Ok(Self {
            namespaces: texts(&m.namespaces),
            not_namespaces: texts(&m.not_namespaces),
            service_accounts: accounts(&m.service_accounts),
            not_service_accounts: accounts(&m.not_service_accounts),
            principals: texts(&m.principals),
            not_principals: texts(&m.not_principals),
            source_ips: nets(&m.source_ips)?,
            not_source_ips: nets(&m.not_source_ips)?,
            destination_ips: nets(&m.destination_ips)?,
            not_destination_ips: nets(&m.not_destination_ips)?,
            destination_ports: m.destination_ports.clone(),
            not_destination_ports: m.not_destination_ports.clone(),
        })
    }
}

/// A network, or one address as the network of only itself.
fn network(text: &str) -> Result<IpNet, ShapeError> {
    let single = || text.parse::<std::net::IpAddr>().ok().map(IpNet::from);
    let net = text.parse::<IpNet>().ok().or_else(single);
    net.map(|net| net.trunc())
        .ok_or_else(|| ShapeError::Network(text.to_owned()))
}

impl From<&model::StringMatch> for StringMatch {
    fn from(m: &model::StringMatch) -> Self {
        match m {
            model::StringMatch::Exact(text) => Self::Exact(text.clone()),
            model::StringMatch::Prefix(text) => Self::Prefix(text.clone()),
            model::StringMatch::Suffix(text) => Self::Suffix(text.clone()),
            model::StringMatch::Presence => Self::Presence([]),
        }
    }
}

impl From<&StringMatch> for model::StringMatch {
    fn from(m: &StringMatch) -> Self {
        match m {
            StringMatch::Exact(text) => Self::Exact(text.clone()),
            StringMatch::Prefix(text) => Self::Prefix(text.clone()),
            StringMatch::Suffix(text) => Self::Suffix(text.clone()),
            StringMatch::Presence(_) => Self::Presence,
        }
    }
}
