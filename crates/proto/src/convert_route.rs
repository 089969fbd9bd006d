//! Routes: messages to model and back.
//!
//! A rule that cannot be read fails, with 500 and the reason; the others of its route stand.

use std::time::Duration;

use ambit_model::Text;
use ambit_model::route::{
    Action, Backend, Cors, Field, Forward, HeaderChanges, Match, Mirror, Origin, Parent, PathMatch,
    Pattern, Redirect, Replace, Retry, Rewrite, Route, RouteKind, Rule, Session, Target, TextMatch,
};
use ambit_model::service::NamespacedHostname;

use crate::convert::ConvertError;
use crate::l7 as pb;

/// Why a rule cannot be read.
type Unreadable = String;

impl TryFrom<pb::Route> for Route {
    type Error = ConvertError;

    fn try_from(m: pb::Route) -> Result<Self, ConvertError> {
        let kind = match pb::route::Kind::try_from(m.kind) {
            Ok(pb::route::Kind::Http) => RouteKind::Http,
            Ok(pb::route::Kind::Grpc) => RouteKind::Grpc,
            Ok(pb::route::Kind::Tcp) => RouteKind::Tcp,
            Ok(pb::route::Kind::Tls) => RouteKind::Tls,
            Err(_) => {
                return Err(ConvertError::UnsupportedValue {
                    field: "kind",
                    value: m.kind,
                });
            }
        };
        let parent = |parent: pb::Parent| {
            Some(Parent {
                service: service(parent.service)?,
                port: port(parent.port).filter(|p| *p != 0),
            })
        };
        Ok(Self {
            kind,
            namespace: m.namespace.into(),
            name: m.name.into(),
            created: m.created,
            parents: m.parents.into_iter().filter_map(parent).collect(),
            rules: m.rules.into_iter().map(rule).collect(),
        })
    }
}

fn rule(m: pb::Rule) -> Rule {
    let name: Text = m.name.as_str().into();
    let (matches, unreadable) = matches(m.matches);
    let read = (|| {
        if let Some(reason) = unreadable {
            return Err(reason);
        }
        let action = match m.action.ok_or("its action is not known to this proxy")? {
            pb::rule::Action::Forward(m) => Action::Forward(forward(m)?),
            pb::rule::Action::Redirect(m) => Action::Redirect(redirect(m)?),
            pb::rule::Action::Fail(reason) => Action::Fail(reason.into()),
        };
        Ok((action, m.cors.map(cors).transpose()?))
    })();
    let (action, cors) =
        read.unwrap_or_else(|reason: Unreadable| (Action::Fail(reason.into()), None));
    Rule {
        name,
        matches,
        action,
        request_headers: header_changes(m.request_headers),
        response_headers: header_changes(m.response_headers),
        cors,
    }
}

/// The alternatives that can be read. If some cannot, the rule takes part with those that can, or
/// with all requests, and fails: what was meant for it goes nowhere else.
fn matches(all: Vec<pb::Match>) -> (Vec<Match>, Option<Unreadable>) {
    let mut unreadable = None;
    let mut read = Vec::with_capacity(all.len());
    for alternative in all {
        match one_match(alternative) {
            Ok(alternative) => read.push(alternative),
            Err(reason) => unreadable = Some(reason),
        }
    }
    (read, unreadable)
}

fn one_match(m: pb::Match) -> Result<Match, Unreadable> {
    let text = |m: Option<pb::TextMatch>| m.map(text_match).transpose();
    let fields = |list: Vec<pb::FieldMatch>| list.into_iter().map(field).collect::<Result<_, _>>();
    Ok(Match {
        path: m.path.map(path_match).transpose()?,
        method: text(m.method)?,
        scheme: text(m.scheme)?,
        authority: text(m.authority)?,
        headers: fields(m.headers)?,
        query: fields(m.query)?,
        port: port(m.port).filter(|p| *p != 0),
    })
}

fn path_match(m: pb::PathMatch) -> Result<PathMatch, Unreadable> {
    use pb::path_match::Kind;
    let path = match m
        .kind
        .ok_or("a match of the path is not known to this proxy")?
    {
        Kind::Exact(text) => PathMatch::Exact(text.into()),
        Kind::Segments(text) => PathMatch::Segments(text.into()),
        Kind::Prefix(text) => PathMatch::Prefix(text.into()),
        Kind::Regex(pattern) => PathMatch::Regex(regex(&pattern)?),
    };
    Ok(match m.ignore_case {
        true => PathMatch::IgnoringCase(Box::new(path)),
        false => path,
    })
}

fn regex(pattern: &str) -> Result<Pattern, Unreadable> {
    Pattern::new(pattern).map_err(|e| e.to_string())
}

