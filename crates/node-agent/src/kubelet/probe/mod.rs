//! Startup, readiness and liveness probes, issued from the node's network namespace.
//!
//! One task per running container: the startup probe first, then the other two side by side. The
//! task ends with the container. It reports changes, not single results.

mod attempt;
mod grpc;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::events::{Kind, Recorder};
use super::pods::RunningContainer;

/// What a probe found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The startup probe succeeded, or there is none.
    Started,
    /// Readiness changed.
    Ready(bool),
    /// The liveness or startup probe failed for good; the container must be restarted.
    Dead(ProbeKind),
}

/// The three kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProbeKind {
    Startup,
    Readiness,
    Liveness,
}

impl ProbeKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }

    /// The container's probe of this kind.
    pub(crate) fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
        }
    }
}

/// What probes need.
pub(crate) struct ProbeTarget {
    pub pod: Arc<Pod>,
    pub container: Container,
    pub address: IpAddr,
    pub running: RunningContainer,
    pub init_program: std::path::PathBuf,
    pub events: Recorder,
}

/// Starts the probes of a container. Verdicts arrive in the order of their discovery.
pub(crate) fn start(target: ProbeTarget, verdicts: mpsc::UnboundedSender<Verdict>) -> AbortHandle {
    let task = tokio::spawn(async move {
        let target = Arc::new(target);
        if let Some(probe) = target.container.startup_probe.clone()
            && !startup(&target, &probe, &verdicts).await
        {
            return;
        }
        if verdicts.send(Verdict::Started).is_err() {
            return;
        }
        let readiness = async {
            match target.container.readiness_probe.clone() {
                Some(probe) => readiness(&target, &probe, &verdicts).await,
                None => drop(verdicts.send(Verdict::Ready(true))),
            }
        };
        let liveness = async {
            if let Some(probe) = target.container.liveness_probe.clone() {
                liveness(&target, &probe, &verdicts).await;
            }
        };
        tokio::join!(readiness, liveness);
    });
    task.abort_handle()
}

/// One attempt of an action within a time; how lifecycle hooks run theirs.
///
/// # Errors
/// What went wrong, in words.
pub(crate) async fn run_action(
    target: &ProbeTarget,
    action: &Probe,
    limit: Duration,
) -> Result<(), String> {
    attempt::run(target, action, limit).await
}

/// True once the container has started; false after reporting that it will not.
async fn startup(
    target: &ProbeTarget,
    probe: &Probe,
    verdicts: &mpsc::UnboundedSender<Verdict>,
) -> bool {
    let mut counter = Counter::new(probe);
    let mut timer = Timer::new(probe);
    loop {
        timer.next().await;
        let ok = try_once(target, probe, ProbeKind::Startup).await;
        match counter.record(ok) {
            Some(true) => return true,
            Some(false) => {
                let _ = verdicts.send(Verdict::Dead(ProbeKind::Startup));
                return false;
            }
            None => {}
        }
    }
}

async fn readiness(target: &ProbeTarget, probe: &Probe, verdicts: &mpsc::UnboundedSender<Verdict>) {
    let mut counter = Counter::new(probe);
    let mut timer = Timer::new(probe);
    let mut ready = false;
    loop {
        timer.next().await;
        let ok = try_once(target, probe, ProbeKind::Readiness).await;
        if let Some(now) = counter.record(ok)
            && now != ready
        {
            ready = now;
            if verdicts.send(Verdict::Ready(now)).is_err() {
                return;
            }
        }
    }
}

async fn liveness(target: &ProbeTarget, probe: &Probe, verdicts: &mpsc::UnboundedSender<Verdict>) {
    let mut counter = Counter::new(probe);
    let mut timer = Timer::new(probe);
    loop {
        timer.next().await;
        let ok = try_once(target, probe, ProbeKind::Liveness).await;
        if counter.record(ok) == Some(false) {
            let _ = verdicts.send(Verdict::Dead(ProbeKind::Liveness));
            return;
        }
    }
}

async fn try_once(target: &ProbeTarget, probe: &Probe, kind: ProbeKind) -> bool {
    let limit = probe.timeout_seconds.and_then(|s| u64::try_from(s).ok());
    let limit = Duration::from_secs(limit.filter(|s| *s > 0).unwrap_or(1));
    match attempt::run(target, probe, limit).await {
        Ok(()) => true,
        Err(problem) => {
            let message = format!("{} probe failed: {problem}", kind.name());
            target.events.pod(
                &target.pod,
                Some(&target.container.name),
                Kind::Warning,
                "Unhealthy",
                message,
            );
            false
        }
    }
}

/// Consecutive results against the probe's thresholds. Pure.
struct Counter {
    success_threshold: i32,
    failure_threshold: i32,
    successes: i32,
    failures: i32,
}

impl Counter {
    fn new(probe: &Probe) -> Self {
        Self {
            success_threshold: probe.success_threshold.unwrap_or(1).max(1),
            failure_threshold: probe.failure_threshold.unwrap_or(3).max(1),
            successes: 0,
            failures: 0,
        }
    }

    /// The verdict after one more result; `None` while a threshold has not been reached.
    fn record(&mut self, ok: bool) -> Option<bool> {
        if ok {
            self.failures = 0;
            self.successes = self.successes.saturating_add(1);
            (self.successes >= self.success_threshold).then_some(true)
        } else {
            self.successes = 0;
            self.failures = self.failures.saturating_add(1);
            (self.failures >= self.failure_threshold).then_some(false)
        }
    }
}

/// Initial delay, then the period.
struct Timer {
    initial: Option<Duration>,
    period: Duration,
}

impl Timer {
    fn new(probe: &Probe) -> Self {
        let seconds = |value: Option<i32>, default: u64| {
            Duration::from_secs(
                value
                    .and_then(|value| u64::try_from(value).ok())
                    .unwrap_or(default),
            )
        };
        Self {
            initial: Some(seconds(probe.initial_delay_seconds, 0)),
            period: seconds(probe.period_seconds, 10).max(Duration::from_secs(1)),
        }
    }

    async fn next(&mut self) {
        let delay = self.initial.take().unwrap_or(self.period);
        tokio::time::sleep(delay).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_count_consecutive_results() {
        let probe = Probe {
            success_threshold: Some(2),
            failure_threshold: Some(3),
            ..Default::default()
        };
        let mut counter = Counter::new(&probe);
        let verdicts: Vec<Option<bool>> = [true, true, false, false, true, false, false, false]
            .into_iter()
            .map(|ok| counter.record(ok))
            .collect();
        assert_eq!(
            verdicts,
            [None, Some(true), None, None, None, None, None, Some(false)]
        );
    }
}
