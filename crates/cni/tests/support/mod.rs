//! Unnamed network namespaces for tests: they live as long as a descriptor and leave nothing.

use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::process::Command;

use ambit_cni::netns::Netns;
use nix::sched::{CloneFlags, unshare};

/// A new network namespace with loopback up.
pub fn new_netns() -> Netns {
    let netns = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET)
            .expect("this test makes network namespaces and needs root (CAP_SYS_ADMIN)");
        Netns::current().expect("namespace of this thread")
    })
    .join()
    .expect("thread");
    ip(&netns, "link set lo up");
    netns
}

/// Runs `ip <args>` inside the namespace.
pub fn ip(netns: &Netns, args: &str) -> String {
    sh(netns, &format!("ip {args}"))
}

/// Runs a shell command inside the namespace; it must succeed.
pub fn sh(netns: &Netns, script: &str) -> String {
    let output = netns
        .run(|| Command::new("sh").args(["-c", script]).output())
        .expect("enter")
        .expect("sh");
    assert!(
        output.status.success(),
        "{script}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A node namespace and a pod namespace joined by a veth pair: the node has 10.9.0.1 and
/// fd99::1, the pod 10.9.0.2 and fd99::2 with its default route through the node.
pub fn node_and_pod() -> (Netns, Netns) {
    let (node, pod) = (new_netns(), new_netns());
    let pod_fd = format!(
        "/proc/{}/fd/{}",
        std::process::id(),
        pod.as_fd().as_raw_fd()
    );
    ip(
        &node,
        &format!("link add pod0 type veth peer name eth0 netns {pod_fd}"),
    );
    ip(&node, "addr add 10.9.0.1/24 dev pod0");
    ip(&node, "addr add fd99::1/64 dev pod0 nodad");
    ip(&node, "link set pod0 up");
    ip(&pod, "addr add 10.9.0.2/24 dev eth0");
    ip(&pod, "addr add fd99::2/64 dev eth0 nodad");
    ip(&pod, "link set eth0 up");
    ip(&pod, "route add default via 10.9.0.1");
    ip(&pod, "-6 route add default via fd99::1");
    (node, pod)
}
