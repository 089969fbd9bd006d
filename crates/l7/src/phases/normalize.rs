//! Phase `normalize`: one host and one path, so that all who come later see the same.

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::{Method, Version};

use super::Exchange;
use crate::failure::Failure;
use crate::serve::HEAD_LIMIT;

/// Checks the head, and gives host, path and query.
pub(crate) fn normalize(parts: &mut Parts) -> Result<Exchange, Failure> {
    size(parts)?;
    framing(parts)?;
    let authority = authority(parts)?;
    if parts.method == Method::CONNECT {
        return Err(Failure::Malformed(
            "CONNECT is not for requests to a service",
        ));
    }
    let path = match parts.uri.path() {
        "*" if parts.method == Method::OPTIONS => "*".to_owned(),
        path if path.starts_with('/') => normalized(path)?,
        _ => return Err(Failure::Malformed("the path does not begin with a slash")),
    };
    Ok(Exchange {
        authority,
        path,
        query: parts.uri.query().map(str::to_owned),
        token: None,
    })
}

/// The head is no larger than heads may be. The parser's own bound is one of its buffer, which a
/// head that comes in at once can be larger than.
fn size(parts: &Parts) -> Result<(), Failure> {
    let target = parts.uri.path().len() + parts.uri.query().map_or(0, str::len);
    let headers = parts.headers.iter();
    let headers: usize = headers
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    match parts.method.as_str().len() + target + headers <= HEAD_LIMIT {
        true => Ok(()),
        false => Err(Failure::TooLarge),
    }
}

/// How long the body is has one meaning (RFC 9112, 6.3): a length, or chunks, or neither.
fn framing(parts: &Parts) -> Result<(), Failure> {
    let mut lengths = parts.headers.get_all(CONTENT_LENGTH).iter();
    let mut codings = parts.headers.get_all(TRANSFER_ENCODING).iter();
    let digits = |value: &[u8]| !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    match (lengths.next(), codings.next()) {
        (None, None) => Ok(()),
        (Some(_), Some(_)) => Err(Failure::Malformed("a length and a transfer encoding")),
        (Some(length), None) => match lengths.next().is_none() && digits(length.as_bytes()) {
            true => Ok(()),
            false => Err(Failure::Malformed("not one length")),
        },
        (None, Some(coding)) => {
            let chunked = coding.as_bytes().eq_ignore_ascii_case(b"chunked");
            match codings.next().is_none() && chunked {
                true => Ok(()),
                false => Err(Failure::Malformed("a transfer encoding other than chunked")),
            }
        }
    }
}

/// The host: of the target if it has one, or of the one header `Host`.
fn authority(parts: &Parts) -> Result<String, Failure> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let (host, more) = (hosts.next(), hosts.next());
    if more.is_some() {
        return Err(Failure::Malformed("more than one Host"));
    }
    let of_header = match host.map(|host| host.to_str()) {
        None => None,
        Some(Ok(host)) => Some(host),
        Some(Err(_)) => return Err(Failure::Malformed("Host is no text")),
    };
    let of_target = parts.uri.authority().map(|a| a.as_str());
    if of_header == Some("") {
        return Err(Failure::Malformed("an empty Host"));
    }
    match (of_target, of_header) {
        (Some(target), Some(header)) if !target.eq_ignore_ascii_case(header) => {
            Err(Failure::Malformed("the target and Host name two hosts"))
        }
        (Some(host), _) | (None, Some(host)) => match is_authority(host) {
            true => Ok(host.to_owned()),
            false => Err(Failure::Malformed("Host is no host")),
        },
        (None, None) if parts.version == Version::HTTP_10 => Ok(String::new()),
        (None, None) => Err(Failure::Malformed("no Host")),
    }
}

/// Characters of a host and port, and nothing else: no user, no path.
fn is_authority(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~:[]%!$&'()*+,;=".contains(&b);
    text.bytes().all(plain)
}

/// The path as Istio's `BASE` has it: backslashes are slashes, what need not be escaped is not, and
/// dot segments are gone.
fn normalized(path: &str) -> Result<String, Failure> {
    let simple = |b: &u8| b.is_ascii_alphanumeric() || b"/-_~!$&'()*+,;=:@".contains(b);
    if path.bytes().all(|b| simple(&b)) {
        return Ok(path.to_owned());
    }
    let unescaped = unescape(path)?;
    let mut out: Vec<&str> = Vec::new();
    let mut segments = unescaped.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." => {
                if last {
                    out.push("");
                }
            }
            ".." => {
                out.pop();
                if last {
                    out.push("");
                }
            }
            other => out.push(other),
        }
    }
    Ok(format!("/{}", out.join("/")))
}

fn unescape(path: &str) -> Result<String, Failure> {
    let bytes = path.as_bytes();
    let mut out = String::with_capacity(path.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' => out.push('/'),
            b'%' => {
                let digit = |i: usize| char::from(*bytes.get(i)?).to_digit(16);
                let (Some(high), Some(low)) = (digit(at + 1), digit(at + 2)) else {
                    return Err(Failure::Malformed("an escape in the path is none"));
                };
                let value = (high * 16 + low) as u8;
                if value == 0 {
                    return Err(Failure::Malformed("the path has a zero byte"));
                }
                match value.is_ascii_alphanumeric() || b"-._~".contains(&value) {
                    true => out.push(char::from(value)),
                    false => out.push_str(&format!("%{value:02X}")),
                }
                at += 2;
            }
            b if b.is_ascii() => out.push(char::from(*b)),
            _ => return Err(Failure::Malformed("the path is not ASCII")),
        }
        at += 1;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn exchange(uri: &str, hosts: &[&str]) -> Result<Exchange, Failure> {
        let mut request = Request::builder().uri(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        normalize(&mut parts)
    }

    #[test]
    fn there_is_one_host() {
        let host = |uri, hosts: &[&str]| exchange(uri, hosts).map(|e| e.authority).ok();
        assert_eq!(host("/", &["a:80"]).unwrap(), "a:80");
        assert_eq!(host("http://a/", &["A"]).unwrap(), "a");
        assert_eq!(host("http://a/", &[]).unwrap(), "a");
        assert_eq!(host("/", &[]), None);
        assert_eq!(host("/", &["a", "a"]), None);
        assert_eq!(host("http://a/", &["b"]), None);
        assert_eq!(host("/", &["a/b"]), None);
        assert_eq!(host("/", &["user@a"]), None);
    }

    #[test]
    fn paths_have_one_form() {
        for (path, expected) in [
            ("/a/b", "/a/b"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/../../b", "/b"),
            ("/a/..", "/"),
            ("/a/.", "/a/"),
            ("/a//b", "/a//b"),
            ("/%61%2d%2f", "/a-%2F"),
            ("/a%2F..%2Fb", "/a%2F..%2Fb"),
            ("/%2e%2e/admin", "/admin"),
            ("/a.b", "/a.b"),
        ] {
            assert_eq!(normalized(path).unwrap(), expected, "{path}");
        }
        for bad in ["/%", "/%2", "/%zz", "/%00"] {
            assert!(normalized(bad).is_err(), "{bad}");
        }
    }
}
