//! One task per pod, which alone owns everything of that pod and brings it step by step to what
//! the API server says: volumes, sandbox, init containers in order, containers, and the way back.
//!
//! What always holds: no container starts before the sandbox is connected to the network; the object
//! is deleted from the API server only after every process, mount and address of the pod is gone; a
//! failing step is tried again with a growing delay and says why in an event.

mod hooks;
mod publish;
mod sandbox;
mod slot;
mod start;
mod stop;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};
use tokio::sync::{Notify, mpsc, watch};

use super::cgroup::{PodCgroup, QosClass};
use super::events::Kind;
use super::fields::PodAddresses;
use super::node::Node;
use super::probe::Verdict;
use super::process::Exit;
use super::restart::{RestartPolicy, retry_delay};
use super::status::{self, ContainerView};
use super::volumes::{VolumeContext, Volumes};
use crate::quantity;
pub(crate) use publish::Publisher;
use sandbox::Sandbox;
use slot::{Role, Slot};

/// What the API server wants of a pod.
#[derive(Clone)]
pub(crate) struct Desired {
    pub pod: Arc<Pod>,
    /// The object is gone from the API server.
    pub removed: bool,
    /// The kubelet ends; the object stays.
    pub shutdown: bool,
}

/// News about a pod's own processes.
enum Signal {
    Exited {
        container: String,
        attempt: u32,
        exit: Exit,
    },
    Verdict {
        container: String,
        attempt: u32,
        verdict: Verdict,
    },
    /// The `postStart` hook has ended, with an error if it failed.
    Hooked {
        container: String,
        attempt: u32,
        outcome: Result<(), String>,
    },
    SandboxEnded {
        id: String,
    },
}

/// The task of one pod.
pub(crate) struct PodWorker {
    node: Arc<Node>,
    desired: watch::Receiver<Desired>,
    pod: Arc<Pod>,
    uid: String,
    dir: PathBuf,
    cgroup: PodCgroup,
    qos: QosClass,
    inbox: mpsc::UnboundedReceiver<Signal>,
    outbox: mpsc::UnboundedSender<Signal>,
    slots: Vec<Slot>,
    volumes: Volumes,
    volumes_changed: Arc<Notify>,
    volumes_stale: bool,
    sandbox: Option<Sandbox>,
    failures: u32,
    retry_at: Instant,
    started_at: Timestamp,
    status: Option<PodStatus>,
    /// Version of the object that has been compared with the status.
    compared: Option<String>,
    publisher: Publisher,
    /// Why the pod was ended as a whole: reason and message.
    verdict: Option<(String, String)>,
    /// No container starts any more.
    over: bool,
}

impl PodWorker {
    /// A worker for a pod that was just seen.
    pub(crate) fn new(node: Arc<Node>, desired: watch::Receiver<Desired>) -> Self {
        let pod = desired.borrow().pod.clone();
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let dir = node.pod_dir(&uid);
        let qos = qos(&pod);
        let (outbox, inbox) = mpsc::unbounded_channel();
        let volumes_changed = Arc::new(Notify::new());
        Self {
            cgroup: node.cgroups.pod(qos, &uid),
            slots: slots(&pod),
            volumes: Volumes::new(dir.join("volumes"), volumes_changed.clone()),
            publisher: Publisher::new(&node.config.client, &pod),
            started_at: pod
                .status
                .as_ref()
                .and_then(|status| status.start_time.as_ref())
                .map_or_else(Timestamp::now, |time| time.0),
            node,
            desired,
            pod,
            uid,
            dir,
            qos,
            inbox,
            outbox,
            volumes_changed,
            volumes_stale: true,
            sandbox: None,
            failures: 0,
            retry_at: Instant::now(),
            status: None,
            compared: None,
            verdict: None,
            over: false,
        }
    }

    /// Runs until the pod is gone.
    pub(crate) async fn run(mut self) {
        self.node.pods.insert(&self.uid, self.pod.clone());
        loop {
            self.refresh();
            if self.must_end() {
                self.finish().await;
                return;
            }
            let wake = self.step().await;
            self.publish();
            self.wait(wake).await;
        }
    }

    fn refresh(&mut self) {
        let pod = self.desired.borrow_and_update().pod.clone();
        let (before, now) = (&self.pod.metadata, &pod.metadata);
        // Volumes may show these.
        self.volumes_stale |= before.labels != now.labels || before.annotations != now.annotations;
        self.pod = pod;
        self.add_ephemeral_slots();
        self.node.pods.insert(&self.uid, self.pod.clone());
    }

    /// Containers that were added to the pod since it was seen last.
    fn add_ephemeral_slots(&mut self) {
        for container in ephemeral_containers(&self.pod) {
            if !self.slots.iter().any(|slot| slot.name() == container.name) {
                self.slots.push(Slot::new(
                    container,
                    Role::Ephemeral,
                    RestartPolicy::Never,
                    false,
                ));
            }
        }
    }

