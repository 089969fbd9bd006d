//! How a text must be.

use std::sync::Arc;

use regex::Regex;

use crate::Text;

/// A condition on a text.
#[derive(Clone, Debug)]
pub enum TextMatch {
    /// Exactly this.
    Exact(Text),
    /// It begins with this.
    Prefix(Text),
    /// All of it matches.
    Regex(Pattern),
    /// It is there.
    Present,
}

impl TextMatch {
    /// Whether a text is so.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(wanted) => text == &**wanted,
            Self::Prefix(wanted) => text.starts_with(&**wanted),
            Self::Regex(pattern) => pattern.matches(text),
            Self::Present => true,
        }
    }
}

/// A regular expression that a text must match from end to end (RE2's full match). It takes time in
/// proportion to the text, whatever it says.
#[derive(Clone, Debug)]
pub struct Pattern(Arc<Compiled>);

/// Behind a pointer: most conditions have none.
#[derive(Debug)]
struct Compiled {
    source: Text,
    regex: Regex,
}

/// Why an expression cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{pattern:?} is no regular expression: {reason}")]
pub struct PatternError {
    pattern: String,
    reason: String,
}

impl Pattern {
    /// Compiles an expression.
    ///
    /// # Errors
    /// It is none, or would take too much memory.
    pub fn new(source: &str) -> Result<Self, PatternError> {
        let refused = |error: regex::Error| PatternError {
            pattern: source.to_owned(),
            reason: error.to_string(),
        };
        // By itself first: `a)(b` must not become one within parentheses.
        Regex::new(source).map_err(refused)?;
        let regex = Regex::new(&format!(r"\A(?:{source})\z")).map_err(refused)?;
        Ok(Self(Arc::new(Compiled {
            source: source.into(),
            regex,
        })))
    }

    /// The expression as it was written.
    pub fn source(&self) -> &str {
        &self.0.source
    }

    /// Whether all of a text matches.
    pub fn matches(&self, text: &str) -> bool {
        self.0.regex.is_match(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_a_text_must_match() {
        let pattern = Pattern::new("a|ab").unwrap();
        assert!(pattern.matches("a") && pattern.matches("ab"));
        assert!(!pattern.matches("abc") && !pattern.matches("xa") && !pattern.matches("a\n"));
        assert!(Pattern::new("a)(b").is_err());
        // RE2 has no such flag.
        assert!(Pattern::new("(?x) a # comment").is_err());
    }
}
