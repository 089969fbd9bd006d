//! HTTP/1 with more than one meaning, by class: each case is refused, or goes on with one meaning. The
//! backend of the testbed fails the test on anything that could be read in two ways, and none of the
//! requests hidden in others may reach it.

use crate::testbed::{Got, Testbed};

/// What is to become of a case.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wanted {
    /// 4xx, 501 or 505, or an end without an answer; nothing reaches the backend.
    Refused,
    /// The same, or one request that has one meaning.
    NotSmuggled,
    /// That many requests reach the backend, and are answered.
    Passes(usize),
}
use Wanted::{NotSmuggled, Passes, Refused};

struct Case {
    class: &'static str,
    bytes: Vec<u8>,
    wanted: Wanted,
}

/// A request that must never be met.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nhost: echo\r\n\r\n";

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    let mut add = |class, wanted, bytes: Vec<u8>| {
        all.push(Case {
            class,
            bytes,
            wanted,
        });
    };
    two_lengths(&mut add);
    transfer_encodings(&mut add);
    content_lengths(&mut add);
    header_names(&mut add);
    header_values(&mut add);
    request_lines(&mut add);
    hosts(&mut add);
    chunks(&mut add);
    sizes(&mut add);
    hop_by_hop(&mut add);
    good(&mut add);
    all
}

