//! `AuthorizationPolicy` → [`model::Authorization`](ambit_model::Authorization), as node proxies
//! enforce it: on connections, without looking into HTTP.
//!
//! One rule governs everything that cannot be enforced as written: **it never lets more in.**
//!
//! | in the policy | ALLOW | DENY |
//! |---|---|---|
//! | HTTP attribute | the rule is left out | the attribute is left out; an entry of nothing else never matches |
//! | field or key that is not known | the rule is left out | taken as true |
//! | value that nobody can have | matches nobody | matches nobody |
//! | the same, as an exception (`not…`) | the rule is left out | excepts nobody |
//! | entry that says nothing | matches nobody | matches nobody |
//!
//! The HTTP row is Istio's, and its status says so; a waypoint enforces those rules.

mod access;
mod conditions;
mod entry;
mod rule;
mod values;

pub(crate) use access::attachments;
pub use access::{AccessTranslation, translate as access};

use std::collections::BTreeSet;

use ambit_kube_api::AuthorizationPolicy;
use ambit_kube_api::annotations;
use ambit_kube_api::security::authorization_policy::Action as ApiAction;
use ambit_model::Text;
use ambit_model::policy::{Action, Authorization, PolicyScope};
use kube::ResourceExt;

use crate::findings::{Code, Finding};
use crate::key::ObjectKey;
use crate::labels::{Labels, labels_from};
use crate::mesh::Mesh;

/// What is known about one policy object.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyFacts {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Labels of the object itself.
    pub labels: Labels,
    /// The selector: `None` without one.
    pub selector: Option<Labels>,
    /// Version of the object, for its status.
    pub generation: Option<i64>,
    dry_run: bool,
    spec: ambit_kube_api::AuthorizationPolicySpec,
}

/// Where a policy is enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforcement {
    /// By node proxies, as written.
    AsWritten,
    /// By node proxies, without the HTTP part of some rules.
    WithoutHttp {
        /// At least one rule can still match.
        effective: bool,
    },
    /// By node proxies, in part: there are errors in it.
    InPart,
    /// Not by node proxies: it is for waypoints and gateways.
    Waypoint,
    /// By nobody.
    Withheld,
}

/// A policy as it is sent, and what is to be said about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Translation {
    /// What is sent to node proxies, if anything.
    pub authorization: Option<Authorization>,
    /// Where it is enforced.
    pub enforcement: Enforcement,
    /// HTTP attributes in it, sorted.
    pub http: BTreeSet<String>,
    /// What is to be said.
    pub findings: Vec<Finding>,
}

impl PolicyFacts {
    /// The facts about a policy.
    pub fn of(policy: &AuthorizationPolicy) -> Self {
        let dry_run = policy.annotations().get(annotations::DRY_RUN);
        Self {
            key: ObjectKey::of(policy),
            labels: labels_from(policy.metadata.labels.as_ref()),
            selector: policy
                .spec
                .selector
                .as_ref()
                .map(|s| labels_from(Some(&s.match_labels))),
            generation: policy.metadata.generation,
            dry_run: dry_run.is_some_and(|v| is_true(v)),
            spec: policy.spec.clone(),
        }
    }

    /// It is attached to objects, not to pods.
    pub fn has_targets(&self) -> bool {
        self.spec.target_ref.is_some() || !self.spec.target_refs.is_empty()
    }

    /// Which workloads it covers.
    pub fn scope(&self, mesh: &Mesh) -> PolicyScope {
        match &self.selector {
            Some(_) => PolicyScope::WorkloadSelector,
            None if self.key.namespace == mesh.root_namespace => PolicyScope::Global,
            None => PolicyScope::Namespace,
        }
    }

    /// The name under which workloads refer to it: for policies with a selector.
    pub fn reference(&self) -> Text {
        self.key.text()
    }
}

/// Go's idea of true, in which annotations are read.
fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

/// The policy as it is sent, and what is to be said about it.
pub fn translate(mesh: &Mesh, facts: &PolicyFacts) -> Translation {
    if facts.has_targets() {
        return Translation {
            authorization: None,
            enforcement: Enforcement::Waypoint,
            http: BTreeSet::new(),
            findings: Vec::new(),
        };
    }
    if let Some(finding) = withheld(mesh, facts) {
        return Translation {
            authorization: None,
            enforcement: Enforcement::Withheld,
            http: BTreeSet::new(),
            findings: vec![finding],
        };
    }
    let action = match facts.spec.action {
        Some(ApiAction::Deny) => Action::Deny,
        _ => Action::Allow,
    };
    let mut compiler = rule::Compiler::new(action, facts.key.namespace.clone());
    let rules = compiler.policy(&facts.spec);
    let effective = action == Action::Allow || rules.iter().any(can_match);
    let authorization = Authorization {
        name: facts.key.name.clone(),
        namespace: facts.key.namespace.clone(),
        scope: facts.scope(mesh),
        action,
        rules,
        dry_run: facts.dry_run,
    };
    let rule::Compiler {
        mut findings, http, ..
    } = compiler;
    let enforcement = match (findings.is_empty(), http.is_empty()) {
        (false, _) => Enforcement::InPart,
        (true, false) => Enforcement::WithoutHttp { effective },
        (true, true) => Enforcement::AsWritten,
    };
    if !http.is_empty() {
        findings.push(Finding::new(
            Code::HttpAttributes,
            "spec.rules",
            http_message(action, effective, &http),
        ));
    }
    Translation {
        authorization: Some(authorization),
        enforcement,
        http,
        findings,
    }
}

/// Why the policy is not sent to anybody.
fn withheld(mesh: &Mesh, facts: &PolicyFacts) -> Option<Finding> {
    if facts.dry_run && !mesh.dry_run {
        let message =
            "dry-run policies are not sent to node proxies, of which some would enforce them";
        let field = format!("metadata.annotations[{}]", annotations::DRY_RUN);
        return Some(Finding::new(Code::DryRunOff, field, message));
    }
    let action = match facts.spec.action? {
        ApiAction::Allow | ApiAction::Deny => return None,
        ApiAction::Audit => "AUDIT",
        ApiAction::Custom => "CUSTOM",
    };
    let message = format!("ztunnel does not support the action {action}");
    Some(Finding::new(
        Code::UnsupportedAction,
        "spec.action",
        message,
    ))
}

fn http_message(action: Action, effective: bool, http: &BTreeSet<String>) -> String {
    let found: Vec<&str> = http.iter().map(String::as_str).collect();
    let consequence = match (action, effective) {
        (Action::Allow, _) => {
            "the ALLOW rules with them are left out, which is more restrictive than requested"
        }
        (Action::Deny, true) => {
            "the DENY rules are enforced without them, which is more restrictive than requested"
        }
        (Action::Deny, false) => {
            "nothing is left of the DENY rules, and the policy has no effect at ztunnel"
        }
    };
    format!(
        "ztunnel does not support HTTP attributes (found: {}): {consequence}",
        found.join(", ")
    )
}

/// Whether some connection can match the rule.
fn can_match(rule: &ambit_model::policy::Rule) -> bool {
    rule.iter().all(|clause| {
        clause.is_empty()
            || clause
                .iter()
                .any(|m| *m != ambit_model::policy::Match::default())
    })
}

#[cfg(test)]
mod tests;
