//! Filters → what a rule does.

use std::time::Duration;

use ambit_kube_api::gateway_api::filters::{
    CorsFilter, Filter, HeaderFilter, HttpHeader, MirrorFilter, PathModifier, RedirectFilter,
    SessionPersistence,
};
use ambit_model::Text;
use ambit_model::route::{
    Action, Backend, Cors, Forward, HeaderChanges, Mirror, Origin, Redirect, Replace, Rule, Session,
};

use super::{Context, Unresolved, backends, duration};

fn invalid(message: impl Into<String>) -> Unresolved {
    Unresolved::new("InvalidFilter", message)
}

fn part<'a, T>(filter: &Filter, part: &'a Option<T>) -> Result<&'a T, Unresolved> {
    part.as_ref()
        .ok_or_else(|| invalid(format!("filter {} says nothing", filter.type_)))
}

/// Takes the filters of a rule in. `forward` is what happens with requests that are not redirected.
///
/// # Errors
/// One cannot be understood. Mirrors that lead nowhere are noted and left out.
pub(super) fn of_rule(
    context: &Context<'_>,
    filters: &[Filter],
    rule: &mut Rule,
    mut forward: Forward,
    unresolved: &mut Vec<Unresolved>,
) -> Result<(), Unresolved> {
    let mut redirected = None;
    for filter in filters {
        match filter.type_.as_str() {
            "RequestHeaderModifier" => {
                rule.request_headers = changes(part(filter, &filter.request_header_modifier)?);
            }
            "ResponseHeaderModifier" => {
                rule.response_headers = changes(part(filter, &filter.response_header_modifier)?);
            }
            "RequestRedirect" => {
                redirected = Some(redirect(part(filter, &filter.request_redirect)?)?);
            }
            "URLRewrite" => {
                let rewrite = part(filter, &filter.url_rewrite)?;
                forward.rewrite.host = rewrite.hostname.as_deref().map(Text::from);
                forward.rewrite.path = rewrite.path.as_ref().map(path).transpose()?;
            }
            "RequestMirror" => match mirror(context, part(filter, &filter.request_mirror)?) {
                Ok(mirror) => forward.mirrors.push(mirror),
                Err(why) => unresolved.push(why),
            },
            "CORS" => rule.cors = Some(cors(part(filter, &filter.cors)?)),
            other => return Err(invalid(format!("unsupported filter type {other:?}"))),
        }
    }
    rule.action = match redirected {
        Some(redirect) => Action::Redirect(redirect),
        None => Action::Forward(forward),
    };
    Ok(())
}

/// Takes a filter of a backend in.
///
/// # Errors
/// It cannot be understood, or not at a backend.
pub(super) fn of_backend(filter: &Filter, backend: &mut Backend) -> Result<(), Unresolved> {
    match filter.type_.as_str() {
        "RequestHeaderModifier" => {
            backend.request_headers = changes(part(filter, &filter.request_header_modifier)?);
        }
        "ResponseHeaderModifier" => {
            backend.response_headers = changes(part(filter, &filter.response_header_modifier)?);
        }
        other => {
            return Err(invalid(format!(
                "unsupported filter type {other:?} of a backend"
            )));
        }
    }
    Ok(())
}

/// Of several entries of one name, the first holds.
fn changes(filter: &HeaderFilter) -> HeaderChanges {
    let pairs = |list: &[HttpHeader]| {
        let mut pairs: Vec<(Text, Text)> = Vec::with_capacity(list.len());
        for header in list {
            let name = header.name.to_ascii_lowercase();
            if !pairs.iter().any(|(n, _)| **n == *name) {
                pairs.push((name.into(), header.value.as_str().into()));
            }
        }
        pairs
    };
    let lower = |name: &String| Text::from(name.to_ascii_lowercase());
    HeaderChanges {
        set: pairs(&filter.set),
        add: pairs(&filter.add),
        remove: filter.remove.iter().map(lower).collect(),
    }
}

