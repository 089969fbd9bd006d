//! `AuthorizationPolicy` with targets → [`AccessPolicy`], as waypoints and gateways enforce it: on
//! requests.
//!
//! As in the table of the module above, nothing that cannot be enforced as written lets more in:
//! a field or key that is not known becomes a feature that a proxy must have, and closes it.

use ambit_kube_api::gateway_api;
use ambit_kube_api::security::authorization_policy::{
    Action as ApiAction, Condition as ApiCondition, Operation as ApiOperation, Rule,
    Source as ApiSource,
};
use ambit_kube_api::selector::{PolicyTargetReference, UnknownFields};
use ambit_model::Text;
use ambit_model::access::{
    AccessPolicy, AccessRule, Action, Attachment, Condition, Key, Operation, PathPattern, Provider,
    Source, Value, Values,
};
use ambit_model::service::NamespacedHostname;

use super::{PolicyFacts, values};
use crate::findings::{Code, Finding};
use crate::mesh::Mesh;

/// A policy as it is sent to waypoints, and what is to be said about it.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessTranslation {
    /// What is sent, if anything.
    pub policy: Option<AccessPolicy>,
    /// What is to be said.
    pub findings: Vec<Finding>,
}

/// The policy as it is sent to waypoints; `None` for one that has no targets.
pub fn translate(mesh: &Mesh, facts: &PolicyFacts) -> Option<AccessTranslation> {
    if !facts.has_targets() {
        return None;
    }
    let spec = &facts.spec;
    let mut reader = Reader {
        namespace: &facts.key.namespace,
        allow: matches!(spec.action, None | Some(ApiAction::Allow)),
        findings: Vec::new(),
    };
    let own = &facts.key.namespace;
    let attachments = attachments(mesh, own, facts.targets(), &mut reader.findings);
    let action = match spec.action.unwrap_or_default() {
        ApiAction::Allow => Action::Allow,
        ApiAction::Deny => Action::Deny,
        ApiAction::Audit => Action::Audit,
        ApiAction::Custom => {
            let provider = spec.provider.as_ref().map(|p| p.name.as_str());
            Action::Custom(provider.unwrap_or_default().into())
        }
    };
    let mut requires = reader.unknown("spec", &spec.unknown);
    let numbered = spec.rules.iter().enumerate();
    let mut rules: Vec<_> = numbered.map(|(i, rule)| reader.rule(i, rule)).collect();
    let provider = match &action {
        Action::Custom(name) => {
            requires.push("custom".into());
            rules.iter_mut().for_each(|rule| reader.before_tokens(rule));
            reader.provider(mesh, name)
        }
        _ => None,
    };
    let policy = AccessPolicy {
        namespace: facts.key.namespace.clone(),
        name: facts.key.name.clone(),
        attachments,
        action,
        provider,
        rules,
        dry_run: facts.dry_run,
        requires,
    };
    Some(AccessTranslation {
        policy: (!policy.attachments.is_empty()).then_some(policy),
        findings: reader.findings,
    })
}

impl PolicyFacts {
    /// The objects that it is attached to.
    pub fn targets(&self) -> impl Iterator<Item = &PolicyTargetReference> {
        self.spec.target_ref.iter().chain(&self.spec.target_refs)
    }
}

/// What a policy of this namespace is attached to; targets that cannot be are found.
pub(crate) fn attachments<'a>(
    mesh: &Mesh,
    namespace: &Text,
    targets: impl Iterator<Item = &'a PolicyTargetReference>,
    findings: &mut Vec<Finding>,
) -> Vec<Attachment> {
    let mut attachments = Vec::new();
    for target in targets {
        let name = target.name.as_str();
        let attachment = match (target.group.as_str(), target.kind.as_str()) {
            ("" | "core", "Service") => Attachment::Service(NamespacedHostname {
                namespace: namespace.clone(),
                hostname: mesh.hostname(namespace, name),
            }),
            (gateway_api::GROUP, "Gateway") => Attachment::Gateway(namespace.clone(), name.into()),
            (gateway_api::GROUP, "GatewayClass") if *namespace == mesh.root_namespace => {
                Attachment::Class(name.into())
            }
            (gateway_api::GROUP, "GatewayClass") => {
                let message = format!(
                    "only policies of the root namespace {} reach a GatewayClass",
                    mesh.root_namespace
                );
                findings.push(Finding::new(
                    Code::InvalidTarget,
                    "spec.targetRefs",
                    message,
                ));
                continue;
            }
            (group, kind) => {
                let message = format!("{kind} of {group:?} is no target of a policy");
                findings.push(Finding::new(
                    Code::InvalidTarget,
                    "spec.targetRefs",
                    message,
                ));
                continue;
            }
        };
        attachments.push(attachment);
    }
    attachments
}

