//! The HTTP engine and its role so far: waypoints.
//!
//! A node proxy opens a tunnel for a connection of its application ([`listener`]); the service that
//! it is meant for decides what happens to it ([`dispatch`]). Requests go through the phases of
//! [`phases`] in their order, to an endpoint of a backend ([`forward`]) over a pooled connection
//! ([`upstream`]), and are recorded once, whatever their end ([`record`]). `docs/life-of-a-request.md`
//! has the whole walk.

mod access_log;
mod admin;
#[cfg(test)]
mod backend_tls_tests;
#[cfg(test)]
mod balance_tests;
mod body;
#[cfg(test)]
mod caller_tests;
#[cfg(test)]
mod change_tests;
mod choose;
mod cluster;
pub mod config;
mod dispatch;
#[cfg(test)]
mod drain_tests;
mod envoy;
mod export;
mod expression;
mod external;
#[cfg(test)]
mod external_tests;
mod failure;
#[cfg(test)]
mod flood_tests;
mod forward;
mod grpc;
mod health;
mod listener;
mod node;
#[cfg(test)]
mod order_tests;
mod pace;
mod phases;
mod record;
mod reporting;
mod serve;
mod shared;
#[cfg(test)]
mod slow_tests;
mod sniff;
mod state;
#[cfg(test)]
mod strictness_tests;
mod tcp;
#[cfg(test)]
mod tcp_tests;
#[cfg(test)]
mod telemetry_tests;
#[cfg(test)]
mod testbed;
mod tokens;
mod trace;
mod upstream;

use ambit_runtime::config::Env;
use ambit_runtime::signals::Shutdown;
use ambit_runtime::workers::Workers;
use ambit_runtime::{log, process};
use anyhow::Context;
use tokio::runtime::Builder;

use config::Config;

/// Runs a waypoint, with its settings from the environment, until it is told to stop.
pub fn run() -> anyhow::Result<()> {
    let env = Env::process();
    let options = log::Options::from_env(&env)?;
    let _log = log::init(&options)?;
    let config = Config::from_env(&env)?;
    if let Err(e) = process::raise_open_file_limit() {
        tracing::warn!("{e}");
    }
    // What a large configuration has needed while it was read goes back to the system, although the
    // thread that has read it may have nothing to do for long.
    if let Err(e) = tikv_jemalloc_ctl::background_thread::write(true) {
        tracing::debug!("freed memory goes back to the system late: {e}");
    }
    let threads = Workers::start("worker", config.workers).context("cannot start the workers")?;
    let control = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("control")
        .enable_all()
        .build()
        .context("cannot start the control runtime")?;
    control.block_on(async {
        let shutdown = Shutdown::on_signals().context("cannot handle signals")?;
        node::run(config, env.effective(), &threads, shutdown).await
    })
}
