//! `lifecycle` hooks of containers.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use k8s_openapi::api::core::v1::{LifecycleHandler, Probe};

use super::{PodWorker, Signal, seconds};
use crate::kubelet::events::Kind;
use crate::kubelet::probe::{self, ProbeTarget};

type Hook = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

impl PodWorker {
    /// The `preStop` hook of a running container. It tells of its failure itself.
    pub(super) fn pre_stop(
        &self,
        index: usize,
    ) -> Option<Pin<Box<dyn Future<Output = ()> + Send>>> {
        let lifecycle = self.slots[index].spec.lifecycle.as_ref()?;
        let hook = self.hook(index, lifecycle.pre_stop.clone()?)?;
        let (events, pod) = (self.node.events.clone(), self.pod.clone());
        let name = self.slots[index].name().to_string();
        Some(Box::pin(async move {
            if let Err(error) = hook.await {
                let message = format!("PreStopHook failed: {error}");
                events.pod(
                    &pod,
                    Some(&name),
                    Kind::Warning,
                    "FailedPreStopHook",
                    message,
                );
            }
        }))
    }

    /// Begins the `postStart` hook; the containers after this one wait for its end.
    pub(super) fn post_start(&mut self, index: usize) {
        let lifecycle = self.slots[index].spec.lifecycle.as_ref();
        let handler = lifecycle.and_then(|lifecycle| lifecycle.post_start.clone());
        let Some(hook) = handler.and_then(|handler| self.hook(index, handler)) else {
            self.slots[index].hooked = true;
            return;
        };
        let slot = &self.slots[index];
        let (container, attempt) = (slot.name().to_string(), slot.attempt);
        let outbox = self.outbox.clone();
        tokio::spawn(async move {
            let outcome = hook.await;
            let _ = outbox.send(Signal::Hooked {
                container,
                attempt,
                outcome,
            });
        });
    }

    /// The end of a `postStart` hook: a container whose hook fails is ended.
    pub(super) fn hooked(&mut self, container: &str, attempt: u32, outcome: Result<(), String>) {
        let index = self
            .slots
            .iter()
            .position(|slot| slot.name() == container && slot.attempt == attempt);
        let Some(index) = index.filter(|index| self.slots[*index].run.is_some()) else {
            return;
        };
        self.slots[index].hooked = true;
        if let Err(error) = outcome {
            let message = format!("PostStartHook failed: {error}");
            self.event(
                Some(container),
                Kind::Warning,
                "FailedPostStartHook",
                message,
            );
            self.event(
                Some(container),
                Kind::Normal,
                "Killing",
                "FailedPostStartHook",
            );
            let grace = self.grace();
            self.stop_container(index, grace);
        }
    }

    fn hook(&self, index: usize, handler: LifecycleHandler) -> Option<Hook> {
        let slot = &self.slots[index];
        let running = slot.run.as_ref()?.container.clone();
        let target = self.probe_target(slot, &running);
        Some(Box::pin(run(target, handler)))
    }
}

/// A hook is an action like a probe's, without thresholds; only it can sleep.
async fn run(target: ProbeTarget, handler: LifecycleHandler) -> Result<(), String> {
    if let Some(sleep) = &handler.sleep {
        let ended = target.running.process.wait();
        let _ = tokio::time::timeout(seconds(sleep.seconds), ended).await;
        return Ok(());
    }
    let action = Probe {
        exec: handler.exec,
        http_get: handler.http_get,
        tcp_socket: handler.tcp_socket,
        ..Default::default()
    };
    // A hook has the time that its caller gives it; this bound only ends forgotten ones.
    probe::run_action(&target, &action, Duration::from_secs(24 * 3600)).await
}
