//! The first process inside a cluster's namespaces: it is the router's
//! network namespace, starts all parts, and outlives them. When it ends,
//! everything in its PID namespace ends, too.
//!
//! What always holds: a cluster without its API server, or without its
//! guardian, is ended; every other part is started again, unless it is a node
//! that somebody switched off.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, sethostname};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::signal::unix::{Signal as Arrivals, SignalKind, signal};
use tokio::time::Instant;

use crate::cleanup;
use crate::control::Control;
use crate::credentials;
use crate::error::{Doing, LocalError, Result, file};
use crate::faults::{self, Faults, Request};
use crate::mounts;
use crate::network::{End, Network, be_router, block_on};
use crate::node::NodeStart;
use crate::report::{Report, send};
use crate::spawn;
use crate::state::{Cluster, Folder, ProcessId};

/// How long to wait before a part that ended is started again.
const RESTART_DELAY: Duration = Duration::from_secs(1);

/// How often a part that cannot even be started is tried.
const RESTART_ATTEMPTS: u32 = 10;

/// How long the processes of a node may take to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// A part of the cluster, by what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    ApiServer,
    Controllers,
    /// The node at this place.
    Node(usize),
}

/// A part that is to be started again.
struct Restart {
    part: Part,
    at: Instant,
    attempt: u32,
}

/// The life of a cluster's init. Arguments: folder, API listener, report
/// pipe, life pipe.
pub(crate) fn main(arguments: &[String]) -> Result<()> {
    let folder = Folder::at(arguments.first().map(Into::into).unwrap_or_default());
    let listener = spawn::inherited(arguments.get(1), "the API listener")?;
    let report = File::from(spawn::inherited(arguments.get(2), "the report pipe")?);
    let mut life = File::from(spawn::inherited(arguments.get(3), "the life pipe")?);
    // The guardian writes one byte when the link to the host is there.
    let mut go = [0];
    life.read_exact(&mut go)
        .map_err(file("waiting for", "the guardian"))?;
    block_on(async {
        let life = Receiver::from_owned_fd(life.into()).doing("watching the guardian")?;
        tokio::select! {
            () = gone(life) => clean_up(&folder),
            end = run(&folder, listener, report) => end,
        }
    })
}

/// Starts everything and keeps it running.
async fn run(folder: &Folder, listener: OwnedFd, mut report: File) -> Result<()> {
    match Running::start(folder, listener, &mut report).await {
        Ok(mut cluster) => {
            send(&mut report, &Report::Started);
            drop(report);
            cluster.supervise().await
        }
        Err(error) => {
            send(&mut report, &Report::Failed(error.to_string()));
            Err(error)
        }
    }
}

/// Waits for the end of the guardian: nothing more is ever written.
async fn gone(mut guardian: Receiver) {
    while guardian.read(&mut [0]).await.is_ok_and(|read| read > 0) {}
}

/// Ends everything, in place of the guardian.
fn clean_up(folder: &Folder) -> Result<()> {
    tracing::warn!("the guardian is gone: ending the cluster");
    // As first process of a PID namespace: everybody in it but ourselves.
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    while waitpid(Pid::from_raw(-1), None).is_ok() {}
    // The host's link goes with this network namespace.
    cleanup::remove(folder, false)
}

/// The running cluster as its init sees it.
struct Running {
    folder: Folder,
    cluster: Cluster,
    control: Control,
    /// Tells that children ended, one or many.
    children: Arrivals,
    parts: HashMap<i32, Part>,
    restarts: Vec<Restart>,
    faults: Faults,
}

