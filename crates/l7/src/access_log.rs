//! Lines of the access log, in the format of Envoy's: text or JSON, of operators between percent signs
//! (`%REQ(:METHOD)%`).
//!
//! A format is understood once. What an operator stands for that a waypoint has not is a dash, as in
//! Envoy.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::SocketAddr;

use ambit_model::Identity;
use ambit_model::telemetry::LogFormat;
use http::{HeaderMap, Request, Version, header};
use jiff::Timestamp;
use serde_json::{Map, Value};

/// Istio's default text.
const TEXT: &str = concat!(
    "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" ",
    "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% ",
    "\"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% ",
    "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" ",
    "\"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% ",
    "%UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% ",
    "%REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"
);

/// Istio's default JSON.
const JSON: &[(&str, &str)] = &[
    ("start_time", "%START_TIME%"),
    ("route_name", "%ROUTE_NAME%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    (
        "connection_termination_details",
        "%CONNECTION_TERMINATION_DETAILS%",
    ),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("duration", "%DURATION%"),
    (
        "upstream_service_time",
        "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    ),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    (
        "upstream_transport_failure_reason",
        "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    ),
];

/// A header that is remembered for the log.
const SERVICE_TIME: &str = "x-envoy-upstream-service-time";

/// What is written for each request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Format {
    Text(Vec<Piece>),
    Json(Vec<(String, Vec<Piece>)>),
}

/// A piece of a template.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Piece {
    Literal(String),
    /// Upper case, without its argument.
    Operator(String),
    /// Names in lower case: the first that is there counts.
    RequestHeader(Vec<String>),
    ResponseHeader(Vec<String>),
}

/// What is remembered of a request until its end.
#[derive(Debug)]
pub(crate) struct Remembered {
    pub(crate) start: Timestamp,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) authority: String,
    pub(crate) protocol: &'static str,
    pub(crate) headers: HeaderMap,
    pub(crate) response: HeaderMap,
}

/// What is known at its end.
pub(crate) struct Ended<'a> {
    pub(crate) code: u16,
    pub(crate) flags: &'a str,
    pub(crate) details: &'a str,
    pub(crate) reason: Option<&'a str>,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) milliseconds: u128,
    /// Until the backend began to answer.
    pub(crate) service_milliseconds: Option<u128>,
    pub(crate) grpc: Option<u16>,
    pub(crate) upstream: Option<SocketAddr>,
    /// Host name and port of the service.
    pub(crate) service: Option<(&'a str, u16)>,
    /// `http` or `tcp`.
    pub(crate) spoken: &'static str,
    pub(crate) asked: SocketAddr,
    pub(crate) client: SocketAddr,
    /// Who the client is.
    pub(crate) identity: Option<&'a Identity>,
    /// The name that a client of TLS has asked for, where something goes by it.
    pub(crate) server_name: Option<&'a str>,
}

impl Ended<'_> {
    /// The name of the service's cluster, as Istio's waypoints call it.
    pub(crate) fn cluster(&self) -> Option<String> {
        let (host, port) = self.service?;
        Some(format!("inbound-vip|{port}|{}|{host}", self.spoken))
    }
}

impl Remembered {
    /// What may be asked about a request later.
    pub(crate) fn request<B>(request: &Request<B>) -> Self {
        let target = request.uri().path_and_query();
        let mut remembered = Self {
            method: request.method().to_string(),
            path: target.map_or_else(String::new, ToString::to_string),
            authority: request
                .uri()
                .authority()
                .map_or_else(String::new, ToString::to_string),
            protocol: match request.version() {
                Version::HTTP_2 => "HTTP/2",
                Version::HTTP_10 => "HTTP/1.0",
                _ => "HTTP/1.1",
            },
            ..Self::connection()
        };
        remembered.note_headers(request.headers());
        remembered
    }

