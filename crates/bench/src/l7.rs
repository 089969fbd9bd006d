//! Benchmarks of waypoints: the same load, over the same tunnels, through Ambit's waypoint and
//! through Envoy with an equivalent configuration, in one run and in interleaved rounds.
//!
//! A pod sends requests through a tunnel of HBONE to the waypoint's pod, which sends them through
//! another to the backend's: both ends are the load generator's own, so that nothing but the
//! waypoint differs. Each has one worker. What counts is the processor time of the waypoint alone.

mod ambit;
mod backend;
mod envoy;
mod generator;
mod places;
mod rig;
mod variant;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::cpu;
use crate::report::{Metric, Peers, Report, Samples};

pub use backend::{Place, serve};
pub use generator::{Plan, run as generate};

use rig::{Program, Rig};
use variant::Variant;

const RPS_PER_CORE: Metric = Metric::new("rps_per_core_h1", "requests/CPU s");
const CPU_H1: Metric = Metric::new("cpu_us_per_request_h1", "CPU us/request");
const CPU_H2: Metric = Metric::new("cpu_us_per_request_h2", "CPU us/request");
const CPU_ROUTES: Metric = Metric::new("cpu_us_per_request_h1_5000_routes", "CPU us/request");
const CPU_POLICY: Metric = Metric::new("cpu_us_per_request_h1_policy", "CPU us/request");
const P50: Metric = Metric::new("p50_us_80pct", "us");
const P99: Metric = Metric::new("p99_us_80pct", "us");
const RSS_1: Metric = Metric::new("rss_1_route_mb", "MB");
const RSS_MANY: Metric = Metric::new("rss_25000_connections_mb", "MB");
const FAILED_MANY: Metric = Metric::new("failed_with_25000_connections", "requests");
const BUSIEST: Metric = Metric::new("busiest_of_2_workers", "share");
const RSS_5000: Metric = Metric::new("rss_5000_routes_mb", "MB");

/// Connections of one client, each with a request.
const MANY: usize = 25_000;

/// How the table reads.
const PEERS: Peers = Peers {
    steady: None,
    ratios: &["envoy"],
    note: "CPU is that of the waypoint; latency is at 80 % of what the slower one can do",
};

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
    /// Connections at a time.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Where the figures go as JSON.
    #[arg(long, default_value = "target/bench/l7.json")]
    out: PathBuf,
    /// Program of Envoy; without it, Ambit runs alone.
    #[arg(long, env = "AMBIT_BENCH_ENVOY")]
    envoy: Option<PathBuf>,
    /// Program of Ambit's waypoint, if not the one beside this program.
    #[arg(long, env = "AMBIT_BENCH_AMBIT_WAYPOINT")]
    ambit: Option<PathBuf>,
}

/// Runs the benchmark as the options say.
pub fn run(options: &Options) -> Result<()> {
    ambit_testkit::require_root()?;
    let mut options = options.clone();
    if options.quick {
        options.rounds = 1;
        options.seconds = options.seconds.min(0.5);
    }
    let rigs = rigs(&options)?;
    let rate = 0.8 * slowest(&rigs, &options)?;
    let mut samples = Samples::default();
    let start = Instant::now();
    for number in 0..options.rounds {
        // Each round begins with another one, so that none always runs first on a cool machine.
        for offset in 0..rigs.len() {
            let rig = &rigs[(number + offset) % rigs.len()];
            let at = start.elapsed().as_secs();
            let of = options.rounds;
            eprintln!("[{at:4} s] round {} of {of}: {rig}", number + 1);
            for (metric, value) in round(rig, &options, rate)? {
                samples.add(metric, rig.name(), value);
            }
        }
    }
    for rig in &rigs {
        let resident = cpu::resident_mb(rig.waypoint())?;
        match rig.variant() {
            Variant::Http1 => samples.add(RSS_1, rig.name(), resident),
            Variant::Routes => samples.add(RSS_5000, rig.name(), resident),
            Variant::Http2 | Variant::Policy | Variant::Connections => {}
        }
    }
    let report = Report::new(&samples);
    print!("{}", report.table(&PEERS));
    report.write(&options.out)?;
    eprintln!("written to {}", options.out.display());
    Ok(())
}

