//! The cluster's configuration file: kind's own format, the part of it that a
//! local cluster can honour.
//!
//! What always holds: a field that would change meaning if it were ignored is
//! refused by name, whether kind knows it or not.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use serde_json::{Map, Value};

/// The API version of the format.
const API_VERSION: &str = "kind.x-k8s.io/v1alpha4";
/// The most nodes a cluster may have; their addresses are a part of a /24.
const MAX_NODES: usize = 64;
/// The prefix length of a node's part of a pod subnet.
pub(crate) fn node_prefix(subnet: IpNet) -> u8 {
    match subnet {
        IpNet::V4(_) => 24,
        IpNet::V6(_) => 64,
    }
}

/// Fields of kind's format that mean something we cannot do.
const UNSUPPORTED: &[&str] = &[
    "featureGates",
    "runtimeConfig",
    "kubeadmConfigPatches",
    "kubeadmConfigPatchesJSON6902",
    "containerdConfigPatches",
    "containerdConfigPatchesJSON6902",
    "image",
    "extraMounts",
    "extraPortMappings",
    "disableDefaultCNI",
    "dnsSearch",
];

/// What a configuration says, with defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The cluster's name, if the file gives one.
    pub name: Option<String>,
    /// The nodes, control plane first.
    pub nodes: Vec<Node>,
    /// Where the API server listens on the host.
    pub api_address: IpAddr,
    /// Its port; 0 for any free one.
    pub api_port: u16,
    /// Addresses of pods, one subnet for each version of IP, the first one
    /// first; each node gets a /24 (in IPv6: a /64) of it.
    pub pod_subnets: Vec<IpNet>,
    /// Addresses of services, in the same order.
    pub service_subnets: Vec<IpNet>,
}

/// Which versions of IP a cluster uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum IpFamily {
    Ipv4,
    Ipv6,
    Dual,
}

impl IpFamily {
    /// kind's default for pods and services.
    fn subnets(self) -> (Vec<IpNet>, Vec<IpNet>) {
        let four = (
            IpNet::new_assert([10, 244, 0, 0].into(), 16),
            IpNet::new_assert([10, 96, 0, 0].into(), 16),
        );
        let six = (
            IpNet::new_assert([0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0].into(), 56),
            IpNet::new_assert([0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0].into(), 112),
        );
        let all = match self {
            Self::Ipv4 => vec![four],
            Self::Ipv6 => vec![six],
            Self::Dual => vec![four, six],
        };
        all.into_iter().unzip()
    }

    /// Whether these are subnets of this family.
    fn fits(self, subnets: &[IpNet]) -> bool {
        let four = |net: &IpNet| net.addr().is_ipv4();
        match (self, subnets) {
            (Self::Ipv4, [one]) => four(one),
            (Self::Ipv6, [one]) => !four(one),
            (Self::Dual, [one, two]) => four(one) != four(two),
            _ => false,
        }
    }

    /// What subnets of this family look like.
    fn example(self) -> &'static str {
        match self {
            Self::Ipv4 => "an IPv4 subnet such as 10.10.0.0/16",
            Self::Ipv6 => "an IPv6 subnet such as fd00:10::/56",
            Self::Dual => {
                "two subnets, one of each version of IP, such as 10.10.0.0/16,fd00:10::/56"
            }
        }
    }
}

/// One node of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What it is for.
    pub role: Role,
    /// Labels to put on it.
    pub labels: BTreeMap<String, String>,
}

/// What a node is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Runs the cluster; takes ordinary pods only when there are no workers.
    ControlPlane,
    /// Runs pods.
    Worker,
}

/// Why a configuration is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// It is not one YAML document.
    #[error("the configuration is not valid YAML: {0}")]
    Yaml(String),
    /// There is nothing in it, or more than one document.
    #[error("the configuration must be exactly one YAML document of kind Cluster, but has {0}")]
    Documents(usize),
    /// A value is of the wrong type or out of range.
    #[error("{path}: {problem}")]
    Value {
        /// Where, such as `nodes[0].role`.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// kind knows the field, a local cluster cannot do what it says.
    #[error("{0}: a local cluster does not support this field of kind's format; remove it")]
    Unsupported(String),
    /// Nobody knows the field.
    #[error("{0}: kind's format ({API_VERSION}) has no such field; check the spelling")]
    Unknown(String),
}