type Add<'a> = &'a mut dyn FnMut(&'static str, Wanted, Vec<u8>);

fn post(headers: &str, body: &str) -> Vec<u8> {
    format!("POST /a HTTP/1.1\r\nhost: echo\r\n{headers}\r\n\r\n{body}").into_bytes()
}

fn two_lengths(add: Add<'_>) {
    let chunked = format!("0\r\n\r\n{HIDDEN}");
    for name in [
        "Transfer-Encoding",
        "transfer-encoding",
        "TRANSFER-ENCODING",
    ] {
        for value in ["chunked", "Chunked", "chunked ", "\tchunked"] {
            let length = format!("content-length: {}", chunked.len());
            let first = format!("{length}\r\n{name}: {value}");
            // The parser takes the chunks and ends the connection behind them (RFC 9112, 6.3).
            add("length, then chunks", NotSmuggled, post(&first, &chunked));
            let second = format!("{name}: {value}\r\ncontent-length: 5");
            add(
                "chunks, then length",
                NotSmuggled,
                post(&second, "0\r\n\r\n"),
            );
        }
    }
}

fn transfer_encodings(add: Add<'_>) {
    for value in [
        "xchunked",
        "chunkedx",
        "identity",
        "gzip",
        "gzip, chunked",
        "chunked, gzip",
        "chunked, identity",
        "chunked, chunked",
        "identity, chunked",
        "chunked;q=1",
        "\"chunked\"",
        "'chunked'",
        ", chunked",
        "chunked,",
        "chunk",
        "c hunked",
        "",
        "cow",
        "\u{b}chunked",
        "chunked\u{b}",
        "chunked\u{c}",
        "x: chunked",
        "[chunked]",
        "chunked\u{a0}",
    ] {
        let header = format!("transfer-encoding: {value}");
        add(
            "odd transfer encoding",
            Refused,
            post(&header, &format!("0\r\n\r\n{HIDDEN}")),
        );
    }
    for second in ["identity", "chunked", "gzip", "x"] {
        let headers = format!("transfer-encoding: chunked\r\ntransfer-encoding: {second}");
        add(
            "two transfer encodings",
            Refused,
            post(&headers, "0\r\n\r\n"),
        );
    }
    let old = b"POST /a HTTP/1.0\r\nhost: echo\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    add("chunks in HTTP/1.0", Refused, old.to_vec());
}

fn content_lengths(add: Add<'_>) {
    for value in [
        "+5",
        "-5",
        "-0",
        "0x5",
        "5.0",
        "5,5",
        "5, 5",
        "5, 6",
        "5;",
        "5 5",
        "",
        "five",
        "5h",
        "\u{b}5",
        "18446744073709551616",
        "99999999999999999999999",
        "0b1",
        "\u{665}",
        "1e1",
        "'5'",
        "_5",
        "5_",
    ] {
        let header = format!("content-length: {value}");
        add("odd length", Refused, post(&header, "hello"));
    }
    for (first, second) in [("5", "6"), ("5", "0"), ("0", "5"), ("5", "x"), ("5", "")] {
        let headers = format!("content-length: {first}\r\ncontent-length: {second}");
        add("two lengths that differ", Refused, post(&headers, "hello"));
    }
    let twice = "content-length: 5\r\ncontent-length: 5";
    add("the same length twice", NotSmuggled, post(twice, "hello"));
    add(
        "an incomplete body",
        NotSmuggled,
        post("content-length: 50", "hello"),
    );
}

fn header_names(add: Add<'_>) {
    for byte in (0u8..=0x20)
        .chain([0x7f, 0x80, 0xff])
        .chain(*b"(),/;<=>?@[\\]{}\"")
    {
        // The end of a line and a colon make other lines of it.
        if matches!(byte, b'\n') {
            continue;
        }
        let mut bytes = b"GET /a HTTP/1.1\r\nhost: echo\r\nx".to_vec();
        bytes.push(byte);
        bytes.extend_from_slice(b"y: 1\r\n\r\n");
        add("a character that no name has", Refused, bytes);
    }
    for line in [
        "transfer-encoding : chunked",
        "content-length : 5",
        "content-length\t: 5",
        "host : b",
        " x: 1",
        "\tx: 1",
        ": 1",
        "x",
        " : 1",
        "content-length\u{0}: 5",
    ] {
        add("a name that is none", Refused, post(line, "hello"));
    }
    let folded = b"GET /a HTTP/1.1\r\nhost: echo\r\nx: 1\r\n 2\r\n\r\n";
    add("a folded line", Refused, folded.to_vec());
    let folded =
        b"POST /a HTTP/1.1\r\nhost: echo\r\ntransfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n";
    add("a folded line", Refused, folded.to_vec());
}

fn header_values(add: Add<'_>) {
    for byte in (0u8..0x20)
        .chain([0x7f])
        .filter(|b| !matches!(b, b'\t' | b'\n'))
    {
        let mut bytes = b"GET /a HTTP/1.1\r\nhost: echo\r\nx: a".to_vec();
        bytes.push(byte);
        bytes.extend_from_slice(b"b\r\n\r\n");
        add("a character that no value has", Refused, bytes);
    }
    let split = format!("GET /a HTTP/1.1\r\nhost: echo\r\nx: 1\r{HIDDEN}");
    add("a carriage return alone", Refused, split.into_bytes());
}

fn request_lines(add: Add<'_>) {
    for line in [
        "GET /a HTTP/1.2",
        "GET /a HTTP/2.0",
        "GET /a HTTP/0.9",
        "GET /a HTTP/11.1",
        "GET /a HTTP/1.10",
        "GET /a http/1.1",
        "GET /a HTTP /1.1",
        "GET /a HTTP/1,1",
        "GET /a HTTX/1.1",
        "GET /a",
        "GET",
        "GET  /a HTTP/1.1",
        "GET /a  HTTP/1.1",
        "GET\t/a HTTP/1.1",
        "GET /a\tHTTP/1.1",
        " GET /a HTTP/1.1",
        "GET /a b HTTP/1.1",
        "GET a HTTP/1.1",
        "G(T /a HTTP/1.1",
        "G\u{0}T /a HTTP/1.1",
        "GET /\u{0} HTTP/1.1",
        "GET /a\u{b} HTTP/1.1",
        "GET  HTTP/1.1",
        "CONNECT echo:80 HTTP/1.1",
        "CONNECT /a HTTP/1.1",
        "GET * HTTP/1.1",
        "GET echo HTTP/1.1",
        "GET http:/// HTTP/1.1",
        "GET http://other/ HTTP/1.1",
        "GET http://user@echo/ HTTP/1.1",
        "GET /%zz HTTP/1.1",
        "GET /% HTTP/1.1",
        "GET /%00 HTTP/1.1",
        "GET ../a HTTP/1.1",
        "GET //[ HTTP/1.1 x",
    ] {
        let bytes = format!("{line}\r\nhost: echo\r\n\r\n");
        add("a line that is none", Refused, bytes.into_bytes());
    }
    let http09 = b"GET /a\r\n".to_vec();
    add("HTTP/0.9", Refused, http09);
}

fn hosts(add: Add<'_>) {
    for headers in [
        "x: 1",
        "host: echo\r\nhost: echo",
        "host: echo\r\nhost: other",
        "host:",
        "host: a b",
        "host: a/b",
        "host: user@echo",
        "host: echo, other",
        "host: echo\u{0}",
        "host: echo#a",
        "host: echo?a",
        "host: a\\b",
        "host: <echo>",
        "host: \"echo\"",
        "host: e\u{e9}",
    ] {
        let bytes = format!("GET /a HTTP/1.1\r\n{headers}\r\n\r\n");
        add("not one host", Refused, bytes.into_bytes());
    }
}

fn chunks(add: Add<'_>) {
    for body in [
        "x\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "5\nhello\n0\n\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "ffffffffffffffff1\r\nhello",
        "10000000000000000\r\nhello",
        "\r\n5\r\nhello\r\n0\r\n\r\n",
        "5;a\nhello\r\n0\r\n\r\n",
        "5 5\r\nhello\r\n0\r\n\r\n",
        "g\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5,5\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n",
        "5\r\nhel",
        "5",
        "",
        "0\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "\u{0}5\r\nhello\r\n0\r\n\r\n",
        "5h\r\nhello\r\n0\r\n\r\n",
    ] {
        // The head has gone on by then: what counts is that no whole request reaches the backend.
        add(
            "chunks that are none",
            Refused,
            post("transfer-encoding: chunked", body),
        );
    }
    let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "e".repeat(70_000));
    add(
        "an endless extension",
        Refused,
        post("transfer-encoding: chunked", &long),
    );
    let behind = format!("5\r\nhello\r\n0\r\nx: 1\r\n{HIDDEN}");
    add(
        "a request in trailers",
        NotSmuggled,
        post("transfer-encoding: chunked", &behind),
    );
}