fn text_match(m: pb::TextMatch) -> Result<TextMatch, Unreadable> {
    use pb::text_match::Kind;
    Ok(match m.kind.ok_or("a match is not known to this proxy")? {
        Kind::Exact(text) => TextMatch::Exact(text.into()),
        Kind::Prefix(text) => TextMatch::Prefix(text.into()),
        Kind::Regex(pattern) => TextMatch::Regex(regex(&pattern)?),
        Kind::Present(_) => TextMatch::Present,
        Kind::Suffix(_) => return Err("the end of a text is no match of a route".into()),
    })
}

fn field(m: pb::FieldMatch) -> Result<Field, Unreadable> {
    Ok(Field {
        name: m.name.into(),
        value: text_match(m.value.ok_or("a match has no value")?)?,
        negated: m.negated,
    })
}

fn header_changes(m: Option<pb::HeaderChanges>) -> HeaderChanges {
    let m = m.unwrap_or_default();
    let pairs = |list: Vec<pb::Header>| {
        let pair = |h: pb::Header| (Text::from(h.name), Text::from(h.value));
        list.into_iter().map(pair).collect()
    };
    HeaderChanges {
        set: pairs(m.set),
        add: pairs(m.add),
        remove: m.remove.into_iter().map(Text::from).collect(),
    }
}

fn forward(m: pb::Forward) -> Result<Forward, Unreadable> {
    let backend = |m: pb::Backend| Backend {
        target: m.target.and_then(target),
        weight: m.weight,
        request_headers: header_changes(m.request_headers),
        response_headers: header_changes(m.response_headers),
    };
    let mirror = |m: pb::Mirror| {
        Ok(Mirror {
            target: m.target.and_then(target).ok_or("a mirror has no target")?,
            share: m.share,
            of: Some(m.of)
                .filter(|of| *of > 0)
                .ok_or("a mirror has no share")?,
        })
    };
    Ok(Forward {
        backends: m.backends.into_iter().map(backend).collect(),
        rewrite: Rewrite {
            host: some(m.host),
            path: m.path.map(path_change).transpose()?,
        },
        mirrors: m
            .mirrors
            .into_iter()
            .map(mirror)
            .collect::<Result<_, Unreadable>>()?,
        timeout: m.timeout.map(duration).transpose()?,
        try_timeout: m.try_timeout.map(duration).transpose()?,
        retry: m.retry.map(retry).transpose()?,
        session: m.session.map(session).transpose()?,
    })
}

fn retry(m: pb::Retry) -> Result<Retry, Unreadable> {
    let status = |s: u32| u16::try_from(s).map_err(|_| format!("{s} is no status"));
    Ok(Retry {
        attempts: m.attempts,
        statuses: m
            .statuses
            .into_iter()
            .map(status)
            .collect::<Result<_, _>>()?,
        backoff: m
            .backoff
            .map(duration)
            .transpose()?
            .unwrap_or(Retry::mesh_default().backoff),
    })
}

fn session(m: pb::Session) -> Result<Session, Unreadable> {
    Ok(Session {
        name: m.name.into(),
        header: m.header,
        lifetime: m.lifetime.map(duration).transpose()?,
    })
}

fn redirect(m: pb::Redirect) -> Result<Redirect, Unreadable> {
    let status = u16::try_from(m.status).ok();
    Ok(Redirect {
        scheme: some(m.scheme),
        host: some(m.host),
        port: port(m.port).filter(|p| *p != 0),
        path: m.path.map(path_change).transpose()?,
        status: status
            .filter(|s| [301, 302, 303, 307, 308].contains(s))
            .ok_or_else(|| format!("{} is no status of a redirect", m.status))?,
    })
}

fn cors(m: pb::Cors) -> Result<Cors, Unreadable> {
    let texts = |list: Vec<String>| list.into_iter().map(Text::from).collect();
    Ok(Cors {
        origins: m
            .origins
            .into_iter()
            .map(origin)
            .collect::<Result<_, _>>()?,
        methods: texts(m.methods),
        headers: texts(m.headers),
        expose: texts(m.expose),
        credentials: m.credentials,
        max_age: m.max_age.map(duration).transpose()?.unwrap_or_default(),
    })
}

fn origin(m: pb::Origin) -> Result<Origin, Unreadable> {
    use pb::origin::Kind;
    Ok(
        match m.kind.ok_or("an origin is not known to this proxy")? {
            Kind::Any(_) => Origin::Any,
            Kind::Exact(text) => Origin::Exact(text.into()),
            Kind::Prefix(text) => Origin::Prefix(text.into()),
            Kind::Regex(pattern) => Origin::Regex(regex(&pattern)?),
            Kind::Wildcard(text) => {
                let (scheme, end) = text.split_once('*').ok_or("an origin has no wildcard")?;
                Origin::Wildcard(scheme.into(), end.into())
            }
        },
    )
}