impl Default for Config {
    /// One control plane and two workers.
    fn default() -> Self {
        let node = |role| Node {
            role,
            labels: BTreeMap::new(),
        };
        let (pod_subnets, service_subnets) = IpFamily::Ipv4.subnets();
        Self {
            name: None,
            nodes: vec![
                node(Role::ControlPlane),
                node(Role::Worker),
                node(Role::Worker),
            ],
            api_address: IpAddr::from([127, 0, 0, 1]),
            api_port: 0,
            pod_subnets,
            service_subnets,
        }
    }
}

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    /// See [`ConfigError`]; the message names the field.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let documents: Vec<Value> = serde_saphyr::from_multiple(text)
            .map_err(|error| ConfigError::Yaml(error.to_string()))?;
        let documents: Vec<Value> = documents.into_iter().filter(|d| !d.is_null()).collect();
        let [Value::Object(fields)] = documents.as_slice() else {
            return match documents.as_slice() {
                [_] => Err(value(
                    "the document",
                    "must be a mapping with kind: Cluster",
                )),
                others => Err(ConfigError::Documents(others.len())),
            };
        };
        let mut config = Self::default();
        config.read(fields)?;
        config.check()?;
        Ok(config)
    }

    fn read(&mut self, fields: &Map<String, Value>) -> Result<(), ConfigError> {
        expect(fields, "kind", "Cluster")?;
        expect(fields, "apiVersion", API_VERSION)?;
        for (key, field) in fields {
            match key.as_str() {
                "kind" | "apiVersion" => {}
                "name" => self.name = Some(text(key, field)?),
                "nodes" => self.nodes = nodes(field)?,
                "networking" => self.read_networking(field)?,
                _ => return Err(refused("", key)),
            }
        }
        Ok(())
    }

    fn read_networking(&mut self, networking: &Value) -> Result<(), ConfigError> {
        let fields = mapping("networking", networking)?;
        // Everything else depends on it.
        let family = family(fields.get("ipFamily"))?;
        (self.pod_subnets, self.service_subnets) = family.subnets();
        if family == IpFamily::Ipv6 {
            self.api_address = Ipv6Addr::LOCALHOST.into();
        }
        for (key, field) in fields {
            let path = format!("networking.{key}");
            match key.as_str() {
                "apiServerAddress" => {
                    let address = text(&path, field)?;
                    self.api_address = address
                        .parse()
                        .map_err(|_| value(&path, "must be an IP address"))?;
                }
                "apiServerPort" => {
                    let port = field.as_i64().and_then(|port| u16::try_from(port).ok());
                    self.api_port =
                        port.ok_or_else(|| value(&path, "must be a port, or 0 for any"))?;
                }
                "podSubnet" => self.pod_subnets = subnets(&path, field, family)?,
                "serviceSubnet" => self.service_subnets = subnets(&path, field, family)?,
                "ipFamily" => {}
                "kubeProxyMode" if field == "nftables" => {}
                "kubeProxyMode" => {
                    return Err(value(
                        &path,
                        "only nftables is supported; leave the field out",
                    ));
                }
                _ => return Err(refused("networking.", key)),
            }
        }
        Ok(())
    }

    fn check(&mut self) -> Result<(), ConfigError> {
        let planes = self
            .nodes
            .iter()
            .filter(|node| node.role == Role::ControlPlane)
            .count();
        if planes != 1 {
            let problem =
                format!("exactly one node must have the role control-plane, but {planes} have");
            return Err(value("nodes", problem));
        }
        if self.nodes.len() > MAX_NODES {
            return Err(value(
                "nodes",
                format!("a local cluster has at most {MAX_NODES} nodes"),
            ));
        }
        self.nodes
            .sort_by_key(|node| node.role != Role::ControlPlane);
        self.check_subnets()
    }

    fn check_subnets(&mut self) -> Result<(), ConfigError> {
        for subnet in &self.pod_subnets {
            let prefix = node_prefix(*subnet);
            // More than there are nodes need not be counted.
            let room = subnet
                .subnets(prefix)
                .map_or(0, |all| all.take(MAX_NODES).count());
            if room < self.nodes.len() {
                let problem = format!(
                    "has room for {room} nodes (a /{prefix} each), but there are {}",
                    self.nodes.len()
                );
                return Err(value("networking.podSubnet", problem));
            }
        }
        // Services are of the first family of pods, if they do not say otherwise.
        let four = |net: &IpNet| net.addr().is_ipv4();
        if self.pod_subnets.first().map(four) != self.service_subnets.first().map(four) {
            self.service_subnets.reverse();
        }
        for subnet in &self.service_subnets {
            let longest = if four(subnet) { 24 } else { 120 };
            if subnet.prefix_len() > longest {
                let problem = format!("must be a /{longest} or larger");
                return Err(value("networking.serviceSubnet", problem));
            }
            if self.pod_subnets.iter().any(|pods| overlap(*pods, *subnet)) {
                let problem = "overlaps networking.podSubnet";
                return Err(value("networking.serviceSubnet", problem));
            }
        }
        Ok(())
    }
}

