//! Small HTTP/1.1 servers for admin, metrics and readiness ports.
//!
//! Routes are values: a role builds a [`Router`] from what it has and serves it on as many
//! listeners as the port has addresses. Requests and replies are small and whole; nothing here is
//! on the data path.

mod router;
mod server;

pub use router::{Handler, Query, Reply, Request, Router, json, reply, text};
pub use server::{BindError, Server, localhost, wildcard};