impl Running {
    async fn start(folder: &Folder, listener: OwnedFd, report: &mut File) -> Result<Self> {
        let cluster = folder.cluster()?;
        mounts::isolate()?;
        mounts::mount_proc()?;
        sethostname(&cluster.name).doing("setting the host name")?;
        be_router(&cluster.families())?;
        be_reachable(&cluster).await?;
        send(report, &Report::Done("network".to_owned()));
        credentials::create(folder, &cluster)?;
        // Bound here, so that clients that are early wait and do not fail.
        let inside = cluster.inner_api();
        let inside = TcpListener::bind(inside).doing(format!("listening on {inside}"))?;
        let mut running = Self {
            folder: folder.clone(),
            cluster,
            control: Control::open(folder)?,
            children: signal(SignalKind::child()).doing("waiting for processes")?,
            parts: HashMap::new(),
            restarts: Vec::new(),
            faults: Faults::default(),
        };
        running.start_api_server(&listener, &inside)?;
        running.start_part(Part::Controllers).await?;
        send(report, &Report::Done("control plane".to_owned()));
        for place in 0..running.cluster.nodes.len() {
            running.start_part(Part::Node(place)).await?;
        }
        send(report, &Report::Done("nodes".to_owned()));
        Ok(running)
    }

    fn start_api_server(&mut self, outside: &OwnedFd, inside: &TcpListener) -> Result<()> {
        let mut command = self.command(faults::API_SERVER)?;
        command
            .arg(spawn::number(outside))
            .arg(spawn::number(inside));
        spawn::inherit(&mut command, vec![outside.as_raw_fd(), inside.as_raw_fd()]);
        self.spawn(command, Part::ApiServer)
    }

    /// Starts any part but the API server, whose end is the cluster's.
    async fn start_part(&mut self, part: Part) -> Result<()> {
        match part {
            Part::ApiServer => Ok(()),
            Part::Controllers => self.spawn(self.command(faults::CONTROLLERS)?, part),
            Part::Node(place) => self.start_node(place).await,
        }
    }

    fn command(&self, name: &str) -> Result<Command> {
        let mut command = Command::new(&self.cluster.program);
        command.arg(crate::INIT).arg(name).arg(self.folder.path());
        spawn::log_to(&mut command, &self.folder.log(name))?;
        Ok(command)
    }

    fn spawn(&mut self, mut command: Command, part: Part) -> Result<()> {
        let child = command
            .spawn()
            .map_err(file("starting", &self.cluster.program))?;
        self.parts.insert(child.id().cast_signed(), part);
        Ok(())
    }

    /// Starts a node, connects it with the router, and tells it who it is.
    async fn start_node(&mut self, place: usize) -> Result<()> {
        let start = NodeStart::new(&self.folder, &self.cluster, place)?;
        let mut command = Command::new(&self.cluster.program);
        command.args([crate::NODE, "node", &start.name]);
        spawn::log_to(&mut command, &self.folder.log(&start.name))?;
        command.stdin(Stdio::piped());
        let mut child = spawn::in_namespaces(command)?;
        let pid = child.id().cast_signed();
        self.parts.insert(pid, Part::Node(place));
        let connected = async {
            make_link(&start, place, pid).await?;
            if !self.faults.cut.contains(&start.name) {
                connect_node(&self.cluster, place).await?;
            }
            tell(&mut child, &start)
        };
        let connected = connected.await;
        if connected.is_err() {
            // Not a node that ended, but one that never was.
            self.parts.remove(&pid);
            let _ = child.kill();
        }
        connected
    }

