//! The first process inside a cluster's namespaces: it is the router's
//! network namespace, starts all parts, and outlives them. When it ends,
//! everything in its PID namespace ends, too.
//!
//! What always holds: a cluster without its API server, or without its
//! guardian, is ended; a node or the controllers are started again.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, sethostname};

use crate::addresses::API_PORT;
use crate::credentials;
use crate::error::{Doing, LocalError, Result, file};
use crate::mounts;
use crate::network::{Network, be_router, block_on};
use crate::node::NodeStart;
use crate::report::{Report, send};
use crate::spawn;
use crate::state::{Cluster, Folder};
use crate::{addresses, cleanup};

/// How long to wait before a part that ended is started again.
const RESTART_DELAY: Duration = Duration::from_secs(1);

/// How often a part that cannot even be started is tried.
const RESTART_ATTEMPTS: u32 = 10;

/// A part of the cluster, by what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    ApiServer,
    Controllers,
    /// The node at this place.
    Node(usize),
}

/// The life of a cluster's init. Arguments: folder, API listener, report
/// pipe, life pipe.
pub(crate) fn main(arguments: &[String]) -> Result<()> {
    let folder = Folder::at(arguments.first().map(Into::into).unwrap_or_default());
    let listener = spawn::inherited(arguments.get(1), "the API listener")?;
    let mut report = File::from(spawn::inherited(arguments.get(2), "the report pipe")?);
    let mut life = File::from(spawn::inherited(arguments.get(3), "the life pipe")?);
    // The guardian writes one byte when the link to the host is there.
    let mut go = [0];
    life.read_exact(&mut go)
        .map_err(file("waiting for", "the guardian"))?;
    watch_guardian(life, folder.clone());
    let started = Running::start(&folder, listener, &mut report);
    match started {
        Ok(mut cluster) => {
            send(&mut report, &Report::Started);
            drop(report);
            cluster.supervise()
        }
        Err(error) => {
            send(&mut report, &Report::Failed(error.to_string()));
            Err(error)
        }
    }
}

/// Ends everything when the guardian is gone: nobody else would clean up.
fn watch_guardian(mut life: File, folder: Folder) {
    std::thread::spawn(move || {
        let mut rest = Vec::new();
        // Nothing more is ever written: this ends with the guardian.
        let _ = life.read_to_end(&mut rest);
        tracing::warn!("the guardian is gone: ending the cluster");
        // As first process of a PID namespace: everybody in it but ourselves.
        let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
        // The host's link goes with this network namespace.
        let result = cleanup::remove(&folder, false);
        std::process::exit(i32::from(result.is_err()));
    });
}

/// The running cluster as its init sees it.
struct Running {
    folder: Folder,
    cluster: Cluster,
    parts: HashMap<i32, Part>,
}

impl Running {
    fn start(folder: &Folder, listener: OwnedFd, report: &mut File) -> Result<Self> {
        let cluster = folder.cluster()?;
        mounts::isolate()?;
        mounts::mount_proc()?;
        sethostname(&cluster.name).doing("setting the host name")?;
        be_router()?;
        block_on(be_reachable(&cluster))?;
        send(report, &Report::Done("network".to_owned()));
        credentials::create(folder, &cluster)?;
        // Bound here, so that clients that are early wait and do not fail.
        let inside: SocketAddr = (cluster.addresses().router(), API_PORT).into();
        let inside = TcpListener::bind(inside).doing(format!("listening on {inside}"))?;
        let mut running = Self {
            folder: folder.clone(),
            cluster,
            parts: HashMap::new(),
        };
        running.start_api_server(&listener, &inside)?;
        running.start_controllers()?;
        send(report, &Report::Done("control plane".to_owned()));
        for place in 0..running.cluster.nodes.len() {
            running.start_node(place)?;
        }
        send(report, &Report::Done("nodes".to_owned()));
        Ok(running)
    }

