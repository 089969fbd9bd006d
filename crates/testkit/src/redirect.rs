//! The capture rules of a mesh pod, as the node agent would install them.
//!
//! Written out here by hand, and not taken from the agent, so that tests of the proxy and
//! benchmarks stand on the documented rules and not on another part's idea of them.

use std::io::Write;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use crate::Namespace;
use crate::netlink;

const RULES: &str = r"
table inet istio-ambient-mangle {
  chain istio-prerouting {
    meta mark & 0xfff == 0x539 counter ct mark set ct mark & 0xfffff000 | 0x111
  }
  chain istio-output {
    ct mark & 0xfff == 0x111 counter meta mark set ct mark
  }
  chain prerouting { type filter hook prerouting priority -150; jump istio-prerouting; }
  chain output { type route hook output priority -150; jump istio-output; }
}
table inet istio-ambient-nat {
  chain istio-prerouting {
    ip saddr 169.254.7.127 meta l4proto tcp counter accept
    ip daddr != 127.0.0.1 tcp dport != 15008 meta mark & 0xfff != 0x539 counter redirect to :15006
    ip6 daddr != ::1 tcp dport != 15008 meta mark & 0xfff != 0x539 counter redirect to :15006
  }
  chain istio-output {
    ip daddr 169.254.7.127 meta l4proto tcp counter accept
    oifname != lo udp dport 53 meta mark & 0xfff != 0x539 counter redirect to :15053
    ip daddr != 127.0.0.1 tcp dport 53 meta mark & 0xfff != 0x539 counter redirect to :15053
    ip6 daddr != ::1 tcp dport 53 meta mark & 0xfff != 0x539 counter redirect to :15053
    meta l4proto tcp meta mark & 0xfff == 0x111 counter accept
    ip daddr != 127.0.0.1 oifname lo counter accept
    ip6 daddr != ::1 oifname lo counter accept
    ip daddr != 127.0.0.1 meta l4proto tcp meta mark & 0xfff != 0x539 counter redirect to :15001
    ip6 daddr != ::1 meta l4proto tcp meta mark & 0xfff != 0x539 counter redirect to :15001
  }
  chain prerouting { type nat hook prerouting priority -100; jump istio-prerouting; }
  chain output { type nat hook output priority -100; jump istio-output; }
}
table inet istio-ambient-raw {
  chain istio-prerouting { udp sport 53 meta mark & 0xfff != 0x539 counter ct zone set 1; }
  chain istio-output { udp dport 53 meta mark & 0xfff == 0x539 counter ct zone set 1; }
  chain prerouting { type filter hook prerouting priority -300; jump istio-prerouting; }
  chain output { type filter hook output priority -300; jump istio-output; }
}
";

/// Redirects a pod's traffic to the ports of a proxy in it.
pub fn capture_pod(pod: &Namespace) -> Result<()> {
    let mut nft = pod
        .command("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start nft; the nftables package is needed")?;
    nft.stdin
        .take()
        .context("nft has no input")?
        .write_all(RULES.as_bytes())?;
    let output = nft.wait_with_output()?;
    ensure!(
        output.status.success(),
        "nft refused: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    netlink::run(pod, async |net| {
        net.deliver_locally(0x111, 0xfff, 100, 32764).await
    })
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};

    use crate::Network;

    #[test]
    fn what_leaves_and_what_arrives_is_redirected_and_loopback_is_not() {
        let network = Network::new("redirect").unwrap();
        let node = network.node().unwrap();
        let (pod, outside) = (node.pod("pod").unwrap(), node.pod("outside").unwrap());
        super::capture_pod(pod.namespace()).unwrap();
        let listen = |port: u16| {
            pod.namespace()
                .run(|| TcpListener::bind(("0.0.0.0", port)))
                .unwrap()
                .unwrap()
        };
        let (outbound, inbound, app) = (listen(15001), listen(15006), listen(8080));
        let connect = |from: &crate::Pod, to: (std::net::IpAddr, u16)| {
            from.namespace()
                .run(|| TcpStream::connect(SocketAddr::from(to)))
                .unwrap()
                .unwrap()
        };
        let client = connect(&pod, (outside.ip(), 9999));
        assert_eq!(outbound.accept().unwrap().1, client.local_addr().unwrap());
        let client = connect(&outside, (pod.ip(), 8080));
        assert_eq!(inbound.accept().unwrap().1, client.local_addr().unwrap());
        let client = connect(&pod, ([127, 0, 0, 1].into(), 8080));
        assert_eq!(app.accept().unwrap().1, client.local_addr().unwrap());
        let client = connect(&pod, (pod.ip(), 8080));
        assert_eq!(app.accept().unwrap().1, client.local_addr().unwrap());
    }
}
