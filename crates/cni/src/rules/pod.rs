//! The rules inside a pod's network namespace.
//!
//! How they work together: an application's outgoing TCP is redirected to the node proxy's outbound
//! port and incoming TCP to its plaintext port, HBONE reaches the proxy without a redirect. The
//! proxy's own packets carry [`PROXY_MARK`] and pass. Connections that the proxy opens to the
//! application carry the client's address as their source; their packets mark the connection, and
//! the application's answers get that mark back, which routes them to the loopback interface and so
//! to the proxy instead of out of the pod.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::plan::{Action, Chain, Hook, Match, Op, Plan, Protocol, Rule, Table, TableRemoval};
use super::{
    DNS_PORT, DNS_ZONE, HBONE_PORT, INBOUND_PLAINTEXT_PORT, MANGLE_TABLE, NAT_TABLE, OUTBOUND_PORT,
    PROXY_MARK, RAW_TABLE, TPROXY_MARK,
};

const PREROUTING: &str = "istio-prerouting";
const OUTPUT: &str = "istio-output";

/// What decides the rules of one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodCapture {
    /// Redirect DNS (UDP and TCP port 53) to the node proxy.
    pub dns: bool,
    /// Capture IPv6 as well.
    pub ipv6: bool,
    /// Leave incoming connections alone (`ambient.istio.io/bypass-inbound-capture`).
    pub bypass_inbound: bool,
    /// Interfaces whose incoming TCP counts as outgoing: virtual machines inside the pod
    /// (`istio.io/reroute-virtual-interfaces`).
    pub reroute_interfaces: Vec<String>,
    /// Where the kubelet's probes come from and go to; `None` when the pod has no probes.
    pub probes: Option<ProbeSource>,
}

/// The connections that pass to the application without the node proxy: the kubelet's probes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeSource {
    /// Source address on IPv4, after the node's translation.
    pub v4: Ipv4Addr,
    /// Source address on IPv6.
    pub v6: Ipv6Addr,
    /// The ports that the pod's probes name. Nothing else is exempt.
    pub ports: BTreeSet<u16>,
}

impl ProbeSource {
    /// The usual addresses with these ports, or `None` when there are no ports to exempt.
    pub fn for_ports(ports: impl IntoIterator<Item = u16>) -> Option<Self> {
        let ports: BTreeSet<u16> = ports.into_iter().collect();
        (!ports.is_empty()).then_some(Self {
            v4: super::PROBE_SNAT_V4,
            v6: super::PROBE_SNAT_V6,
            ports,
        })
    }
}

impl Default for PodCapture {
    /// What the charts configure: DNS and IPv6 captured, no exemption.
    fn default() -> Self {
        Self {
            dns: true,
            ipv6: true,
            bypass_inbound: false,
            reroute_interfaces: Vec::new(),
            probes: None,
        }
    }
}

impl PodCapture {
    /// The loopback address of each captured family.
    fn loopbacks(&self) -> Vec<IpAddr> {
        let mut all = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
        if self.ipv6 {
            all.push(IpAddr::V6(Ipv6Addr::LOCALHOST));
        }
        all
    }

    /// The probes' source address of each captured family, with the ports.
    fn probe_sources(&self) -> Vec<(IpAddr, Vec<u16>)> {
        let Some(probes) = &self.probes else {
            return Vec::new();
        };
        let ports: Vec<u16> = probes.ports.iter().copied().collect();
        let mut all = vec![(IpAddr::V4(probes.v4), ports.clone())];
        if self.ipv6 {
            all.push((IpAddr::V6(probes.v6), ports));
        }
        all
    }
}

/// Plans the rules of one pod.
pub fn pod_plan(capture: &PodCapture) -> Plan {
    Plan {
        tables: vec![mangle(), nat(capture), raw(capture)],
    }
}

/// The removal of everything that [`pod_plan`] can make.
pub fn pod_removal() -> TableRemoval {
    TableRemoval {
        tables: vec![NAT_TABLE, MANGLE_TABLE, RAW_TABLE],
    }
}

fn mangle() -> Table {
    let prerouting = vec![Rule {
        matches: vec![Match::Mark(Op::Is, PROXY_MARK)],
        action: Action::SetConnectionMark(TPROXY_MARK),
    }];
    let output = vec![Rule {
        matches: vec![Match::ConnectionMark(Op::Is, TPROXY_MARK)],
        action: Action::RestoreMark,
    }];
    table(
        MANGLE_TABLE,
        Hook::ManglePrerouting,
        prerouting,
        Hook::MangleOutput,
        output,
    )
}

fn nat(capture: &PodCapture) -> Table {
    table(
        NAT_TABLE,
        Hook::NatPrerouting,
        nat_prerouting(capture),
        Hook::NatOutput,
        nat_output(capture),
    )
}

fn nat_prerouting(capture: &PodCapture) -> Vec<Rule> {
    let mut rules = Vec::new();
    for interface in &capture.reroute_interfaces {
        rules.push(Rule {
            matches: vec![
                Match::InputInterface(Op::Is, interface.clone()),
                Match::L4(Protocol::Tcp),
            ],
            action: Action::Redirect(OUTBOUND_PORT),
        });
    }
    if capture.bypass_inbound {
        return rules;
    }
    for (source, ports) in capture.probe_sources() {
        rules.push(Rule {
            matches: vec![
                Match::Source(Op::Is, source),
                Match::DestinationPorts(Protocol::Tcp, ports),
            ],
            action: Action::Accept,
        });
    }
    for loopback in capture.loopbacks() {
        rules.push(Rule {
            matches: vec![
                Match::Destination(Op::IsNot, loopback),
                Match::DestinationPort(Protocol::Tcp, Op::IsNot, HBONE_PORT),
                Match::Mark(Op::IsNot, PROXY_MARK),
            ],
            action: Action::Redirect(INBOUND_PLAINTEXT_PORT),
        });
    }
    rules
}

