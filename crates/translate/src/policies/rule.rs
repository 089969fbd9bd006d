//! Rules of a policy → rules on the wire.

use std::collections::BTreeSet;

use ambit_kube_api::AuthorizationPolicySpec;
use ambit_kube_api::security::authorization_policy::{
    Condition, From, Operation, Rule, Source, To,
};
use ambit_model::Text;
use ambit_model::policy::{Action, Clause, Match, Rule as WireRule};

use super::conditions;
use super::entry::{Entry, Lists, Outcome};
use crate::findings::{Code, Finding};

/// Compiles the rules of one policy.
pub(super) struct Compiler {
    allow: bool,
    namespace: Text,
    pub(super) findings: Vec<Finding>,
    pub(super) http: BTreeSet<String>,
}

/// What a list of alternatives comes to.
enum Alternatives {
    /// One of these must hold; each is a list of clauses that must all hold.
    One(Vec<Vec<Clause>>),
    /// It holds for everybody.
    Everybody,
    /// The rule is left out.
    OmitRule,
}

impl Compiler {
    pub(super) fn new(action: Action, namespace: Text) -> Self {
        Self {
            allow: action == Action::Allow,
            namespace,
            findings: Vec::new(),
            http: BTreeSet::new(),
        }
    }

    /// The rules of the policy. An ALLOW policy may come out without any, and then lets nobody in.
    pub(super) fn policy(&mut self, spec: &AuthorizationPolicySpec) -> Vec<WireRule> {
        if !self.allow && spec.rules.is_empty() {
            let message = "a DENY policy without rules refuses nobody";
            self.findings
                .push(Finding::new(Code::DenyWithoutRules, "spec.rules", message));
        }
        // What is not known may narrow the policy; without it an ALLOW would reach too far.
        let closed = self.unknown("spec", spec.unknown.keys()) && self.allow;
        let rules: Vec<WireRule> = spec
            .rules
            .iter()
            .enumerate()
            .flat_map(|(i, rule)| self.rule(i, rule))
            .collect();
        if closed { Vec::new() } else { rules }
    }

    fn rule(&mut self, index: usize, rule: &Rule) -> Vec<WireRule> {
        let path = format!("spec.rules[{index}]");
        let unknown = self.unknown(&path, rule.unknown.keys());
        let from = self.from(&path, &rule.from);
        let to = self.to(&path, &rule.to);
        let when = self.when(&path, &rule.when);
        if unknown && self.allow {
            return Vec::new();
        }
        let mut rules: Vec<WireRule> = vec![Vec::new()];
        for part in [to, from].into_iter().chain(when) {
            match part {
                Alternatives::OmitRule => return Vec::new(),
                Alternatives::Everybody => {}
                Alternatives::One(alternatives) => rules = product(&rules, &alternatives),
            }
        }
        rules
    }

    fn from(&mut self, path: &str, from: &[From]) -> Alternatives {
        self.alternatives(from, |this, i, from| {
            let path = format!("{path}.from[{i}].source");
            let namespace = this.namespace.clone();
            let mut entry = Entry::new(&path, &namespace);
            if let Some(source) = &from.source {
                read_source(&mut entry, source);
            }
            from.unknown.keys().for_each(|field| entry.unknown(field));
            this.finish(entry)
        })
    }

    fn to(&mut self, path: &str, to: &[To]) -> Alternatives {
        self.alternatives(to, |this, i, to| {
            let path = format!("{path}.to[{i}].operation");
            let namespace = this.namespace.clone();
            let mut entry = Entry::new(&path, &namespace);
            if let Some(operation) = &to.operation {
                read_operation(&mut entry, operation);
            }
            to.unknown.keys().for_each(|field| entry.unknown(field));
            this.finish(entry)
        })
    }

    /// Conditions must all hold, so each is a list of one alternative.
    fn when(&mut self, path: &str, when: &[Condition]) -> Vec<Alternatives> {
        let one = |(i, condition): (usize, &Condition)| {
            self.alternatives(std::slice::from_ref(condition), |this, _, condition| {
                let path = format!("{path}.when[{i}]");
                let namespace = this.namespace.clone();
                let mut entry = Entry::new(&path, &namespace);
                conditions::read(&mut entry, condition);
                this.finish(entry)
            })
        };
        when.iter().enumerate().map(one).collect()
    }

