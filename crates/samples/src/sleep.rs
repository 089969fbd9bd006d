//! sleep: what keeps the pod of the curl image there to be asked.

use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;

use crate::serve;

/// How long to wait.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Seconds, or a number with s, m, h or d, or `infinity`; several are added
    #[arg(required = true)]
    times: Vec<Time>,
}

/// A time as sleep reads it; none for ever.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Time(Option<Duration>);

impl FromStr for Time {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if matches!(text, "infinity" | "inf") {
            return Ok(Self(None));
        }
        let (number, seconds) = match text.char_indices().last() {
            Some((at, 's')) => (&text[..at], 1.0),
            Some((at, 'm')) => (&text[..at], 60.0),
            Some((at, 'h')) => (&text[..at], 3600.0),
            Some((at, 'd')) => (&text[..at], 86400.0),
            _ => (text, 1.0),
        };
        let number: f64 = number.parse().with_context(|| {
            format!("{text:?} is no time: write 1.5, 10s, 5m, 2h, 1d or infinity")
        })?;
        let time = Duration::try_from_secs_f64(number * seconds)
            .with_context(|| format!("{text:?} is no time to wait"))?;
        Ok(Self(Some(time)))
    }
}

/// Waits, and returns the exit code. A signal to stop ends it as it ends the program that it
/// stands in for.
pub async fn run(args: Args) -> i32 {
    let total = args.times.iter().try_fold(Duration::ZERO, |sum, time| {
        Some(sum.saturating_add(time.0?))
    });
    let waited = async {
        match total {
            Some(total) => tokio::time::sleep(total).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = waited => 0,
        () = serve::stop_signal() => 128 + 15,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_sleep_reads_them() {
        let seconds = |text: &str| text.parse::<Time>().unwrap().0.map(|t| t.as_secs_f64());
        assert_eq!(seconds("1.5"), Some(1.5));
        assert_eq!(seconds("2m"), Some(120.0));
        assert_eq!(seconds("1d"), Some(86400.0));
        assert_eq!(seconds("infinity"), None);
        for wrong in ["", "x", "-1", "5y", "nan"] {
            assert!(wrong.parse::<Time>().is_err(), "{wrong}");
        }
    }
}
