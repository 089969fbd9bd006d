//! The control plane against a real API (`ambit-apiserver`, in this process), with real TLS clients.
//! Every test has a cluster of its own.

mod certificates;
mod discovery;
mod duties;
mod support;
