//! Traces of requests: whether one is recorded, what backends are told of it, and the span that is
//! left at its end.

mod context;
mod log;
mod span;
mod zipkin;

use ambit_model::telemetry::{ALL, Share, Traced};
use http::{HeaderMap, HeaderValue};
use rand::RngExt;

pub(crate) use context::Place;
pub(crate) use log::log_record;
pub(crate) use span::{Told, span, tag};
pub(crate) use zipkin::zipkin;

use crate::phases::REQUEST_ID;

/// Where the identifier of a request says that it is traced (a digit of the UUID that has no other
/// meaning, as Envoy uses it).
const MARK: usize = 14;
/// It is traced.
const TRACED: u8 = b'9';
/// It is traced because a client or an operator has asked for it.
const FORCED: [u8; 2] = [b'a', b'b'];

/// A request that is part of a trace.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    pub(crate) place: Place,
    pub(crate) state: String,
}

/// Finds a request's place in its trace, and tells the backends of it.
pub(crate) fn begin(traced: &Traced, headers: &mut HeaderMap) -> Trace {
    let context = traced.provider.context;
    let incoming = context::extract(context, headers);
    let sampled = incoming
        .sampled
        .unwrap_or_else(|| decide(traced.sampling, traced.by_request_id, headers));
    let (trace, parent) = match incoming.parent {
        Some((trace, span)) => (trace, Some(span)),
        None => (rand::rng().random_range(1..=u128::MAX), None),
    };
    let place = Place {
        trace,
        span: rand::rng().random_range(1..=u64::MAX),
        parent,
        sampled,
    };
    let state = context::state(headers);
    if traced.propagate {
        context::inject(context, headers, &place);
    }
    Trace { place, state }
}

/// Whether a request is recorded about which nobody has decided. By its identifier, all who see it
/// decide the same; the mark tells those who trace a smaller share.
fn decide(share: Share, by_request_id: bool, headers: &mut HeaderMap) -> bool {
    let drawn = |rng: &mut rand::rngs::ThreadRng| rng.random_range(0..ALL) < share;
    let id = headers.get(REQUEST_ID).map(HeaderValue::as_bytes);
    let Some(id) = id.filter(|id| by_request_id && is_uuid(id)) else {
        return drawn(&mut rand::rng());
    };
    if id[MARK] == TRACED || FORCED.contains(&id[MARK]) {
        return true;
    }
    let number = std::str::from_utf8(&id[..8]).ok();
    let number = number.and_then(|digits| u32::from_str_radix(digits, 16).ok());
    let sampled = number.is_some_and(|number| number % ALL < share);
    if sampled {
        let mut marked = id.to_vec();
        marked[MARK] = TRACED;
        if let Ok(value) = HeaderValue::from_bytes(&marked) {
            headers.insert(REQUEST_ID, value);
        }
    }
    sampled
}

fn is_uuid(id: &[u8]) -> bool {
    let good = |(place, b): (usize, &u8)| match place {
        8 | 13 | 18 | 23 => *b == b'-',
        _ => b.is_ascii_hexdigit(),
    };
    id.len() == 36 && id.iter().enumerate().all(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_id(id: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_str(id).unwrap());
        headers
    }

    #[test]
    fn all_decide_the_same_by_the_identifier() {
        // 0x2710 is 10,000: the number of the first is 0, that of the second 9,999.
        let first = "00002710-0000-4000-8000-000000000000";
        let last = "0000270f-0000-4000-8000-000000000000";
        for (id, share, wanted) in [
            (first, 0, false),
            (first, 1, true),
            (last, 9_999, false),
            (last, ALL, true),
        ] {
            let mut headers = with_id(id);
            assert_eq!(decide(share, true, &mut headers), wanted, "{id} {share}");
            // The next one sees the mark, whatever its share is.
            assert_eq!(decide(0, true, &mut headers), wanted, "{id} {share}");
        }
        let forced = "0000270f-0000-a000-8000-000000000000";
        assert!(decide(0, true, &mut with_id(forced)));
    }

    #[test]
    fn without_an_identifier_lots_are_drawn() {
        for id in ["", "short", "0000270f_0000_4000_8000_000000000000"] {
            assert!(decide(ALL, true, &mut with_id(id)));
            assert!(!decide(0, true, &mut with_id(id)));
        }
        let marked = "0000270f-0000-9000-8000-000000000000";
        assert!(!decide(0, false, &mut with_id(marked)));
        let drawn = (0..20_000).filter(|_| decide(1_000, false, &mut HeaderMap::new()));
        let drawn = drawn.count();
        assert!((1_500..2_500).contains(&drawn), "{drawn}");
    }
}
