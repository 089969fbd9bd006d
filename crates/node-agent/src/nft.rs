//! nftables as values: what a table is to contain, and the one transaction
//! that leads there from what it contains.
//!
//! Rules are written as nft reads them. Names and addresses in them come from
//! validated objects: DNS labels, numbers and parsed addresses alone.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::net::IpAddr;
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// The version of IP that a table is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }

    /// The type of an address in a set.
    pub fn address_type(self) -> &'static str {
        match self {
            Self::V4 => "ipv4_addr",
            Self::V6 => "ipv6_addr",
        }
    }
}

impl fmt::Display for Family {
    /// As in rules and in the names of tables: `ip` or `ip6`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        })
    }
}

/// A transport protocol, as the API and rules name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// By its name in the API; none is TCP.
    pub fn parse(text: Option<&str>) -> Option<Self> {
        match text.unwrap_or("TCP") {
            "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// A table, by family and name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// Its family.
    pub family: Family,
    /// Its name.
    pub name: &'static str,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family, self.name)
    }
}

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Chain {
    /// Type, hook, priority and policy of a base chain; empty for another.
    hook: String,
    rules: Vec<String>,
}

/// A set or a map.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Set {
    /// `set` or `map`.
    kind: &'static str,
    /// Its type, flags and timeout.
    spec: String,
}

/// Contents of a table, or of a part of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Objects {
    chains: BTreeMap<String, Chain>,
    sets: BTreeMap<String, Set>,
    /// By set and key; the value is a verdict, or empty in a set. The set may
    /// belong to another part.
    elements: BTreeMap<(String, String), String>,
}

impl Objects {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a chain that others lead to.
    pub fn chain(&mut self, name: impl Into<String>, rules: Vec<String>) {
        let hook = String::new();
        self.chains.insert(name.into(), Chain { hook, rules });
    }

    /// Adds a base chain, such as `type filter hook forward priority 0`.
    pub fn base_chain(&mut self, name: &str, hook: &str, rules: Vec<String>) {
        let hook = format!("{{ {hook}; policy accept; }}");
        self.chains.insert(name.to_owned(), Chain { hook, rules });
    }

    /// Adds a set with this specification, such as `type ipv4_addr;`.
    pub fn set(&mut self, name: impl Into<String>, spec: impl Into<String>) {
        let (kind, spec) = ("set", spec.into());
        self.sets.insert(name.into(), Set { kind, spec });
    }

    /// Adds a map from keys of this type to verdicts.
    pub fn verdict_map(&mut self, name: &str, key: &str) {
        let (kind, spec) = ("map", format!("type {key} : verdict;"));
        self.sets.insert(name.to_owned(), Set { kind, spec });
    }

    /// Adds an element to a set.
    pub fn element(&mut self, set: impl Into<String>, key: impl Into<String>) {
        self.elements
            .insert((set.into(), key.into()), String::new());
    }

    /// Adds an element to a verdict map.
    pub fn verdict(&mut self, map: &str, key: impl Into<String>, verdict: impl Into<String>) {
        let place = (map.to_owned(), key.into());
        self.elements.insert(place, verdict.into());
    }

    /// Adds all that is in `other`.
    pub fn merge(&mut self, other: Self) {
        self.chains.extend(other.chains);
        self.sets.extend(other.sets);
        self.elements.extend(other.elements);
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The commands that empty a table, making it if it is not there: the start
/// of a transaction from a state that is not known.
pub fn reset(table: Table) -> String {
    format!("add table {table}\ndelete table {table}\nadd table {table}\n")
}

/// The commands from `old` to `new`, parts that change together; empty if
/// nothing changes. Touches only what differs. What a set is cannot change
/// under its name.
pub fn changes(table: Table, old: &[&Objects], new: &[&Objects]) -> String {
    let (old, new) = (Merged::of(old), Merged::of(new));
    let mut script = Script {
        table,
        text: String::new(),
    };
    for (name, set) in &new.sets {
        if !old.sets.contains_key(name) {
            let Set { kind, spec } = set;
            script.line(format_args!("add {kind} {table} {name} {{ {spec} }}"));
        }
    }
    for (name, chain) in &new.chains {
        if !old.chains.contains_key(name) {
            script.line(format_args!("add chain {table} {name} {}", chain.hook));
        }
    }
    // Elements go before the chains that they lead to, and come after them;
    // those of a set that goes, go with it.
    let stale = different(&old.elements, &new.elements)
        .filter(|((set, _), _)| !old.sets.contains_key(set) || new.sets.contains_key(set));
    script.elements("delete", stale);
    for (name, chain) in different(&new.chains, &old.chains) {
        if old.chains.contains_key(name) {
            script.line(format_args!("flush chain {table} {name}"));
        }
        for rule in &chain.rules {
            script.line(format_args!("add rule {table} {name} {rule}"));
        }
    }
    script.elements("add", different(&new.elements, &old.elements));
    let gone = || {
        old.chains
            .keys()
            .filter(|name| !new.chains.contains_key(*name))
    };
    for name in gone() {
        script.line(format_args!("flush chain {table} {name}"));
    }
    for name in gone() {
        script.line(format_args!("delete chain {table} {name}"));
    }
    for (name, set) in &old.sets {
        if !new.sets.contains_key(name) {
            script.line(format_args!("delete {} {table} {name}", set.kind));
        }
    }
    script.text
}

/// Several parts as one.
#[derive(Default)]
struct Merged<'a> {
    chains: BTreeMap<&'a str, &'a Chain>,
    sets: BTreeMap<&'a str, &'a Set>,
    elements: BTreeMap<(&'a str, &'a str), &'a str>,
}

impl<'a> Merged<'a> {
    fn of(parts: &[&'a Objects]) -> Self {
        let mut merged = Self::default();
        for part in parts {
            let chains = part
                .chains
                .iter()
                .map(|(name, chain)| (name.as_str(), chain));
            merged.chains.extend(chains);
            let sets = part.sets.iter().map(|(name, set)| (name.as_str(), set));
            merged.sets.extend(sets);
            let elements = part.elements.iter();
            merged.elements.extend(
                elements.map(|((set, key), value)| ((set.as_str(), key.as_str()), value.as_str())),
            );
        }
        merged
    }
}

/// Entries of `one` that `other` has not, or has with another value.
fn different<'a, K: Ord, V: PartialEq>(
    one: &'a BTreeMap<K, V>,
    other: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    one.iter()
        .filter(|(key, value)| other.get(key) != Some(value))
}

struct Script {
    table: Table,
    text: String,
}

impl Script {
    fn line(&mut self, line: fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{line}");
    }

