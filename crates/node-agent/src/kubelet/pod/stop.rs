//! Ends of containers and of the pod.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::oneshot;

use super::slot::{Role, Slot, reason};
use super::{PodWorker, Signal};
use crate::kubelet::events::Kind;
use crate::kubelet::probe::Verdict;
use crate::kubelet::process::{Exit, Process};
use crate::kubelet::status::Ended;

/// The least time between SIGTERM and SIGKILL, unless there is to be none.
const SHORTEST_GRACE: Duration = Duration::from_secs(2);

impl PodWorker {
    /// Records the end of a container's process and cleans up after it.
    pub(super) async fn exited(&mut self, container: &str, attempt: u32, exit: Exit) {
        let found = self
            .slots
            .iter()
            .position(|slot| slot.name() == container && slot.attempt == attempt);
        let Some(index) = found.filter(|index| self.slots[*index].run.is_some()) else {
            return;
        };
        let Some(run) = self.slots[index].run.take() else {
            return;
        };
        if let Some(probes) = &run.probes {
            probes.abort();
        }
        self.node.pods.update(&self.uid, |entry| {
            entry.running.remove(container);
        });
        // What the program left running in its cgroup ends with it.
        run.container.cgroup.remove().await;
        let message = run.layers.termination_message().or_else(|| {
            let policy = self.slots[index].spec.termination_message_policy.as_deref();
            (exit.code != 0 && policy == Some("FallbackToLogsOnError"))
                .then(|| run.log.tail(80, 2048))
        });
        let layers = run.layers.clone();
        tokio::task::spawn_blocking(move || layers.remove());
        let ended = Ended {
            exit,
            reason: reason(exit).to_string(),
            message: message.filter(|text| !text.is_empty()),
            started_at: Some(run.started_at),
            finished_at: Timestamp::now(),
            container_id: Some(run.id.clone()),
        };
        self.ended(index, ended, run.since.elapsed());
    }

    /// Decides about the next run, and says so when it has to wait.
    pub(super) fn ended(&mut self, index: usize, ended: Ended, ran_for: Duration) {
        let describe = self.describe();
        let delay = self.slots[index].ended(ended, ran_for, &describe);
        if delay.is_some_and(|delay| !delay.is_zero()) {
            let name = self.slots[index].name().to_string();
            let message = format!("Back-off restarting failed container {name} in pod {describe}");
            self.event(Some(&name), Kind::Warning, "BackOff", message);
        }
    }

    /// Begins a graceful stop of one container: `preStop`, SIGTERM, and SIGKILL when the time is up.
    pub(super) fn stop_container(&mut self, index: usize, grace: Duration) {
        let hook = self.pre_stop(index);
        self.stop_after(index, grace, hook, None);
    }

    /// Begins a graceful stop whose SIGTERM waits for a turn, if one is given.
    fn stop_after(
        &mut self,
        index: usize,
        grace: Duration,
        hook: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
        turn: Option<oneshot::Receiver<()>>,
    ) {
        let Some(run) = &mut self.slots[index].run else {
            return;
        };
        if std::mem::replace(&mut run.stopping, true) {
            if grace.is_zero() {
                run.container.process.signal(libc::SIGKILL);
            }
            return;
        }
        let process = run.container.process.clone();
        tokio::spawn(async move {
            let begin = Instant::now();
            if !grace.is_zero() {
                if let Some(hook) = hook {
                    let _ = tokio::time::timeout(grace, hook).await;
                }
                if let Some(turn) = turn {
                    let left = grace.saturating_sub(begin.elapsed());
                    let _ = tokio::time::timeout(left, turn).await;
                }
            }
            let left = grace.saturating_sub(begin.elapsed());
            // Whatever the hook took, a process hears SIGTERM before SIGKILL.
            let least = if grace.is_zero() {
                grace
            } else {
                SHORTEST_GRACE
            };
            end(&process, left.max(least)).await;
        });
    }

