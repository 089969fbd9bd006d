//! Headers: changed as a rule says, and taken out where they end.

use ambit_model::route::HeaderChanges;
use http::header::{
    CONNECTION, COOKIE, EXPECT, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};

/// Changes headers: set, add, remove. A name or value that HTTP cannot carry changes nothing; the
/// API does not let them in.
pub(crate) fn change(headers: &mut HeaderMap, changes: &HeaderChanges) {
    if changes.is_empty() {
        return;
    }
    let pair = |(name, value): &(ambit_model::Text, ambit_model::Text)| {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        Some((name, HeaderValue::from_str(value).ok()?))
    };
    for (name, value) in changes.set.iter().filter_map(pair) {
        headers.insert(name, value);
    }
    for (name, value) in changes.add.iter().filter_map(pair) {
        headers.append(name, value);
    }
    for name in &changes.remove {
        headers.remove(&**name);
    }
}

/// Takes out what is for the next hop alone (RFC 9110, 7.6.1), and what `Connection` names.
/// `TE: trailers` stays: gRPC asks for it end to end.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .collect();
    let trailers = headers
        .get_all(TE)
        .iter()
        .any(|v| v.as_bytes().eq_ignore_ascii_case(b"trailers"));
    for name in named {
        headers.remove(name);
    }
    let keep_alive = HeaderName::from_static("keep-alive");
    let proxy = HeaderName::from_static("proxy-connection");
    for name in [
        CONNECTION,
        keep_alive,
        proxy,
        TE,
        TRANSFER_ENCODING,
        UPGRADE,
        EXPECT,
    ] {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// The first parameter of a name, as it came.
pub(crate) fn parameter(query: &str, name: &str) -> Option<String> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(key, _)| *key == name)?;
    Some(value.to_owned())
}

/// The first cookie of a name, without the quotes that it may have.
pub(crate) fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let values = headers.get_all(COOKIE).iter();
    let mut pairs = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = pairs.find(|(key, _)| *key == name)?;
    Some(value.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn changes_are_made_in_their_order() {
        let mut all = headers(&[("a", "1"), ("a", "2"), ("b", "1"), ("c", "1")]);
        let changes = HeaderChanges {
            set: vec![("a".into(), "3".into())],
            add: vec![("b".into(), "2".into())],
            remove: vec!["c".into()],
        };
        change(&mut all, &changes);
        assert_eq!(all, headers(&[("a", "3"), ("b", "1"), ("b", "2")]));
    }

    #[test]
    fn cookies_and_parameters() {
        let found = |value: &str| cookie(&headers(&[("cookie", value)]), "c");
        assert_eq!(found("a=1; c=2; b=3").unwrap(), "2");
        assert_eq!(found("c=\"2\"").unwrap(), "2");
        assert_eq!(found("cc=2"), None);
        assert_eq!(parameter("a=1&b=2", "b").unwrap(), "2");
        assert_eq!(parameter("a=1&b", "b"), None);
    }

    #[test]
    fn what_is_for_the_next_hop_ends_here() {
        let mut all = headers(&[
            ("connection", "x-mine, close"),
            ("x-mine", "1"),
            ("keep-alive", "5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("x-other", "1"),
        ]);
        strip_hop_by_hop(&mut all);
        assert_eq!(all, headers(&[("te", "trailers"), ("x-other", "1")]));
    }
}
