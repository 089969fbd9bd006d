//! The decision.

use std::cell::OnceCell;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    AccessPolicy, AccessRule, Action, Condition, FEATURES, Key, Operation, Request, Source, Value,
    Values, account, text,
};
use crate::policy::{ServiceAccountMatch, StringMatch};
use crate::{Identity, Text};

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict<'a> {
    /// It passes.
    Pass,
    /// This policy refuses it.
    Denied(&'a AccessPolicy),
    /// There are policies that allow, and none of them allows it.
    NotAllowed,
}

/// A verdict, and what is noted beside it.
#[derive(Debug)]
pub struct Decision<'a> {
    /// What becomes of the request.
    pub verdict: Verdict<'a>,
    /// Policies of the action `AUDIT` that match.
    pub audit: Vec<&'a AccessPolicy>,
    /// What the policies that are only noted would say; none where there is none.
    pub dry_run: Option<Verdict<'a>>,
}

/// A provider that is asked about a request.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Its name.
    pub provider: &'a Text,
    /// The policy that wants it.
    pub policy: &'a AccessPolicy,
}

/// Who is asked about a request before its tokens are looked at and [`decide`] decides: the providers
/// of the `CUSTOM` policies that match it.
pub fn asked<'a>(
    policies: impl Iterator<Item = &'a AccessPolicy>,
    request: &Request<'_>,
) -> Vec<Asked<'a>> {
    let subject = Subject::new(request);
    let asks = policies.filter_map(|policy| match &policy.action {
        Action::Custom(provider) if !policy.dry_run && subject.matches(policy) => {
            Some(Asked { provider, policy })
        }
        _ => None,
    });
    asks.collect()
}

/// Decides about a request by the policies that are attached to where it goes.
pub fn decide<'a>(
    policies: impl Iterator<Item = &'a AccessPolicy> + Clone,
    request: &Request<'_>,
) -> Decision<'a> {
    let subject = Subject::new(request);
    let of = |dry_run: bool| policies.clone().filter(move |p| p.dry_run == dry_run);
    let any_dry_run = of(true).next().is_some();
    let audit = of(false).filter(|p| p.action == Action::Audit && subject.matches(p));
    Decision {
        audit: audit.collect(),
        verdict: subject.verdict(of(false)),
        dry_run: any_dry_run.then(|| subject.verdict(of(true))),
    }
}

/// A request, with what is derived from it at most once.
struct Subject<'a> {
    request: &'a Request<'a>,
    principal: OnceCell<Option<String>>,
}

impl<'s> Subject<'s> {
    fn new(request: &'s Request<'s>) -> Self {
        Self {
            request,
            principal: OnceCell::new(),
        }
    }

