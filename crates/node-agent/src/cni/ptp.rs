//! The primary plugin: a pod's interface as one end of a veth pair, routed, without a bridge.
//!
//! The pod gets an address of each of the node's subnets, alone in its network (a /32 or /128), a
//! default route through a link-local address ([`gateway`]), and a permanent neighbour entry for it;
//! the node gets a route and a permanent neighbour entry for each address of the pod. So there is no
//! address resolution, no broadcast domain and no address of the node in the pods' subnets.
//!
//! Configuration: `{"type":"node-ptp","subnets":["10.244.1.0/24"],"mtu":1500,"dataDir":"…"}`.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::ipam::{Ipam, IpamError};
use super::ptp_links::{self, LinkError, PodLink};

/// Name under which the multi-call program runs [`main`].
pub const PLUGIN_NAME: &str = "node-ptp";

/// Next hop of every pod for its own version of IP; never assigned to an interface.
pub const fn gateway(of: IpAddr) -> IpAddr {
    match of {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1)),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)),
    }
}

const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Why the plugin failed, with the specification's error code.
#[derive(Debug, thiserror::Error)]
enum PluginError {
    #[error("cannot read the network configuration: {0}")]
    Config(String),
    #[error("environment variable {0} is missing")]
    Environment(&'static str),
    #[error("CNI version {0:?} is not supported")]
    Version(String),
    #[error("unknown CNI_COMMAND {0:?}")]
    Command(String),
    #[error(transparent)]
    Ipam(#[from] IpamError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("{0}")]
    Check(String),
}

impl PluginError {
    /// Codes of the specification's table; 100 and above are the plugin's own.
    fn code(&self) -> u32 {
        match self {
            Self::Version(_) => 1,
            Self::Environment(_) | Self::Command(_) => 4,
            Self::Config(_) => 6,
            Self::Ipam(IpamError::Exhausted(_)) => 11,
            Self::Ipam(_) => 100,
            Self::Link(_) => 101,
            Self::Check(_) => 102,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PluginConfig {
    #[serde(default)]
    cni_version: Option<String>,
    #[serde(default)]
    name: String,
    subnets: Vec<IpNet>,
    #[serde(default = "default_mtu")]
    mtu: u32,
    data_dir: PathBuf,
}

fn default_mtu() -> u32 {
    1500
}

/// The network configuration that uses this plugin; the kubelet writes it if the node has none.
pub fn conflist(subnets: &[IpNet], mtu: u32, data_dir: &std::path::Path) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [{"type": PLUGIN_NAME, "subnets": subnets, "mtu": mtu, "dataDir": data_dir}],
    })
}

/// Entry point of the plugin. Reads the environment and standard input, prints the result, and
/// returns the exit status.
pub fn main() -> i32 {
    let mut text = String::new();
    let version = |text: &str| {
        serde_json::from_str::<Value>(text)
            .ok()
            .and_then(|value| {
                value
                    .get("cniVersion")
                    .and_then(Value::as_str)
                    .map(str::to_string)
            })
            .unwrap_or_else(|| "1.0.0".to_string())
    };
    let outcome = std::io::stdin()
        .read_to_string(&mut text)
        .map_err(|error| PluginError::Config(error.to_string()))
        .and_then(|_| run(&text));
    match outcome {
        Ok(Some(result)) => {
            println!("{result}");
            0
        }
        Ok(None) => 0,
        Err(error) => {
            println!(
                "{}",
                json!({"cniVersion": version(&text), "code": error.code(), "msg": error.to_string()})
            );
            1
        }
    }
}

fn run(text: &str) -> Result<Option<Value>, PluginError> {
    let command = variable("CNI_COMMAND")?;
    if command == "VERSION" {
        return Ok(Some(
            json!({"cniVersion": "1.0.0", "supportedVersions": VERSIONS}),
        ));
    }
    let config: PluginConfig =
        serde_json::from_str(text).map_err(|error| PluginError::Config(error.to_string()))?;
    let version = config
        .cni_version
        .clone()
        .unwrap_or_else(|| "0.3.1".to_string());
    if !VERSIONS.contains(&version.as_str()) {
        return Err(PluginError::Version(version));
    }
    let owner = format!(
        "{} {}",
        variable("CNI_CONTAINERID")?,
        variable("CNI_IFNAME")?
    );
    let ipam = Ipam::open(&config.data_dir, &config.name, &config.subnets)?;
    match command.as_str() {
        "ADD" => add(&config, &ipam, &owner, &version).map(Some),
        "DEL" => delete(&ipam, &owner).map(|()| None),
        "CHECK" => check(&ipam, &owner).map(|()| None),
        "STATUS" | "GC" => Ok(None),
        _ => Err(PluginError::Command(command)),
    }
}

fn add(
    config: &PluginConfig,
    ipam: &Ipam,
    owner: &str,
    version: &str,
) -> Result<Value, PluginError> {
    let netns = variable("CNI_NETNS")?;
    let interface = variable("CNI_IFNAME")?;
    let addresses = ipam.allocate(owner)?;
    let link = PodLink {
        host_name: host_name(owner),
        interface,
        netns: netns.into(),
        addresses,
        mtu: config.mtu,
    };
    let made = match ptp_links::create(&link) {
        Ok(made) => made,
        Err(error) => {
            ipam.release(owner)?;
            return Err(error.into());
        }
    };
    let ips = link.addresses.iter().map(|address| {
        let alone = IpNet::from(*address).to_string();
        let mut ip = json!({"address": alone, "gateway": gateway(*address), "interface": 1});
        if version.starts_with("0.") {
            ip["version"] = json!(if address.is_ipv4() { "4" } else { "6" });
        }
        ip
    });
    let routes = link.addresses.iter().map(|address| {
        let everywhere = if address.is_ipv4() {
            "0.0.0.0/0"
        } else {
            "::/0"
        };
        json!({"dst": everywhere, "gw": gateway(*address)})
    });
    Ok(json!({
        "cniVersion": version,
        "interfaces": [
            {"name": link.host_name, "mac": mac_text(&made.host_mac)},
            {"name": link.interface, "mac": mac_text(&made.pod_mac), "sandbox": link.netns},
        ],
        "ips": ips.collect::<Vec<_>>(),
        "routes": routes.collect::<Vec<_>>(),
        "dns": {},
    }))
}

/// Idempotent: what is gone already is no error.
fn delete(ipam: &Ipam, owner: &str) -> Result<(), PluginError> {
    ptp_links::remove(&host_name(owner))?;
    ipam.release(owner)?;
    Ok(())
}

fn check(ipam: &Ipam, owner: &str) -> Result<(), PluginError> {
    let _ = ipam;
    let name = host_name(owner);
    match ptp_links::exists(&name)? {
        true => Ok(()),
        false => Err(PluginError::Check(format!(
            "interface {name} is missing on the node"
        ))),
    }
}

/// The node's end, at most 15 characters, derived from the sandbox so that DEL finds it.
fn host_name(owner: &str) -> String {
    let digest = Sha256::digest(owner.as_bytes());
    let hex: String = digest
        .iter()
        .take(5)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("veth{hex}")
}

fn mac_text(mac: &[u8]) -> String {
    mac.iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<Vec<_>>()
        .join(":")
}

fn variable(name: &'static str) -> Result<String, PluginError> {
    std::env::var(name)
        .ok()
        .filter(|value| !value.is_empty())
        .ok_or(PluginError::Environment(name))
}
