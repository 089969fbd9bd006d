//! Which scopes log at which level: `hickory_server::server=off,access=debug,info`.

use std::fmt;
use std::str::FromStr;

use tracing::Metadata;
use tracing::level_filters::LevelFilter;

/// Prefix of the names of our crates; it is not shown in scopes.
const CRATE_PREFIX: &str = "ambit_";

/// Levels by scope. A directive for a scope covers what is below it (`a` covers `a::b`); the
/// longest one that fits decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Directives {
    /// Sorted by scope.
    scopes: Vec<(String, LevelFilter)>,
    default: LevelFilter,
}

/// Why a text is not a list of directives.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseDirectivesError {
    /// A bare word that is not a level.
    #[error(
        "{0:?} is not a log level (off, error, warn, info, debug, trace); for a scope write <scope>=<level>"
    )]
    NotALevel(String),
    /// `scope=level` with a bad level or no scope.
    #[error("{0:?} is not of the form <scope>=<level>")]
    Malformed(String),
}

impl Default for Directives {
    fn default() -> Self {
        Self {
            scopes: vec![("hickory_server::server".to_owned(), LevelFilter::OFF)],
            default: LevelFilter::INFO,
        }
    }
}

impl FromStr for Directives {
    type Err = ParseDirectivesError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self {
            scopes: Vec::new(),
            default: LevelFilter::ERROR,
        }
        .changed_by(text)
    }
}

impl fmt::Display for Directives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (scope, level) in &self.scopes {
            write!(f, "{scope}={level},")?;
        }
        write!(f, "{}", self.default)
    }
}

impl Directives {
    /// These directives with others over them.
    pub(super) fn changed_by(mut self, text: &str) -> Result<Self, ParseDirectivesError> {
        for directive in text.split(',').map(str::trim).filter(|d| !d.is_empty()) {
            match directive.split_once('=') {
                None => {
                    let level = parse_level(directive);
                    self.default = level
                        .ok_or_else(|| ParseDirectivesError::NotALevel(directive.to_owned()))?;
                }
                Some((scope, level)) => {
                    let level = parse_level(level).filter(|_| is_scope(scope));
                    let malformed = || ParseDirectivesError::Malformed(directive.to_owned());
                    self.set(scope, level.ok_or_else(malformed)?);
                }
            }
        }
        Ok(self)
    }

    fn set(&mut self, scope: &str, level: LevelFilter) {
        match self
            .scopes
            .binary_search_by(|(have, _)| have.as_str().cmp(scope))
        {
            Ok(at) => self.scopes[at].1 = level,
            Err(at) => self.scopes.insert(at, (scope.to_owned(), level)),
        }
    }

    /// The level of a target, by its full name or the name that is shown.
    pub(super) fn level_of(&self, target: &str) -> LevelFilter {
        let short = target.strip_prefix(CRATE_PREFIX).unwrap_or(target);
        let names = [target, short, shown(target)];
        let fits = self
            .scopes
            .iter()
            .filter(|(scope, _)| names.iter().any(|n| covers(scope, n)));
        fits.max_by_key(|(scope, _)| scope.len())
            .map_or(self.default, |(_, level)| *level)
    }

    /// Whether an event or span is to be recorded.
    pub(super) fn enables(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level_of(metadata.target())
    }

    /// The most verbose level of all.
    pub(super) fn max_level(&self) -> LevelFilter {
        self.scopes
            .iter()
            .map(|(_, level)| *level)
            .fold(self.default, LevelFilter::max)
    }
}

/// The scope that a target is shown as: `ambit_ztunnel::proxy` → `proxy`.
pub(super) fn shown(target: &str) -> &str {
    let Some(short) = target.strip_prefix(CRATE_PREFIX) else {
        return target;
    };
    short.split_once("::").map_or(short, |(_, rest)| rest)
}

fn covers(scope: &str, target: &str) -> bool {
    target
        .strip_prefix(scope)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn is_scope(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b':' | b'.'))
}

fn parse_level(text: &str) -> Option<LevelFilter> {
    match text.trim().to_ascii_lowercase().as_str() {
        "off" => Some(LevelFilter::OFF),
        "error" => Some(LevelFilter::ERROR),
        "warn" | "warning" => Some(LevelFilter::WARN),
        "info" => Some(LevelFilter::INFO),
        "debug" => Some(LevelFilter::DEBUG),
        "trace" => Some(LevelFilter::TRACE),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Directives {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_scope_decides() {
        let d = parse("info,proxy=debug,proxy::inbound=off,xds=trace");
        assert_eq!(d.level_of("ambit_ztunnel::proxy"), LevelFilter::DEBUG);
        assert_eq!(
            d.level_of("ambit_ztunnel::proxy::outbound"),
            LevelFilter::DEBUG
        );
        assert_eq!(
            d.level_of("ambit_ztunnel::proxy::inbound"),
            LevelFilter::OFF
        );
        assert_eq!(d.level_of("ambit_ztunnel::proxy2"), LevelFilter::INFO);
        assert_eq!(d.level_of("xds"), LevelFilter::TRACE);
        assert_eq!(
            parse("ztunnel=debug").level_of("ambit_ztunnel::a"),
            LevelFilter::DEBUG
        );
        assert_eq!(d.max_level(), LevelFilter::TRACE);
    }

    #[test]
    fn shows_what_is_in_force() {
        assert_eq!(
            Directives::default().to_string(),
            "hickory_server::server=off,info"
        );
        assert_eq!(
            parse(super::super::DEFAULT_DIRECTIVES),
            Directives::default()
        );
        let changed = Directives::default()
            .changed_by("debug,access=off")
            .unwrap();
        assert_eq!(
            changed.to_string(),
            "access=off,hickory_server::server=off,debug"
        );
    }

    #[test]
    fn refuses_bare_scopes_and_bad_levels() {
        for text in [
            "access",
            "access=loud",
            "=info",
            "[span]=info",
            "info,a b=info",
        ] {
            assert!(text.parse::<Directives>().is_err(), "{text}");
        }
    }

    #[test]
    fn scopes_are_shown_without_our_prefix() {
        assert_eq!(shown("ambit_ztunnel::proxy::inbound"), "proxy::inbound");
        assert_eq!(shown("ambit_ztunnel"), "ztunnel");
        assert_eq!(shown("access"), "access");
        assert_eq!(shown("hyper::server"), "hyper::server");
    }
}
