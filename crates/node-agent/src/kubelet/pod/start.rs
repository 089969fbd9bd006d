//! Starting a container: everything is decided first, then one helper carries it out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{broadcast, mpsc};

use super::slot::{Run, Slot};
use super::{PodWorker, Signal, sandbox};
use crate::catalogue::{CatalogueError, Image};
use crate::kubelet::env::{self, EnvContext};
use crate::kubelet::events::Kind;
use crate::kubelet::init::spec::{ContainerSpec, InitSpec, ProcessSpec, RootfsSpec};
use crate::kubelet::layers::{Layers, NameFiles};
use crate::kubelet::logs::{self, ContainerLog, Stream};
use crate::kubelet::mounts::{self, PodMounts};
use crate::kubelet::pods::{ContainerIo, RunningContainer};
use crate::kubelet::probe::{self, ProbeTarget};
use crate::kubelet::process::{self, Exit, Started, Stdio};
use crate::kubelet::resolver::{self, ClusterDns, ResolvConf};
use crate::kubelet::security;
use crate::kubelet::status::Ended;

/// Why a container did not start.
enum StartError {
    /// The image is not in the catalogue, or its name is not a name.
    Image { message: String, invalid: bool },
    /// The configuration cannot be carried out (now).
    Config(String),
    /// The helper failed: counts as a run that ended at once.
    Run(String),
}

impl From<std::io::Error> for StartError {
    fn from(error: std::io::Error) -> Self {
        Self::Config(format!("cannot prepare container: {error}"))
    }
}

impl PodWorker {
    /// Starts every container whose turn and time it is.
    pub(super) async fn start_due(&mut self) {
        for index in self.startable() {
            if !self.slots[index].is_due(Instant::now()) {
                continue;
            }
            // A completed init container does not run again.
            if self.slots[index].is_init() && self.slots[index].is_complete() {
                self.slots[index].start_at = None;
                continue;
            }
            match self.start(index).await {
                Ok(run) => {
                    self.started(index, run);
                    // The next one may have to wait for this one's hook.
                    if self.slots[index].holds_others() {
                        return;
                    }
                }
                // Its end will be reported in a moment; then everything starts anew.
                Err(StartError::Run(_)) if self.sandbox_is_ending().await => return,
                Err(error) => self.start_failed(index, error),
            }
        }
    }

    /// Whether a start failed because the sandbox is going away. The kernel ends the processes of a
    /// PID namespace before its first process, so the container's end is seen before the sandbox's.
    async fn sandbox_is_ending(&self) -> bool {
        let Some(sandbox) = &self.sandbox else {
            return true;
        };
        tokio::time::timeout(Duration::from_millis(300), sandbox.process.wait())
            .await
            .is_ok()
    }

    fn started(&mut self, index: usize, mut run: Run) {
        let name = self.slots[index].name().to_string();
        let (attempt, container) = (self.slots[index].attempt, run.container.clone());
        self.event(
            Some(&name),
            Kind::Normal,
            "Started",
            format!("Started container {name}"),
        );
        run.probes = Some(self.start_probes(index, &container));
        let (running, log) = (container.clone(), run.log.clone());
        self.node.pods.update(&self.uid, |entry| {
            entry.running.insert(name.clone(), running);
            let logs = entry.logs.entry(name.clone()).or_default();
            if let Some(older) = logs.previous.take() {
                older.remove();
            }
            logs.previous = logs.current.replace(log);
        });
        self.slots[index].running(run);
        let outbox = self.outbox.clone();
        tokio::spawn(async move {
            let exit = container.process.wait().await;
            let _ = outbox.send(Signal::Exited {
                container: name,
                attempt,
                exit,
            });
        });
        self.post_start(index);
    }

    fn start_probes(&self, index: usize, running: &RunningContainer) -> tokio::task::AbortHandle {
        let slot = &self.slots[index];
        let (sender, mut verdicts) = mpsc::unbounded_channel();
        let (name, attempt, outbox) = (slot.name().to_string(), slot.attempt, self.outbox.clone());
        tokio::spawn(async move {
            while let Some(verdict) = verdicts.recv().await {
                let _ = outbox.send(Signal::Verdict {
                    container: name.clone(),
                    attempt,
                    verdict,
                });
            }
        });
        probe::start(self.probe_target(slot, running), sender)
    }

    pub(super) fn probe_target(&self, slot: &Slot, running: &RunningContainer) -> ProbeTarget {
        let own = self
            .sandbox
            .as_ref()
            .and_then(|sandbox| sandbox.addresses.first().copied());
        ProbeTarget {
            pod: self.pod.clone(),
            container: slot.spec.clone(),
            address: own.unwrap_or_else(|| self.node.address()),
            running: running.clone(),
            init_program: self.node.config.init_program.clone(),
            events: self.node.events.clone(),
        }
    }