fn sizes(add: Add<'_>) {
    let long = "a".repeat(80_000);
    for bytes in [
        format!("GET /{long} HTTP/1.1\r\nhost: echo\r\n\r\n"),
        format!("GET /a HTTP/1.1\r\nhost: echo\r\nx: {long}\r\n\r\n"),
        format!("GET /a HTTP/1.1\r\nhost: echo\r\n{long}: x\r\n\r\n"),
        format!(
            "GET /a HTTP/1.1\r\nhost: echo\r\n{}\r\n",
            "x: 1\r\n".repeat(300)
        ),
        format!("GET /a HTTP/1.1\r\nhost: echo\r\nx: {long}"),
        format!("{long} /a HTTP/1.1\r\nhost: echo\r\n\r\n"),
    ] {
        add("too large", Refused, bytes.into_bytes());
    }
}

fn hop_by_hop(add: Add<'_>) {
    for name in [
        "host",
        "content-length",
        "transfer-encoding",
        "x-forwarded-for",
        ":path",
        "close, te",
    ] {
        let headers = format!("connection: {name}\r\ncontent-length: 5");
        add(
            "Connection names what is needed",
            NotSmuggled,
            post(&headers, "hello"),
        );
    }
    for upgrade in ["h2c", "h2c, websocket", "HTTP/2.0", "TLS/1.0"] {
        let headers = format!(
            "connection: upgrade, http2-settings\r\nupgrade: {upgrade}\r\nhttp2-settings: AAMAAABk\r\ncontent-length: 0"
        );
        add(
            "an upgrade to another HTTP",
            NotSmuggled,
            post(&headers, ""),
        );
    }
}

