//! Paths in policies.

use crate::Text;
use crate::policy::StringMatch;

/// How a path must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathPattern {
    /// As a text.
    Text(StringMatch),
    /// As a template: `{*}` is one segment, `{**}` at the end any number of them.
    Template(Vec<Text>),
}

impl PathPattern {
    /// Reads a pattern; `None` if it is a template that cannot be.
    pub fn parse(pattern: &str) -> Option<Self> {
        if !pattern.contains(['{', '}']) {
            return Some(Self::Text(string_match(pattern)));
        }
        let segments: Vec<Text> = pattern
            .strip_prefix('/')?
            .split('/')
            .map(Text::from)
            .collect();
        let last = segments.len() - 1;
        let good = segments
            .iter()
            .enumerate()
            .all(|(i, segment)| match &**segment {
                "{*}" => true,
                "{**}" => i == last,
                other => !other.contains(['{', '}', '*']),
            });
        good.then_some(Self::Template(segments))
    }

    /// The pattern as it is written.
    pub fn text(&self) -> String {
        match self {
            Self::Text(text) => written(text),
            Self::Template(segments) => format!("/{}", segments.join("/")),
        }
    }

    /// Whether a path is so.
    pub fn matches(&self, path: &str) -> bool {
        let segments = match self {
            Self::Text(text) => return super::text(text, path),
            Self::Template(segments) => segments,
        };
        let Some(path) = path.strip_prefix('/') else {
            return false;
        };
        let mut found = path.split('/');
        for segment in segments {
            match &**segment {
                "{**}" => return true,
                "{*}" if found.next().is_some_and(|f| !f.is_empty()) => {}
                wanted if found.next() == Some(wanted) => {}
                _ => return false,
            }
        }
        found.next().is_none()
    }
}

/// `a`, `a*`, `*a` or `*`, as policies write texts.
pub fn string_match(pattern: &str) -> StringMatch {
    match (
        pattern,
        pattern.strip_suffix('*'),
        pattern.strip_prefix('*'),
    ) {
        ("*", _, _) => StringMatch::Presence,
        (_, Some(prefix), _) => StringMatch::Prefix(prefix.into()),
        (_, None, Some(suffix)) => StringMatch::Suffix(suffix.into()),
        (exact, None, None) => StringMatch::Exact(exact.into()),
    }
}

fn written(text: &StringMatch) -> String {
    match text {
        StringMatch::Exact(text) => text.to_string(),
        StringMatch::Prefix(text) => format!("{text}*"),
        StringMatch::Suffix(text) => format!("*{text}"),
        StringMatch::Presence => "*".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates() {
        let matches =
            |pattern: &str, path: &str| PathPattern::parse(pattern).unwrap().matches(path);
        assert!(matches("/a/{*}/c", "/a/b/c"));
        assert!(!matches("/a/{*}/c", "/a/b/b/c") && !matches("/a/{*}/c", "/a//c"));
        assert!(!matches("/a/{*}", "/a") && !matches("/a/{*}", "/a/b/c"));
        assert!(matches("/a/{**}", "/a/") && matches("/a/{**}", "/a/b/c"));
        assert!(!matches("/a/{**}", "/b/c"));
        assert!(matches("/a*", "/abc") && matches("*c", "/abc") && matches("*", "/"));
        for bad in ["/{**}/a", "/{a}", "/a{*}", "{*}", "/{*}*"] {
            assert_eq!(PathPattern::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_written_reads_the_same() {
        for pattern in ["/a", "/a*", "*a", "*", "/a/{*}/{**}"] {
            assert_eq!(PathPattern::parse(pattern).unwrap().text(), pattern);
        }
    }
}
