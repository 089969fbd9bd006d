//! The control plane: watch, translate, push; the certificate authority; statuses.
//!
//! Changes of objects reach the [`engine`] through [`watch`], what follows from them is encoded once
//! by [`publish`] and served from its log; nothing on that way waits for a timer. Beside it stand
//! the certificate authority ([`ca`]), the callers' tokens ([`auth`]), and the leader's duties.

pub mod args;
pub mod auth;
pub mod ca;
pub mod config_maps;
pub mod debug;
pub mod deployer;
pub mod engine;
pub mod keys;
pub mod leader;
pub mod metrics;
pub mod publish;
pub mod server;
pub mod serving;
pub mod state;
pub mod status_writer;
pub mod watch;

pub use args::{Args, Command, Discovery, Settings};
pub use server::{ControlError, Running, run, start};
