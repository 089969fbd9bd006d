//! The server as clients see it: kube-rs, raw HTTP, and stock kubectl where it is installed.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod access;
mod applying;
mod common;
mod custom;
mod lifecycle;
mod listing;
mod objects;
mod patching;
mod roles;
mod rules;
mod streaming;
mod upstream;
mod webhooks;
mod with_kubectl;