fn path_change(m: pb::PathChange) -> Result<Replace, Unreadable> {
    use pb::path_change::Kind;
    Ok(
        match m
            .kind
            .ok_or("a change of the path is not known to this proxy")?
        {
            Kind::Full(path) => Replace::Full(path.into()),
            Kind::Prefix(path) => Replace::Prefix(path.into()),
        },
    )
}

fn target(m: pb::Target) -> Option<Target> {
    Some(Target {
        service: service(m.service)?,
        port: port(m.port).filter(|p| *p != 0)?,
    })
}

pub(crate) fn service(m: Option<pb::ServiceKey>) -> Option<NamespacedHostname> {
    let m = m?;
    Some(NamespacedHostname::new(m.namespace, m.hostname))
}

fn port(number: u32) -> Option<u16> {
    u16::try_from(number).ok()
}

fn some(text: String) -> Option<Text> {
    (!text.is_empty()).then(|| text.into())
}

fn duration(m: prost_types::Duration) -> Result<Duration, Unreadable> {
    Duration::try_from(m).map_err(|_| "a duration is negative".to_owned())
}

impl From<&Route> for pb::Route {
    fn from(route: &Route) -> Self {
        let kind = match route.kind {
            RouteKind::Http => pb::route::Kind::Http,
            RouteKind::Grpc => pb::route::Kind::Grpc,
            RouteKind::Tcp => pb::route::Kind::Tcp,
            RouteKind::Tls => pb::route::Kind::Tls,
        };
        let parent = |parent: &Parent| pb::Parent {
            service: Some(service_key(&parent.service)),
            port: parent.port.unwrap_or_default().into(),
        };
        Self {
            kind: kind.into(),
            namespace: route.namespace.to_string(),
            name: route.name.to_string(),
            created: route.created,
            parents: route.parents.iter().map(parent).collect(),
            rules: route.rules.iter().map(Into::into).collect(),
        }
    }
}

impl From<&Rule> for pb::Rule {
    fn from(rule: &Rule) -> Self {
        let action = match &rule.action {
            Action::Forward(forward) => pb::rule::Action::Forward(forward.into()),
            Action::Redirect(redirect) => pb::rule::Action::Redirect(redirect.into()),
            Action::Fail(reason) => pb::rule::Action::Fail(reason.to_string()),
        };
        Self {
            name: rule.name.to_string(),
            matches: rule.matches.iter().map(Into::into).collect(),
            request_headers: changes(&rule.request_headers),
            response_headers: changes(&rule.response_headers),
            cors: rule.cors.as_ref().map(Into::into),
            action: Some(action),
        }
    }
}

impl From<&Match> for pb::Match {
    fn from(m: &Match) -> Self {
        let text = |m: &Option<TextMatch>| m.as_ref().map(Into::into);
        let fields = |list: &[Field]| list.iter().map(Into::into).collect();
        Self {
            path: m.path.as_ref().map(Into::into),
            method: text(&m.method),
            scheme: text(&m.scheme),
            authority: text(&m.authority),
            headers: fields(&m.headers),
            query: fields(&m.query),
            port: m.port.unwrap_or_default().into(),
        }
    }
}

impl From<&PathMatch> for pb::PathMatch {
    fn from(m: &PathMatch) -> Self {
        use pb::path_match::Kind;
        let kind = match m {
            PathMatch::Exact(text) => Kind::Exact(text.to_string()),
            PathMatch::Segments(text) => Kind::Segments(text.to_string()),
            PathMatch::Prefix(text) => Kind::Prefix(text.to_string()),
            PathMatch::Regex(pattern) => Kind::Regex(pattern.source().to_owned()),
            PathMatch::IgnoringCase(inner) => {
                return Self {
                    ignore_case: true,
                    ..Self::from(&**inner)
                };
            }
        };
        Self {
            kind: Some(kind),
            ignore_case: false,
        }
    }
}

impl From<&TextMatch> for pb::TextMatch {
    fn from(m: &TextMatch) -> Self {
        use pb::text_match::Kind;
        let kind = match m {
            TextMatch::Exact(text) => Kind::Exact(text.to_string()),
            TextMatch::Prefix(text) => Kind::Prefix(text.to_string()),
            TextMatch::Regex(pattern) => Kind::Regex(pattern.source().to_owned()),
            TextMatch::Present => Kind::Present(true),
        };
        Self { kind: Some(kind) }
    }
}

