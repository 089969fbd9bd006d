//! Expressions about requests and connections that have ended (CEL), with the attributes that Envoy
//! names: which are written to an access log, and what stands in a label of a metric.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use cel::{Context, Env, ParseErrors, Program, Value};
use http::HeaderMap;
use jiff::Timestamp;

use crate::access_log::{Ended, Remembered};

/// What an expression can ask for: the names in front of the dot.
const ROOTS: [&str; 7] = [
    "connection",
    "destination",
    "request",
    "response",
    "source",
    "upstream",
    "xds",
];

/// Functions and types of every expression.
static STANDARD: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// An expression.
#[derive(Debug)]
pub(crate) struct Expression {
    program: Program,
    /// Those of [`ROOTS`] that it asks for.
    roots: Vec<&'static str>,
}

/// What is known at the end of a request or connection.
#[derive(Clone, Copy)]
pub(crate) struct Known<'a> {
    pub(crate) remembered: &'a Remembered,
    pub(crate) ended: &'a Ended<'a>,
}

impl Expression {
    /// Reads an expression.
    ///
    /// # Errors
    /// It is none.
    pub(crate) fn new(text: &str) -> Result<Self, ParseErrors> {
        let program = Program::compile(text)?;
        let references = program.references();
        let roots = ROOTS
            .into_iter()
            .filter(|root| references.has_variable(root))
            .collect();
        drop(references);
        Ok(Self { program, roots })
    }

    /// Whether it is true; what cannot be said is not.
    pub(crate) fn is_true(&self, known: Known<'_>) -> bool {
        self.value(known) == Some(Value::Bool(true))
    }

    /// Its value as text, if it has one.
    pub(crate) fn text(&self, known: Known<'_>) -> Option<String> {
        match self.value(known)? {
            Value::String(text) => Some(text.to_string()),
            Value::Int(number) => Some(number.to_string()),
            Value::UInt(number) => Some(number.to_string()),
            Value::Float(number) => Some(number.to_string()),
            Value::Bool(truth) => Some(truth.to_string()),
            _ => None,
        }
    }

    fn value(&self, known: Known<'_>) -> Option<Value> {
        let mut context = Context::with_env(STANDARD.clone());
        for root in &self.roots {
            context.add_variable_from_value(*root, known.root(root));
        }
        self.program.execute(&context).ok()
    }
}

/// Attributes under one name. What is not known is not there, as in Envoy.
#[derive(Default)]
struct Attributes(HashMap<String, Value>);

impl Attributes {
    fn text(&mut self, name: &str, text: impl Into<String>) -> &mut Self {
        self.0.insert(name.to_owned(), Value::from(text.into()));
        self
    }

    fn text_if(&mut self, name: &str, text: Option<impl Into<String>>) -> &mut Self {
        if let Some(text) = text {
            self.text(name, text);
        }
        self
    }

    fn number(&mut self, name: &str, number: u64) -> &mut Self {
        let number = i64::try_from(number).unwrap_or(i64::MAX);
        self.0.insert(name.to_owned(), Value::Int(number));
        self
    }

    fn value(&mut self, name: &str, value: Value) -> &mut Self {
        self.0.insert(name.to_owned(), value);
        self
    }

    fn address(&mut self, address: std::net::SocketAddr) -> &mut Self {
        self.text("address", address.to_string())
            .number("port", address.port().into())
    }
}

