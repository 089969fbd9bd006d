//! The order of rules that the Gateway API asks for (HTTPRoute, "matches"; GRPCRoute the same).

use std::cmp::{Ordering, Reverse};

use super::{Match, PathMatch};
use crate::Text;

/// Where a rule comes from, which decides between equals.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Age {
    /// When the route was made, seconds since 1970: the older first.
    pub created: i64,
    /// Namespace and name of the route.
    pub name: (Text, Text),
    /// Number of the rule in its route.
    pub rule: usize,
    /// Number of the alternative in its rule.
    pub alternative: usize,
}

/// Which of two alternatives is looked at first: `Less` is the first.
///
/// The exact path before the longest prefix, then a method, then the most headers, then the most
/// parameters of the query; of what is left the older, and the first by name. The specification
/// leaves the place of regular expressions open; they come last, longer ones first, as in Istio.
pub fn precedence(a: (&Match, &Age), b: (&Match, &Age)) -> Ordering {
    let rank = |(one, age): (&Match, &Age)| {
        let (kind, length) = path_rank(one.path.as_ref());
        (
            kind,
            Reverse(length),
            Reverse(one.method.is_some()),
            Reverse(one.headers.len()),
            Reverse(one.query.len()),
            age.clone(),
        )
    };
    rank(a).cmp(&rank(b))
}

/// Kind and length of a path: exact ones first, then prefixes. No path is the prefix of length 0.
fn path_rank(path: Option<&PathMatch>) -> (u8, usize) {
    match path {
        Some(PathMatch::Exact(text)) => (0, text.len()),
        Some(PathMatch::Segments(text) | PathMatch::Prefix(text)) => (1, text.len()),
        Some(PathMatch::IgnoringCase(inner)) => path_rank(Some(inner)),
        Some(PathMatch::Regex(pattern)) => (2, pattern.source().len()),
        None => (1, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{Field, Pattern, TextMatch};

    fn age(created: i64, name: &str) -> Age {
        Age {
            created,
            name: ("ns".into(), name.into()),
            rule: 0,
            alternative: 0,
        }
    }

    fn field(name: &str) -> Field {
        Field {
            name: name.into(),
            value: TextMatch::Present,
            negated: false,
        }
    }

    #[test]
    fn the_more_exact_comes_first() {
        let on = |path| Match {
            path: Some(path),
            ..Match::default()
        };
        let long = on(PathMatch::Segments("/abc".into()));
        let ordered = [
            on(PathMatch::Exact("/a".into())),
            Match {
                method: Some(TextMatch::Exact("GET".into())),
                ..long.clone()
            },
            Match {
                headers: vec![field("a"), field("b")],
                ..long.clone()
            },
            Match {
                headers: vec![field("a")],
                query: vec![field("q"), field("r")],
                ..long.clone()
            },
            Match {
                headers: vec![field("a")],
                query: vec![field("q")],
                ..long.clone()
            },
            long,
            on(PathMatch::Segments("/a".into())),
            Match::default(),
            on(PathMatch::Regex(Pattern::new("/a.*b").unwrap())),
            on(PathMatch::Regex(Pattern::new("/a").unwrap())),
        ];
        for (i, pair) in ordered.windows(2).enumerate() {
            // Older and earlier by name, and behind all the same.
            let (new, old) = (age(9, "z"), age(1, "a"));
            let order = precedence((&pair[0], &new), (&pair[1], &old));
            assert_eq!(order, Ordering::Less, "{i}");
        }
    }

    #[test]
    fn equals_are_told_apart_by_age_and_name() {
        let any = Match::default();
        let order = |a: &Age, b: &Age| precedence((&any, a), (&any, b));
        assert_eq!(order(&age(1, "z"), &age(2, "a")), Ordering::Less);
        assert_eq!(order(&age(1, "a"), &age(1, "b")), Ordering::Less);
        let later = Age {
            rule: 1,
            ..age(1, "a")
        };
        assert_eq!(order(&age(1, "a"), &later), Ordering::Less);
    }
}
