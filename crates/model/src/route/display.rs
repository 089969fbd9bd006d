//! Conditions of rules as people read them, in dumps and tables.

use std::fmt::{Display, Formatter, Result};

use super::{Match, PathMatch, TextMatch};

impl Display for PathMatch {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Exact(path) => write!(f, "{path}"),
            Self::Segments(path) | Self::Prefix(path) => write!(f, "{path}*"),
            Self::IgnoringCase(inner) => write!(f, "{inner} (any case)"),
            Self::Regex(pattern) => write!(f, "~{}", pattern.source()),
        }
    }
}

impl Display for TextMatch {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Exact(text) => write!(f, "{text}"),
            Self::Prefix(text) => write!(f, "{text}*"),
            Self::Regex(pattern) => write!(f, "~{}", pattern.source()),
            Self::Present => f.write_str("*"),
        }
    }
}

impl Display for Match {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match &self.path {
            Some(path) => write!(f, "{path}")?,
            None => f.write_str("/*")?,
        }
        let named = [
            ("method", &self.method),
            ("scheme", &self.scheme),
            ("authority", &self.authority),
        ];
        for (name, value) in named {
            if let Some(value) = value {
                write!(f, " {name}={value}")?;
            }
        }
        for (kind, fields) in [("header", &self.headers), ("query", &self.query)] {
            for field in fields {
                let is = if field.negated { "!=" } else { "=" };
                write!(f, " {kind}:{}{is}{}", field.name, field.value)?;
            }
        }
        match self.port {
            Some(port) => write!(f, " port={port}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{Field, Pattern};

    #[test]
    fn what_people_read() {
        assert_eq!(Match::default().to_string(), "/*");
        let all = Match {
            path: Some(PathMatch::Segments("/v2".into())),
            method: Some(TextMatch::Exact("GET".into())),
            headers: vec![Field {
                name: "x-a".into(),
                value: TextMatch::Regex(Pattern::new("b+").unwrap()),
                negated: true,
            }],
            port: Some(80),
            ..Match::default()
        };
        assert_eq!(all.to_string(), "/v2* method=GET header:x-a!=~b+ port=80");
    }
}
