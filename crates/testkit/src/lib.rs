//! Test harness: network namespaces, processes in them, packet capture, certificates, waiting, leaks.
//!
//! What a test makes here has no name that another test could meet, and goes away with the value
//! that stands for it, also when the test panics: namespaces are held by file descriptors and not
//! by names, processes are killed by the id under which they were started.
//!
//! Most of it needs root, and says so when it has none ([`require_root`]): a test that silently
//! passes proves nothing.
//!
//! ```no_run
//! use ambit_testkit::{Capture, Network};
//! let network = Network::new("example")?;
//! let (a, b) = (network.node()?, network.node()?);
//! let (client, server) = (a.pod("client")?, b.pod("server")?);
//! let capture = Capture::start(a.namespace(), "eth0")?;
//! let listener = server.namespace().run(|| std::net::TcpListener::bind("0.0.0.0:8080"))??;
//! let stream = client.namespace().run(|| std::net::TcpStream::connect((server.ip(), 8080)))??;
//! let packets = capture.stop()?;
//! assert!(packets.syn_ports().contains(&8080));
//! # drop((listener, stream));
//! # Ok::<(), anyhow::Error>(())
//! ```

mod capture;
mod certs;
mod kubectl;
mod leaks;
mod namespace;
mod netlink;
mod network;
mod packets;
mod process;
mod redirect;
mod wait;

pub use capture::Capture;
pub use certs::{Issued, TestCa};
pub use kubectl::{Kubectl, kubectls, words};
pub use leaks::Snapshot;
pub use namespace::Namespace;
pub use network::{Network, Node, Pod};
pub use packets::{Packets, Segment};
pub use process::{Process, die_with_parent, program};
pub use redirect::capture_pod;
pub use wait::{eventually, wait_for};

/// Fails with a clear message when the test has no root rights.
pub fn require_root() -> anyhow::Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    anyhow::bail!(
        "this test makes network namespaces and needs root (CAP_SYS_ADMIN, CAP_NET_ADMIN); \
         run it as root, or leave it out by name with `cargo test -- --skip`"
    )
}