    /// Waits for what happens, for ever: parts that end, orphans whose parent
    /// we have become, parts to start again, and requests for faults.
    async fn supervise(&mut self) -> Result<()> {
        loop {
            let next = self.restarts.iter().map(|restart| restart.at).min();
            tokio::select! {
                _ = self.children.recv() => self.reap()?,
                asked = self.control.next() => {
                    let outcome = self.obey(&asked.request).await;
                    let faults = outcome.map(|()| self.faults.clone());
                    asked.answer(faults).await;
                }
                () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)),
                    if next.is_some() => self.restart_due().await?,
            }
        }
    }

    /// Takes note of all children that ended.
    fn reap(&mut self) -> Result<()> {
        loop {
            let pid = match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _)) => pid.as_raw(),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(()),
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno).doing("waiting for the cluster's processes"),
            };
            if let Some(part) = self.parts.remove(&pid) {
                self.ended(part)?;
            }
        }
    }

    fn ended(&mut self, part: Part) -> Result<()> {
        if part == Part::ApiServer {
            let part = "the API server".to_owned();
            return Err(LocalError::Part {
                part,
                reason: "ended; see its log".to_owned(),
            });
        }
        let name = self.name(part).to_owned();
        // Whatever stood still is gone, and its successor does not.
        self.faults.paused.remove(&name);
        if self.faults.stopped.contains(&name) {
            tracing::info!("{name} is switched off");
        } else {
            tracing::warn!("{name} ended and will be started again");
            self.restart_later(part, 1);
        }
        Ok(())
    }

    fn restart_later(&mut self, part: Part, attempt: u32) {
        let at = Instant::now() + RESTART_DELAY;
        self.restarts.push(Restart { part, at, attempt });
    }

    /// Starts parts again, each a few times before the cluster is given up.
    async fn restart_due(&mut self) -> Result<()> {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.restarts)
            .into_iter()
            .partition(|restart| restart.at <= now);
        self.restarts = later;
        for Restart { part, attempt, .. } in due {
            match self.start_part(part).await {
                Err(error) if attempt < RESTART_ATTEMPTS => {
                    let name = self.name(part);
                    tracing::warn!("{name} was not started again: {error}");
                    self.restart_later(part, attempt + 1);
                }
                done => done?,
            }
        }
        Ok(())
    }

    fn name(&self, part: Part) -> &str {
        match part {
            Part::ApiServer => faults::API_SERVER,
            Part::Controllers => faults::CONTROLLERS,
            Part::Node(place) => self
                .cluster
                .nodes
                .get(place)
                .map_or("", |n| n.name.as_str()),
        }
    }
}

/// Faults on demand.
impl Running {
    async fn obey(&mut self, request: &Request) -> Result<()> {
        match request {
            Request::Show => Ok(()),
            Request::Stop(node) => self.stop(node).await,
            Request::Start(node) => self.make_work(node).await,
            Request::Cut(node) => self.cut(node).await,
            Request::Pause(part) => self.pause(part),
            Request::Resume(part) => self.resume(part),
        }
    }

    fn place(&self, name: &str) -> Result<usize> {
        let mut nodes = self.cluster.nodes.iter();
        nodes.position(|node| node.name == name).ok_or_else(|| {
            let reason = format!("there is no node {name}");
            LocalError::Refused(reason)
        })
    }

    fn pid(&self, part: Part) -> Option<i32> {
        let mut all = self.parts.iter();
        all.find(|(_, known)| **known == part).map(|(pid, _)| *pid)
    }

