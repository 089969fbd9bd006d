//! One entry of a `from`, `to` or `when`: what it asks for, and what could not be understood.

use ambit_model::Text;
use ambit_model::policy::{Match, StringMatch};

use super::values::{self, TrustDomain};
use crate::findings::{Code, Finding};

/// An entry while it is read.
pub(super) struct Entry<'a> {
    path: &'a str,
    policy_namespace: &'a Text,
    /// What is asked for.
    matching: Match,
    /// Principals one of which must hold beside those in `matching`.
    and_principals: Vec<StringMatch>,
    /// Attributes were named at all.
    named: bool,
    /// HTTP attributes.
    pub(super) http: Vec<String>,
    /// Something is asked for that is not known.
    unknown: bool,
    /// A list has no value that anybody could have.
    nobody: bool,
    /// An exception names somebody who cannot exist.
    bad_exception: bool,
    pub(super) findings: Vec<Finding>,
}

/// What an entry comes to under ALLOW or DENY.
#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    /// All of these must hold.
    All(Vec<Match>),
    /// It holds for everybody.
    Everybody,
    /// It holds for nobody.
    Nobody,
    /// The rule that it stands in is left out.
    OmitRule,
}

/// The two lists of an attribute: one of `any` must hold, none of `none` may.
#[derive(Clone, Copy)]
pub(super) struct Lists<'a> {
    pub any: &'a [String],
    pub none: &'a [String],
}

impl<'a> Entry<'a> {
    pub(super) fn new(path: &'a str, policy_namespace: &'a Text) -> Self {
        Self {
            path,
            policy_namespace,
            matching: Match::default(),
            and_principals: Vec::new(),
            named: false,
            http: Vec::new(),
            unknown: false,
            nobody: false,
            bad_exception: false,
            findings: Vec::new(),
        }
    }

    pub(super) fn principals(&mut self, field: &str, lists: Lists<'_>) {
        let read = |v: &str| values::principal(v);
        let (any, none) = self.read(field, lists, Code::InvalidPrincipal, read);
        self.matching.principals.extend(any);
        self.matching.not_principals.extend(none);
    }

    pub(super) fn namespaces(&mut self, field: &str, lists: Lists<'_>) {
        let (any, none) = self.read(field, lists, Code::InvalidValue, values::namespace);
        self.matching.namespaces.extend(any);
        self.matching.not_namespaces.extend(none);
    }

    pub(super) fn service_accounts(&mut self, field: &str, lists: Lists<'_>) {
        let own = self.policy_namespace;
        let read = |v: &str| values::service_account(v, own);
        let (any, none) = self.read(field, lists, Code::InvalidServiceAccount, read);
        self.matching.service_accounts.extend(any);
        self.matching.not_service_accounts.extend(none);
    }

    pub(super) fn source_ips(&mut self, field: &str, lists: Lists<'_>) {
        let (any, none) = self.read(field, lists, Code::InvalidIpBlock, values::ip_block);
        self.matching.source_ips.extend(any);
        self.matching.not_source_ips.extend(none);
    }

    pub(super) fn destination_ips(&mut self, field: &str, lists: Lists<'_>) {
        let (any, none) = self.read(field, lists, Code::InvalidIpBlock, values::ip_block);
        self.matching.destination_ips.extend(any);
        self.matching.not_destination_ips.extend(none);
    }

    pub(super) fn destination_ports(&mut self, field: &str, lists: Lists<'_>) {
        let (any, none) = self.read(field, lists, Code::InvalidPort, values::port);
        self.matching.destination_ports.extend(any);
        self.matching.not_destination_ports.extend(none);
    }

    /// Trust domains become the beginnings of principals, since only those are on the wire.
    pub(super) fn trust_domains(&mut self, field: &str, lists: Lists<'_>) {
        let mut inexpressible = false;
        let read = |v: &str| match values::trust_domain(v) {
            TrustDomain::Principal(matching) => Some(Some(matching)),
            TrustDomain::Inexpressible => {
                inexpressible = true;
                Some(None)
            }
            TrustDomain::Nobody => None,
        };
        let (any, none) = self.read(field, lists, Code::InvalidValue, read);
        if inexpressible {
            self.unknown = true;
            let message = "a suffix of a trust domain cannot be enforced by ztunnel";
            self.finding(Code::UnsupportedForm, field, message.to_owned());
        }
        // With one alternative that cannot be said, the others would exclude too many.
        if any.iter().all(Option::is_some) {
            self.and_principals.extend(any.into_iter().flatten());
        }
        self.matching
            .not_principals
            .extend(none.into_iter().flatten());
    }

    /// Attributes that only a proxy for HTTP sees.
    pub(super) fn http(&mut self, name: &str, values: &[String]) {
        if !values.is_empty() {
            self.named = true;
            self.http.push(name.to_owned());
        }
    }

    /// A field or key that is not known.
    pub(super) fn unknown(&mut self, name: &str) {
        self.named = true;
        self.unknown = true;
        self.finding(Code::UnknownAttribute, "", format!("{name:?} is not known"));
    }

    fn read<T>(
        &mut self,
        field: &str,
        lists: Lists<'_>,
        code: Code,
        mut read: impl FnMut(&str) -> Option<T>,
    ) -> (Vec<T>, Vec<T>) {
        let mut keep = |entry: &mut Self, values: &[String], negative: bool| {
            let mut kept = Vec::with_capacity(values.len());
            for value in values {
                match read(value) {
                    Some(v) => kept.push(v),
                    None => {
                        entry.bad_exception |= negative;
                        let message = if negative {
                            format!("{value:?} excepts nobody: no connection can have it")
                        } else {
                            format!("{value:?} matches nobody: no connection can have it")
                        };
                        entry.finding(code, field, message);
                    }
                }
            }
            kept
        };
        let any = keep(self, lists.any, false);
        let none = keep(self, lists.none, true);
        self.named |= !lists.any.is_empty() || !lists.none.is_empty();
        self.nobody |= any.is_empty() && !lists.any.is_empty();
        (any, none)
    }

    fn finding(&mut self, code: Code, field: &str, message: String) {
        let place = match field {
            "" => self.path.to_owned(),
            field => format!("{}.{field}", self.path),
        };
        self.findings.push(Finding::new(code, place, message));
    }

    /// What the entry comes to. See the table in the module above.
    pub(super) fn finish(&mut self, allow: bool) -> Outcome {
        if !self.named {
            self.finding(
                Code::EmptyEntry,
                "",
                "it says nothing, and matches nobody".to_owned(),
            );
            return Outcome::Nobody;
        }
        if allow && (!self.http.is_empty() || self.unknown || self.bad_exception) {
            return Outcome::OmitRule;
        }
        if self.nobody {
            return Outcome::Nobody;
        }
        let all = self.matches();
        match (all.is_empty(), self.unknown || self.bad_exception) {
            (false, _) => Outcome::All(all),
            (true, true) => Outcome::Everybody,
            (true, false) => Outcome::Nobody,
        }
    }

    fn matches(&mut self) -> Vec<Match> {
        let mut matching = std::mem::take(&mut self.matching);
        let and_principals = std::mem::take(&mut self.and_principals);
        if and_principals.is_empty() {
            return some(matching);
        }
        if matching.principals.is_empty() {
            matching.principals = and_principals;
            return some(matching);
        }
        let second = Match {
            principals: and_principals,
            ..Match::default()
        };
        vec![matching, second]
    }
}

fn some(matching: Match) -> Vec<Match> {
    if matching == Match::default() {
        Vec::new()
    } else {
        vec![matching]
    }
}
