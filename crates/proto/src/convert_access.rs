//! Policies where requests are seen: messages to model and back.
//!
//! A rule that cannot be read asks for a feature that no proxy has, which closes it: see
//! [`ambit_model::access`].

use ambit_model::Text;
use ambit_model::access::{
    AccessPolicy, AccessRule, Action, Attachment, Condition, Key, Operation, PathPattern, Source,
    Value, Values, range,
};
use ambit_model::policy::{ServiceAccountMatch, StringMatch};
use ipnet::IpNet;

use crate::convert::ConvertError;
use crate::convert_provider::provider;
use crate::convert_route::{service, service_key};
use crate::l7 as pb;

/// The feature that a rule asks for when it cannot be read.
const UNREADABLE: &str = "unreadable";

impl TryFrom<pb::Policy> for AccessPolicy {
    type Error = ConvertError;

    fn try_from(m: pb::Policy) -> Result<Self, ConvertError> {
        let action = match pb::policy::Action::try_from(m.action) {
            Ok(pb::policy::Action::Allow) => Action::Allow,
            Ok(pb::policy::Action::Deny) => Action::Deny,
            Ok(pb::policy::Action::Audit) => Action::Audit,
            Ok(pb::policy::Action::Custom) => Action::Custom(m.provider.into()),
            Err(_) => {
                return Err(ConvertError::UnsupportedValue {
                    field: "action",
                    value: m.action,
                });
            }
        };
        let namespace: Text = m.namespace.into();
        Ok(Self {
            rules: m.rules.into_iter().map(|m| rule(m, &namespace)).collect(),
            namespace,
            name: m.name.into(),
            attachments: m.attachments.into_iter().filter_map(attachment).collect(),
            action,
            dry_run: m.dry_run,
            provider: m.asks.and_then(provider),
            requires: texts(m.requires),
        })
    }
}

pub(crate) fn attachment(m: pb::Attachment) -> Option<Attachment> {
    use pb::attachment::Kind;
    Some(match m.kind? {
        Kind::Service(key) => Attachment::Service(service(Some(key))?),
        Kind::Gateway(key) => Attachment::Gateway(key.namespace.into(), key.name.into()),
        Kind::Class(name) => Attachment::Class(name.into()),
    })
}

fn rule(m: pb::AccessRule, namespace: &Text) -> AccessRule {
    let requires = texts(m.requires);
    let read = || {
        Some(AccessRule {
            from: m.from.into_iter().map(source).collect::<Option<_>>()?,
            to: m.to.into_iter().map(operation).collect::<Option<_>>()?,
            when: m
                .when
                .into_iter()
                .map(|m| condition(m, namespace))
                .collect::<Option<_>>()?,
            requires,
        })
    };
    read().unwrap_or_else(|| AccessRule {
        requires: vec![UNREADABLE.into()],
        ..AccessRule::default()
    })
}

fn values<W, T>(any: Vec<W>, none: Vec<W>, read: impl Fn(W) -> Option<T>) -> Option<Values<T>> {
    let all = |list: Vec<W>| list.into_iter().map(&read).collect::<Option<Vec<T>>>();
    Some(Values {
        any: all(any)?,
        none: all(none)?,
    })
}

fn source(m: pb::Source) -> Option<Source> {
    let net = |text: String| range(&text);
    Some(Source {
        principals: values(m.principals, m.not_principals, string)?,
        request_principals: values(m.request_principals, m.not_request_principals, string)?,
        namespaces: values(m.namespaces, m.not_namespaces, string)?,
        service_accounts: values(m.service_accounts, m.not_service_accounts, account)?,
        trust_domains: values(m.trust_domains, m.not_trust_domains, string)?,
        ips: values(m.ips, m.not_ips, net)?,
        remote_ips: values(m.remote_ips, m.not_remote_ips, net)?,
        never: m.never,
    })
}

fn operation(m: pb::Operation) -> Option<Operation> {
    let port = |number: u32| u16::try_from(number).ok();
    let path = |text: String| PathPattern::parse(&text);
    Some(Operation {
        hosts: values(m.hosts, m.not_hosts, string)?,
        ports: values(m.ports, m.not_ports, port)?,
        methods: values(m.methods, m.not_methods, string)?,
        paths: values(m.paths, m.not_paths, path)?,
        never: m.never,
    })
}

fn condition(m: pb::Condition, namespace: &Text) -> Option<Condition> {
    let key = Key::parse(&m.key)?;
    let value = |text: String| Value::parse(&key, &text, namespace);
    Some(Condition {
        values: values(m.values, m.not_values, value)?,
        key,
    })
}

pub(crate) fn string(m: pb::TextMatch) -> Option<StringMatch> {
    use pb::text_match::Kind;
    Some(match m.kind? {
        Kind::Exact(text) => StringMatch::Exact(text.into()),
        Kind::Prefix(text) => StringMatch::Prefix(text.into()),
        Kind::Suffix(text) => StringMatch::Suffix(text.into()),
        Kind::Present(_) => StringMatch::Presence,
        Kind::Regex(_) => return None,
    })
}