    /// One command per set, with all its elements.
    fn elements<'a>(
        &mut self,
        verb: &str,
        elements: impl Iterator<Item = (&'a (&'a str, &'a str), &'a &'a str)>,
    ) {
        let mut by_set: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for ((set, key), value) in elements {
            let element = match value.is_empty() {
                true => (*key).to_owned(),
                false => format!("{key} : {value}"),
            };
            by_set.entry(set).or_default().push(element);
        }
        for (set, elements) in by_set {
            let (table, all) = (self.table, elements.join(", "));
            self.line(format_args!("{verb} element {table} {set} {{ {all} }}"));
        }
    }
}

/// Why a transaction was not made.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The program cannot be run.
    #[error("running nft: {0}; is it in PATH (package nftables)?")]
    Run(#[from] std::io::Error),
    /// The kernel, or nft itself, refused it; nothing of it is in force.
    #[error("nft refused a transaction: {0}")]
    Refused(String),
}

/// Makes a transaction in the calling thread's network namespace; an empty
/// one is no work.
///
/// # Errors
/// See [`NftError`].
pub async fn apply(script: &str) -> Result<(), NftError> {
    if script.is_empty() {
        return Ok(());
    }
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut input) = nft.stdin.take() {
        input.write_all(script.as_bytes()).await?;
    }
    let output = nft.wait_with_output().await?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    Err(NftError::Refused(reason.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: Table = Table {
        family: Family::V4,
        name: "t",
    };

    fn part(chain: &str, rules: &[&str], key: &str) -> Objects {
        let mut objects = Objects::new();
        objects.chain(chain, rules.iter().map(|rule| (*rule).to_owned()).collect());
        objects.verdict("map", key, format!("goto {chain}"));
        objects
    }

    #[test]
    fn nothing_changed_is_an_empty_transaction() {
        let part = part("a", &["accept"], "1");
        assert_eq!(changes(TABLE, &[&part], &[&part.clone()]), "");
    }

    #[test]
    fn only_what_differs_is_touched_in_an_order_that_works() {
        let (one, two) = (part("a", &["accept"], "1"), part("b", &["drop"], "2"));
        let mut changed = part("a", &["goto c"], "1");
        changed.chain("c", vec![]);
        changed.set("s", "type ipv4_addr;");
        changed.element("s", "10.0.0.1");
        assert_eq!(
            changes(TABLE, &[&one, &two], &[&changed]),
            "add set ip t s { type ipv4_addr; }\n\
             add chain ip t c \n\
             delete element ip t map { 2 : goto b }\n\
             flush chain ip t a\n\
             add rule ip t a goto c\n\
             add element ip t s { 10.0.0.1 }\n\
             flush chain ip t b\n\
             delete chain ip t b\n"
        );
        // The way back: elements of a set that goes are not named.
        let back = changes(TABLE, &[&changed], &[&one]);
        assert!(
            back.ends_with("delete chain ip t c\ndelete set ip t s\n"),
            "{back}"
        );
        assert!(!back.contains("element"), "{back}");
    }

    #[test]
    fn an_element_that_leads_elsewhere_is_replaced() {
        let (old, new) = (part("a", &[], "1"), part("b", &[], "1"));
        let script = changes(TABLE, &[&old], &[&new]);
        let place = |text: &str| script.find(text).expect(text);
        assert!(
            place("delete element ip t map { 1 : goto a }")
                < place("add element ip t map { 1 : goto b }")
        );
        assert!(place("add chain ip t b") < place("add element"));
        assert!(place("add element") < place("delete chain ip t a"));
    }
}