fn nat_output(capture: &PodCapture) -> Vec<Rule> {
    let mut rules = Vec::new();
    for (source, _) in capture.probe_sources() {
        rules.push(Rule {
            matches: vec![Match::Destination(Op::Is, source), Match::L4(Protocol::Tcp)],
            action: Action::Accept,
        });
    }
    if capture.dns {
        rules.push(Rule {
            matches: vec![
                Match::OutputInterface(Op::IsNot, "lo".into()),
                Match::DestinationPort(Protocol::Udp, Op::Is, 53),
                Match::Mark(Op::IsNot, PROXY_MARK),
            ],
            action: Action::Redirect(DNS_PORT),
        });
        for loopback in capture.loopbacks() {
            rules.push(Rule {
                matches: vec![
                    Match::Destination(Op::IsNot, loopback),
                    Match::DestinationPort(Protocol::Tcp, Op::Is, 53),
                    Match::Mark(Op::IsNot, PROXY_MARK),
                ],
                action: Action::Redirect(DNS_PORT),
            });
        }
    }
    rules.push(Rule {
        matches: vec![Match::L4(Protocol::Tcp), Match::Mark(Op::Is, TPROXY_MARK)],
        action: Action::Accept,
    });
    for loopback in capture.loopbacks() {
        rules.push(Rule {
            matches: vec![
                Match::Destination(Op::IsNot, loopback),
                Match::OutputInterface(Op::Is, "lo".into()),
            ],
            action: Action::Accept,
        });
    }
    for loopback in capture.loopbacks() {
        rules.push(Rule {
            matches: vec![
                Match::Destination(Op::IsNot, loopback),
                Match::L4(Protocol::Tcp),
                Match::Mark(Op::IsNot, PROXY_MARK),
            ],
            action: Action::Redirect(OUTBOUND_PORT),
        });
    }
    rules
}

/// The raw table is made even without DNS capture (then without rules), so that applying a plan
/// takes away the rules of an earlier one.
fn raw(capture: &PodCapture) -> Table {
    let (mut prerouting, mut output) = (Vec::new(), Vec::new());
    if capture.dns {
        output.push(Rule {
            matches: vec![
                Match::DestinationPort(Protocol::Udp, Op::Is, 53),
                Match::Mark(Op::Is, PROXY_MARK),
            ],
            action: Action::SetZone(DNS_ZONE),
        });
        prerouting.push(Rule {
            matches: vec![
                Match::SourcePort(Protocol::Udp, 53),
                Match::Mark(Op::IsNot, PROXY_MARK),
            ],
            action: Action::SetZone(DNS_ZONE),
        });
    }
    table(
        RAW_TABLE,
        Hook::RawPrerouting,
        prerouting,
        Hook::RawOutput,
        output,
    )
}

/// A table with a base chain and a chain of rules for each of the two hooks.
fn table(
    name: &'static str,
    prerouting_hook: Hook,
    prerouting: Vec<Rule>,
    output_hook: Hook,
    output: Vec<Rule>,
) -> Table {
    let base = |name, hook, target| Chain {
        name,
        hook: Some(hook),
        rules: vec![Rule {
            matches: Vec::new(),
            action: Action::Jump(target),
        }],
    };
    Table {
        name,
        sets: Vec::new(),
        chains: vec![
            Chain {
                name: PREROUTING,
                hook: None,
                rules: prerouting,
            },
            Chain {
                name: OUTPUT,
                hook: None,
                rules: output,
            },
            base("prerouting", prerouting_hook, PREROUTING),
            base("output", output_hook, OUTPUT),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_plan_in_full() {
        let capture = PodCapture {
            probes: ProbeSource::for_ports([9080]),
            ..Default::default()
        };
        insta::assert_snapshot!(pod_plan(&capture).to_string());
    }

    #[test]
    fn without_dns_ipv6_and_probes() {
        let capture = PodCapture {
            dns: false,
            ipv6: false,
            ..Default::default()
        };
        insta::assert_snapshot!(pod_plan(&capture).to_string());
    }

    #[test]
    fn ingress_pods_keep_their_inbound_and_virtual_machines_are_outbound() {
        let capture = PodCapture {
            bypass_inbound: true,
            reroute_interfaces: vec!["k6t-eth0".into()],
            probes: ProbeSource::for_ports([8080]),
            ..Default::default()
        };
        let plan = pod_plan(&capture).to_string();
        assert!(!plan.contains(":15006"), "{plan}");
        assert!(
            plan.contains("iifname \"k6t-eth0\" meta l4proto tcp redirect to :15001"),
            "{plan}"
        );
        assert!(plan.contains("redirect to :15001"), "{plan}");
    }

    #[test]
    fn probes_are_exempt_only_on_their_ports() {
        assert_eq!(ProbeSource::for_ports([]), None);
        let capture = PodCapture {
            probes: ProbeSource::for_ports([9080, 8080]),
            ..Default::default()
        };
        let plan = pod_plan(&capture).to_string();
        assert!(
            plan.contains("ip saddr 169.254.7.127 tcp dport { 8080, 9080 } accept"),
            "{plan}"
        );
        assert!(
            !pod_plan(&PodCapture::default())
                .to_string()
                .contains("169.254.7.127")
        );
    }
}
