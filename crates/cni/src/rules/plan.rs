//! The small language that rules are planned in. It has exactly the matches and actions that the
//! mesh needs, so a plan can be read, compared and printed; `Display` writes it the way `nft list`
//! would.

use std::fmt;
use std::net::IpAddr;

/// A set of tables to bring into existence, replacing what stood under the same names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The tables, in the order in which they are made.
    pub tables: Vec<Table>,
}

/// Tables to take away; a table that does not exist is not an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableRemoval {
    /// Names of the tables, all of family `inet`.
    pub tables: Vec<&'static str>,
}

/// One atomic change of a network namespace's ruleset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Batch {
    /// Replace the tables of the plan.
    Replace(Plan),
    /// Remove tables.
    Remove(TableRemoval),
}

/// A table of family `inet`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The table's name.
    pub name: &'static str,
    /// Named sets, made before the chains that use them.
    pub sets: Vec<Set>,
    /// Chains, in order. A chain must come before one that jumps to it.
    pub chains: Vec<Chain>,
}

/// A named set of (address, port) pairs of one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// The set's name.
    pub name: &'static str,
    /// Whether the addresses are IPv6.
    pub ipv6: bool,
    /// The members; each combination of address and port at most once.
    pub elements: Vec<Element>,
}

/// A member of a [`Set`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// Destination address.
    pub address: IpAddr,
    /// Destination port.
    pub port: u16,
    /// Why it is there: the pod's UID.
    pub comment: String,
}

/// A chain with its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The chain's name.
    pub name: &'static str,
    /// Where the kernel calls it; `None` for a chain that is jumped to.
    pub hook: Option<Hook>,
    /// The rules, evaluated in this order.
    pub rules: Vec<Rule>,
}

/// Type, hook and priority of a base chain. The policy is always accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// `nat` at prerouting, −100.
    NatPrerouting,
    /// `nat` at output, −100.
    NatOutput,
    /// `nat` at postrouting, 100.
    NatPostrouting,
    /// `filter` at prerouting, −150.
    ManglePrerouting,
    /// `route` at output, −150: a changed mark leads to a new routing decision.
    MangleOutput,
    /// `filter` at prerouting, −300: before connection tracking.
    RawPrerouting,
    /// `filter` at output, −300: before connection tracking.
    RawOutput,
}

/// One rule: all matches must hold, then the packet is counted and the action taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The conditions.
    pub matches: Vec<Match>,
    /// What to do.
    pub action: Action,
}

/// Comparison of a [`Match`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// The field has the value.
    Is,
    /// The field has another value.
    IsNot,
}

/// Transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A condition on a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// The transport protocol.
    L4(Protocol),
    /// Source address (a single one); also implies the address family.
    Source(Op, IpAddr),
    /// Destination address (a single one); also implies the address family.
    Destination(Op, IpAddr),
    /// Source port; also implies the protocol.
    SourcePort(Protocol, u16),
    /// Destination port; also implies the protocol.
    DestinationPort(Protocol, Op, u16),
    /// Destination port is one of these; also implies the protocol. Sorted, not empty.
    DestinationPorts(Protocol, Vec<u16>),
    /// (Destination address, TCP destination port) is in the named set.
    DestinationInSet {
        /// Name of a set of the same table.
        set: &'static str,
        /// Whether the set holds IPv6 addresses.
        ipv6: bool,
    },
    /// Name of the interface that the packet came in by.
    InputInterface(Op, String),
    /// Name of the interface that the packet leaves by.
    OutputInterface(Op, String),
    /// The mesh's bits of the packet mark.
    Mark(Op, u32),
    /// The mesh's bits of the connection mark.
    ConnectionMark(Op, u32),
    /// The packet belongs to a socket of this machine that was opened by this user id.
    SocketUser(u32),
}