    /// The beginning of a connection, of which there is no more to know.
    pub(crate) fn connection() -> Self {
        Self {
            start: Timestamp::now(),
            method: String::new(),
            path: String::new(),
            authority: String::new(),
            protocol: "-",
            headers: HeaderMap::new(),
            response: HeaderMap::new(),
        }
    }

    /// The headers as they are now: phases add some.
    pub(crate) fn note_headers(&mut self, headers: &HeaderMap) {
        if let Some(host) = headers.get(header::HOST) {
            self.authority = String::from_utf8_lossy(host.as_bytes()).into_owned();
        }
        self.headers.clone_from(headers);
    }
}

impl Format {
    /// A format of the mesh.
    pub(crate) fn new(format: &LogFormat) -> Self {
        let json = |fields: &mut dyn Iterator<Item = (&str, &str)>| {
            let fields = fields.map(|(key, template)| (key.to_owned(), pieces(template)));
            Self::Json(fields.collect())
        };
        match format {
            LogFormat::Text(text) if text.is_empty() => Self::text(TEXT),
            LogFormat::Text(text) => Self::text(text),
            LogFormat::Json(fields) if fields.is_empty() => json(&mut JSON.iter().copied()),
            LogFormat::Json(fields) => json(&mut fields.iter().map(|(k, v)| (&**k, &**v))),
        }
    }

    fn text(template: &str) -> Self {
        Self::Text(pieces(template.strip_suffix('\n').unwrap_or(template)))
    }

    /// The line, with its end.
    pub(crate) fn line(&self, remembered: &Remembered, ended: &Ended<'_>) -> String {
        let mut line = match self {
            Self::Text(pieces) => join(pieces, remembered, ended),
            Self::Json(keys) => {
                let value = |pieces: &[Piece]| {
                    let text = join(pieces, remembered, ended);
                    match (pieces, text.parse::<u64>()) {
                        // One operator that is a number stays one.
                        ([Piece::Operator(_)], Ok(number)) => number.into(),
                        _ if text == "-" => Value::Null,
                        _ => text.into(),
                    }
                };
                let object: Map<String, Value> = keys
                    .iter()
                    .map(|(key, pieces)| (key.clone(), value(pieces)))
                    .collect();
                Value::Object(object).to_string()
            }
        };
        line.push('\n');
        line
    }

    /// The same in parts: a text, or keys with their texts.
    pub(crate) fn parts(
        &self,
        remembered: &Remembered,
        ended: &Ended<'_>,
    ) -> (Option<String>, Vec<(String, String)>) {
        match self {
            Self::Text(pieces) => (Some(join(pieces, remembered, ended)), Vec::new()),
            Self::Json(keys) => {
                let keys = keys.iter();
                let pair = |(key, pieces): &(String, Vec<Piece>)| {
                    (key.clone(), join(pieces, remembered, ended))
                };
                (None, keys.map(pair).collect())
            }
        }
    }
}

/// A template, taken apart. `%%` is a percent sign.
pub(crate) fn pieces(template: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('%') {
        literal.push_str(before);
        let Some((operator, behind)) = after.split_once('%') else {
            literal.push('%');
            rest = after;
            continue;
        };
        rest = behind;
        if operator.is_empty() {
            literal.push('%');
            continue;
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(std::mem::take(&mut literal)));
        }
        pieces.push(piece(operator));
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal));
    }
    pieces
}

fn piece(operator: &str) -> Piece {
    let (name, argument) = match operator.split_once('(') {
        Some((name, rest)) => (name, rest.split_once(')').map_or(rest, |(inner, _)| inner)),
        None => (operator.split(':').next().unwrap_or_default(), ""),
    };
    let names = || argument.split('?').map(str::to_ascii_lowercase).collect();
    match name {
        "REQ" => Piece::RequestHeader(names()),
        "RESP" => Piece::ResponseHeader(names()),
        other => Piece::Operator(other.to_owned()),
    }
}