    fn start_failed(&mut self, index: usize, error: StartError) {
        let name = self.slots[index].name().to_string();
        match error {
            StartError::Image { message, invalid } => {
                let image = self.slots[index].spec.image.clone().unwrap_or_default();
                let word = if invalid { "InspectFailed" } else { "Failed" };
                self.event(
                    Some(&name),
                    Kind::Warning,
                    word,
                    format!("Failed to pull image {image:?}: {message}"),
                );
                self.slots[index].image_failed(&message, invalid);
            }
            StartError::Config(message) => {
                self.event(
                    Some(&name),
                    Kind::Warning,
                    "Failed",
                    format!("Error: {message}"),
                );
                self.slots[index].config_failed("CreateContainerConfigError", message);
            }
            StartError::Run(message) => {
                let text = format!("Error: failed to start container {name:?}: {message}");
                self.event(Some(&name), Kind::Warning, "Failed", text);
                let now = Timestamp::now();
                let ended = Ended {
                    exit: Exit {
                        code: 128,
                        signal: 0,
                    },
                    reason: "StartError".to_string(),
                    message: Some(message),
                    started_at: Some(now),
                    finished_at: now,
                    container_id: None,
                };
                self.ended(index, ended, Duration::ZERO);
            }
        }
    }

    async fn start(&mut self, index: usize) -> Result<Run, StartError> {
        let image = self.image(index)?;
        let id = sandbox::new_id();
        let (layers, spec, stdio) = self.plan(index, &image, &id).await?;
        let slot = &self.slots[index];
        let log = ContainerLog::create(&self.log_path(slot))?;
        let cgroup = self.cgroup.container(&id)?;
        let template = spec.process.clone();
        let name = slot.name().to_string();
        self.event(
            Some(&name),
            Kind::Normal,
            "Created",
            format!("Created container {name}"),
        );
        let started = process::start(
            &self.node.config.init_program,
            &InitSpec::Container(Box::new(spec)),
            stdio,
        )
        .await;
        let started = match started {
            Ok(started) => started,
            Err(error) => {
                cgroup.remove().await;
                layers.remove();
                log.remove();
                return Err(StartError::Run(error.to_string()));
            }
        };
        let (process, io) = connect_streams(
            started,
            &log,
            self.slots[index].spec.stdin_once == Some(true),
        );
        Ok(Run {
            id,
            container: RunningContainer {
                process,
                cgroup,
                template,
                io,
            },
            layers,
            log,
            probes: None,
            started_at: Timestamp::now(),
            since: Instant::now(),
            stopping: false,
        })
    }

    fn image(&mut self, index: usize) -> Result<Image, StartError> {
        let reference = self.slots[index].spec.image.clone().unwrap_or_default();
        match self.node.config.catalogue.lookup(&reference) {
            Ok(image) => {
                let image = image.clone();
                self.slots[index].image_id = image.id.clone();
                if self.slots[index].attempt == 0 {
                    let name = self.slots[index].name().to_string();
                    let message =
                        format!("Container image {reference:?} already present on machine");
                    self.event(Some(&name), Kind::Normal, "Pulled", message);
                }
                Ok(image)
            }
            Err(error) => {
                let invalid = matches!(error, CatalogueError::InvalidReference(_));
                Err(StartError::Image {
                    message: error.to_string(),
                    invalid,
                })
            }
        }
    }