    /// Ends all containers and records their ends: the main ones at once, then the sidecars, the
    /// last started first. All have the same time.
    pub(super) async fn stop_all(&mut self, grace: Duration) {
        let mut turns = Vec::new();
        let running: Vec<usize> = (0..self.slots.len())
            .rev()
            .filter(|index| self.slots[*index].run.is_some())
            .collect();
        for index in &running {
            let name = self.slots[*index].name().to_string();
            let message = format!("Stopping container {name}");
            self.event(Some(&name), Kind::Normal, "Killing", message);
            let hook = self.pre_stop(*index);
            if self.slots[*index].role == Role::Sidecar {
                let (turn, waits) = oneshot::channel();
                turns.push((*index, turn));
                self.stop_after(*index, grace, hook, Some(waits));
            } else {
                self.stop_after(*index, grace, hook, None);
            }
        }
        let sidecars: Vec<usize> = turns.iter().map(|(index, _)| *index).collect();
        let others: Vec<usize> = running
            .into_iter()
            .filter(|index| !sidecars.contains(index))
            .collect();
        self.wait_for_exits(&others).await;
        for (index, turn) in turns {
            let _ = turn.send(());
            self.wait_for_exits(&[index]).await;
        }
    }

    /// Waits until the given containers have ended. News from the API server may shorten the grace.
    async fn wait_for_exits(&mut self, indexes: &[usize]) {
        while indexes.iter().any(|index| self.slots[*index].run.is_some()) {
            tokio::select! {
                signal = self.inbox.recv() => match signal {
                    Some(Signal::Exited { container, attempt, exit }) => {
                        self.exited(&container, attempt, exit).await;
                        self.publish();
                    }
                    // Whether a pod that is ending still serves is news to its clients.
                    Some(Signal::Verdict { container, attempt, verdict: Verdict::Ready(ready) }) => {
                        self.judged(&container, attempt, Verdict::Ready(ready));
                        self.publish();
                    }
                    Some(_) => {}
                    None => return,
                },
                Ok(()) = self.desired.changed() => {
                    self.refresh();
                    if self.desired.borrow().removed || self.grace().is_zero() {
                        indexes.iter().for_each(|index| self.stop_container(*index, Duration::ZERO));
                    }
                }
            }
        }
    }

    /// The way out: processes, network, mounts, directories, and last the object.
    pub(super) async fn finish(&mut self) {
        let shutdown = self.desired.borrow().shutdown;
        // A kubelet that is told to end has little time itself.
        let grace = if shutdown {
            self.grace().min(Duration::from_secs(2))
        } else {
            self.grace()
        };
        self.over = !shutdown;
        self.slots.iter_mut().for_each(Slot::stop_restarting);
        self.publish();
        self.stop_all(grace).await;
        if self.over && self.is_initialized() {
            self.slots.iter_mut().for_each(Slot::give_up);
        }
        self.end_sandbox().await;
        self.cgroup.remove().await;
        self.publish();
        self.drop_volumes();
        self.remove_files().await;
        if !shutdown {
            self.publisher.delete_object(&self.pod).await;
        }
        self.node.pods.remove(&self.uid);
    }

    /// Ends the watches and unmounts memory volumes.
    fn drop_volumes(&mut self) {
        let changed = self.volumes_changed.clone();
        self.volumes = crate::kubelet::volumes::Volumes::new(self.dir.join("volumes"), changed);
    }

    async fn remove_files(&self) {
        let dir = self.dir.clone();
        let logs = self.slots.first().and_then(|slot| {
            self.log_path(slot)
                .ancestors()
                .nth(2)
                .map(|path| path.to_path_buf())
        });
        let work = move || {
            for path in std::iter::once(dir).chain(logs) {
                if let Err(error) = std::fs::remove_dir_all(&path)
                    && error.kind() != std::io::ErrorKind::NotFound
                {
                    tracing::warn!(directory = %path.display(), "not removed: {error}");
                }
            }
        };
        let _ = tokio::task::spawn_blocking(work).await;
    }
}

/// SIGTERM, then SIGKILL when the time is up.
async fn end(process: &Process, grace: Duration) {
    if !grace.is_zero() {
        process.signal(libc::SIGTERM);
        if tokio::time::timeout(grace, process.wait()).await.is_ok() {
            return;
        }
    }
    process.signal(libc::SIGKILL);
}
