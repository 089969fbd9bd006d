//! The Kubernetes API in a process: storage, watch, patch, CRDs, RBAC. Knows nothing of the mesh.
//!
//! [`Server::builder`] starts a server on listeners that the caller has bound; [`Handle`] says
//! where it is, makes credentials for it, and stops it. Everything is in memory: a server that
//! stops forgets its objects.
//!
//! What always holds:
//! - a write is decided on plain values and committed by compare-and-swap (`ops`, `store`);
//! - one resource version for everything, and a watch that cannot continue says so in its stream;
//! - what this server does not do, it refuses or warns about; it never pretends.
//!
//! The way of a request: `server` (TLS) → `handlers` (authenticate, authorize, route) → `ops`
//! (decode, default, validate, commit) → `store` → `watch`.

mod admission;
mod api;
mod apply;
mod authn;
mod backends;
mod cel;
mod crd;
mod decode;
mod defaults;
mod discovery;
mod events;
mod gc;
mod handlers;
mod hooks;
mod http;
pub mod kubeconfig;
mod kubelet;
mod list_options;
mod namespaces;
mod node_restriction;
mod object;
mod openapi;
mod ops;
mod patch;
pub mod pki;
#[cfg(any(test, fuzzing))]
pub mod properties;
mod protobuf;
mod quantity;
mod rbac;
mod registry;
mod request;
mod schema;
mod selectors;
mod server;
mod services;
mod status;
mod store;
mod table;
mod tls;
mod validation;
mod views;
mod watch;
mod webhooks;

pub use node_restriction::may_set as node_may_set_label;
pub use server::{Builder, Handle, Server, StartError};