    fn must_end(&self) -> bool {
        let desired = self.desired.borrow();
        desired.removed || desired.shutdown || desired.pod.metadata.deletion_timestamp.is_some()
    }

    /// One pass towards the wanted state. Returns when to look again without news.
    async fn step(&mut self) -> Option<Instant> {
        let deadline = self.deadline();
        if deadline.is_some_and(|at| at <= Instant::now()) && self.verdict.is_none() {
            self.give_up_late();
        }
        if self.has_finished() || self.verdict.is_some() {
            self.over = true;
            self.slots.iter_mut().for_each(Slot::stop_restarting);
            // Sidecars go on as long as the others, not longer.
            self.stop_all(self.grace()).await;
            if self.verdict.is_some() && self.is_initialized() {
                self.slots.iter_mut().for_each(Slot::give_up);
            }
            self.end_sandbox().await;
            return None;
        }
        let now = Instant::now();
        if self.sandbox.is_none() || self.volumes_stale {
            if now < self.retry_at {
                return Some(self.retry_at);
            }
            if let Err((reason, message)) = self.prepare().await {
                self.failures += 1;
                self.retry_at = Instant::now() + retry_delay(self.failures);
                self.event(None, Kind::Warning, reason, message);
                if self.sandbox.is_none() {
                    return Some(self.retry_at);
                }
            } else {
                self.failures = 0;
            }
        }
        self.start_due().await;
        let next_start = self
            .slots
            .iter()
            .filter(|slot| slot.run.is_none())
            .filter_map(|slot| slot.start_at)
            .min();
        let next_start = next_start.filter(|_| self.next_in_line());
        let retry = self.volumes_stale.then_some(self.retry_at);
        [next_start, retry, self.volumes.next_renewal(), deadline]
            .into_iter()
            .flatten()
            .min()
    }

    /// When the pod has been active for as long as it may.
    fn deadline(&self) -> Option<Instant> {
        let spec = self.pod.spec.as_ref()?;
        let seconds = spec.active_deadline_seconds.filter(|_| !self.over)?;
        let end = self.started_at.as_millisecond() + seconds * 1000;
        let left = end - Timestamp::now().as_millisecond();
        Some(Instant::now() + Duration::from_millis(u64::try_from(left).unwrap_or(0)))
    }

    fn give_up_late(&mut self) {
        let (reason, message) = (
            "DeadlineExceeded",
            "Pod was active on the node longer than the specified deadline",
        );
        self.event(None, Kind::Normal, reason, message);
        self.verdict = Some((reason.to_string(), message.to_string()));
    }

    /// Whether some slot that is allowed to start is waiting for its time.
    fn next_in_line(&self) -> bool {
        self.startable().into_iter().any(|index| {
            let slot = &self.slots[index];
            slot.run.is_none() && slot.start_at.is_some()
        })
    }

    /// Slots that may run now: init containers up to the first incomplete one, then the main ones,
    /// each after the `postStart` hook of the one before it. Ephemeral ones wait for nobody.
    fn startable(&self) -> Vec<usize> {
        let mut allowed = Vec::new();
        let mut held = false;
        for (index, slot) in self.slots.iter().enumerate() {
            if slot.role == Role::Ephemeral {
                allowed.push(index);
                continue;
            }
            if held {
                continue;
            }
            allowed.push(index);
            held = slot.holds_others() || (slot.is_init() && !slot.is_complete());
        }
        allowed
    }

    /// Volumes first, then the sandbox; nothing is left behind by a failed attempt.
    async fn prepare(&mut self) -> Result<(), (&'static str, String)> {
        let addresses = self.addresses();
        let context = VolumeContext {
            client: &self.node.config.client,
            objects: &self.node.objects,
            addresses: &addresses,
            allocatable: &self.node.capacity,
        };
        self.volumes_stale = true;
        self.volumes
            .sync(&self.pod, &context)
            .await
            .map_err(|error| ("FailedMount", error))?;
        self.volumes_stale = false;
        if self.sandbox.is_some() {
            return Ok(());
        }
        let shm = self.dir.join("shm");
        make_shm(&shm)
            .map_err(|error| ("FailedMount", format!("cannot make shared memory: {error}")))?;
        let sandbox = Sandbox::create(&self.node, &self.pod, &self.cgroup, &self.dir)
            .await
            .map_err(|error| {
                (
                    "FailedCreatePodSandBox",
                    format!("Failed to create pod sandbox: {error}"),
                )
            })?;
        self.watch_sandbox(&sandbox);
        let netns = sandbox.netns.clone();
        self.node.pods.update(&self.uid, |entry| {
            entry.netns = netns;
            entry.sandbox_ready = true;
        });
        self.sandbox = Some(sandbox);
        Ok(())
    }