/// A template with what is known.
pub(crate) fn join(pieces: &[Piece], remembered: &Remembered, ended: &Ended<'_>) -> String {
    let mut out = String::new();
    for piece in pieces {
        let before = out.len();
        match piece {
            Piece::Literal(text) => out.push_str(text),
            Piece::Operator(name) => operator(&mut out, name, remembered, ended),
            Piece::RequestHeader(names) => {
                let found = names
                    .iter()
                    .find_map(|name| request_header(remembered, name));
                push(&mut out, found.as_deref());
            }
            Piece::ResponseHeader(names) => {
                let found = names
                    .iter()
                    .find_map(|name| response_header(remembered, ended, name));
                push(&mut out, found.as_deref());
            }
        }
        if out.len() == before {
            out.push('-');
        }
    }
    out
}

/// A client's text, so that it cannot make lines of its own.
fn push(out: &mut String, text: Option<&str>) {
    for c in text.unwrap_or_default().chars() {
        match c.is_control() {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
    }
}

fn request_header<'a>(remembered: &'a Remembered, name: &str) -> Option<Cow<'a, str>> {
    let text = match name {
        ":method" => Cow::from(&remembered.method),
        ":path" => Cow::from(&remembered.path),
        ":authority" => Cow::from(&remembered.authority),
        _ => String::from_utf8_lossy(remembered.headers.get(name)?.as_bytes()),
    };
    Some(text).filter(|text| !text.is_empty())
}

fn response_header(remembered: &Remembered, ended: &Ended<'_>, name: &str) -> Option<String> {
    if let Some(value) = remembered.response.get(name) {
        return Some(String::from_utf8_lossy(value.as_bytes()).into_owned());
    }
    let time = ended
        .service_milliseconds
        .filter(|_| name == SERVICE_TIME)?;
    Some(time.to_string())
}