fn redirect(filter: &RedirectFilter) -> Result<Redirect, Unresolved> {
    let status = filter.status_code.unwrap_or(302);
    Ok(Redirect {
        scheme: filter.scheme.as_deref().map(Text::from),
        host: filter.hostname.as_deref().map(Text::from),
        port: filter.port.and_then(|port| u16::try_from(port).ok()),
        path: filter.path.as_ref().map(path).transpose()?,
        status: match status {
            301 | 302 | 303 | 307 | 308 => status as u16,
            other => return Err(invalid(format!("{other} is no status of a redirect"))),
        },
    })
}

fn path(modifier: &PathModifier) -> Result<Replace, Unresolved> {
    let text = |text: &Option<String>| Text::from(text.as_deref().unwrap_or_default());
    match modifier.type_.as_str() {
        "ReplaceFullPath" => Ok(Replace::Full(text(&modifier.replace_full_path))),
        "ReplacePrefixMatch" => Ok(Replace::Prefix(text(&modifier.replace_prefix_match))),
        other => Err(invalid(format!("unsupported type {other:?} of a path"))),
    }
}

fn mirror(context: &Context<'_>, filter: &MirrorFilter) -> Result<Mirror, Unresolved> {
    let (share, of) = match (&filter.fraction, filter.percent) {
        (Some(fraction), _) => (fraction.numerator, fraction.denominator.unwrap_or(100)),
        (None, Some(percent)) => (percent, 100),
        (None, None) => (1, 1),
    };
    let number = |n: i32| u32::try_from(n).ok();
    let of = number(of).filter(|of| *of > 0);
    let (Some(share), Some(of)) = (number(share), of) else {
        return Err(invalid("the fraction of a mirror is none"));
    };
    Ok(Mirror {
        target: backends::target(context, &filter.backend_ref)?,
        share: share.min(of),
        of,
    })
}

fn cors(filter: &CorsFilter) -> Cors {
    let texts = |list: &[String]| list.iter().map(|t| Text::from(t.as_str())).collect();
    Cors {
        origins: filter.allow_origins.iter().map(|o| origin(o)).collect(),
        methods: texts(&filter.allow_methods),
        headers: texts(&filter.allow_headers),
        expose: texts(&filter.expose_headers),
        credentials: filter.allow_credentials.unwrap_or_default(),
        max_age: Duration::from_secs(filter.max_age.map_or(5, |s| s.try_into().unwrap_or(5))),
    }
}

fn origin(text: &str) -> Origin {
    match text.split_once('*') {
        Some(("", "")) => Origin::Any,
        Some((scheme, end)) => Origin::Wildcard(scheme.into(), end.into()),
        None => Origin::Exact(text.into()),
    }
}

/// How requests keep their backend.
///
/// # Errors
/// Its time is none, or it asks for what there is not.
pub(super) fn session(persistence: &SessionPersistence) -> Result<Session, Unresolved> {
    if persistence.idle_timeout.is_some() {
        let message = "sessionPersistence.idleTimeout is not supported; use absoluteTimeout";
        return Err(Unresolved::new("InvalidConfiguration", message));
    }
    let lifetime = persistence
        .absolute_timeout
        .as_deref()
        .map(time)
        .transpose()?;
    let permanent = persistence
        .cookie_config
        .as_ref()
        .is_some_and(|c| c.lifetime_type.as_deref() == Some("Permanent"));
    Ok(Session {
        name: persistence
            .session_name
            .as_deref()
            .unwrap_or("session")
            .into(),
        header: persistence.type_.as_deref() == Some("Header"),
        lifetime: lifetime.filter(|_| permanent),
    })
}

/// A duration.
///
/// # Errors
/// It is none.
pub(super) fn time(text: &str) -> Result<Duration, Unresolved> {
    duration::parse(text).ok_or_else(|| {
        Unresolved::new(
            "InvalidConfiguration",
            format!("{text:?} is no duration such as 10s"),
        )
    })
}
