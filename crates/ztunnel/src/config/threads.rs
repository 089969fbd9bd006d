//! How many worker threads carry the data.

use std::num::NonZeroUsize;

use ambit_runtime::config::{ConfigError, Env};

/// `ZTUNNEL_WORKER_THREADS`; else the mesh's `concurrency`; else what the container's CPU limit
/// allows; else a quarter of the machine, but not less than what was requested for us, and two.
pub(super) fn from_env(env: &Env, concurrency: Option<usize>) -> Result<NonZeroUsize, ConfigError> {
    let cpus = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let asked = env.parsed_with("ZTUNNEL_WORKER_THREADS", |text| count(text, cpus))?;
    let quantity = |name| env.parsed_with(name, cores);
    let limit = match quantity("ZTUNNEL_CPU_LIMIT")? {
        Some(limit) => Some(limit),
        None => quantity("ZTUNNEL_RESOURCE_CPU_LIMIT")?,
    };
    let request = quantity("ZTUNNEL_RESOURCE_CPU_REQUEST")?;
    let automatic = || match limit {
        Some(limit) => limit,
        None => cpus.div_ceil(4).max(request.unwrap_or(0)).max(2),
    };
    let threads = asked.or(concurrency).unwrap_or_else(automatic);
    Ok(match NonZeroUsize::new(threads) {
        Some(threads) => threads,
        None => NonZeroUsize::new(cpus).unwrap_or(NonZeroUsize::MIN),
    })
}

/// A number, or a share of the CPUs; 0 is all of them.
fn count(text: &str, cpus: usize) -> Result<usize, String> {
    let expected = || "expected a number or a percentage such as 50%".to_owned();
    match text.strip_suffix('%') {
        Some(percent) => {
            let percent: usize = percent.parse().map_err(|_| expected())?;
            Ok((cpus * percent).div_ceil(100).max(1))
        }
        None => text.parse().map_err(|_| expected()),
    }
}

/// A Kubernetes quantity of CPUs, rounded up.
fn cores(text: &str) -> Result<usize, String> {
    let expected = || "expected a quantity of CPUs such as 2 or 1500m".to_owned();
    let cores = match text.strip_suffix('m') {
        Some(milli) => milli.parse::<f64>().map_err(|_| expected())? / 1000.0,
        None => text.parse::<f64>().map_err(|_| expected())?,
    };
    if !cores.is_finite() || cores < 0.0 {
        return Err(expected());
    }
    Ok(cores.ceil() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn threads(vars: &[(&str, &str)], concurrency: Option<usize>) -> Result<usize, ConfigError> {
        let env: Env = vars
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect();
        from_env(&env, concurrency).map(NonZeroUsize::get)
    }

    #[test]
    fn the_first_that_is_said_counts() {
        let cpus = std::thread::available_parallelism().unwrap().get();
        assert_eq!(threads(&[("ZTUNNEL_WORKER_THREADS", "7")], Some(3)), Ok(7));
        assert_eq!(threads(&[("ZTUNNEL_WORKER_THREADS", "0")], None), Ok(cpus));
        assert_eq!(
            threads(&[("ZTUNNEL_WORKER_THREADS", "100%")], None),
            Ok(cpus)
        );
        assert_eq!(threads(&[("ZTUNNEL_CPU_LIMIT", "4")], Some(3)), Ok(3));
        assert_eq!(threads(&[("ZTUNNEL_CPU_LIMIT", "1500m")], None), Ok(2));
        assert_eq!(
            threads(&[("ZTUNNEL_RESOURCE_CPU_REQUEST", "900")], None),
            Ok(900)
        );
        assert!(threads(&[], None).unwrap() >= 2);
    }

    #[test]
    fn nonsense_is_an_error() {
        for (name, value) in [
            ("ZTUNNEL_WORKER_THREADS", "many"),
            ("ZTUNNEL_WORKER_THREADS", "-1"),
            ("ZTUNNEL_CPU_LIMIT", "2Gi"),
            ("ZTUNNEL_CPU_LIMIT", "-1"),
        ] {
            assert!(threads(&[(name, value)], None).is_err(), "{name}={value}");
        }
    }
}
