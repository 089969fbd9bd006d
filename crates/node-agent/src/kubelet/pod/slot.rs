//! One container of a pod, with its history.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container;
use tokio::task::AbortHandle;

use crate::kubelet::layers::Layers;
use crate::kubelet::logs::ContainerLog;
use crate::kubelet::pods::RunningContainer;
use crate::kubelet::process::Exit;
use crate::kubelet::restart::{Backoff, RestartPolicy, image_delay};
use crate::kubelet::status::{ContainerView, Ended, State};

/// A present run.
pub(super) struct Run {
    pub id: String,
    pub container: RunningContainer,
    pub layers: Layers,
    pub log: std::sync::Arc<ContainerLog>,
    pub probes: Option<AbortHandle>,
    pub started_at: Timestamp,
    pub since: Instant,
    /// A graceful stop has begun.
    pub stopping: bool,
}

/// A container and what became of it so far.
pub(super) struct Slot {
    pub spec: Container,
    pub is_init: bool,
    /// An init container with `restartPolicy: Always`.
    pub sidecar: bool,
    pub policy: RestartPolicy,
    pub state: State,
    pub last: Option<Ended>,
    pub restarts: i32,
    /// Number of the present or next run; distinguishes late reports of an earlier one.
    pub attempt: u32,
    pub ready: bool,
    pub started: bool,
    pub image_id: String,
    pub container_id: Option<String>,
    pub run: Option<Run>,
    /// When to start; `None` means it has ended for good or runs.
    pub start_at: Option<Instant>,
    backoff: Backoff,
    image_failures: u32,
}

impl Slot {
    pub(super) fn new(spec: Container, pod_policy: RestartPolicy, is_init: bool) -> Self {
        let sidecar = is_init && spec.restart_policy.as_deref() == Some("Always");
        let policy = match (is_init, sidecar, pod_policy) {
            (true, true, _) => RestartPolicy::Always,
            // An init container is tried again until it succeeds, unless nothing is.
            (true, false, RestartPolicy::Always) => RestartPolicy::OnFailure,
            (_, _, policy) => policy,
        };
        let reason = if is_init {
            "PodInitializing"
        } else {
            "ContainerCreating"
        };
        Self {
            spec,
            is_init,
            sidecar,
            policy,
            state: State::Waiting {
                reason: reason.to_string(),
                message: None,
            },
            last: None,
            restarts: 0,
            attempt: 0,
            ready: false,
            started: false,
            image_id: String::new(),
            container_id: None,
            run: None,
            start_at: Some(Instant::now()),
            backoff: Backoff::default(),
            image_failures: 0,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.spec.name
    }

    /// An init container that needs no further run.
    pub(super) fn is_complete(&self) -> bool {
        if self.sidecar {
            return self.started;
        }
        matches!(&self.state, State::Terminated(ended) if ended.exit.code == 0)
    }

    /// Whether the container may start now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.run.is_none() && self.start_at.is_some_and(|at| at <= now)
    }

    /// Records the end of a run and decides about the next. Returns the delay if there will be one.
    pub(super) fn ended(
        &mut self,
        ended: Ended,
        ran_for: Duration,
        describe: &str,
    ) -> Option<Duration> {
        self.ready = false;
        self.started = false;
        self.run = None;
        self.attempt += 1;
        if !self.policy.restarts(ended.exit) {
            self.ready = self.is_init && ended.exit.code == 0;
            self.state = State::Terminated(ended);
            self.start_at = None;
            return None;
        }
        let now = Instant::now();
        let delay = self.backoff.after_exit(now, ran_for);
        self.start_at = Some(now + delay);
        self.restarts += 1;
        self.state = if delay.is_zero() {
            State::Terminated(ended.clone())
        } else {
            let message = format!(
                "back-off {}s restarting failed container={} pod={describe}",
                delay.as_secs(),
                self.name()
            );
            State::Waiting {
                reason: "CrashLoopBackOff".to_string(),
                message: Some(message),
            }
        };
        self.last = Some(ended);
        Some(delay)
    }

    /// Records that the image is not to be had.
    pub(super) fn image_failed(&mut self, message: &str, invalid: bool) {
        self.image_failures += 1;
        self.start_at = Some(Instant::now() + image_delay(self.image_failures));
        let (reason, message) = match (invalid, self.image_failures) {
            (true, _) => ("InvalidImageName", message.to_string()),
            (false, 1) => ("ErrImagePull", message.to_string()),
            _ => (
                "ImagePullBackOff",
                format!(
                    "Back-off pulling image {:?}: ErrImagePull: {message}",
                    self.spec.image.as_deref().unwrap_or_default()
                ),
            ),
        };
        self.state = State::Waiting {
            reason: reason.to_string(),
            message: Some(message),
        };
    }

    /// Records that the container's configuration cannot be carried out yet.
    pub(super) fn config_failed(&mut self, reason: &str, message: String) {
        self.start_at = Some(Instant::now() + Duration::from_secs(5));
        self.state = State::Waiting {
            reason: reason.to_string(),
            message: Some(message),
        };
    }

    /// Records a start.
    pub(super) fn running(&mut self, run: Run) {
        self.state = State::Running {
            started_at: run.started_at,
        };
        self.container_id = Some(run.id.clone());
        self.image_failures = 0;
        self.start_at = None;
        self.ready = false;
        self.started = false;
        self.run = Some(run);
    }

    /// The container as the status shows it.
    pub(super) fn view(&self) -> ContainerView {
        ContainerView {
            name: self.spec.name.clone(),
            image: self.spec.image.clone().unwrap_or_default(),
            image_id: self.image_id.clone(),
            state: self.state.clone(),
            last: self.last.clone(),
            restarts: self.restarts,
            ready: self.ready,
            started: self.started,
            container_id: self.container_id.clone(),
            sidecar: self.sidecar,
        }
    }
}

/// The reason word for an end.
pub(super) fn reason(exit: Exit) -> &'static str {
    if exit.code == 0 { "Completed" } else { "Error" }
}