/// Whether a name may be a cluster's: it becomes part of node names and of
/// paths.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &str) -> Result<(), ConfigError> {
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let fits = !name.is_empty()
        && name.len() <= 40
        && name.chars().all(valid)
        && name.starts_with(ends)
        && name.ends_with(ends);
    let problem = "must be 1 to 40 lower case letters, digits and dashes, not at the ends";
    if fits {
        Ok(())
    } else {
        Err(value("name", format!("{name:?} {problem}")))
    }
}

fn nodes(field: &Value) -> Result<Vec<Node>, ConfigError> {
    let Value::Array(entries) = field else {
        return Err(value("nodes", "must be a list"));
    };
    if entries.is_empty() {
        return Ok(Config::default().nodes);
    }
    entries
        .iter()
        .enumerate()
        .map(|(i, entry)| node(&format!("nodes[{i}]"), entry))
        .collect()
}

fn node(path: &str, entry: &Value) -> Result<Node, ConfigError> {
    let mut node = Node {
        role: Role::ControlPlane,
        labels: BTreeMap::new(),
    };
    for (key, field) in mapping(path, entry)? {
        let path = format!("{path}.{key}");
        match key.as_str() {
            "role" => {
                node.role = match text(&path, field)?.as_str() {
                    "control-plane" => Role::ControlPlane,
                    "worker" => Role::Worker,
                    other => {
                        let problem = format!("must be control-plane or worker, not {other:?}");
                        return Err(value(&path, problem));
                    }
                };
            }
            "labels" => {
                for (label, field) in mapping(&path, field)? {
                    node.labels
                        .insert(label.clone(), text(&format!("{path}.{label}"), field)?);
                }
            }
            _ => return Err(refused(path.strip_suffix(key.as_str()).unwrap_or(""), key)),
        }
    }
    Ok(node)
}

fn refused(prefix: &str, key: &str) -> ConfigError {
    let path = format!("{prefix}{key}");
    if UNSUPPORTED.contains(&key) {
        ConfigError::Unsupported(path)
    } else {
        ConfigError::Unknown(path)
    }
}

fn value(path: impl Into<String>, problem: impl Into<String>) -> ConfigError {
    ConfigError::Value {
        path: path.into(),
        problem: problem.into(),
    }
}

fn expect(fields: &Map<String, Value>, key: &str, wanted: &str) -> Result<(), ConfigError> {
    match fields.get(key) {
        Some(Value::String(found)) if found == wanted => Ok(()),
        Some(found) => Err(value(key, format!("must be {wanted}, not {found}"))),
        None => Err(value(key, format!("is missing; it must be {wanted}"))),
    }
}

fn mapping<'a>(path: &str, field: &'a Value) -> Result<&'a Map<String, Value>, ConfigError> {
    field
        .as_object()
        .ok_or_else(|| value(path, "must be a mapping"))
}

fn text(path: &str, field: &Value) -> Result<String, ConfigError> {
    field
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| value(path, "must be a text"))
}

fn family(field: Option<&Value>) -> Result<IpFamily, ConfigError> {
    match field.and_then(Value::as_str) {
        None if field.is_none() => Ok(IpFamily::Ipv4),
        Some("" | "ipv4") => Ok(IpFamily::Ipv4),
        Some("ipv6") => Ok(IpFamily::Ipv6),
        Some("dual") => Ok(IpFamily::Dual),
        _ => Err(value("networking.ipFamily", "must be ipv4, ipv6 or dual")),
    }
}

/// Subnets of a family, separated by commas.
fn subnets(path: &str, field: &Value, family: IpFamily) -> Result<Vec<IpNet>, ConfigError> {
    let text = text(path, field)?;
    let parsed = text.split(',').map(|part| part.trim().parse::<IpNet>());
    let nets: Option<Vec<IpNet>> = parsed.map(|net| Some(net.ok()?.trunc())).collect();
    nets.filter(|nets| family.fits(nets))
        .ok_or_else(|| value(path, format!("must be {}", family.example())))
}

