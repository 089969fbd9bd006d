//! Delta xDS, the aggregated variant: one stream carries all types of resources.
//!
//! [`client`] keeps a stream open for ever and hands what arrives to handlers. [`server`] sends
//! from [`log`]s: each resource is encoded once, and every stream is a cursor into the log.

pub mod client;
pub mod log;
mod message;
pub mod metrics;
pub mod server;
mod stream;
mod subscription;

pub use client::{Client, Handler, Received, Rejected};
pub use log::{Batch, Logs, Resource, ResourceLog, TypeOptions};
pub use server::{Authenticator, StreamRequest, service};