fn operator(out: &mut String, name: &str, remembered: &Remembered, ended: &Ended<'_>) {
    // Writing to memory does not fail.
    let _ = match name {
        "START_TIME" => write!(out, "{:.3}", remembered.start),
        "PROTOCOL" => write!(out, "{}", remembered.protocol),
        "RESPONSE_CODE" => write!(out, "{}", ended.code),
        "RESPONSE_FLAGS" => write!(out, "{}", ended.flags),
        "RESPONSE_CODE_DETAILS" => write!(out, "{}", ended.details.replace(' ', "_")),
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => {
            push(out, ended.reason);
            Ok(())
        }
        "BYTES_RECEIVED" => write!(out, "{}", ended.received),
        "BYTES_SENT" => write!(out, "{}", ended.sent),
        "DURATION" => write!(out, "{}", ended.milliseconds),
        "GRPC_STATUS" | "GRPC_STATUS_NUMBER" => match ended.grpc {
            Some(status) => write!(out, "{status}"),
            None => Ok(()),
        },
        "UPSTREAM_HOST" => match ended.upstream {
            Some(address) => write!(out, "{address}"),
            None => Ok(()),
        },
        "UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW" => {
            out.push_str(&ended.cluster().unwrap_or_default());
            Ok(())
        }
        "DOWNSTREAM_PEER_URI_SAN" => match ended.identity {
            Some(identity) => write!(out, "{identity}"),
            None => Ok(()),
        },
        "DOWNSTREAM_LOCAL_ADDRESS" => write!(out, "{}", ended.asked),
        "DOWNSTREAM_REMOTE_ADDRESS" => write!(out, "{}", ended.client),
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => write!(out, "{}", ended.client.ip()),
        "REQUESTED_SERVER_NAME" => {
            out.push_str(ended.server_name.unwrap_or_default());
            Ok(())
        }
        "ROUTE_NAME" => write!(out, "default"),
        _ => Ok(()),
    };
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::LazyLock;

    use super::*;

    static CLIENT: LazyLock<Identity> =
        LazyLock::new(|| "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap());

    pub(crate) fn ended() -> Ended<'static> {
        Ended {
            code: 200,
            flags: "-",
            details: "via_upstream",
            reason: None,
            received: 1,
            sent: 2,
            milliseconds: 3,
            service_milliseconds: Some(2),
            grpc: None,
            upstream: Some("10.0.0.1:8080".parse().unwrap()),
            service: Some(("echo.shop.svc.cluster.local", 80)),
            spoken: "http",
            asked: "10.1.0.1:80".parse().unwrap(),
            client: "10.0.0.9:1234".parse().unwrap(),
            identity: Some(&CLIENT),
            server_name: None,
        }
    }

    pub(crate) fn remembered() -> Remembered {
        let request = Request::get("/a?b=1")
            .header("host", "echo")
            .header("user-agent", "curl")
            .body(())
            .unwrap();
        let mut remembered = Remembered::request(&request);
        remembered.start = Timestamp::UNIX_EPOCH;
        remembered
    }

    fn text(template: &str) -> Format {
        Format::new(&LogFormat::Text(template.into()))
    }

    #[test]
    fn the_default_text() {
        let request = Request::get("/a?b=1")
            .header("host", "echo")
            .body(())
            .unwrap();
        let mut remembered = Remembered::request(&request);
        remembered.start = Timestamp::UNIX_EPOCH;
        assert_eq!(
            text("").line(&remembered, &ended()),
            "[1970-01-01T00:00:00.000Z] \"GET /a?b=1 HTTP/1.1\" 200 - via_upstream - \"-\" 1 2 3 2 \
             \"-\" \"-\" \"-\" \"echo\" \"10.0.0.1:8080\" \
             inbound-vip|80|http|echo.shop.svc.cluster.local - 10.1.0.1:80 10.0.0.9:1234 - default\n"
        );
    }

    #[test]
    fn the_default_json_and_own_formats() {
        let json = Format::new(&LogFormat::Json(Vec::new()));
        let line = json.line(&remembered(), &ended());
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["response_code"], 200);
        assert_eq!(value["path"], "/a?b=1");
        assert_eq!(value["x_forwarded_for"], Value::Null);
        let own = text("%REQ(:METHOD)% 100%% %NOT_KNOWN% %RESP(x)% %");
        assert_eq!(own.line(&remembered(), &ended()), "GET 100% - - %\n");
        let fields = vec![("b".into(), "%PROTOCOL%".into()), ("a".into(), "x".into())];
        let own = Format::new(&LogFormat::Json(fields));
        let line = own.line(&remembered(), &ended());
        assert_eq!(line, "{\"b\":\"HTTP/1.1\",\"a\":\"x\"}\n");
        let (body, fields) = own.parts(&remembered(), &ended());
        assert_eq!((body, fields.len()), (None, 2));
    }

    #[test]
    fn no_header_makes_a_line_of_its_own() {
        let mut remembered = remembered();
        remembered.path = "a\nb".into();
        let line = text("%REQ(:PATH)%").line(&remembered, &ended());
        assert_eq!(line, "a\\nb\n");
    }

    #[test]
    fn a_connection() {
        let mut remembered = Remembered::connection();
        remembered.start = Timestamp::UNIX_EPOCH;
        let ended = Ended {
            code: 0,
            details: "-",
            service_milliseconds: None,
            spoken: "tcp",
            server_name: Some("a.example"),
            ..ended()
        };
        let line = text("").line(&remembered, &ended);
        let begin = "[1970-01-01T00:00:00.000Z] \"- - -\" 0 - - - \"-\" 1 2 3 - ";
        assert!(line.starts_with(begin), "{line}");
        assert!(
            line.contains(" inbound-vip|80|tcp|echo.shop.svc.cluster.local "),
            "{line}"
        );
        assert!(line.ends_with(" a.example default\n"), "{line}");
    }
}
