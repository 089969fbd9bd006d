//! Readiness as a set of named tasks: the process is ready when none is pending.
//!
//! A task can become pending again (the node proxy is not ready while its channel to the CNI agent
//! is down), so a task is a switch and not a one-way latch.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use tokio::sync::watch;

/// All tasks of a process. Cloning gives another handle to the same set.
#[derive(Clone, Debug)]
pub struct Ready {
    tasks: Arc<watch::Sender<BTreeMap<Arc<str>, bool>>>,
}

/// One task. It starts pending; dropping it leaves its state as it is.
#[derive(Clone, Debug)]
pub struct Task {
    name: Arc<str>,
    ready: Ready,
}

impl Default for Ready {
    fn default() -> Self {
        Self::new()
    }
}

impl Ready {
    /// An empty set, which counts as ready.
    pub fn new() -> Self {
        Self {
            tasks: Arc::new(watch::Sender::new(BTreeMap::new())),
        }
    }

    /// Adds a pending task. A second task of the same name is the same task.
    pub fn task(&self, name: &str) -> Task {
        let name: Arc<str> = name.into();
        self.tasks.send_modify(|tasks| {
            tasks.entry(name.clone()).or_insert(false);
        });
        Task {
            name,
            ready: self.clone(),
        }
    }

    /// Names of the pending tasks, sorted.
    pub fn pending(&self) -> Vec<Arc<str>> {
        pending(&self.tasks.borrow())
    }

    /// No task is pending.
    pub fn is_ready(&self) -> bool {
        self.pending().is_empty()
    }

    /// Waits until no task is pending.
    pub async fn wait(&self) {
        let mut changes = self.tasks.subscribe();
        // The sender lives in `self`, so the channel cannot close while we wait.
        let _ = changes.wait_for(|tasks| pending(tasks).is_empty()).await;
    }

    /// The body of the readiness endpoint: `ready`, or what is missing.
    pub fn report(&self) -> Result<&'static str, String> {
        let pending = self.pending();
        if pending.is_empty() {
            return Ok("ready\n");
        }
        let mut text = String::from("not ready, pending: ");
        for (i, name) in pending.iter().enumerate() {
            let separator = if i == 0 { "" } else { ", " };
            let _ = write!(text, "{separator}{name}");
        }
        text.push('\n');
        Err(text)
    }
}

impl Task {
    /// The task is done.
    pub fn ready(&self) {
        self.set(true);
    }

    /// The task is pending (again).
    pub fn pending(&self) {
        self.set(false);
    }

    /// Sets the state.
    pub fn set(&self, done: bool) {
        self.ready
            .tasks
            .send_if_modified(|tasks| tasks.insert(self.name.clone(), done) != Some(done));
    }
}

fn pending(tasks: &BTreeMap<Arc<str>, bool>) -> Vec<Arc<str>> {
    tasks
        .iter()
        .filter(|(_, done)| !**done)
        .map(|(name, _)| name.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_pending_tasks_sorted() {
        let ready = Ready::new();
        assert_eq!(ready.report(), Ok("ready\n"));
        let b = ready.task("workload proxy manager");
        let a = ready.task("state manager");
        assert_eq!(
            ready.report(),
            Err("not ready, pending: state manager, workload proxy manager\n".to_owned())
        );
        a.ready();
        assert_eq!(
            ready.report(),
            Err("not ready, pending: workload proxy manager\n".to_owned())
        );
        b.ready();
        assert!(ready.is_ready());
        b.pending();
        assert!(!ready.is_ready());
    }

    #[tokio::test]
    async fn waits_for_the_last_task() {
        let ready = Ready::new();
        let task = ready.task("one");
        let waiter = tokio::spawn({
            let ready = ready.clone();
            async move { ready.wait().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        task.ready();
        waiter.await.unwrap();
    }
}
