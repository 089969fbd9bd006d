//! What a peer writes into the headers of a tunnel.
#![no_main]
use ambit_transport::hbone::{Authority, Baggage, TraceParent};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let _ = Baggage::parse(text.lines());
    if let Some(trace) = TraceParent::parse(&text) {
        assert_eq!(TraceParent::parse(&trace.to_string()), Some(trace));
    }
    if let Ok(authority) = text.parse::<Authority>() {
        assert_eq!(authority.to_string().parse(), Ok(authority));
    }
});
