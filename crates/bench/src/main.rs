//! Benchmarks of the data path: the same two pods on two nodes, the same load, with and without
//! node proxies between them, in one run and in interleaved rounds; of waypoints ([`l7`]); and of the
//! local cluster ([`cluster`]).
//!
//! Absolute figures depend on the machine; what counts is the ratio of contenders measured side by
//! side. Each contender has a network of its own, so that none meets the other's state.
//! Everything is real: pods are network namespaces, proxies are processes in their node's
//! namespace, fed over ZDS, with certificates from an authority and the capture rules of a pod. A
//! capture proves before the first round and after the last that traffic took the tunnel.

mod cluster;
mod contender;
mod cpu;
mod l7;
mod load;
mod mesh;
mod metrics;
mod relay;
mod report;
mod run;
mod server;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};

/// The allocator of Ambit's node proxy, whose role this program can take.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Benchmarks of the data path, side by side.
#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    part: Option<Part>,
}

/// What to run.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// One short round, to see that it works; the figures mean little.
    #[arg(long)]
    quick: bool,
    /// Rounds; the table shows their median, least and most.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds for each measurement.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Requests a second at which latency is measured.
    #[arg(long, default_value_t = 2000.0)]
    rate: f64,
    /// Only these contenders: `raw`, `ambit`, `ztunnel`, and `transport`, which is the tunnel
    /// without a proxy around it and runs only when it is named here.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Where the figures go as JSON.
    #[arg(long, default_value = "target/bench/l4.json")]
    out: PathBuf,
    /// Program of another ztunnel to compare with.
    #[arg(long, env = "AMBIT_BENCH_ZTUNNEL")]
    ztunnel: Option<PathBuf>,
    /// Program of Ambit's node proxy, if not this build's own.
    #[arg(long, env = "AMBIT_BENCH_AMBIT")]
    ambit: Option<PathBuf>,
}

/// Another benchmark, and the parts that run as processes of their own, in a pod or on a node.
#[derive(Subcommand)]
enum Part {
    /// The local cluster at size: starts of pods, lists, memory.
    Cluster(cluster::Options),
    /// Waypoints, beside Envoy.
    L7(l7::Options),
    /// The application under load.
    #[command(hide = true)]
    Serve,
    /// The source of the load.
    #[command(hide = true)]
    Load(load::Plan),
    /// Ambit's node proxy, the role itself.
    #[command(hide = true)]
    Ztunnel,
    /// The backend of waypoints.
    #[command(hide = true)]
    L7Serve(l7::Place),
    /// The source of the load on waypoints.
    #[command(hide = true)]
    L7Load(l7::Plan),
    /// A tunnel's end without a proxy around it.
    #[command(hide = true)]
    Relay(relay::Place),
    /// One stream, as fast as it goes.
    #[command(hide = true)]
    Stream {
        /// Where to.
        target: SocketAddr,
        /// How long.
        seconds: f64,
    },
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    match cli.part {
        None => run::run(&cli.options),
        Some(Part::Cluster(options)) => cluster::run(&options),
        Some(Part::Serve) => server::serve(),
        Some(Part::Relay(place)) => relay::run(&place),
        Some(Part::Ztunnel) => ambit_ztunnel::run(),
        Some(Part::L7(options)) => l7::run(&options),
        Some(Part::L7Serve(place)) => l7::serve(&place),
        Some(Part::L7Load(plan)) => print_json(&l7::generate(&plan)?),
        Some(Part::Load(plan)) => print_json(&load::run(&plan)?),
        Some(Part::Stream { target, seconds }) => print_json(&load::stream(target, seconds)?),
    }
}

fn print_json(value: &impl serde::Serialize) -> Result<()> {
    println!(
        "{}",
        serde_json::to_string(value).context("cannot write the result")?
    );
    Ok(())
}
