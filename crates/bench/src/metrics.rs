//! What is measured, and how one round of it goes.

use anyhow::Result;

use crate::Options;
use crate::contender::Contender;
use crate::cpu;
use crate::load::{Outcome, Streamed};
use crate::server::{CLOSE, ECHO, SINK};

/// Connections that stay, for the request rate.
const KEPT: usize = 64;
/// Connections that come and go at a time.
const COMING: usize = 16;
/// Connections that share the fixed rate.
const PACED: usize = 16;

/// A measured quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    Stream1Gbps,
    CpuSPerGb,
    RpsC64,
    CpuUsPerRequestC64,
    NewConnsPerS,
    P50Us,
    P99Us,
    RssIdleMb,
}

impl Metric {
    pub const ALL: [Self; 8] = [
        Self::Stream1Gbps,
        Self::CpuSPerGb,
        Self::RpsC64,
        Self::CpuUsPerRequestC64,
        Self::NewConnsPerS,
        Self::P50Us,
        Self::P99Us,
        Self::RssIdleMb,
    ];

    /// Its name in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stream1Gbps => "stream1_gbps",
            Self::CpuSPerGb => "cpu_s_per_gb",
            Self::RpsC64 => "rps_c64",
            Self::CpuUsPerRequestC64 => "cpu_us_per_request_c64",
            Self::NewConnsPerS => "new_conns_per_s",
            Self::P50Us => "p50_us",
            Self::P99Us => "p99_us",
            Self::RssIdleMb => "rss_idle_mb",
        }
    }

    /// Its unit.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Stream1Gbps => "Gbit/s",
            Self::CpuSPerGb => "CPU s/GB",
            Self::RpsC64 => "requests/s",
            Self::CpuUsPerRequestC64 => "CPU us/request",
            Self::NewConnsPerS => "connections/s",
            Self::P50Us | Self::P99Us => "us",
            Self::RssIdleMb => "MB",
        }
    }
}

/// One round for one contender. Processor time is that of both proxies; of what the applications
/// use, which is the same for all, nothing is counted.
pub fn round(contender: &Contender, options: &Options) -> Result<Vec<(Metric, f64)>> {
    let mut measured = Vec::new();
    let proxies = contender.proxies();

    let (streamed, used) = with_cpu(&proxies, || contender.stream(SINK, options.seconds))?;
    let Streamed { bytes, seconds } = streamed;
    measured.push((Metric::Stream1Gbps, bytes as f64 * 8.0 / 1e9 / seconds));
    if let Some(used) = used {
        measured.push((Metric::CpuSPerGb, used / (bytes as f64 / 1e9)));
    }

    let kept = ["--connections", &KEPT.to_string()].map(str::to_owned);
    let (outcome, used) = with_cpu(&proxies, || contender.load(ECHO, &kept, options.seconds))?;
    let Outcome {
        requests, seconds, ..
    } = outcome;
    measured.push((Metric::RpsC64, requests as f64 / seconds));
    if let Some(used) = used {
        measured.push((Metric::CpuUsPerRequestC64, used * 1e6 / requests as f64));
    }

    let coming = ["--connections", &COMING.to_string(), "--reconnect"].map(str::to_owned);
    let outcome = contender.load(CLOSE, &coming, options.seconds)?;
    measured.push((
        Metric::NewConnsPerS,
        outcome.requests as f64 / outcome.seconds,
    ));

    let (count, rate) = (PACED.to_string(), options.rate.to_string());
    let paced = ["--connections", &count, "--rate", &rate].map(str::to_owned);
    let outcome = contender.load(ECHO, &paced, options.seconds)?;
    measured.push((Metric::P50Us, outcome.p50_us));
    measured.push((Metric::P99Us, outcome.p99_us));

    if let Some(resident) = contender.resident_idle() {
        measured.push((Metric::RssIdleMb, resident));
    }
    Ok(measured)
}

fn with_cpu<T>(proxies: &[u32], measure: impl FnOnce() -> Result<T>) -> Result<(T, Option<f64>)> {
    let before = cpu::seconds(proxies)?;
    let result = measure()?;
    let used = cpu::seconds(proxies)? - before;
    Ok((result, (!proxies.is_empty()).then_some(used)))
}