impl From<&Field> for pb::FieldMatch {
    fn from(field: &Field) -> Self {
        Self {
            name: field.name.to_string(),
            value: Some((&field.value).into()),
            negated: field.negated,
        }
    }
}

fn changes(changes: &HeaderChanges) -> Option<pb::HeaderChanges> {
    let pairs = |list: &[(Text, Text)]| {
        let header = |(name, value): &(Text, Text)| pb::Header {
            name: name.to_string(),
            value: value.to_string(),
        };
        list.iter().map(header).collect()
    };
    (!changes.is_empty()).then(|| pb::HeaderChanges {
        set: pairs(&changes.set),
        add: pairs(&changes.add),
        remove: changes.remove.iter().map(ToString::to_string).collect(),
    })
}

impl From<&Forward> for pb::Forward {
    fn from(forward: &Forward) -> Self {
        let backend = |b: &Backend| pb::Backend {
            target: b.target.as_ref().map(Into::into),
            weight: b.weight,
            request_headers: changes(&b.request_headers),
            response_headers: changes(&b.response_headers),
        };
        let mirror = |m: &Mirror| pb::Mirror {
            target: Some((&m.target).into()),
            share: m.share,
            of: m.of,
        };
        Self {
            backends: forward.backends.iter().map(backend).collect(),
            host: text(forward.rewrite.host.as_ref()),
            path: forward.rewrite.path.as_ref().map(Into::into),
            mirrors: forward.mirrors.iter().map(mirror).collect(),
            timeout: forward.timeout.map(span),
            try_timeout: forward.try_timeout.map(span),
            retry: forward.retry.as_ref().map(|r| pb::Retry {
                attempts: r.attempts,
                statuses: r.statuses.iter().map(|s| u32::from(*s)).collect(),
                backoff: Some(span(r.backoff)),
            }),
            session: forward.session.as_ref().map(|s| pb::Session {
                name: s.name.to_string(),
                header: s.header,
                lifetime: s.lifetime.map(span),
            }),
        }
    }
}

impl From<&Target> for pb::Target {
    fn from(target: &Target) -> Self {
        Self {
            service: Some(service_key(&target.service)),
            port: target.port.into(),
        }
    }
}

impl From<&Replace> for pb::PathChange {
    fn from(replace: &Replace) -> Self {
        use pb::path_change::Kind;
        let kind = match replace {
            Replace::Full(path) => Kind::Full(path.to_string()),
            Replace::Prefix(path) => Kind::Prefix(path.to_string()),
        };
        Self { kind: Some(kind) }
    }
}

impl From<&Redirect> for pb::Redirect {
    fn from(redirect: &Redirect) -> Self {
        Self {
            scheme: text(redirect.scheme.as_ref()),
            host: text(redirect.host.as_ref()),
            port: redirect.port.unwrap_or_default().into(),
            path: redirect.path.as_ref().map(Into::into),
            status: redirect.status.into(),
        }
    }
}

impl From<&Cors> for pb::Cors {
    fn from(cors: &Cors) -> Self {
        use pb::origin::Kind;
        let origin = |origin: &Origin| pb::Origin {
            kind: Some(match origin {
                Origin::Any => Kind::Any(true),
                Origin::Exact(text) => Kind::Exact(text.to_string()),
                Origin::Prefix(text) => Kind::Prefix(text.to_string()),
                Origin::Wildcard(scheme, end) => Kind::Wildcard(format!("{scheme}*{end}")),
                Origin::Regex(pattern) => Kind::Regex(pattern.source().to_owned()),
            }),
        };
        let texts = |list: &[Text]| list.iter().map(ToString::to_string).collect();
        Self {
            origins: cors.origins.iter().map(origin).collect(),
            methods: texts(&cors.methods),
            headers: texts(&cors.headers),
            expose: texts(&cors.expose),
            credentials: cors.credentials,
            max_age: Some(span(cors.max_age)),
        }
    }
}

pub(crate) fn service_key(key: &NamespacedHostname) -> pb::ServiceKey {
    pb::ServiceKey {
        namespace: key.namespace.to_string(),
        hostname: key.hostname.to_string(),
    }
}

fn text(text: Option<&Text>) -> String {
    text.map(ToString::to_string).unwrap_or_default()
}

/// Longer than what the message can say is as good as what it can.
pub(crate) fn span(duration: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(duration).unwrap_or(prost_types::Duration {
        seconds: i64::MAX,
        nanos: 0,
    })
}

#[cfg(test)]
#[path = "convert_route_tests.rs"]
mod tests;
