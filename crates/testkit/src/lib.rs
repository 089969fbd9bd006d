//! Test harness: network namespaces, packet capture, certificates.