impl Known<'_> {
    fn root(&self, name: &str) -> Value {
        let mut of = Attributes::default();
        let ended = self.ended;
        match name {
            "request" => self.request(&mut of),
            "response" => self.response(&mut of),
            "source" => drop(of.address(ended.client)),
            "destination" => drop(of.address(ended.asked)),
            "connection" => {
                of.value("mtls", Value::Bool(ended.identity.is_some()))
                    .text("tls_version", "TLSv1.3")
                    .text_if(
                        "uri_san_peer_certificate",
                        ended.identity.map(ToString::to_string),
                    )
                    .text_if("requested_server_name", ended.server_name);
            }
            "upstream" => {
                if let Some(address) = ended.upstream {
                    of.address(address);
                }
                of.text_if("transport_failure_reason", ended.reason);
            }
            _ => {
                of.text("route_name", "default")
                    .text_if("cluster_name", ended.cluster());
            }
        }
        Value::from(of.0)
    }

    fn request(&self, of: &mut Attributes) {
        let (remembered, ended) = (self.remembered, self.ended);
        let target = remembered.path.as_str();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let header = |name: &str| text(&remembered.headers, name);
        of.text("path", target)
            .text("url_path", path)
            .text("query", query)
            .text("method", remembered.method.as_str())
            .text("host", remembered.authority.as_str())
            .text("scheme", "http")
            .text("protocol", remembered.protocol)
            .text_if("useragent", header("user-agent"))
            .text_if("referer", header("referer"))
            .text_if("id", header("x-request-id"))
            .value("headers", headers(&remembered.headers))
            .value("time", time(remembered.start))
            .value("duration", milliseconds(ended.milliseconds))
            .number("size", ended.received)
            .number("total_size", ended.received);
    }

    fn response(&self, of: &mut Attributes) {
        let ended = self.ended;
        of.number("code", ended.code.into())
            .text("code_details", ended.details)
            .text("flags", ended.flags)
            .value("headers", headers(&self.remembered.response))
            .number("size", ended.sent)
            .number("total_size", ended.sent);
        if let Some(status) = ended.grpc {
            of.number("grpc_status", status.into());
        }
        if let Some(time) = ended.service_milliseconds {
            of.value("backend_latency", milliseconds(time));
        }
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?;
    Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// Headers by their names in lower case; those of one name are joined.
fn headers(headers: &HeaderMap) -> Value {
    let mut all = HashMap::new();
    for name in headers.keys() {
        let values = headers.get_all(name).iter();
        let values: Vec<_> = values
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
            .collect();
        all.insert(name.as_str().to_owned(), Value::from(values.join(",")));
    }
    Value::from(all)
}

fn time(time: Timestamp) -> Value {
    let nanoseconds = u32::try_from(time.subsec_nanosecond()).unwrap_or_default();
    let time = chrono::DateTime::from_timestamp(time.as_second(), nanoseconds);
    time.map_or(Value::Null, |time| Value::Timestamp(time.fixed_offset()))
}

fn milliseconds(number: u128) -> Value {
    let number = i64::try_from(number).unwrap_or(i64::MAX);
    chrono::Duration::try_milliseconds(number).map_or(Value::Null, Value::Duration)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access_log::tests::{ended, remembered};

    fn value(text: &str) -> Option<String> {
        let (remembered, ended) = (remembered(), ended());
        let known = Known {
            remembered: &remembered,
            ended: &ended,
        };
        Expression::new(text).unwrap().text(known)
    }

    #[test]
    fn attributes_of_envoy() {
        for (text, wanted) in [
            ("response.code >= 400", "false"),
            ("response.code == 200 && request.method == 'GET'", "true"),
            ("request.url_path.startsWith('/a')", "true"),
            ("request.query", "b=1"),
            ("request.host", "echo"),
            ("request.useragent", "curl"),
            ("request.headers['user-agent']", "curl"),
            ("'x-none' in request.headers", "false"),
            ("has(request.referer)", "false"),
            ("request.duration < duration('1s')", "true"),
            ("request.time < timestamp('2000-01-01T00:00:00Z')", "true"),
            ("response.code_details", "via_upstream"),
            ("source.address", "10.0.0.9:1234"),
            ("destination.port", "80"),
            ("connection.mtls", "true"),
            (
                "connection.uri_san_peer_certificate",
                "spiffe://cluster.local/ns/shop/sa/web",
            ),
            ("has(connection.requested_server_name)", "false"),
            ("upstream.address", "10.0.0.1:8080"),
            (
                "xds.cluster_name",
                "inbound-vip|80|http|echo.shop.svc.cluster.local",
            ),
            ("'literal'", "literal"),
        ] {
            assert_eq!(value(text).as_deref(), Some(wanted), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_said_has_no_value() {
        for text in [
            "request.headers['x-none']",
            "response.grpc_status == 0",
            "unknown.thing",
            "1 / 0 == 1",
            "request.headers",
        ] {
            assert_eq!(value(text), None, "{text}");
        }
        assert!(Expression::new("a ==").is_err());
    }

    /// Whatever it says, a request goes on.
    #[test]
    fn nothing_panics() {
        for text in [
            "9223372036854775807 + 1",
            "-(-9223372036854775807 - 1)",
            "(-9223372036854775807 - 1) / -1",
            "(-9223372036854775807 - 1) % -1",
            "18446744073709551615u * 2u",
            "1 % 0",
            "request.path.matches('(')",
            "request.path.matches('(a+)+$')",
            "[1, 2][9223372036854775807]",
            "[1, 2][-1]",
            "timestamp('9999-12-31T23:59:59Z') + duration('87660000h')",
            "duration('9223372036s') + duration('9223372036s')",
            "int(1e300)",
            "uint(-1)",
            "int('x')",
            "double('nan') < 1.0",
            "string(b'\\xff')",
            "size(request.headers) > 0 && request.headers.all(h, h != '')",
            "[1, 2, 3].map(x, [1, 2, 3].map(y, x * y)).size()",
            "{'a': 1}['b']",
            "{1: 'a', 1u: 'b'}",
            "request.time.getFullYear()",
        ] {
            // Some of them are no expressions, which is as good.
            if Expression::new(text).is_ok() {
                let _ = value(text);
            }
        }
        let deep = format!("{}1{}", "(".repeat(500), ")".repeat(500));
        let _ = Expression::new(&deep);
    }
}