fn rigs(options: &Options) -> Result<Vec<Rig>> {
    let ambit = match &options.ambit {
        Some(program) => program.clone(),
        None => std::env::current_exe()?.with_file_name("pilot-agent"),
    };
    ensure!(
        ambit.exists(),
        "{} is missing; build package ambit-l7, or name a program with --ambit",
        ambit.display()
    );
    let mut programs = vec![Program::Ambit(ambit)];
    let envoy = options.envoy.as_ref();
    match envoy.filter(|program| !program.as_os_str().is_empty()) {
        Some(program) => programs.push(Program::Envoy(program.clone())),
        None => eprintln!("no Envoy is named (AMBIT_BENCH_ENVOY): Ambit runs alone"),
    }
    let mut rigs = Vec::new();
    for variant in Variant::ALL {
        for program in &programs {
            eprintln!("starting {} ({variant:?})", program.name());
            let rig = Rig::start(program, variant);
            rigs.push(rig.with_context(|| format!("{} ({variant:?})", program.name()))?);
        }
    }
    Ok(rigs)
}

/// Requests a second of HTTP/1 that the slower one of the contenders can do.
fn slowest(rigs: &[Rig], options: &Options) -> Result<f64> {
    let mut least = f64::INFINITY;
    for rig in rigs.iter().filter(|rig| rig.variant() == Variant::Http1) {
        let outcome = rig.load(options.connections, options.seconds, None)?;
        least = least.min(outcome.requests as f64 / outcome.seconds);
    }
    Ok(least)
}

/// One round of one rig.
fn round(rig: &Rig, options: &Options, rate: f64) -> Result<Vec<(Metric, f64)>> {
    if rig.variant() == Variant::Connections {
        return many(rig, options);
    }
    let waypoint = [rig.waypoint()];
    let before = cpu::seconds(&waypoint)?;
    let outcome = rig.load(options.connections, options.seconds, None)?;
    let used = cpu::seconds(&waypoint)? - before;
    ensure!(
        outcome.failed == 0,
        "{rig} failed {} requests",
        outcome.failed
    );
    ensure!(outcome.requests > 0 && used > 0.0, "{rig} answered nothing");
    let each = used * 1e6 / outcome.requests as f64;
    let mut measured = Vec::new();
    match rig.variant() {
        Variant::Http1 => {
            measured.push((CPU_H1, each));
            measured.push((RPS_PER_CORE, 1e6 / each));
            let paced = rig.load(options.connections, options.seconds, Some(rate))?;
            measured.push((P50, paced.p50_us));
            measured.push((P99, paced.p99_us));
        }
        Variant::Http2 => measured.push((CPU_H2, each)),
        Variant::Routes => measured.push((CPU_ROUTES, each)),
        Variant::Policy => measured.push((CPU_POLICY, each)),
        Variant::Connections => {}
    }
    Ok(measured)
}

/// A round with many connections: memory while they are open, and whether all workers have some.
fn many(rig: &Rig, options: &Options) -> Result<Vec<(Metric, f64)>> {
    let count = if options.quick { MANY / 10 } else { MANY };
    let before = cpu::of_threads(rig.waypoint(), "worker")?;
    let look = || cpu::resident_mb(rig.waypoint());
    let (resident, outcome) = rig.during(count, options.seconds, look)?;
    let after = cpu::of_threads(rig.waypoint(), "worker")?;
    let used: Vec<f64> = after.iter().zip(&before).map(|(a, b)| a - b).collect();
    let sum: f64 = used.iter().sum();
    ensure!(sum > 0.0, "{rig} did nothing");
    let busiest = used.into_iter().fold(0.0, f64::max) / sum;
    Ok(vec![
        (RSS_MANY, resident),
        (BUSIEST, busiest),
        (FAILED_MANY, outcome.failed as f64),
    ])
}
