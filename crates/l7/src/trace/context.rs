//! The headers that carry a trace from one service to the next: W3C Trace Context (`traceparent`,
//! `tracestate`) and Zipkin's B3 (`b3`, or `x-b3-…` one by one).

use ambit_model::telemetry::Context;
use http::{HeaderMap, HeaderName, HeaderValue};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const B3: HeaderName = HeaderName::from_static("b3");
const B3_TRACE: HeaderName = HeaderName::from_static("x-b3-traceid");
const B3_SPAN: HeaderName = HeaderName::from_static("x-b3-spanid");
const B3_PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const B3_FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// Number of a trace, never 0.
pub(crate) type TraceId = u128;
/// Number of a span, never 0.
pub(crate) type SpanId = u64;

/// What a request says about the trace that it is part of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Incoming {
    /// The trace, and the span that this one belongs to.
    pub(crate) parent: Option<(TraceId, SpanId)>,
    /// Whether it is recorded, if somebody has decided.
    pub(crate) sampled: Option<bool>,
}

/// A place in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) trace: TraceId,
    pub(crate) span: SpanId,
    pub(crate) parent: Option<SpanId>,
    pub(crate) sampled: bool,
}

/// Reads what a request says. What cannot be read is not there.
pub(crate) fn extract(context: Context, headers: &HeaderMap) -> Incoming {
    match context {
        Context::W3c => of_traceparent(headers),
        Context::B3 => of_b3(headers),
        Context::B3AndW3c => match of_b3(headers) {
            nothing if nothing == Incoming::default() => of_traceparent(headers),
            incoming => incoming,
        },
    }
}

/// Tells the next one about its place.
pub(crate) fn inject(context: Context, headers: &mut HeaderMap, place: &Place) {
    if matches!(context, Context::W3c | Context::B3AndW3c) {
        let Place {
            trace,
            span,
            sampled,
            ..
        } = place;
        let flags = u8::from(*sampled);
        set(
            headers,
            TRACEPARENT,
            &format!("00-{trace:032x}-{span:016x}-{flags:02x}"),
        );
    }
    if matches!(context, Context::B3 | Context::B3AndW3c) {
        headers.remove(B3);
        set(headers, B3_TRACE, &trace_of_b3(place.trace));
        set(headers, B3_SPAN, &format!("{:016x}", place.span));
        match place.parent {
            Some(parent) => set(headers, B3_PARENT, &format!("{parent:016x}")),
            None => drop(headers.remove(B3_PARENT)),
        }
        set(headers, B3_SAMPLED, if place.sampled { "1" } else { "0" });
    }
}