    fn start_api_server(&mut self, outside: &OwnedFd, inside: &TcpListener) -> Result<()> {
        let mut command = self.part("apiserver")?;
        command
            .arg(spawn::number(outside))
            .arg(spawn::number(inside));
        spawn::inherit(&mut command, vec![outside.as_raw_fd(), inside.as_raw_fd()]);
        let child = command
            .spawn()
            .map_err(file("starting", &self.cluster.program))?;
        self.parts.insert(child.id().cast_signed(), Part::ApiServer);
        Ok(())
    }

    fn start_controllers(&mut self) -> Result<()> {
        let mut command = self.part("controllers")?;
        let child = command
            .spawn()
            .map_err(file("starting", &self.cluster.program))?;
        self.parts
            .insert(child.id().cast_signed(), Part::Controllers);
        Ok(())
    }

    fn part(&self, name: &str) -> Result<Command> {
        let mut command = Command::new(&self.cluster.program);
        command.arg(crate::INIT).arg(name).arg(self.folder.path());
        spawn::log_to(&mut command, &self.folder.log(name))?;
        Ok(command)
    }

    /// Starts a node, connects it with the router, and tells it who it is.
    fn start_node(&mut self, place: usize) -> Result<()> {
        let start = NodeStart::new(&self.folder, &self.cluster, place)?;
        let mut command = Command::new(&self.cluster.program);
        command.args([crate::NODE, "node", &start.name]);
        spawn::log_to(&mut command, &self.folder.log(&start.name))?;
        command.stdin(Stdio::piped());
        let mut child = spawn::in_namespaces(command)?;
        let pid = child.id().cast_signed();
        self.parts.insert(pid, Part::Node(place));
        let connected = block_on(connect_node(&self.cluster, &start, place, pid))
            .and_then(|()| tell(&mut child, &start));
        if connected.is_err() {
            // Not a node that ended, but one that never was.
            self.parts.remove(&pid);
            let _ = child.kill();
        }
        connected
    }

    /// Waits for processes that end, for ever: the parts, and orphans whose
    /// parent we have become.
    fn supervise(&mut self) -> Result<()> {
        loop {
            let pid = match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::empty())) {
                Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _)) => pid.as_raw(),
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno).doing("waiting for the cluster's processes"),
            };
            let Some(part) = self.parts.remove(&pid) else {
                continue;
            };
            tracing::warn!("{part:?} ended");
            if part == Part::ApiServer {
                let part = "the API server".to_owned();
                return Err(LocalError::Part {
                    part,
                    reason: "ended; see its log".to_owned(),
                });
            }
            self.restart(part)?;
        }
    }

    /// Starts a part again, trying a few times before the cluster is given up.
    fn restart(&mut self, part: Part) -> Result<()> {
        for attempt in 1.. {
            std::thread::sleep(RESTART_DELAY);
            let started = match part {
                Part::ApiServer => return Ok(()),
                Part::Controllers => self.start_controllers(),
                Part::Node(place) => self.start_node(place),
            };
            match started {
                Err(error) if attempt < RESTART_ATTEMPTS => {
                    tracing::warn!("{part:?} was not started again: {error}");
                }
                done => return done,
            }
        }
        Ok(())
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
    let (link, router) = (addresses.router_link(), addresses.router());
    let network = Network::open()?;
    network.up("lo").await?;
    network.add_address("lo", router).await?;
    network.up(&link).await?;
    network.route_link(addresses.host(), &link, router).await
}

/// The router's side of the link to a node. The node's side is configured by
/// the node itself.
async fn connect_node(cluster: &Cluster, start: &NodeStart, place: usize, pid: i32) -> Result<()> {
    let router = cluster.addresses().router();
    let (link, peer) = (format!("node{place}"), format!("node{place}p"));
    let network = Network::open()?;
    // That of a predecessor may still be there.
    network.remove(&link).await?;
    network.add_pair(&link, &peer).await?;
    network.give_to(&peer, pid).await?;
    network.up(&link).await?;
    network.route_link(start.address, &link, router).await?;
    if let Some(pods) = addresses::pod_subnet(cluster.pod_subnet, place) {
        network
            .route_via(pods, &link, start.address, router)
            .await?;
    }
    Ok(())
}