    fn finish(&mut self, mut entry: Entry<'_>) -> Outcome {
        let outcome = entry.finish(self.allow);
        self.http.extend(entry.http);
        self.findings.extend(entry.findings);
        outcome
    }

    fn alternatives<T>(
        &mut self,
        entries: &[T],
        mut read: impl FnMut(&mut Self, usize, &T) -> Outcome,
    ) -> Alternatives {
        let outcomes: Vec<Outcome> = entries
            .iter()
            .enumerate()
            .map(|(i, entry)| read(self, i, entry))
            .collect();
        if outcomes.contains(&Outcome::OmitRule) {
            return Alternatives::OmitRule;
        }
        if outcomes.is_empty() || outcomes.contains(&Outcome::Everybody) {
            return Alternatives::Everybody;
        }
        let all: Vec<Vec<Match>> = outcomes
            .into_iter()
            .map(|outcome| match outcome {
                Outcome::All(all) => all,
                // A match without attributes never holds.
                _ => vec![Match::default()],
            })
            .collect();
        Alternatives::One(as_clauses(all))
    }

    fn unknown<'a>(&mut self, path: &str, fields: impl Iterator<Item = &'a String>) -> bool {
        let before = self.findings.len();
        for field in fields {
            let message = format!("{field:?} is not known");
            self.findings
                .push(Finding::new(Code::UnknownAttribute, path, message));
        }
        self.findings.len() > before
    }
}

/// Alternatives of one match each fit into one clause. Where an alternative needs two matches to
/// hold together, each becomes a list of clauses, and the rule is written once for each.
fn as_clauses(alternatives: Vec<Vec<Match>>) -> Vec<Vec<Clause>> {
    if alternatives.iter().all(|all| all.len() == 1) {
        return vec![vec![alternatives.into_iter().flatten().collect()]];
    }
    alternatives
        .into_iter()
        .map(|all| all.into_iter().map(|m| vec![m]).collect())
        .collect()
}

fn product(rules: &[WireRule], alternatives: &[Vec<Clause>]) -> Vec<WireRule> {
    let joined = |rule: &WireRule, clauses: &Vec<Clause>| {
        rule.iter().chain(clauses).cloned().collect::<WireRule>()
    };
    rules
        .iter()
        .flat_map(|r| alternatives.iter().map(move |c| joined(r, c)))
        .collect()
}

fn read_source(entry: &mut Entry<'_>, source: &Source) {
    let lists = |any, none| Lists { any, none };
    entry.principals(
        "principals",
        lists(&source.principals, &source.not_principals),
    );
    entry.namespaces(
        "namespaces",
        lists(&source.namespaces, &source.not_namespaces),
    );
    entry.service_accounts(
        "serviceAccounts",
        lists(&source.service_accounts, &source.not_service_accounts),
    );
    entry.source_ips("ipBlocks", lists(&source.ip_blocks, &source.not_ip_blocks));
    entry.trust_domains(
        "trustDomains",
        lists(&source.trust_domains, &source.not_trust_domains),
    );
    entry.http("requestPrincipals", &source.request_principals);
    entry.http("notRequestPrincipals", &source.not_request_principals);
    entry.http("remoteIpBlocks", &source.remote_ip_blocks);
    entry.http("notRemoteIpBlocks", &source.not_remote_ip_blocks);
    source.unknown.keys().for_each(|field| entry.unknown(field));
}

fn read_operation(entry: &mut Entry<'_>, operation: &Operation) {
    let ports = Lists {
        any: &operation.ports,
        none: &operation.not_ports,
    };
    entry.destination_ports("ports", ports);
    entry.http("hosts", &operation.hosts);
    entry.http("notHosts", &operation.not_hosts);
    entry.http("methods", &operation.methods);
    entry.http("notMethods", &operation.not_methods);
    entry.http("paths", &operation.paths);
    entry.http("notPaths", &operation.not_paths);
    operation
        .unknown
        .keys()
        .for_each(|field| entry.unknown(field));
}
