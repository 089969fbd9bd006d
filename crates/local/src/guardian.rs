//! The first process of a cluster. It connects the host with one link, starts
//! the cluster's init in new namespaces, waits for its end, and removes what
//! the kernel leaves.
//!
//! The two hold each other's end: init dies with everything in it when its
//! PID namespace is killed, and the guardian cleans up; when the guardian is
//! killed, init sees the end of the `life` pipe, ends everything in its
//! namespace, and cleans up itself.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use ambit_node_agent::nft::Family;

use crate::addresses::{Addresses, INDICES};
use crate::cleanup;
use crate::error::{LocalError, Result, file};
use crate::network::{End, Network, block_on};
use crate::report::{Report, send};
use crate::spawn;
use crate::state::{Cluster, Folder, ProcessId, Processes};

/// Starts the guardian of a cluster, detached. It gets the API server's
/// listener and the pipe for reports.
pub(crate) fn start(
    folder: &Folder,
    program: &Path,
    listener: &impl AsRawFd,
    report: &OwnedFd,
) -> Result<Child> {
    let mut command = Command::new(program);
    command.arg(crate::REAPER).arg(folder.path());
    command
        .arg(spawn::number(listener))
        .arg(spawn::number(report));
    spawn::log_to(&mut command, &folder.log("guardian"))?;
    command.current_dir("/");
    spawn::detach(&mut command);
    spawn::inherit(&mut command, vec![listener.as_raw_fd(), report.as_raw_fd()]);
    command.spawn().map_err(file("starting", program))
}

/// The guardian's life. Arguments: folder, listener, report pipe.
pub(crate) fn main(arguments: &[String]) -> Result<()> {
    let folder = Folder::at(arguments.first().map(Into::into).unwrap_or_default());
    let listener = spawn::inherited(arguments.get(1), "the API listener")?;
    let mut report = File::from(spawn::inherited(arguments.get(2), "the report pipe")?);
    let started = launch(&folder, &listener, &report);
    drop(listener);
    let result = match started {
        Ok(mut init) => {
            drop(report);
            let end = init.child.wait();
            tracing::info!("the cluster ended: {end:?}");
            Ok(())
        }
        Err(error) => {
            send(&mut report, &Report::Failed(error.to_string()));
            Err(error)
        }
    };
    cleanup::remove(&folder, true)?;
    result
}

/// The cluster's init, and the pipe whose end tells it that we are gone.
struct Init {
    child: Child,
    _life: File,
}

fn launch(folder: &Folder, listener: &OwnedFd, report: &File) -> Result<Init> {
    let me = ProcessId::of(std::process::id().cast_signed());
    let guardian = me.ok_or_else(|| LocalError::Missing("/proc is not mounted".to_owned()))?;
    folder.write_processes(&Processes {
        guardian,
        init: None,
    })?;
    let mut cluster = folder.cluster()?;
    claim(folder, &mut cluster)?;
    let (theirs, ours) = spawn::pipe()?;
    let mut command = Command::new(&cluster.program);
    command.arg(crate::INIT).arg("cluster").arg(folder.path());
    command
        .arg(spawn::number(listener))
        .arg(spawn::number(report))
        .arg(spawn::number(&theirs));
    spawn::log_to(&mut command, &folder.log("init"))?;
    command.stdin(Stdio::null());
    let descriptors = vec![listener.as_raw_fd(), report.as_raw_fd(), theirs.as_raw_fd()];
    spawn::inherit(&mut command, descriptors);
    let mut child = spawn::in_namespaces(command)?;
    let pid = child.id().cast_signed();
    let mut life = File::from(ours);
    let connected = (|| {
        folder.write_processes(&Processes {
            guardian,
            init: ProcessId::of(pid),
        })?;
        block_on(connect(&cluster, pid))?;
        // One byte: the link is there, go on.
        life.write_all(b"+")
            .map_err(file("telling", "the cluster's init"))
    })();
    if let Err(error) = connected {
        // Init may be gone already; its end is awaited in either case.
        let _ = child.kill();
        let _ = child.wait();
        return Err(error);
    }
    Ok(Init { child, _life: life })
}

/// Takes the first index that nobody on this machine uses: the kernel allows
/// each link name once. Written down before the link is there, so that an end at
/// any moment leaves no link that nobody knows of.
fn claim(folder: &Folder, cluster: &mut Cluster) -> Result<()> {
    block_on(async {
        let network = Network::open()?;
        for index in INDICES {
            let addresses = Addresses::new(index);
            // In both families: the next cluster may want either.
            if network.is_routed(addresses.network(Family::V4)).await?
                || network.is_routed(addresses.network(Family::V6)).await?
            {
                continue;
            }
            cluster.index = Some(index);
            folder.write_cluster(cluster)?;
            let (host, router) = (addresses.host_link(), addresses.router_link());
            if network.claim_pair(&host, &router, cluster.link).await? {
                return Ok(());
            }
        }
        Err(LocalError::Missing(
            "all networks of 172.30.0.0/16 are in use".to_owned(),
        ))
    })
}

/// Connects the host with the cluster: one link, with one address and one
/// route for each version of IP.
async fn connect(cluster: &Cluster, init: i32) -> Result<()> {
    let addresses = cluster.addresses();
    let network = Network::open()?;
    let link = addresses.host_link();
    network.give_to(&addresses.router_link(), init).await?;
    network.up(&link).await?;
    for family in cluster.families() {
        let (host, router) = (addresses.host(family), addresses.router(family));
        network.add_address(&link, host).await?;
        let hop = network.join(&link, End::Outer, host, router).await?;
        let everything = addresses.network(family);
        network.route_via(everything, &link, hop, host).await?;
    }
    Ok(())
}