    fn watch_sandbox(&self, sandbox: &Sandbox) {
        let (id, process, outbox) = (
            sandbox.id.clone(),
            sandbox.process.clone(),
            self.outbox.clone(),
        );
        tokio::spawn(async move {
            process.wait().await;
            let _ = outbox.send(Signal::SandboxEnded { id });
        });
    }

    /// Sleeps until there is news.
    async fn wait(&mut self, wake: Option<Instant>) {
        let sleep = async {
            match wake {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = self.desired.changed() => {
                if changed.is_err() {
                    // Only happens when the whole kubelet goes away.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            signal = self.inbox.recv() => {
                if let Some(signal) = signal {
                    self.handle(signal).await;
                }
            }
            () = self.volumes_changed.notified() => self.volumes_stale = true,
            () = sleep => {
                if self.volumes.next_renewal().is_some_and(|at| at <= Instant::now()) {
                    self.volumes_stale = true;
                }
            }
        }
        while let Ok(signal) = self.inbox.try_recv() {
            self.handle(signal).await;
        }
    }

    async fn handle(&mut self, signal: Signal) {
        match signal {
            Signal::Exited {
                container,
                attempt,
                exit,
            } => self.exited(&container, attempt, exit).await,
            Signal::Verdict {
                container,
                attempt,
                verdict,
            } => self.judged(&container, attempt, verdict),
            Signal::Hooked {
                container,
                attempt,
                outcome,
            } => self.hooked(&container, attempt, outcome),
            Signal::SandboxEnded { id } => self.sandbox_ended(&id).await,
        }
    }

    fn judged(&mut self, container: &str, attempt: u32, verdict: Verdict) {
        let Some(index) = self
            .slots
            .iter()
            .position(|slot| slot.name() == container && slot.attempt == attempt)
        else {
            return;
        };
        if self.slots[index].run.is_none() {
            return;
        }
        match verdict {
            Verdict::Started => self.slots[index].started = true,
            Verdict::Ready(ready) => self.slots[index].ready = ready,
            Verdict::Dead(kind) => {
                let probe = kind.name().to_ascii_lowercase();
                let message =
                    format!("Container {container} failed {probe} probe, will be restarted");
                self.event(Some(container), Kind::Normal, "Killing", message);
                let own = kind.of(&self.slots[index].spec);
                let own = own.and_then(|probe| probe.termination_grace_period_seconds);
                let grace = own.map_or_else(|| self.grace(), seconds);
                self.stop_container(index, grace);
            }
        }
    }

    /// A sandbox that ended by itself takes all containers with it; a new one is made.
    async fn sandbox_ended(&mut self, id: &str) {
        if self.sandbox.as_ref().is_none_or(|sandbox| sandbox.id != id) {
            return;
        }
        let message = "Pod sandbox changed, it will be killed and re-created.";
        self.event(None, Kind::Normal, "SandboxChanged", message);
        self.stop_all(Duration::ZERO).await;
        self.end_sandbox().await;
        for slot in self.slots.iter_mut().filter(|slot| slot.is_init()) {
            slot.start_at = Some(Instant::now());
        }
        self.retry_at = Instant::now();
    }

    async fn end_sandbox(&mut self) {
        let Some(mut sandbox) = self.sandbox.take() else {
            return;
        };
        sandbox.destroy(&self.node).await;
        self.cgroup.remove().await;
        self.node.pods.update(&self.uid, |entry| {
            entry.netns = None;
            entry.sandbox_ready = false;
        });
    }

    fn addresses(&self) -> PodAddresses {
        let pod = self
            .sandbox
            .iter()
            .flat_map(|sandbox| &sandbox.addresses)
            .map(ToString::to_string)
            .collect();
        PodAddresses {
            pod,
            host: self.node.addresses(),
        }
    }

    /// No main container runs or will ever run again.
    fn has_finished(&self) -> bool {
        let idle = self
            .slots
            .iter()
            .all(|slot| slot.role != Role::Main || slot.run.is_none());
        idle && status::is_final(self.build_status().phase.as_deref())
    }

    fn is_initialized(&self) -> bool {
        self.slots
            .iter()
            .filter(|slot| slot.is_init())
            .all(Slot::is_complete)
    }

    /// The status as of now.
    fn build_status(&self) -> PodStatus {
        let views = |roles: &[Role]| -> Vec<ContainerView> {
            self.slots
                .iter()
                .filter(|slot| roles.contains(&slot.role))
                .map(Slot::view)
                .collect()
        };
        let pod_ips = match &self.sandbox {
            Some(_) => self.addresses().pod,
            // A finished pod keeps the address it had.
            None => {
                let last = self
                    .status
                    .as_ref()
                    .and_then(|status| status.pod_ips.clone());
                last.unwrap_or_default()
                    .into_iter()
                    .map(|ip| ip.ip)
                    .collect()
            }
        };
        let was_initialized = self
            .status
            .as_ref()
            .and_then(|status| status.conditions.as_ref())
            .is_some_and(|list| {
                list.iter()
                    .any(|condition| condition.type_ == "Initialized" && condition.status == "True")
            });
        status::build(&status::StatusInput {
            pod: &self.pod,
            previous: self.status.as_ref(),
            init: &views(&[Role::Init, Role::Sidecar]),
            containers: &views(&[Role::Main]),
            ephemeral: &views(&[Role::Ephemeral]),
            pod_ips,
            host_ips: self.node.addresses(),
            start_time: self.started_at,
            qos: self.qos.name(),
            sandbox_ready: self.sandbox.is_some(),
            initialized: self.is_initialized() || was_initialized && self.main_started(),
            verdict: self.verdict.clone(),
            over: self.over,
            now: Timestamp::now(),
        })
    }

    /// Some main container has been started before, so the init containers had completed.
    fn main_started(&self) -> bool {
        self.slots.iter().any(|slot| {
            slot.role == Role::Main
                && (slot.run.is_some() || slot.last.is_some() || slot.start_at.is_none())
        })
    }

    fn publish(&mut self) {
        let status = self.build_status();
        // Once for each version: news that lags behind our own writes costs a write too many at most.
        let version = &self.pod.metadata.resource_version;
        let shown = self
            .pod
            .status
            .as_ref()
            .filter(|_| *version != self.compared);
        let overridden = shown.is_some_and(|shown| status::is_overridden(shown, &status));
        self.compared.clone_from(version);
        if overridden || self.status.as_ref() != Some(&status) {
            self.publisher.publish(status.clone());
            self.status = Some(status);
        }
    }

    /// Seconds that the pod's processes get between SIGTERM and SIGKILL.
    fn grace(&self) -> Duration {
        let own = self.pod.metadata.deletion_grace_period_seconds.or(self
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.termination_grace_period_seconds));
        seconds(own.unwrap_or(30))
    }

    fn event(&self, container: Option<&str>, kind: Kind, reason: &str, message: impl Into<String>) {
        self.node
            .events
            .pod(&self.pod, container, kind, reason, message);
    }

    /// `name_namespace(uid)`, as messages name a pod.
    fn describe(&self) -> String {
        let meta = &self.pod.metadata;
        format!(
            "{}_{}({})",
            meta.name.as_deref().unwrap_or_default(),
            meta.namespace.as_deref().unwrap_or_default(),
            self.uid
        )
    }
}

/// A number of seconds of the API; negative ones are none.
fn seconds(number: i64) -> Duration {
    Duration::from_secs(u64::try_from(number).unwrap_or(0))
}

fn slots(pod: &Pod) -> Vec<Slot> {
    let Some(spec) = &pod.spec else {
        return Vec::new();
    };
    let policy = RestartPolicy::parse(spec.restart_policy.as_deref());
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let init_first = !init.is_empty();
    let slot = |container: &Container, role| Slot::new(container.clone(), role, policy, init_first);
    let early = init.iter().map(|container| {
        let role = match container.restart_policy.as_deref() {
            Some("Always") => Role::Sidecar,
            _ => Role::Init,
        };
        slot(container, role)
    });
    let main = spec
        .containers
        .iter()
        .map(|container| slot(container, Role::Main));
    early.chain(main).collect()
}

/// The ephemeral containers of a pod as containers: the same fields, but for those that only
/// containers have.
fn ephemeral_containers(pod: &Pod) -> Vec<Container> {
    let spec = pod.spec.as_ref();
    let list = spec.and_then(|spec| spec.ephemeral_containers.as_ref());
    list.into_iter()
        .flatten()
        .filter_map(|container| {
            let value = serde_json::to_value(container).ok()?;
            serde_json::from_value(value).ok()
        })
        .collect()
}

fn qos(pod: &Pod) -> QosClass {
    let Some(spec) = &pod.spec else {
        return QosClass::BestEffort;
    };
    let all = || {
        spec.containers
            .iter()
            .chain(spec.init_containers.iter().flatten())
    };
    if all().all(|container| quantity::is_guaranteed(container.resources.as_ref())) {
        QosClass::Guaranteed
    } else if all().any(|container| quantity::asks_for_something(container.resources.as_ref())) {
        QosClass::Burstable
    } else {
        QosClass::BestEffort
    }
}

/// The directory that all containers of a pod see as `/dev/shm`.
fn make_shm(path: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o1777))
}
