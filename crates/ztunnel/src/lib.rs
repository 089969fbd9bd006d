//! The node proxy: captures the traffic of enrolled pods and carries it over HBONE.
//!
//! A connection of a pod is accepted on a socket inside that pod, and lives on the worker thread
//! that accepted it: accept, identify, decide, dial, answer, copy, record. What there is to decide
//! is decided by pure functions over one snapshot of the mesh; everything else runs on a runtime of
//! its own and never on the data path.

mod admin;
mod agent;
mod certificates;
pub mod config;
mod connections;
mod inbound;
mod listeners;
mod node;
mod outbound;
mod plaintext;
mod pods;
mod policy;
mod resolve;
mod shared;

use ambit_runtime::config::Env;
use ambit_runtime::signals::Shutdown;
use ambit_runtime::workers::Workers;
use ambit_runtime::{log, process};
use anyhow::Context;
use tokio::runtime::Builder;

use config::Config;

/// Runs the node proxy, with its settings from the environment, until it is told to stop.
pub fn run() -> anyhow::Result<()> {
    let env = Env::process();
    let options = log::Options::from_env(&env)?;
    let _log = log::init(&options)?;
    let config = Config::from_env(&env)?;
    if let Err(e) = process::raise_open_file_limit() {
        tracing::warn!("{e}");
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

/// A value of the node's metadata as protobuf has it.
fn metadata(value: &serde_json::Value) -> prost_types::Value {
    use prost_types::value::Kind;
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(b) => Kind::BoolValue(*b),
        serde_json::Value::Number(n) => Kind::NumberValue(n.as_f64().unwrap_or_default()),
        serde_json::Value::String(s) => Kind::StringValue(s.clone()),
        serde_json::Value::Array(list) => Kind::ListValue(prost_types::ListValue {
            values: list.iter().map(metadata).collect(),
        }),
        serde_json::Value::Object(fields) => Kind::StructValue(prost_types::Struct {
            fields: fields
                .iter()
                .map(|(k, v)| (k.clone(), metadata(v)))
                .collect(),
        }),
    };
    prost_types::Value { kind: Some(kind) }
}
