//! The control plane against a real API (`ambit-apiserver`, in this process), with real TLS clients.
//! Every test has a cluster of its own.
#![allow(clippy::unwrap_used, reason = "the helpers belong to the tests")]

mod certificates;
mod discovery;
mod duties;
mod parameters;
mod support;
