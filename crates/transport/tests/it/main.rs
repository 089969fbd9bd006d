//! The transport against itself over loopback, and in network namespaces.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod copy;
mod hbone;
mod namespaces;
mod pool;
mod support;
mod tls;
