//! What every process shares: logs, metrics, admin and readiness servers, drain, signals,
//! configuration, build info.
//!
//! Nothing in here knows a role. A role's `main` starts the log ([`log::init`]), reads its settings
//! through [`config::Env`], gives tasks to [`ready::Ready`], registers families in a
//! [`metrics::Registry`], serves them with [`http`], and stops when [`signals::Shutdown`] says so,
//! giving its connections time through [`drain`].

pub mod admin;
pub mod build_info;
pub mod config;
pub mod drain;
pub mod http;
pub mod log;
pub mod metrics;
pub mod process;
pub mod ready;
pub mod roots;
pub mod signals;
pub mod workers;