/// A trace's number as Zipkin writes it: half as long where that is enough.
pub(crate) fn trace_of_b3(trace: TraceId) -> String {
    match u64::try_from(trace) {
        Ok(short) => format!("{short:016x}"),
        Err(_) => format!("{trace:032x}"),
    }
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// What `tracestate` says, which is handed on as it is.
pub(crate) fn state(headers: &HeaderMap) -> String {
    let values = headers.get_all(TRACESTATE).iter();
    let values: Vec<&str> = values.filter_map(|value| value.to_str().ok()).collect();
    values.join(",")
}

/// `version-trace-span-flags`; later versions may say more (W3C Trace Context, 3.2 and 4).
fn of_traceparent(headers: &HeaderMap) -> Incoming {
    let read = || {
        let mut parts = text(headers, TRACEPARENT)?.split('-');
        let mut part = |length: usize| parts.next().filter(|part| part.len() == length);
        let (version, trace) = (hex(part(2)?)?, part(32)?);
        let (span, flags) = (part(16)?, hex(part(2)?)?);
        let ends = parts.next().is_none();
        if version == 0xff || (version == 0 && !ends) {
            return None;
        }
        Some(Incoming {
            parent: Some((hex(trace)?, span_of(span)?)),
            sampled: Some(flags & 1 == 1),
        })
    };
    let incoming = read().filter(|incoming| incoming.parent.is_some_and(|(trace, _)| trace != 0));
    incoming.unwrap_or_default()
}

/// `b3: trace-span-sampled-parent`, or a decision alone; or one header for each.
fn of_b3(headers: &HeaderMap) -> Incoming {
    if let Some(whole) = text(headers, B3) {
        let mut parts = whole.split('-');
        let (trace, span) = (parts.next(), parts.next());
        return match span {
            None => Incoming {
                parent: None,
                sampled: decision(whole),
            },
            Some(_) => Incoming {
                parent: ids(trace, span),
                sampled: parts.next().and_then(decision),
            },
        };
    }
    let debug = text(headers, B3_FLAGS) == Some("1");
    let sampled = text(headers, B3_SAMPLED).and_then(decision);
    Incoming {
        parent: ids(text(headers, B3_TRACE), text(headers, B3_SPAN)),
        sampled: if debug { Some(true) } else { sampled },
    }
}

fn ids(trace: Option<&str>, span: Option<&str>) -> Option<(TraceId, SpanId)> {
    let trace = trace.filter(|trace| [16, 32].contains(&trace.len()))?;
    let trace = hex(trace).filter(|trace| *trace != 0)?;
    Some((trace, span_of(span.filter(|span| span.len() == 16)?)?))
}

fn decision(text: &str) -> Option<bool> {
    match text {
        "1" | "true" | "d" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

fn span_of(text: &str) -> Option<SpanId> {
    hex(text)
        .and_then(|span| SpanId::try_from(span).ok())
        .filter(|span| *span != 0)
}

/// A number in lower-case digits alone: a sign is none.
fn hex(text: &str) -> Option<u128> {
    let digit = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    text.bytes()
        .all(digit)
        .then(|| u128::from_str_radix(text, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: TraceId = 0x0af7651916cd43dd8448eb211c80319c;
    const SPAN: SpanId = 0xb7ad6b7169203331;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            let value = HeaderValue::from_str(value).unwrap();
            (HeaderName::from_static(name), value)
        };
        pairs.iter().map(pair).collect()
    }

    fn incoming(context: Context, pairs: &[(&'static str, &str)]) -> Incoming {
        extract(context, &headers(pairs))
    }

    fn part_of(sampled: Option<bool>) -> Incoming {
        Incoming {
            parent: Some((TRACE, SPAN)),
            sampled,
        }
    }

    #[test]
    fn traceparent() {
        for (value, wanted) in [
            (
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                part_of(Some(true)),
            ),
            (
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
                part_of(Some(false)),
            ),
            (
                "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what",
                part_of(Some(true)),
            ),
            // Nothing of these is believed.
            (
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what",
                Incoming::default(),
            ),
            (
                "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                Incoming::default(),
            ),
            (
                "00-00000000000000000000000000000000-b7ad6b7169203331-01",
                Incoming::default(),
            ),
            (
                "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
                Incoming::default(),
            ),
            (
                "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
                Incoming::default(),
            ),
            (
                "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                Incoming::default(),
            ),
            ("00-0af7-b7ad-01", Incoming::default()),
            ("", Incoming::default()),
        ] {
            let got = incoming(Context::W3c, &[("traceparent", value)]);
            assert_eq!(got, wanted, "{value}");
        }
    }

    #[test]
    fn b3() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let span = "b7ad6b7169203331";
        let single = format!("{trace}-{span}-1-05e3ac9a4f6e3b90");
        for (pairs, wanted) in [
            (
                vec![
                    ("x-b3-traceid", trace),
                    ("x-b3-spanid", span),
                    ("x-b3-sampled", "1"),
                ],
                part_of(Some(true)),
            ),
            (
                vec![("x-b3-traceid", trace), ("x-b3-spanid", span)],
                part_of(None),
            ),
            (vec![("b3", &*single)], part_of(Some(true))),
            (
                vec![("b3", "0")],
                Incoming {
                    parent: None,
                    sampled: Some(false),
                },
            ),
            (
                vec![("x-b3-sampled", "0")],
                Incoming {
                    parent: None,
                    sampled: Some(false),
                },
            ),
            (
                vec![("x-b3-flags", "1")],
                Incoming {
                    parent: None,
                    sampled: Some(true),
                },
            ),
            (
                vec![("x-b3-traceid", "1"), ("x-b3-spanid", span)],
                Incoming::default(),
            ),
            (vec![("x-b3-traceid", trace)], Incoming::default()),
        ] {
            assert_eq!(incoming(Context::B3, &pairs), wanted, "{pairs:?}");
        }
        let short = [("x-b3-traceid", "8448eb211c80319c"), ("x-b3-spanid", span)];
        let (number, _) = incoming(Context::B3, &short).parent.unwrap();
        assert_eq!(trace_of_b3(number), "8448eb211c80319c");
    }

    #[test]
    fn what_is_written_is_read_again() {
        for context in [Context::W3c, Context::B3, Context::B3AndW3c] {
            for sampled in [true, false] {
                let place = Place {
                    trace: TRACE,
                    span: SPAN,
                    parent: None,
                    sampled,
                };
                let mut all = headers(&[("b3", "0"), ("x-b3-parentspanid", "1")]);
                inject(context, &mut all, &place);
                assert_eq!(
                    extract(context, &all),
                    part_of(Some(sampled)),
                    "{context:?}"
                );
            }
        }
    }

    #[test]
    fn with_both_b3_goes_first() {
        let w3c = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let got = |pairs: &[_]| incoming(Context::B3AndW3c, pairs);
        assert_eq!(got(&[("traceparent", w3c)]), part_of(Some(true)));
        let both = got(&[("traceparent", w3c), ("b3", "0")]);
        assert_eq!(
            both,
            Incoming {
                parent: None,
                sampled: Some(false)
            }
        );
    }

    /// Whatever stands there, it is read or it is not.
    #[test]
    fn any_bytes() {
        use rand::RngExt;
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let mut rng = rand::rng();
        for _ in 0..20_000 {
            let mut bytes = good.as_bytes().to_vec();
            for _ in 0..rng.random_range(1..4) {
                let at = rng.random_range(0..bytes.len());
                bytes[at] = rng.random_range(0x20..=0xff);
            }
            bytes.truncate(rng.random_range(0..=bytes.len()));
            let Ok(value) = HeaderValue::from_bytes(&bytes) else {
                continue;
            };
            for name in ["traceparent", "b3", "x-b3-traceid", "x-b3-sampled"] {
                let headers =
                    HeaderMap::from_iter([(HeaderName::from_static(name), value.clone())]);
                let _ = extract(Context::B3AndW3c, &headers);
            }
        }
    }
}
