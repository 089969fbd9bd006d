//! PROXY protocol: what is read is what would be written, or an error.
#![no_main]
use ambit_transport::proxy_header::ProxyHeader;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok((header, length)) = ProxyHeader::parse(bytes) {
        assert!(length <= bytes.len());
        let again = ProxyHeader::parse(&header.encode()).map(|(again, _)| again);
        assert_eq!(again.ok(), Some(header));
    }
});
