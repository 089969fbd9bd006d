//! The place where a redirect sends a client.

use super::{Head, PathMatch, Redirect, rewrite};

/// The value of `Location` for a request that met this alternative.
///
/// The port is the redirect's; else, if the redirect names a scheme, that scheme's own; else the
/// port that the client used. A port that is the scheme's own is not written (HTTPRoute,
/// "RequestRedirect").
pub fn location(head: &Head<'_>, matched: Option<&PathMatch>, redirect: &Redirect) -> String {
    let scheme = redirect.scheme.as_deref().unwrap_or(head.scheme);
    let (host, asked) = split_port(head.authority);
    let host = redirect.host.as_deref().unwrap_or(host);
    let own = if scheme == "https" { 443 } else { 80 };
    let port = match (redirect.port, &redirect.scheme) {
        (Some(port), _) => port,
        (None, Some(_)) => own,
        (None, None) => asked.unwrap_or(head.port),
    };
    let mut location = format!("{scheme}://{host}");
    if port != own {
        location.push_str(&format!(":{port}"));
    }
    match &redirect.path {
        Some(replace) => location.push_str(&rewrite(head.path, matched, replace)),
        None => location.push_str(head.path),
    }
    if let Some(query) = head.query {
        location.push('?');
        location.push_str(query);
    }
    location
}

/// Host and port of an authority; the brackets of an IPv6 address stay with it.
pub fn split_port(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            match port.parse().ok() {
                Some(port) => (host, Some(port)),
                None => (authority, None),
            }
        }
        _ => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Replace;

    fn to(authority: &str, port: u16, redirect: Redirect) -> String {
        let head = Head {
            method: "GET",
            scheme: "http",
            authority,
            path: "/a/b",
            query: Some("q=1"),
            port,
            headers: &[],
        };
        location(&head, Some(&PathMatch::Segments("/a".into())), &redirect)
    }

    #[test]
    fn ports_and_schemes() {
        let none = Redirect::default;
        assert_eq!(to("h", 80, none()), "http://h/a/b?q=1");
        assert_eq!(to("h:8080", 80, none()), "http://h:8080/a/b?q=1");
        assert_eq!(to("h", 8080, none()), "http://h:8080/a/b?q=1");
        let https = Redirect {
            scheme: Some("https".into()),
            ..none()
        };
        assert_eq!(to("h:8080", 8080, https.clone()), "https://h/a/b?q=1");
        let all = Redirect {
            host: Some("x".into()),
            port: Some(8443),
            path: Some(Replace::Prefix("/z".into())),
            ..https
        };
        assert_eq!(to("h", 80, all), "https://x:8443/z/b?q=1");
        assert_eq!(to("[::1]:81", 80, none()), "http://[::1]:81/a/b?q=1");
    }

    #[test]
    fn authorities() {
        assert_eq!(split_port("h:1"), ("h", Some(1)));
        assert_eq!(split_port("[::1]"), ("[::1]", None));
        assert_eq!(split_port("::1"), ("::1", None));
        assert_eq!(split_port("h:x"), ("h:x", None));
    }
}
