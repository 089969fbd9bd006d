//! The table beside a naive model: every alternative in order.

use proptest::{collection::vec, option, prelude::*, sample::select};

use super::*;

const PATHS: [&str; 8] = ["/", "/a", "/a/", "/a/b", "/ab", "/A/b", "/a/b/c", "//a"];
const PREFIXES: [&str; 6] = ["", "/a", "/a/b", "/ab", "/a/", "/A"];
const NAMES: [&str; 2] = ["x", "y"];
const VALUES: [&str; 3] = ["", "1", "22"];

fn text() -> impl Strategy<Value = TextMatch> {
    prop_oneof![
        select(&VALUES[..]).prop_map(|v| TextMatch::Exact(v.into())),
        select(&VALUES[..]).prop_map(|v| TextMatch::Prefix(v.into())),
        Just(TextMatch::Regex(Pattern::new("1|2+").unwrap())),
        Just(TextMatch::Present),
    ]
}

fn path() -> impl Strategy<Value = PathMatch> {
    let simple = prop_oneof![
        select(&PATHS[..]).prop_map(|p| PathMatch::Exact(p.into())),
        select(&PREFIXES[..]).prop_map(|p| PathMatch::Segments(p.trim_end_matches('/').into())),
        select(&PREFIXES[..]).prop_map(|p| PathMatch::Prefix(p.into())),
    ];
    prop_oneof![
        4 => simple.clone(),
        1 => simple.prop_map(|p| PathMatch::IgnoringCase(Box::new(p))),
        1 => Just(PathMatch::Regex(Pattern::new("/a(/.*)?").unwrap())),
    ]
}

fn field() -> impl Strategy<Value = Field> {
    (select(&NAMES[..]), text(), any::<bool>()).prop_map(|(name, value, negated)| Field {
        name: name.into(),
        value,
        negated,
    })
}

fn alternative() -> impl Strategy<Value = Match> {
    let method = option::weighted(0.3, Just(TextMatch::Exact("GET".into())));
    let port = option::weighted(0.2, select(&[80u16, 81][..]));
    (
        option::weighted(0.8, path()),
        method,
        vec(field(), 0..2),
        vec(field(), 0..2),
        port,
    )
        .prop_map(|(path, method, headers, query, port)| Match {
            path,
            method,
            headers,
            query,
            port,
            ..Match::default()
        })
}

/// What a match says, word by word.
fn naive(one: &Match, head: &Head<'_>) -> bool {
    fn path(one: &PathMatch, found: &str) -> bool {
        match one {
            PathMatch::Exact(p) => found == &**p,
            PathMatch::Prefix(p) => found.starts_with(&**p),
            PathMatch::Regex(r) => r.matches(found),
            PathMatch::IgnoringCase(inner) => {
                let lower = found.to_lowercase();
                match &**inner {
                    PathMatch::Exact(p) => lower == p.to_lowercase(),
                    PathMatch::Prefix(p) => lower.starts_with(&p.to_lowercase()),
                    PathMatch::Segments(p) => segments(&p.to_lowercase(), &lower),
                    other => path(other, found),
                }
            }
            PathMatch::Segments(p) => segments(p, found),
        }
    }
    fn segments(prefix: &str, found: &str) -> bool {
        let wanted: Vec<&str> = prefix.split('/').collect();
        let there: Vec<&str> = found.split('/').collect();
        there.starts_with(&wanted)
    }
    let field = |one: &Field, values: Vec<&str>| {
        let value = (!values.is_empty()).then(|| values.join(","));
        let holds = match (&one.value, &value) {
            (_, None) => false,
            (TextMatch::Exact(t), Some(v)) => **t == **v,
            (TextMatch::Prefix(t), Some(v)) => v.starts_with(&**t),
            (TextMatch::Regex(r), Some(v)) => r.matches(v),
            (TextMatch::Present, Some(_)) => true,
        };
        holds != one.negated
    };
    let headers = |name: &str| {
        let named = head.headers.iter().filter(|(n, _)| *n == name);
        named.map(|(_, v)| *v).collect::<Vec<&str>>()
    };
    let parameters = |name: &str| {
        let pairs = head.query.unwrap_or_default().split('&');
        let mut pairs = pairs.filter_map(|pair| pair.split_once('='));
        pairs
            .find(|(n, _)| *n == name)
            .map(|(_, v)| v)
            .into_iter()
            .collect::<Vec<&str>>()
    };
    one.path.as_ref().is_none_or(|p| path(p, head.path))
        && one.method.as_ref().is_none_or(|m| m.matches(head.method))
        && one.port.is_none_or(|p| p == head.port)
        && one.headers.iter().all(|f| field(f, headers(&f.name)))
        && one.query.iter().all(|f| field(f, parameters(&f.name)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_first_that_matches(
        alternatives in vec(alternative(), 0..12),
        path in select(&PATHS[..]),
        method in select(&["GET", "POST"][..]),
        headers in vec((select(&NAMES[..]), select(&VALUES[..])), 0..3),
        query in option::of(vec((select(&NAMES[..]), select(&VALUES[..])), 1..3)),
        port in select(&[80u16, 81][..]),
    ) {
        let query = query.map(|pairs| {
            let pairs: Vec<String> = pairs.iter().map(|(k, v)| format!("{k}={v}")).collect();
            pairs.join("&")
        });
        let head = Head {
            method, path, port, headers: &headers, query: query.as_deref(),
            scheme: "http", authority: "svc",
        };
        let wanted = alternatives.iter().position(|one| naive(one, &head));
        let numbered: Vec<(Match, usize)> = alternatives.into_iter().zip(0..).collect();
        let table = Table::new(numbered);
        prop_assert_eq!(table.find(&head).map(|(_, rule)| rule), wanted);
    }
}

#[test]
fn several_headers_of_one_name_are_one_value() {
    let wanted = Match {
        headers: vec![Field {
            name: "x".into(),
            value: TextMatch::Exact("1,22".into()),
            negated: false,
        }],
        ..Match::default()
    };
    let head = Head {
        method: "GET",
        scheme: "http",
        authority: "svc",
        path: "/",
        query: Some("q=a%20b&q=c"),
        port: 80,
        headers: &[("x", "1"), ("x", "22")],
    };
    assert!(wanted.matches(&head));
    let parameter = |value: &str| Match {
        query: vec![Field {
            name: "q".into(),
            value: TextMatch::Exact(value.into()),
            negated: false,
        }],
        ..Match::default()
    };
    assert!(parameter("a b").matches(&head) && !parameter("c").matches(&head));
}