    fn verdict<'a>(&self, policies: impl Iterator<Item = &'a AccessPolicy> + Clone) -> Verdict<'a> {
        let with = |action: Action| policies.clone().filter(move |p| p.action == action);
        if let Some(policy) = with(Action::Deny).find(|policy| self.matches(policy)) {
            return Verdict::Denied(policy);
        }
        let mut allow = with(Action::Allow).peekable();
        if allow.peek().is_some() && !allow.any(|policy| self.matches(policy)) {
            return Verdict::NotAllowed;
        }
        Verdict::Pass
    }

    /// Whether a policy matches. What is not known here closes: it matches where that refuses.
    fn matches(&self, policy: &AccessPolicy) -> bool {
        let closed = policy.action != Action::Allow;
        let knows = |features: &[Text]| features.iter().all(|f| FEATURES.contains(&&**f));
        if !knows(&policy.requires) {
            return closed;
        }
        policy.rules.iter().any(|rule| match knows(&rule.requires) {
            true => self.rule(rule, closed),
            false => closed,
        })
    }

    fn rule(&self, rule: &AccessRule, closed: bool) -> bool {
        (rule.from.is_empty() || rule.from.iter().any(|s| self.source(s, closed)))
            && (rule.to.is_empty() || rule.to.iter().any(|o| self.operation(o, closed)))
            && rule.when.iter().all(|c| self.condition(c, closed))
    }

    fn identity(&self) -> Option<&Identity> {
        self.request.identity
    }

    fn principal(&self) -> &str {
        let principal = || self.identity().map(Identity::principal);
        self.principal
            .get_or_init(principal)
            .as_deref()
            .unwrap_or_default()
    }

    fn source(&self, source: &Source, closed: bool) -> bool {
        let is = |values: &Values<StringMatch>, value: &str| values.hold(|s| text(s, value));
        let within = |values: &Values<IpNet>, ip: IpAddr| values.hold(|net| net.contains(&ip));
        !source.never
            && is(&source.principals, self.principal())
            && is(
                &source.namespaces,
                self.identity().map_or("", |id| &id.namespace),
            )
            && is(
                &source.trust_domains,
                self.identity().map_or("", |id| &id.trust_domain),
            )
            && source
                .service_accounts
                .hold(|a| account(a, self.identity()))
            && within(&source.ips, self.request.source)
            && within(&source.remote_ips, self.request.remote)
            && self.http(&source.request_principals, closed, |values| {
                let token = self.request.http.and_then(|http| http.token);
                is(values, token.map_or("", |token| &token.principal))
            })
    }

    fn operation(&self, operation: &Operation, closed: bool) -> bool {
        let port = self.request.destination.port();
        let head = self.request.http.as_ref();
        let of_head =
            |get: fn(&super::attributes::Head<'_>) -> String| head.map(get).unwrap_or_default();
        !operation.never
            && operation.ports.hold(|p| *p == port)
            && self.http(&operation.methods, closed, |values| {
                values.hold(|m| text(m, head.map_or("", |head| head.method)))
            })
            && self.http(&operation.paths, closed, |values| {
                values.hold(|p| p.matches(head.map_or("", |head| head.path)))
            })
            && self.http(&operation.hosts, closed, |values| {
                let authority = of_head(|head| head.authority.to_ascii_lowercase());
                values.hold(|h| host(h, &authority))
            })
    }

    /// A field that asks about requests: of a connection that is none, it holds where that refuses.
    fn http<T>(
        &self,
        values: &Values<T>,
        closed: bool,
        holds: impl FnOnce(&Values<T>) -> bool,
    ) -> bool {
        values.is_empty()
            || match self.request.http {
                Some(_) => holds(values),
                None => closed,
            }
    }

    fn condition(&self, condition: &Condition, closed: bool) -> bool {
        let Condition { key, values } = condition;
        let http = self.request.http.as_ref();
        if key.is_http() && http.is_none() {
            return closed;
        }
        let token = http.and_then(|http| http.token);
        let identity = self.identity();
        let is = |value: &str| values.hold(|v| matches!(v, Value::Text(t) if text(t, value)));
        let one_of = |found: &[&str]| {
            let is = |t: &StringMatch| found.iter().any(|value| text(t, value));
            values.hold(|v| matches!(v, Value::Text(t) if is(t)))
        };
        let within =
            |ip: IpAddr| values.hold(|v| matches!(v, Value::Range(net) if net.contains(&ip)));
        let by = |a: &ServiceAccountMatch| account(a, identity);
        match key {
            Key::SourceIp => within(self.request.source),
            Key::RemoteIp => within(self.request.remote),
            Key::DestinationIp => within(self.request.destination.ip()),
            Key::DestinationPort => {
                let port = self.request.destination.port();
                values.hold(|v| matches!(v, Value::Port(p) if *p == port))
            }
            Key::SourceNamespace => is(identity.map_or("", |id| &id.namespace)),
            Key::SourcePrincipal => is(self.principal()),
            Key::SourceServiceAccount => values.hold(|v| matches!(v, Value::Account(a) if by(a))),
            Key::SourceTrustDomain => is(identity.map_or("", |id| &id.trust_domain)),
            Key::Sni => is(self.request.sni.unwrap_or_default()),
            Key::Header(name) => {
                let headers = http.map(|http| http.headers).unwrap_or_default();
                is(&joined(headers, name))
            }
            Key::AuthPrincipal => is(token.map_or("", |token| &token.principal)),
            Key::AuthPresenter => is(token.map_or("", |token| &token.presenter)),
            Key::AuthAudiences => {
                let audiences = token.map(|token| &token.audiences[..]).unwrap_or_default();
                one_of(&audiences.iter().map(|a| &**a).collect::<Vec<_>>())
            }
            Key::AuthClaim(path) => {
                one_of(&token.map(|token| token.claim(path)).unwrap_or_default())
            }
        }
    }
}

/// All values of a header, with commas between them.
fn joined(headers: &[(&str, &str)], name: &str) -> String {
    let values = headers.iter().filter(|(n, _)| *n == name).map(|(_, v)| *v);
    values.collect::<Vec<_>>().join(",")
}

/// A host matches with the port that the client names, or without it.
fn host(wanted: &StringMatch, authority: &str) -> bool {
    let lower = |t: &Text| Text::from(t.to_ascii_lowercase());
    let wanted = match wanted {
        StringMatch::Exact(t) => StringMatch::Exact(lower(t)),
        StringMatch::Prefix(t) => StringMatch::Prefix(lower(t)),
        StringMatch::Suffix(t) => StringMatch::Suffix(lower(t)),
        StringMatch::Presence => StringMatch::Presence,
    };
    text(&wanted, authority) || text(&wanted, crate::route::split_port(authority).0)
}