/// What a rule does to a packet that matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Leave the packet as it is and stop this hook.
    Accept,
    /// Go on in another chain, then come back.
    Jump(&'static str),
    /// Deliver to this port on the same machine.
    Redirect(u16),
    /// Change the source address.
    Snat(IpAddr),
    /// Set the mesh's bits of the connection mark.
    SetConnectionMark(u32),
    /// Copy the connection mark to the packet mark.
    RestoreMark,
    /// Track the packet in this conntrack zone.
    SetZone(u16),
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for table in &self.tables {
            writeln!(f, "table inet {} {{", table.name)?;
            for set in &table.sets {
                let family = if set.ipv6 { "ipv6_addr" } else { "ipv4_addr" };
                writeln!(f, "  set {} {{ type {family} . inet_service", set.name)?;
                for e in &set.elements {
                    writeln!(
                        f,
                        "    {} . {} comment \"{}\"",
                        e.address, e.port, e.comment
                    )?;
                }
                writeln!(f, "  }}")?;
            }
            for chain in &table.chains {
                match chain.hook {
                    Some(hook) => writeln!(f, "  chain {} {{ {hook}", chain.name)?,
                    None => writeln!(f, "  chain {} {{", chain.name)?,
                }
                for rule in &chain.rules {
                    writeln!(f, "    {rule}")?;
                }
                writeln!(f, "  }}")?;
            }
            writeln!(f, "}}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Hook::NatPrerouting => "type nat hook prerouting priority -100",
            Hook::NatOutput => "type nat hook output priority -100",
            Hook::NatPostrouting => "type nat hook postrouting priority 100",
            Hook::ManglePrerouting => "type filter hook prerouting priority -150",
            Hook::MangleOutput => "type route hook output priority -150",
            Hook::RawPrerouting => "type filter hook prerouting priority -300",
            Hook::RawOutput => "type filter hook output priority -300",
        })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for m in &self.matches {
            write!(f, "{m} ")?;
        }
        write!(f, "{}", self.action)
    }
}

impl Op {
    fn symbol(self) -> &'static str {
        match self {
            Op::Is => "==",
            Op::IsNot => "!=",
        }
    }

    fn sign(self) -> &'static str {
        match self {
            Op::Is => "",
            Op::IsNot => "!= ",
        }
    }
}

impl Protocol {
    /// The keyword in nft's language.
    pub fn keyword(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }
}

/// The keyword of an address family in nft's language.
pub(super) fn family(ipv6: bool) -> &'static str {
    if ipv6 { "ip6" } else { "ip" }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Match::L4(p) => write!(f, "meta l4proto {}", p.keyword()),
            Match::Source(op, a) => write!(f, "{} saddr {}{a}", family(a.is_ipv6()), op.sign()),
            Match::Destination(op, a) => {
                write!(f, "{} daddr {}{a}", family(a.is_ipv6()), op.sign())
            }
            Match::SourcePort(p, port) => write!(f, "{} sport {port}", p.keyword()),
            Match::DestinationPort(p, op, port) => {
                write!(f, "{} dport {}{port}", p.keyword(), op.sign())
            }
            Match::DestinationPorts(p, ports) => {
                let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
                write!(f, "{} dport {{ {} }}", p.keyword(), ports.join(", "))
            }
            Match::DestinationInSet { set, ipv6 } => {
                write!(f, "{} daddr . tcp dport @{set}", family(*ipv6))
            }
            Match::InputInterface(op, name) => write!(f, "iifname {}\"{name}\"", op.sign()),
            Match::OutputInterface(op, name) => write!(f, "oifname {}\"{name}\"", op.sign()),
            Match::Mark(op, v) => {
                write!(
                    f,
                    "meta mark & {:#x} {} {v:#x}",
                    super::MARK_MASK,
                    op.symbol()
                )
            }
            Match::ConnectionMark(op, v) => {
                write!(
                    f,
                    "ct mark & {:#x} {} {v:#x}",
                    super::MARK_MASK,
                    op.symbol()
                )
            }
            Match::SocketUser(uid) => write!(f, "meta skuid {uid}"),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Accept => f.write_str("accept"),
            Action::Jump(chain) => write!(f, "jump {chain}"),
            Action::Redirect(port) => write!(f, "redirect to :{port}"),
            Action::Snat(address) => write!(f, "snat to {address}"),
            Action::SetConnectionMark(v) => write!(f, "ct mark set {v:#x} (own bits)"),
            Action::RestoreMark => f.write_str("meta mark set ct mark"),
            Action::SetZone(zone) => write!(f, "ct zone set {zone}"),
        }
    }
}
