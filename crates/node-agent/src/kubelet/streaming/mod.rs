//! The protocols by which clients exec into, attach to and forward ports of pods.
//!
//! Two transports carry the same sessions: WebSocket messages with a channel number in front
//! ([`websocket`]), and SPDY/3.1 streams ([`spdy`]), which also travel inside WebSocket messages.
//! A [`session::Session`] is what is left of either: bytes in, sizes in, bytes out, one final status.

pub(crate) mod attach;
pub(crate) mod dial;
pub(crate) mod exec;
pub(crate) mod port_forward;
pub(crate) mod session;
pub(crate) mod spdy;
pub(crate) mod status;
pub(crate) mod tunnel;
pub(crate) mod websocket;