struct Reader<'a> {
    namespace: &'a Text,
    allow: bool,
    findings: Vec<Finding>,
}

impl Reader<'_> {
    fn rule(&mut self, index: usize, rule: &Rule) -> AccessRule {
        let path = format!("spec.rules[{index}]");
        let mut read = AccessRule {
            requires: self.unknown(&path, &rule.unknown),
            ..AccessRule::default()
        };
        for (i, from) in rule.from.iter().enumerate() {
            let path = format!("{path}.from[{i}].source");
            let requires = self.unknown(&path, &from.unknown);
            read.requires.extend(requires);
            let source = self.source(&path, from.source.as_ref(), &mut read.requires);
            read.from.push(source);
        }
        for (i, to) in rule.to.iter().enumerate() {
            let path = format!("{path}.to[{i}].operation");
            let requires = self.unknown(&path, &to.unknown);
            read.requires.extend(requires);
            let operation = self.operation(&path, to.operation.as_ref(), &mut read.requires);
            read.to.push(operation);
        }
        for (i, when) in rule.when.iter().enumerate() {
            let path = format!("{path}.when[{i}]");
            let mut never = false;
            let condition = self.condition(&path, when, &mut read.requires, &mut never);
            read.when.extend(condition);
            if never {
                // Nobody can be as the condition asks.
                read.from = vec![Source {
                    never,
                    ..Source::default()
                }];
            }
        }
        read
    }

    fn source(&mut self, path: &str, api: Option<&ApiSource>, requires: &mut Vec<Text>) -> Source {
        let Some(api) = api.filter(|api| **api != ApiSource::default()) else {
            self.says_nothing(path);
            return Source {
                never: true,
                ..Source::default()
            };
        };
        requires.extend(self.unknown(path, &api.unknown));
        let own = self.namespace;
        let mut never = false;
        let mut field = Field {
            reader: self,
            path,
            never: &mut never,
            requires,
        };
        let principals = field.read(
            "principals",
            (&api.principals, &api.not_principals),
            values::principal,
        );
        let request_principals = field.read(
            "requestPrincipals",
            (&api.request_principals, &api.not_request_principals),
            values::string,
        );
        let namespaces = field.read(
            "namespaces",
            (&api.namespaces, &api.not_namespaces),
            values::namespace,
        );
        let service_accounts = field.read(
            "serviceAccounts",
            (&api.service_accounts, &api.not_service_accounts),
            |v| values::service_account(v, own),
        );
        let trust_domains = field.read(
            "trustDomains",
            (&api.trust_domains, &api.not_trust_domains),
            values::namespace,
        );
        let ips = field.read(
            "ipBlocks",
            (&api.ip_blocks, &api.not_ip_blocks),
            values::ip_block,
        );
        let remote_ips = field.read(
            "remoteIpBlocks",
            (&api.remote_ip_blocks, &api.not_remote_ip_blocks),
            values::ip_block,
        );
        if !request_principals.is_empty() {
            requires.push("jwt".into());
        }
        Source {
            principals,
            request_principals,
            namespaces,
            service_accounts,
            trust_domains,
            ips,
            remote_ips,
            never,
        }
    }

    fn operation(
        &mut self,
        path: &str,
        api: Option<&ApiOperation>,
        requires: &mut Vec<Text>,
    ) -> Operation {
        let Some(api) = api.filter(|api| **api != ApiOperation::default()) else {
            self.says_nothing(path);
            return Operation {
                never: true,
                ..Operation::default()
            };
        };
        requires.extend(self.unknown(path, &api.unknown));
        let mut never = false;
        let mut field = Field {
            reader: self,
            path,
            never: &mut never,
            requires,
        };
        let hosts = field.read("hosts", (&api.hosts, &api.not_hosts), values::string);
        let ports = field.read("ports", (&api.ports, &api.not_ports), values::port);
        let methods = field.read("methods", (&api.methods, &api.not_methods), values::string);
        let paths = field.read("paths", (&api.paths, &api.not_paths), |text| {
            let template = text.contains(['{', '}']);
            (template || values::string(text).is_some()).then(|| PathPattern::parse(text))?
        });
        Operation {
            hosts,
            ports,
            methods,
            paths,
            never,
        }
    }

    /// A condition, unless its key is not known, which closes the rule.
    fn condition(
        &mut self,
        path: &str,
        api: &ApiCondition,
        requires: &mut Vec<Text>,
        never: &mut bool,
    ) -> Option<Condition> {
        requires.extend(self.unknown(path, &api.unknown));
        let Some(key) = Key::parse(&api.key) else {
            let message = format!("{:?} is not known", api.key);
            self.finding(Code::UnknownAttribute, path, message);
            requires.push(format!("when:{}", api.key).into());
            return None;
        };
        if matches!(
            key,
            Key::AuthPrincipal | Key::AuthAudiences | Key::AuthPresenter | Key::AuthClaim(_)
        ) {
            requires.push("jwt".into());
        }
        let own = self.namespace;
        let mut field = Field {
            reader: self,
            path,
            never,
            requires,
        };
        let values = field.read("values", (&api.values, &api.not_values), |text| {
            let value = Value::parse(&key, text, own)?;
            let text_is_none = matches!(value, Value::Text(_)) && values::string(text).is_none();
            (!text_is_none).then_some(value)
        });
        if api.values.is_empty() && api.not_values.is_empty() {
            self.says_nothing(path);
            requires.push("when:nothing".into());
        }
        Some(Condition { key, values })
    }

    /// The provider of a policy. Where there is none of the name, the policy closes.
    fn provider(&mut self, mesh: &Mesh, name: &Text) -> Option<Provider> {
        let provider = mesh.providers.check(name).cloned();
        if provider.is_none() {
            let message = format!(
                "the mesh configuration has no provider {name:?} that can be asked; what the rules \
                 match is refused"
            );
            self.finding(Code::UnknownProvider, "spec.provider.name", message);
        }
        provider
    }

    /// Providers are asked before tokens are looked at: a rule about tokens asks about everything.
    fn before_tokens(&mut self, rule: &mut AccessRule) {
        if !rule.requires.iter().any(|feature| **feature == *"jwt") {
            return;
        }
        let message = "CUSTOM policies cannot ask about tokens, which are looked at later; the \
                       provider is asked about every request instead";
        self.finding(Code::UnsupportedForm, "spec.rules", message.to_owned());
        rule.requires.push("custom:jwt".into());
    }

    /// Features that stand for fields of a newer API.
    fn unknown(&mut self, path: &str, fields: &UnknownFields) -> Vec<Text> {
        let mut requires = Vec::new();
        for field in fields.keys() {
            self.finding(
                Code::UnknownAttribute,
                path,
                format!("{field:?} is not known"),
            );
            requires.push(format!("field:{field}").into());
        }
        requires
    }

    fn says_nothing(&mut self, path: &str) {
        let message = "it says nothing, and matches nobody".to_owned();
        self.finding(Code::EmptyEntry, path, message);
    }

    fn finding(&mut self, code: Code, path: &str, message: String) {
        self.findings
            .push(Finding::new(code, path.to_owned(), message));
    }
}

