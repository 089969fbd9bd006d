//! What is measured, and how one round of it goes.

use anyhow::Result;

use crate::Options;
use crate::contender::Contender;
use crate::cpu;
use crate::load::{Outcome, Streamed};
use crate::report::{Metric, Peers};
use crate::server::{CLOSE, ECHO, SINK};

/// Connections that stay, for the request rate.
const KEPT: usize = 64;
/// Connections that come and go at a time.
const COMING: usize = 16;
/// Connections that share the fixed rate.
const PACED: usize = 16;

const STREAM: Metric = Metric::new("stream1_gbps", "Gbit/s");
const CPU_PER_GB: Metric = Metric::new("cpu_s_per_gb", "CPU s/GB");
const RPS: Metric = Metric::new("rps_c64", "requests/s");
const CPU_PER_REQUEST: Metric = Metric::new("cpu_us_per_request_c64", "CPU us/request");
const NEW_CONNECTIONS: Metric = Metric::new("new_conns_per_s", "connections/s");
const P50: Metric = Metric::new("p50_us", "us");
const P99: Metric = Metric::new("p99_us", "us");
const RSS_IDLE: Metric = Metric::new("rss_idle_mb", "MB");

/// How the table reads.
pub const PEERS: Peers = Peers {
    steady: Some("raw"),
    ratios: &["raw", "ztunnel"],
    note: "CPU is that of both proxies",
};

/// One round for one contender. Processor time is that of both proxies; of what the applications
/// use, which is the same for all, nothing is counted.
pub fn round(contender: &Contender, options: &Options) -> Result<Vec<(Metric, f64)>> {
    let mut measured = Vec::new();
    let proxies = contender.proxies();

    let (streamed, used) = with_cpu(&proxies, || contender.stream(SINK, options.seconds))?;
    let Streamed { bytes, seconds } = streamed;
    measured.push((STREAM, bytes as f64 * 8.0 / 1e9 / seconds));
    if let Some(used) = used {
        measured.push((CPU_PER_GB, used / (bytes as f64 / 1e9)));
    }

    let kept = ["--connections", &KEPT.to_string()].map(str::to_owned);
    let (outcome, used) = with_cpu(&proxies, || contender.load(ECHO, &kept, options.seconds))?;
    let Outcome {
        requests, seconds, ..
    } = outcome;
    measured.push((RPS, requests as f64 / seconds));
    if let Some(used) = used {
        measured.push((CPU_PER_REQUEST, used * 1e6 / requests as f64));
    }

    let coming = ["--connections", &COMING.to_string(), "--reconnect"].map(str::to_owned);
    let outcome = contender.load(CLOSE, &coming, options.seconds)?;
    measured.push((NEW_CONNECTIONS, outcome.requests as f64 / outcome.seconds));

    let (count, rate) = (PACED.to_string(), options.rate.to_string());
    let paced = ["--connections", &count, "--rate", &rate].map(str::to_owned);
    let outcome = contender.load(ECHO, &paced, options.seconds)?;
    measured.push((P50, outcome.p50_us));
    measured.push((P99, outcome.p99_us));

    if let Some(resident) = contender.resident_idle() {
        measured.push((RSS_IDLE, resident));
    }
    Ok(measured)
}

fn with_cpu<T>(proxies: &[u32], measure: impl FnOnce() -> Result<T>) -> Result<(T, Option<f64>)> {
    let before = cpu::seconds(proxies)?;
    let result = measure()?;
    let used = cpu::seconds(proxies)? - before;
    Ok((result, (!proxies.is_empty()).then_some(used)))
}
