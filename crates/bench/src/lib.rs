//! Benchmarks: raw TCP, Ambit and other ztunnel binaries on the same path in one run.