/// A field of an entry while it is read.
struct Field<'r, 'a> {
    reader: &'r mut Reader<'a>,
    path: &'r str,
    never: &'r mut bool,
    requires: &'r mut Vec<Text>,
}

impl Field<'_, '_> {
    fn read<T>(
        &mut self,
        name: &str,
        (any, none): (&[String], &[String]),
        read: impl Fn(&str) -> Option<T>,
    ) -> Values<T> {
        let place = format!("{}.{name}", self.path);
        let mut values = Values::default();
        for text in any {
            match read(text) {
                Some(value) => values.any.push(value),
                None => {
                    let message = format!("{text:?} matches nobody: no request can have it");
                    self.reader.finding(Code::InvalidValue, &place, message);
                }
            }
        }
        *self.never |= values.any.is_empty() && !any.is_empty();
        for text in none {
            match read(text) {
                Some(value) => values.none.push(value),
                None => {
                    let message = format!("{text:?} excepts nobody: no request can have it");
                    self.reader.finding(Code::InvalidValue, &place, message);
                    // An exception that is lost would let more in.
                    if self.reader.allow {
                        self.requires.push(format!("exception:{text}").into());
                    }
                }
            }
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value as Json, json};

    fn of(namespace: &str, spec: Json) -> Option<AccessTranslation> {
        let object = json!({"metadata": {"name": "p", "namespace": namespace}, "spec": spec});
        let facts = PolicyFacts::of(&serde_json::from_value(object).unwrap());
        translate(&Mesh::default(), &facts)
    }

    fn service(mut spec: Json) -> AccessTranslation {
        spec["targetRefs"] = json!([{"kind": "Service", "name": "reviews"}]);
        of("shop", spec).unwrap()
    }

    #[test]
    fn targets() {
        assert_eq!(of("shop", json!({"rules": [{}]})), None);
        let gateway = "gateway.networking.k8s.io";
        let targets = json!([
            {"kind": "Service", "name": "reviews"},
            {"group": gateway, "kind": "Gateway", "name": "waypoint"},
            {"group": gateway, "kind": "GatewayClass", "name": "istio-waypoint"},
            {"kind": "ConfigMap", "name": "x"}
        ]);
        let shop = of("shop", json!({"targetRefs": targets})).unwrap();
        assert_eq!(shop.policy.unwrap().attachments.len(), 2);
        assert_eq!(shop.findings.len(), 2);
        let root = of("istio-system", json!({"targetRefs": targets})).unwrap();
        assert_eq!(root.policy.unwrap().attachments.len(), 3);
        let only = json!({"targetRefs": [{"kind": "ConfigMap", "name": "x"}]});
        assert_eq!(of("shop", only).unwrap().policy, None);
    }

    #[test]
    fn what_people_write() {
        insta::assert_debug_snapshot!(service(json!({"action": "ALLOW", "rules": [{
            "from": [{"source": {"principals": ["cluster.local/ns/shop/sa/productpage"]}}],
            "to": [{"operation": {"methods": ["GET"], "paths": ["/reviews/*", "/a/{*}"], "notPorts": ["81"]}}],
            "when": [
                {"key": "request.headers[X-Token]", "values": ["a*"]},
                {"key": "request.auth.claims[groups]", "notValues": ["b"]}
            ]
        }]})));
    }

    #[test]
    fn providers() {
        let custom = |rule: Json| json!({"action": "CUSTOM", "provider": {"name": "judge"}, "rules": [rule]});
        let unknown = service(custom(json!({})));
        assert_eq!(unknown.findings[0].code, Code::UnknownProvider);
        assert_eq!(unknown.policy.unwrap().provider, None);

        let mut mesh = Mesh::default();
        let list = json!([{"name": "judge", "envoyExtAuthzGrpc": {"service": "a/b", "port": 1}}]);
        mesh.providers =
            crate::providers::parse(list.as_array().unwrap(), |_, why| panic!("{why}"));
        let of_mesh = |rule: Json| {
            let mut spec = custom(rule);
            spec["targetRefs"] = json!([{"kind": "Service", "name": "reviews"}]);
            let object = json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": spec});
            let facts = PolicyFacts::of(&serde_json::from_value(object).unwrap());
            translate(&mesh, &facts).unwrap()
        };
        let known = of_mesh(json!({}));
        assert_eq!(known.findings, vec![]);
        assert_eq!(known.policy.unwrap().provider.unwrap().port, 1);
        let about_tokens = of_mesh(json!({"from": [{"source": {"requestPrincipals": ["me/*"]}}]}));
        assert_eq!(about_tokens.findings[0].code, Code::UnsupportedForm);
    }

    #[test]
    fn what_cannot_be_enforced_lets_nobody_in() {
        let rule = |action: &str, rule: Json| {
            let translation = service(json!({"action": action, "rules": [rule]}));
            assert!(!translation.findings.is_empty());
            translation.policy.unwrap().rules.remove(0)
        };
        let entry = json!({"from": [{"source": {}}]});
        assert!(rule("ALLOW", entry).from[0].never);
        let nobody = json!({"from": [{"source": {"principals": ["a*b"]}}]});
        assert!(rule("ALLOW", nobody).from[0].never);
        let exception = || json!({"to": [{"operation": {"notPaths": ["/{a}"]}}]});
        assert!(!rule("ALLOW", exception()).requires.is_empty());
        assert!(rule("DENY", exception()).requires.is_empty());
        for unknown in [
            json!({"when": [{"key": "request.mood", "values": ["x"]}]}),
            json!({"to": [{"operation": {"methods": ["GET"], "weekdays": ["Mon"]}}]}),
            json!({"unless": []}),
        ] {
            assert!(
                !rule("DENY", unknown.clone()).requires.is_empty(),
                "{unknown}"
            );
        }
    }
}