fn account(m: pb::ObjectKey) -> Option<ServiceAccountMatch> {
    Some(ServiceAccountMatch {
        namespace: m.namespace.into(),
        service_account: m.name.into(),
    })
}

fn texts(list: Vec<String>) -> Vec<Text> {
    list.into_iter().map(Text::from).collect()
}

impl From<&AccessPolicy> for pb::Policy {
    fn from(policy: &AccessPolicy) -> Self {
        let (action, provider) = match &policy.action {
            Action::Allow => (pb::policy::Action::Allow, ""),
            Action::Deny => (pb::policy::Action::Deny, ""),
            Action::Audit => (pb::policy::Action::Audit, ""),
            Action::Custom(provider) => (pb::policy::Action::Custom, &**provider),
        };
        Self {
            namespace: policy.namespace.to_string(),
            name: policy.name.to_string(),
            attachments: policy.attachments.iter().map(Into::into).collect(),
            action: action.into(),
            provider: provider.to_owned(),
            rules: policy.rules.iter().map(Into::into).collect(),
            dry_run: policy.dry_run,
            requires: policy.requires.iter().map(ToString::to_string).collect(),
            asks: policy.provider.as_ref().map(Into::into),
        }
    }
}

impl From<&Attachment> for pb::Attachment {
    fn from(attachment: &Attachment) -> Self {
        use pb::attachment::Kind;
        let kind = match attachment {
            Attachment::Service(key) => Kind::Service(service_key(key)),
            Attachment::Gateway(namespace, name) => Kind::Gateway(pb::ObjectKey {
                namespace: namespace.to_string(),
                name: name.to_string(),
            }),
            Attachment::Class(name) => Kind::Class(name.to_string()),
        };
        Self { kind: Some(kind) }
    }
}

impl From<&AccessRule> for pb::AccessRule {
    fn from(rule: &AccessRule) -> Self {
        Self {
            from: rule.from.iter().map(Into::into).collect(),
            to: rule.to.iter().map(Into::into).collect(),
            when: rule.when.iter().map(Into::into).collect(),
            requires: rule.requires.iter().map(ToString::to_string).collect(),
        }
    }
}

impl From<&Source> for pb::Source {
    fn from(source: &Source) -> Self {
        let strings = |list: &[StringMatch]| list.iter().map(of_string).collect();
        let nets = |list: &[IpNet]| list.iter().map(ToString::to_string).collect();
        let accounts = |list: &[ServiceAccountMatch]| {
            let key = |a: &ServiceAccountMatch| pb::ObjectKey {
                namespace: a.namespace.to_string(),
                name: a.service_account.to_string(),
            };
            list.iter().map(key).collect()
        };
        Self {
            principals: strings(&source.principals.any),
            not_principals: strings(&source.principals.none),
            request_principals: strings(&source.request_principals.any),
            not_request_principals: strings(&source.request_principals.none),
            namespaces: strings(&source.namespaces.any),
            not_namespaces: strings(&source.namespaces.none),
            service_accounts: accounts(&source.service_accounts.any),
            not_service_accounts: accounts(&source.service_accounts.none),
            trust_domains: strings(&source.trust_domains.any),
            not_trust_domains: strings(&source.trust_domains.none),
            ips: nets(&source.ips.any),
            not_ips: nets(&source.ips.none),
            remote_ips: nets(&source.remote_ips.any),
            not_remote_ips: nets(&source.remote_ips.none),
            never: source.never,
        }
    }
}

impl From<&Operation> for pb::Operation {
    fn from(operation: &Operation) -> Self {
        let strings = |list: &[StringMatch]| list.iter().map(of_string).collect();
        let ports = |list: &[u16]| list.iter().map(|p| u32::from(*p)).collect();
        let paths = |list: &[PathPattern]| list.iter().map(PathPattern::text).collect();
        Self {
            hosts: strings(&operation.hosts.any),
            not_hosts: strings(&operation.hosts.none),
            ports: ports(&operation.ports.any),
            not_ports: ports(&operation.ports.none),
            methods: strings(&operation.methods.any),
            not_methods: strings(&operation.methods.none),
            paths: paths(&operation.paths.any),
            not_paths: paths(&operation.paths.none),
            never: operation.never,
        }
    }
}

impl From<&Condition> for pb::Condition {
    fn from(condition: &Condition) -> Self {
        let texts = |list: &[Value]| list.iter().map(Value::text).collect();
        Self {
            key: condition.key.text(),
            values: texts(&condition.values.any),
            not_values: texts(&condition.values.none),
        }
    }
}

pub(crate) fn of_string(text: &StringMatch) -> pb::TextMatch {
    use pb::text_match::Kind;
    let kind = match text {
        StringMatch::Exact(text) => Kind::Exact(text.to_string()),
        StringMatch::Prefix(text) => Kind::Prefix(text.to_string()),
        StringMatch::Suffix(text) => Kind::Suffix(text.to_string()),
        StringMatch::Presence => Kind::Present(true),
    };
    pb::TextMatch { kind: Some(kind) }
}

#[cfg(test)]
#[path = "convert_access_tests.rs"]
mod tests;
