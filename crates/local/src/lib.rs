//! The local cluster: an API server and nodes in namespaces of this machine,
//! in one process tree.
//!
//! ```text
//! ambit local up            (ends when the cluster is up)
//!   └─ guardian             first process; on the host; cleans up at the end
//!        └─ init            new PID, mount, network, UTS, IPC namespaces: the router
//!             ├─ apiserver      listeners: 127.0.0.1 (opened on the host), the router's address
//!             ├─ controllers    controllers, service addresses of the router
//!             └─ NODE           one per node, each in namespaces of its own
//!                  └─ agent     kubelet and service proxy; pods are its children
//! ```
//!
//! What always holds: whatever ends guardian or init ends everything, and
//! leaves no process, link, mount, cgroup, rule or file; the host keeps its
//! rules and sysctls, and gets one link with one route per cluster; clusters
//! do not meet. A cluster isolates nothing: pods run as the host's root.
//!
//! The program that uses this crate is all of these processes. Its `main`
//! calls [`reserved`] first, before any thread exists, and [`run`] for the
//! command `local`.

mod addresses;
mod cleanup;
mod commands;
mod control;
mod credentials;
mod dns;
mod error;
mod faults;
mod guardian;
mod init;
mod kind;
mod kubeconfig;
mod kubernetes;
mod mounts;
mod network;
mod node;
mod parts;
mod preflight;
mod report;
mod spawn;
mod state;
mod system;

pub use commands::{Command, run};
pub use error::LocalError;

/// First argument of a cluster's first process.
pub const REAPER: &str = "local-reaper";
/// First argument of the processes inside a cluster's namespaces.
pub const INIT: &str = "local-init";
/// First argument of a node's processes.
pub const NODE: &str = "local-node";

/// First argument of the cluster's DNS server, which runs in a pod.
pub const DNS: &str = "local-dns";

/// The images that nodes know; the format is `ambit_node_agent::catalogue`'s.
const CATALOGUE: &str = include_str!("catalogue.yaml");

/// Lives the life of one of the cluster's processes, if `first` (the first
/// argument after the program's name) says so, and returns its exit code; for
/// any other argument there is nothing to do here. Must be called before the
/// first thread is started.
pub fn reserved(first: &str, rest: &[String]) -> Option<i32> {
    let (part, after) = rest
        .split_first()
        .map_or(("", rest), |(part, after)| (part.as_str(), after));
    let life: Box<dyn FnOnce() -> error::Result<()>> = match (first, part) {
        (DNS, _) => Box::new(dns::main),
        (REAPER, _) => Box::new(|| guardian::main(rest)),
        (INIT, "cluster") => Box::new(|| init::main(after)),
        (INIT, "apiserver") => Box::new(|| parts::api_server(after)),
        (INIT, "controllers") => Box::new(|| parts::controllers(after)),
        (NODE, "node") => Box::new(node::main),
        (NODE, "agent") => Box::new(node::agent),
        (INIT | NODE, _) => {
            eprintln!("{first} is started by `ambit local up` only");
            return Some(2);
        }
        _ => return None,
    };
    Some(live(first, life))
}

/// Runs a process's life with its log on standard output.
fn live(role: &str, life: impl FnOnce() -> error::Result<()>) -> i32 {
    let _guard = match ambit_runtime::log::init(&ambit_runtime::log::Options::default()) {
        Ok(guard) => Some(guard),
        Err(error) => {
            eprintln!("{role}: {error}");
            None
        }
    };
    match life() {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!("{error}");
            1
        }
    }
}
