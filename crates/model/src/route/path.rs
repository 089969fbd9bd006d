//! Paths: decoded, and written anew by a rule.

use std::borrow::Cow;

use crate::Text;

use super::PathMatch;

/// What a rule puts in the place of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replace {
    /// This, whatever it was.
    Full(Text),
    /// This in the place of the prefix that the rule's match has named.
    Prefix(Text),
}

/// The path of a request as a rule rewrites it (`URLRewrite`, `RequestRedirect`; `rewrite.uri`).
///
/// A prefix is replaced by whole segments for [`PathMatch::Segments`], so that `/a/b` with `/a`
/// replaced by `/` is `/b`, and `/a` replaced by nothing is `/`; by characters for
/// [`PathMatch::Prefix`]. Where the match names no prefix, `Replace::Prefix` replaces all of it.
pub fn rewrite(path: &str, matched: Option<&PathMatch>, replace: &Replace) -> String {
    let replacement = match replace {
        Replace::Full(full) => return full.to_string(),
        Replace::Prefix(replacement) => replacement,
    };
    let matched = match matched {
        Some(PathMatch::IgnoringCase(inner)) => Some(&**inner),
        other => other,
    };
    match matched {
        Some(PathMatch::Segments(prefix)) => {
            let rest = path.get(prefix.len()..).unwrap_or_default();
            let replacement = replacement.trim_end_matches('/');
            match (replacement, rest) {
                ("", "") => "/".to_owned(),
                (replacement, rest) => format!("{replacement}{rest}"),
            }
        }
        Some(PathMatch::Prefix(prefix)) => {
            let rest = path.get(prefix.len()..).unwrap_or_default();
            format!("{replacement}{rest}")
        }
        // No path in the match is the prefix `/`.
        None => format!("{}{path}", replacement.trim_end_matches('/')),
        _ => replacement.to_string(),
    }
}

/// A part of a query with its escapes and pluses decoded. What is no escape stays as it is.
pub(super) fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return text.into();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let escaped = || {
            let digits = bytes.get(at + 1..at + 3)?;
            let digit = |byte: u8| char::from(byte).to_digit(16);
            u8::try_from(digit(digits[0])? * 16 + digit(digits[1])?).ok()
        };
        match byte {
            b'+' => out.push(b' '),
            b'%' if let Some(byte) = escaped() => {
                out.push(byte);
                at += 2;
            }
            other => out.push(*other),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of the Gateway API's `ReplacePrefixMatch`.
    #[test]
    fn prefixes_are_replaced_by_whole_segments() {
        for (path, prefix, replacement, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/bar", "", "/xyz", "/xyz/foo/bar"),
        ] {
            let matched = PathMatch::Segments(prefix.into());
            let replace = Replace::Prefix(replacement.into());
            assert_eq!(
                rewrite(path, Some(&matched), &replace),
                expected,
                "{path} {prefix} {replacement}"
            );
        }
        let all = Replace::Prefix("/xyz".into());
        assert_eq!(rewrite("/foo", None, &all), "/xyz/foo");
        assert_eq!(rewrite("/foo", None, &Replace::Full("/new".into())), "/new");
        let characters = PathMatch::Prefix("/fo".into());
        assert_eq!(rewrite("/foo", Some(&characters), &all), "/xyzo");
    }

    #[test]
    fn queries_are_decoded() {
        assert_eq!(decoded("a+b%20c%C3%A4"), "a b cä");
        assert_eq!(decoded("100%"), "100%");
        assert_eq!(decoded("%zz%4"), "%zz%4");
    }
}
