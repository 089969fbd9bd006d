//! One container of a pod, with its history.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerRestartRuleOnExitCodes};
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

/// What part a container has in its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container with `restartPolicy: Always`: starts in its turn, and ends after the
    /// main containers.
    Sidecar,
    Main,
    /// Added to the running pod by somebody who looks for something; never restarted, and of no
    /// importance to the pod's state.
    Ephemeral,
}

/// A container and what became of it so far.
pub(super) struct Slot {
    pub spec: Container,
    pub role: Role,
    pub policy: RestartPolicy,
    pub state: State,
    pub last: Option<Ended>,
    pub restarts: i32,
    /// Number of the present or next run; distinguishes late reports of an earlier one.
    pub attempt: u32,
    pub ready: bool,
    pub started: bool,
    /// The `postStart` hook of the present run has ended, or there is none.
    pub hooked: bool,
    pub image_id: String,
    pub container_id: Option<String>,
    pub run: Option<Run>,
    /// When to start; `None` means it has ended for good or runs.
    pub start_at: Option<Instant>,
    /// The pod is over: there is no further run.
    over: bool,
    backoff: Backoff,
    image_failures: u32,
}

impl Slot {
    /// A container that has not run yet; `init_first` if init containers run before the main ones.
    pub(super) fn new(
        spec: Container,
        role: Role,
        pod_policy: RestartPolicy,
        init_first: bool,
    ) -> Self {
        let own = spec.restart_policy.as_deref();
        let policy = match role {
            Role::Sidecar => RestartPolicy::Always,
            Role::Ephemeral => RestartPolicy::Never,
            // An init container is tried again until it succeeds, unless nothing is.
            Role::Init if own.is_none() && pod_policy == RestartPolicy::Always => {
                RestartPolicy::OnFailure
            }
            Role::Init | Role::Main => {
                own.map_or(pod_policy, |own| RestartPolicy::parse(Some(own)))
            }
        };
        let reason = if init_first && role != Role::Ephemeral {
            "PodInitializing"
        } else {
            "ContainerCreating"
        };
        Self {
            spec,
            role,
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
            hooked: false,
            image_id: String::new(),
            container_id: None,
            run: None,
            start_at: Some(Instant::now()),
            over: false,
            backoff: Backoff::default(),
            image_failures: 0,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.spec.name
    }

    /// Whether it belongs to the pod's beginning.
    pub(super) fn is_init(&self) -> bool {
        matches!(self.role, Role::Init | Role::Sidecar)
    }

    /// An init container that has done its part: the next one may start.
    pub(super) fn is_complete(&self) -> bool {
        if self.role == Role::Sidecar {
            return self.started && self.hooked;
        }
        matches!(&self.state, State::Terminated(ended) if ended.exit.code == 0)
    }

    /// Whether its `postStart` hook still keeps the containers after it waiting.
    pub(super) fn holds_others(&self) -> bool {
        self.role != Role::Ephemeral && self.run.is_some() && !self.hooked
    }

    /// Whether an end with this status is followed by another run.
    fn restarts(&self, exit: Exit) -> bool {
        let rules = self
            .spec
            .restart_policy_rules
            .as_deref()
            .unwrap_or_default();
        let forced = rules.iter().any(|rule| {
            let codes = rule.exit_codes.as_ref();
            let listed = |codes: &ContainerRestartRuleOnExitCodes| {
                let values = codes.values.as_deref().unwrap_or_default();
                (codes.operator == "In") == values.contains(&exit.code)
            };
            rule.action == "Restart" && codes.is_some_and(listed)
        });
        !self.over && (forced || self.policy.restarts(exit))
    }

    /// Notes that nothing runs again.
    pub(super) fn stop_restarting(&mut self) {
        self.over = true;
        self.start_at = None;
    }

    /// Notes that a main container of a pod that is over has ended, although it never ran or
    /// waited for another run.
    pub(super) fn give_up(&mut self) {
        if self.role != Role::Main || self.run.is_some() {
            return;
        }
        if let State::Waiting { .. } = self.state {
            self.state = State::Terminated(self.last.clone().unwrap_or_else(|| Ended {
                exit: Exit {
                    code: 137,
                    signal: 0,
                },
                reason: "ContainerStatusUnknown".to_string(),
                message: Some(
                    "The container could not be located when the pod was terminated".to_string(),
                ),
                started_at: None,
                finished_at: Timestamp::now(),
                container_id: None,
            }));
        }
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
        self.hooked = false;
        self.run = None;
        self.attempt += 1;
        if !self.restarts(ended.exit) {
            self.ready = self.role == Role::Init && ended.exit.code == 0;
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
        self.hooked = false;
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
            sidecar: self.role == Role::Sidecar,
        }
    }
}

/// The reason word for an end.
pub(super) fn reason(exit: Exit) -> &'static str {
    if exit.code == 0 { "Completed" } else { "Error" }
}
