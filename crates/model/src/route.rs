//! Which rule a request meets: one model for the Gateway API's routes and for `VirtualService`.
//!
//! A table has its rules in order, and the first one that matches is the one. Who makes the table
//! puts them in order ([`precedence`] for the Gateway API); an index by path finds it without
//! looking at all of them.

mod display;
mod location;
mod order;
mod path;
mod rule;
mod services;
mod table;
mod text;

#[cfg(test)]
mod table_tests;

pub use location::{location, split_port};
pub use order::{Age, precedence};
pub use path::{Replace, rewrite};
pub use rule::{
    Action, Backend, Cors, Forward, HeaderChanges, Mirror, Origin, Parent, Redirect, Retry,
    Rewrite, Route, RouteKind, Rule, Session, Target,
};
pub use services::{Connected, Met, Routes, Rules};
pub use table::Table;
pub use text::{Pattern, PatternError, TextMatch};

use crate::Text;

/// What of a request decides.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// Method, in capitals.
    pub method: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Host, with its port if the client names one.
    pub authority: &'a str,
    /// Path without the query.
    pub path: &'a str,
    /// What stands behind the question mark, as it came.
    pub query: Option<&'a str>,
    /// Port of the service that was asked for.
    pub port: u16,
    /// Names in lower case, and values, in the order in which they came.
    pub headers: &'a [(&'a str, &'a str)],
}

/// Everything that one alternative of a rule asks for; all of it must hold.
#[derive(Clone, Debug, Default)]
pub struct Match {
    /// The path.
    pub path: Option<PathMatch>,
    /// The method.
    pub method: Option<TextMatch>,
    /// `http` or `https`.
    pub scheme: Option<TextMatch>,
    /// The host.
    pub authority: Option<TextMatch>,
    /// Headers by name in lower case.
    pub headers: Vec<Field>,
    /// Parameters of the query by name.
    pub query: Vec<Field>,
    /// The port.
    pub port: Option<u16>,
}

/// How a path must be.
#[derive(Clone, Debug)]
pub enum PathMatch {
    /// Exactly this.
    Exact(Text),
    /// These segments, and any behind them: `PathPrefix` of the Gateway API. No slash at the end.
    Segments(Text),
    /// These characters, and any behind them: `prefix` of `VirtualService`.
    Prefix(Text),
    /// As one of the others, letters of either case.
    IgnoringCase(Box<PathMatch>),
    /// All of it matches.
    Regex(Pattern),
}

impl PathMatch {
    /// Whether a path is so.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(wanted) => path == &**wanted,
            Self::Segments(wanted) => path
                .strip_prefix(&**wanted)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            Self::Prefix(wanted) => path.starts_with(&**wanted),
            Self::IgnoringCase(inner) => inner.lowercase().matches(&path.to_ascii_lowercase()),
            Self::Regex(pattern) => pattern.matches(path),
        }
    }

    fn lowercase(&self) -> Self {
        let lower = |text: &Text| Text::from(text.to_ascii_lowercase());
        match self {
            Self::Exact(text) => Self::Exact(lower(text)),
            Self::Segments(text) => Self::Segments(lower(text)),
            Self::Prefix(text) => Self::Prefix(lower(text)),
            other => other.clone(),
        }
    }
}

/// A header or a parameter.
#[derive(Clone, Debug)]
pub struct Field {
    /// Its name.
    pub name: Text,
    /// What its value must be.
    pub value: TextMatch,
    /// Whether the opposite must hold (`withoutHeaders`).
    pub negated: bool,
}

impl Match {
    /// Whether a request fulfils it.
    pub fn matches(&self, head: &Head<'_>) -> bool {
        let is = |wanted: &Option<TextMatch>, found: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted.matches(found))
        };
        self.port.is_none_or(|port| port == head.port)
            && is(&self.method, head.method)
            && is(&self.scheme, head.scheme)
            && is(&self.authority, head.authority)
            && self
                .path
                .as_ref()
                .is_none_or(|path| path.matches(head.path))
            && self
                .headers
                .iter()
                .all(|field| field.holds(header(head, &field.name).as_deref()))
            && self
                .query
                .iter()
                .all(|field| field.holds(parameter(head, &field.name).as_deref()))
    }
}

impl Field {
    fn holds(&self, found: Option<&str>) -> bool {
        found.is_some_and(|found| self.value.matches(found)) != self.negated
    }
}

/// The value of a header; several of one name are joined with commas (RFC 9110, 5.3).
fn header<'a>(head: &Head<'a>, name: &str) -> Option<std::borrow::Cow<'a, str>> {
    let mut values = head
        .headers
        .iter()
        .filter(|(n, _)| *n == name)
        .map(|(_, v)| *v);
    let first = values.next()?;
    let Some(second) = values.next() else {
        return Some(first.into());
    };
    let mut joined = format!("{first},{second}");
    for value in values {
        joined.push(',');
        joined.push_str(value);
    }
    Some(joined.into())
}

/// The first parameter of a name, decoded.
fn parameter<'a>(head: &Head<'a>, name: &str) -> Option<std::borrow::Cow<'a, str>> {
    let pairs = head.query?.split('&');
    let mut pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.find_map(|(key, value)| (path::decoded(key) == name).then(|| path::decoded(value)))
}