fn good(add: Add<'_>) {
    let chunked = |body: &str| post("transfer-encoding: chunked", body);
    add(
        "no body",
        Passes(1),
        b"GET /a HTTP/1.1\r\nhost: echo\r\n\r\n".to_vec(),
    );
    add("a body", Passes(1), post("content-length: 5", "hello"));
    add(
        "spaces around a length",
        Passes(1),
        post("content-length:  5 ", "hello"),
    );
    add("chunks", Passes(1), chunked("5\r\nhello\r\n0\r\n\r\n"));
    add(
        "sizes with zeros",
        Passes(1),
        chunked("0005\r\nhello\r\n000\r\n\r\n"),
    );
    add(
        "sizes in capitals",
        Passes(1),
        chunked("A\r\nhellohello\r\n0\r\n\r\n"),
    );
    add(
        "an extension",
        Passes(1),
        chunked("5;a=b\r\nhello\r\n0\r\n\r\n"),
    );
    add(
        "trailers",
        Passes(1),
        chunked("5\r\nhello\r\n0\r\nx-t: 1\r\n\r\n"),
    );
    add(
        "a target with its host",
        Passes(1),
        b"GET http://echo/a HTTP/1.1\r\nhost: echo\r\n\r\n".to_vec(),
    );
    add(
        "HEAD",
        Passes(1),
        b"HEAD /a HTTP/1.1\r\nhost: echo\r\n\r\n".to_vec(),
    );
    add(
        "OPTIONS of all",
        Passes(1),
        b"OPTIONS * HTTP/1.1\r\nhost: echo\r\n\r\n".to_vec(),
    );
    add(
        "HTTP/1.0",
        Passes(1),
        b"GET /a HTTP/1.0\r\nhost: echo\r\n\r\n".to_vec(),
    );
    add(
        "100-continue",
        Passes(1),
        post("expect: 100-continue\r\ncontent-length: 5", "hello"),
    );
    add(
        "a method of one's own",
        Passes(1),
        b"BREW /a HTTP/1.1\r\nhost: echo\r\n\r\n".to_vec(),
    );
    add(
        "empty lines before",
        Passes(1),
        b"\r\n\r\nGET /a HTTP/1.1\r\nhost: echo\r\n\r\n".to_vec(),
    );
    let two = "GET /a HTTP/1.1\r\nhost: echo\r\n\r\n".repeat(2);
    add("two, one after the other", Passes(2), two.into_bytes());
    let large = "x".repeat(200_000);
    let length = format!("content-length: {}", large.len());
    add("a large body", Passes(1), post(&length, &large));
    let wide = format!("x: {}\r\ncontent-length: 0", "v".repeat(30_000));
    add("a large header", Passes(1), post(&wide, ""));
}

fn status(answer: &[u8]) -> Option<u16> {
    let text = String::from_utf8_lossy(answer);
    // An interim answer stands before the real one.
    let mut codes = text
        .split("HTTP/1.")
        .filter_map(|part| part.get(2..5)?.parse().ok());
    codes.find(|code: &u16| *code >= 200)
}

fn judge(case: &Case, answer: &[u8], got: &[Got]) -> Result<(), String> {
    let code = status(answer);
    if got.iter().any(|got| got.line.contains("hidden")) {
        return Err("the hidden request got through".to_owned());
    }
    if got.iter().any(|got| !got.values("upgrade").is_empty()) {
        return Err("the upgrade is asked of the backend".to_owned());
    }
    let refused = got.is_empty() && code.is_none_or(|code| (400..600).contains(&code));
    match case.wanted {
        Refused if refused => Ok(()),
        NotSmuggled if refused || got.len() == 1 => Ok(()),
        Passes(count) if got.len() == count && code == Some(200) => Ok(()),
        _ => Err(format!("answered {code:?}, the backend got {got:?}")),
    }
}

#[tokio::test]
async fn nothing_with_two_meanings_goes_on() {
    let testbed = Testbed::new().await;
    let cases = cases();
    assert!(cases.len() >= 200, "{} cases", cases.len());
    let mut failures = Vec::new();
    for case in &cases {
        let (answer, got) = testbed.exchange(&case.bytes).await;
        if let Err(why) = judge(case, &answer, &got) {
            let shown: String = String::from_utf8_lossy(&case.bytes)
                .chars()
                .take(200)
                .collect();
            failures.push(format!("{}: {shown:?}: {why}", case.class));
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {}:\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
}