    /// Ends a node with all that runs on it, at once, as a machine that loses
    /// its power.
    async fn stop(&mut self, name: &str) -> Result<()> {
        let part = Part::Node(self.place(name)?);
        self.faults.stopped.insert(name.to_owned());
        self.restarts.retain(|restart| restart.part != part);
        let Some(pid) = self.pid(part) else {
            return Ok(());
        };
        // As first process of its PID namespace it takes everybody with it.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        let ended = async {
            while self.pid(part).is_some() {
                self.children.recv().await;
                self.reap()?;
            }
            Ok(())
        };
        let slow = || LocalError::Refused(format!("the processes of {name} do not end"));
        tokio::time::timeout(PATIENCE, ended)
            .await
            .map_err(|_| slow())?
    }

    /// Switches a node on if it is off, and connects it.
    async fn make_work(&mut self, name: &str) -> Result<()> {
        let place = self.place(name)?;
        let part = Part::Node(place);
        let was_cut = self.faults.cut.remove(name);
        self.faults.stopped.remove(name);
        if self.pid(part).is_some() {
            return match was_cut {
                true => connect_node(&self.cluster, place).await,
                false => Ok(()),
            };
        }
        self.restarts.retain(|restart| restart.part != part);
        self.start_part(part).await.inspect_err(|_| {
            self.faults.stopped.insert(name.to_owned());
        })
    }

    /// Takes the link of a node down; what runs on it goes on alone.
    async fn cut(&mut self, name: &str) -> Result<()> {
        let place = self.place(name)?;
        self.must_run(name)?;
        // A link that is down has no routes, at this end.
        Network::open()?.down(&link(place)).await?;
        self.faults.cut.insert(name.to_owned());
        Ok(())
    }

    fn must_run(&self, node: &str) -> Result<()> {
        match self.faults.stopped.contains(node) {
            true => {
                let reason =
                    format!("the node {node} is stopped; `ambit local node start` it first");
                Err(LocalError::Refused(reason))
            }
            false => Ok(()),
        }
    }

    fn pause(&mut self, name: &str) -> Result<()> {
        self.must_run(name)?;
        self.signal(name, Signal::SIGSTOP)?;
        self.faults.paused.insert(name.to_owned());
        Ok(())
    }

    fn resume(&mut self, name: &str) -> Result<()> {
        if self.faults.paused.contains(name) {
            self.signal(name, Signal::SIGCONT)?;
            self.faults.paused.remove(name);
        }
        Ok(())
    }

    /// Signals the one process of a part: of a node its agent.
    fn signal(&self, name: &str, signal: Signal) -> Result<()> {
        let gone = || {
            let reason = format!("{name} is not running at this moment; try again");
            LocalError::Refused(reason)
        };
        let pid = match name {
            faults::API_SERVER => self.pid(Part::ApiServer),
            faults::CONTROLLERS => self.pid(Part::Controllers),
            node => self
                .pid(Part::Node(self.place(node)?))
                .and_then(ProcessId::of)
                .and_then(|machine| machine.child(&[crate::NODE, "agent", node])),
        };
        kill(Pid::from_raw(pid.ok_or_else(gone)?), signal).map_err(|_| gone())
    }
}

/// Tells a node who it is.
fn tell(node: &mut Child, start: &NodeStart) -> Result<()> {
    let message = serde_json::to_vec(start).map_err(|error| LocalError::Part {
        part: start.name.clone(),
        reason: error.to_string(),
    })?;
    // Closed afterwards: the node reads to the end.
    match node.stdin.take() {
        Some(mut input) => input
            .write_all(&message)
            .map_err(file("telling", &start.name)),
        None => Ok(()),
    }
}

/// The router's side of the link to the host.
async fn be_reachable(cluster: &Cluster) -> Result<()> {
    let addresses = cluster.addresses();
    let link = addresses.router_link();
    let network = Network::open()?;
    network.up("lo").await?;
    network.up(&link).await?;
    for family in cluster.families() {
        let (host, router) = (addresses.host(family), addresses.router(family));
        network.add_address("lo", router).await?;
        network.join(&link, End::Router, router, host).await?;
    }
    Ok(())
}

/// The router's end of the link to a node.
fn link(place: usize) -> String {
    format!("node{place}")
}

/// Makes the link to a node, and gives the node its end, which it configures
/// itself.
async fn make_link(start: &NodeStart, place: usize, pid: i32) -> Result<()> {
    let network = Network::open()?;
    // That of a predecessor may still be there.
    network.remove(&link(place)).await?;
    network.add_pair(&link(place), &start.link).await?;
    network.give_to(&start.link, pid).await
}

/// Brings the router's end of the link to a node up, with its routes.
async fn connect_node(cluster: &Cluster, place: usize) -> Result<()> {
    let (network, link) = (Network::open()?, link(place));
    network.up(&link).await?;
    let nodes = cluster.node_addresses(place);
    let ends = cluster.routers().into_iter().zip(nodes);
    for ((router, node), pods) in ends.zip(cluster.node_subnets(place)) {
        let hop = network.join(&link, End::Router, router, node).await?;
        network.route_via(pods, &link, hop, router).await?;
    }
    Ok(())
}