    /// Identity, environment, command, mounts, root file system: all decisions of a start.
    async fn plan(
        &self,
        index: usize,
        image: &Image,
        id: &str,
    ) -> Result<(Layers, ContainerSpec, Stdio), StartError> {
        let slot = &self.slots[index];
        let spec = self
            .pod
            .spec
            .as_ref()
            .ok_or_else(|| StartError::Config("pod has no spec".to_string()))?;
        let sandbox = self
            .sandbox
            .as_ref()
            .ok_or_else(|| StartError::Config("pod has no sandbox".to_string()))?;
        let identity = security::identity(spec, &slot.spec, image).map_err(StartError::Config)?;
        let names = self.name_files();
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        let links = spec.enable_service_links != Some(false);
        let services = self
            .node
            .services
            .environment(namespace, links)
            .await
            .map_err(StartError::Config)?;
        let addresses = self.addresses();
        let context = EnvContext {
            pod: &self.pod,
            image,
            hostname: &names.hostname,
            services: &services,
            addresses: &addresses,
            allocatable: &self.node.capacity,
            objects: &self.node.objects,
        };
        let mut environment = env::build(&slot.spec, &context)
            .await
            .map_err(StartError::Config)?;
        environment.set_home(identity.uid);
        let argv =
            env::command_line(&slot.spec, image, &environment).map_err(StartError::Config)?;
        let root = self
            .dir
            .join("containers")
            .join(slot.name())
            .join(slot.attempt.to_string());
        let layers = Layers::prepare(&root, image, &names)?;
        let (shm, termination_log) = (self.dir.join("shm"), layers.termination_log());
        let common = PodMounts {
            shm: &shm,
            termination_log: &termination_log,
        };
        let mounts = mounts::plan(
            &self.pod,
            &slot.spec,
            image,
            &environment,
            &self.volumes,
            &common,
        )
        .map_err(StartError::Config)?;
        let tty = slot.spec.tty == Some(true);
        let own_cwd = slot.spec.working_dir.clone().filter(|cwd| !cwd.is_empty());
        let container = ContainerSpec {
            cgroup_procs: vec![self.cgroup.container(id)?.procs()],
            namespaces: sandbox.namespaces(),
            rootfs: RootfsSpec {
                lower: "/".into(),
                upper: layers.upper(),
                work: layers.work(),
                target: layers.target(),
                read_only: identity.read_only_root,
                privileged: identity.privileged,
                mounts,
            },
            process: ProcessSpec {
                argv,
                env: environment.into_list(),
                cwd: own_cwd.unwrap_or_else(|| image.working_dir.clone()),
                uid: identity.uid,
                gid: identity.gid,
                groups: identity.groups,
                capabilities: identity.capabilities,
                no_new_privileges: identity.no_new_privileges,
                tty,
            },
        };
        let stdio = if tty {
            Stdio::Terminal
        } else {
            Stdio::Pipes {
                stdin: slot.spec.stdin == Some(true),
            }
        };
        Ok((layers, container, stdio))
    }

    fn name_files(&self) -> NameFiles {
        let Some(spec) = &self.pod.spec else {
            return NameFiles::default();
        };
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        let config = &self.node.config;
        let node_conf = std::fs::read_to_string(&config.resolv_conf).unwrap_or_default();
        let cluster = ClusterDns {
            servers: &config.cluster_dns,
            domain: &config.cluster_domain,
        };
        let resolv =
            resolver::resolv_conf(spec, namespace, &cluster, &ResolvConf::parse(&node_conf));
        let aliases = spec.host_aliases.clone().unwrap_or_default();
        let addresses = self
            .sandbox
            .as_ref()
            .map(|sandbox| sandbox.addresses.clone())
            .unwrap_or_default();
        let (hostname, hosts) = if spec.host_network == Some(true) {
            let own = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
            (
                config.node_name.clone(),
                format!("{own}{}", resolver::host_aliases(&aliases)),
            )
        } else {
            let hostname =
                resolver::hostname(spec, self.pod.metadata.name.as_deref().unwrap_or_default());
            let full = spec
                .subdomain
                .as_deref()
                .filter(|subdomain| !subdomain.is_empty())
                .map(|subdomain| {
                    format!(
                        "{hostname}.{subdomain}.{namespace}.svc.{}",
                        config.cluster_domain
                    )
                });
            let hosts = resolver::hosts(&hostname, full.as_deref(), &addresses, &aliases);
            (hostname, hosts)
        };
        NameFiles {
            resolv_conf: resolv.render(),
            hosts,
            hostname,
        }
    }

    pub(super) fn log_path(&self, slot: &Slot) -> std::path::PathBuf {
        let meta = &self.pod.metadata;
        let pod = format!(
            "{}_{}_{}",
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default(),
            self.uid
        );
        self.node
            .config
            .log_dir
            .join(pod)
            .join(slot.name())
            .join(format!("{}.log", slot.attempt))
    }
}

/// Sends output to the log and to attached clients; closes the log when both streams have ended.
fn connect_streams(
    started: Started,
    log: &Arc<ContainerLog>,
    stdin_once: bool,
) -> (process::Process, ContainerIo) {
    let (output, early) = broadcast::channel(256);
    let interactive = started.stdin.is_some();
    let mut captures = Vec::new();
    for (reader, stream) in [
        (started.stdout, Stream::Stdout),
        (started.stderr, Stream::Stderr),
    ] {
        if let Some(reader) = reader {
            captures.push(tokio::spawn(logs::capture(
                reader,
                stream,
                log.clone(),
                output.clone(),
            )));
        }
    }
    let (process, log) = (started.process.clone(), log.clone());
    tokio::spawn(async move {
        process.wait().await;
        // A grandchild that kept the pipe open must not keep followers waiting for ever.
        let both = futures_util::future::join_all(captures);
        let _ = tokio::time::timeout(Duration::from_secs(5), both).await;
        log.close();
    });
    let io = ContainerIo {
        output,
        early: Arc::new(Mutex::new(interactive.then(|| (Instant::now(), early)))),
        stdin: Arc::new(tokio::sync::Mutex::new(started.stdin)),
        stdin_once,
        terminal: started.terminal,
    };
    (started.process, io)
}