fn overlap(one: IpNet, other: IpNet) -> bool {
    one.contains(&other) || other.contains(&one)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\n";

    fn parse(rest: &str) -> Result<Config, ConfigError> {
        Config::parse(&format!("{HEAD}{rest}"))
    }

    fn message(text: &str) -> String {
        Config::parse(text).expect_err("a refusal").to_string()
    }

    #[test]
    fn a_full_configuration() {
        let config = parse(concat!(
            "name: ambient\nnodes:\n- role: worker\n  labels: {zone: a}\n- role: control-plane\n",
            "networking:\n  apiServerAddress: \"192.0.2.1\"\n  apiServerPort: 6443\n",
            "  podSubnet: 10.10.0.0/16\n  serviceSubnet: 10.20.0.0/16\n  ipFamily: ipv4\n",
        ))
        .expect("a configuration");
        assert_eq!(config.name.as_deref(), Some("ambient"));
        let roles: Vec<_> = config.nodes.iter().map(|node| node.role).collect();
        assert_eq!(roles, [Role::ControlPlane, Role::Worker]);
        assert_eq!(config.nodes[1].labels["zone"], "a");
        assert_eq!(
            (config.api_address.to_string(), config.api_port),
            ("192.0.2.1".into(), 6443)
        );
        let shown = |nets: &[IpNet]| nets.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(shown(&config.pod_subnets), ["10.10.0.0/16"]);
        assert_eq!(shown(&config.service_subnets), ["10.20.0.0/16"]);
    }

    #[test]
    fn nothing_but_the_head_is_the_default() {
        assert_eq!(parse(""), Ok(Config::default()));
        assert_eq!(Config::default().nodes.len(), 3);
    }

    #[test]
    fn families_bring_their_subnets() {
        let shown = |rest: &str| {
            let config = parse(&format!("networking: {{{rest}}}")).expect("a configuration");
            let nets = config.pod_subnets.iter().chain(&config.service_subnets);
            let nets: Vec<_> = nets.map(ToString::to_string).collect();
            format!("{} {}", config.api_address, nets.join(" "))
        };
        assert_eq!(
            shown("ipFamily: ipv6"),
            "::1 fd00:10:244::/56 fd00:10:96::/112"
        );
        assert_eq!(
            shown("ipFamily: dual"),
            "127.0.0.1 10.244.0.0/16 fd00:10:244::/56 10.96.0.0/16 fd00:10:96::/112"
        );
        // The order of pods is that of services, too.
        assert_eq!(
            shown(
                "ipFamily: dual, podSubnet: 'fd00:1::/56,10.1.0.0/16', apiServerAddress: 127.0.0.2"
            ),
            "127.0.0.2 fd00:1::/56 10.1.0.0/16 fd00:10:96::/112 10.96.0.0/16"
        );
    }

    #[test]
    fn refusals_name_the_field() {
        let refused = |rest: &str| parse(rest).expect_err("a refusal").to_string();
        assert!(
            refused("nodes: [{role: worker, image: x}]").starts_with("nodes[0].image: a local")
        );
        assert!(refused("nodes: [{rolle: worker}]").starts_with("nodes[0].rolle: kind's format"));
        assert!(refused("featureGates: {}").starts_with("featureGates: a local"));
        assert!(refused("nodes: [{role: boss}]").contains("nodes[0].role: must be"));
        assert!(refused("networking: {ipFamily: both}").starts_with("networking.ipFamily"));
        assert!(
            refused("networking: {ipFamily: dual, podSubnet: 10.1.0.0/16}")
                .starts_with("networking.podSubnet: must be two subnets")
        );
        assert!(refused("networking: {serviceSubnet: 'fd00::/112'}").contains("an IPv4 subnet"));
        assert!(
            refused("networking: {apiServerPort: 70000}").starts_with("networking.apiServerPort")
        );
        assert!(refused("networking: {podSubnet: here}").starts_with("networking.podSubnet"));
        assert!(refused("nodes: [{role: worker}]").contains("exactly one node"));
        assert!(refused("networking: {podSubnet: 10.1.0.0/23}").contains("room for 2"));
        assert!(refused("networking: {podSubnet: 10.96.0.0/16}").contains("overlaps"));
    }

    #[test]
    fn what_is_not_a_configuration() {
        assert!(message("").contains("has 0"));
        assert!(message(&format!("{HEAD}---\n{HEAD}")).contains("has 2"));
        assert!(message("just text").contains("mapping"));
        assert!(message("{").contains("YAML"));
        assert!(message("kind: Pod\napiVersion: v1").contains("kind: must be Cluster"));
        assert!(message("kind: Cluster").contains("apiVersion: is missing"));
    }

    #[test]
    fn names() {
        assert!(check_name("ambient-2").is_ok());
        for bad in ["", "Ambient", "-a", "a-", "a/b", &"a".repeat(41)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
