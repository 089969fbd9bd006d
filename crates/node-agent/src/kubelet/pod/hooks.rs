//! `lifecycle` hooks of containers.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use k8s_openapi::api::core::v1::{LifecycleHandler, Probe};

use super::PodWorker;
use crate::kubelet::events::{Kind, Recorder};
use crate::kubelet::probe::{self, ProbeTarget};

type Hook = Pin<Box<dyn Future<Output = ()> + Send>>;

impl PodWorker {
    /// The `preStop` hook of a running container.
    pub(super) fn pre_stop(&self, index: usize) -> Option<Hook> {
        let handler = self.slots[index]
            .spec
            .lifecycle
            .as_ref()?
            .pre_stop
            .clone()?;
        self.hook(index, handler, "FailedPreStopHook")
    }

    /// Runs the `postStart` hook beside the container.
    pub(super) fn post_start(&self, index: usize) {
        let handler = self.slots[index]
            .spec
            .lifecycle
            .as_ref()
            .and_then(|lifecycle| lifecycle.post_start.clone());
        if let Some(hook) =
            handler.and_then(|handler| self.hook(index, handler, "FailedPostStartHook"))
        {
            tokio::spawn(hook);
        }
    }

    fn hook(&self, index: usize, handler: LifecycleHandler, failure: &'static str) -> Option<Hook> {
        let slot = &self.slots[index];
        let running = slot.run.as_ref()?.container.clone();
        let target = self.probe_target(slot, &running);
        let events = self.node.events.clone();
        Some(Box::pin(run(target, handler, events, failure)))
    }
}

async fn run(
    target: ProbeTarget,
    handler: LifecycleHandler,
    events: Recorder,
    failure: &'static str,
) {
    if let Some(sleep) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(
            u64::try_from(sleep.seconds).unwrap_or(0),
        ))
        .await;
        return;
    }
    // A hook is an action like a probe's, without thresholds.
    let action = Probe {
        exec: handler.exec,
        http_get: handler.http_get,
        tcp_socket: handler.tcp_socket,
        timeout_seconds: Some(i32::MAX),
        ..Default::default()
    };
    if let Err(error) = probe::run_action(&target, &action).await {
        let message = format!("lifecycle hook failed: {error}");
        events.pod(
            &target.pod,
            Some(&target.container.name),
            Kind::Warning,
            failure,
            message,
        );
    }
}
