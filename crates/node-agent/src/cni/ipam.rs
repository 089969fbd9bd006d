//! Addresses of one node's pod subnets, recorded as files so that short-lived plugin processes
//! share them. A file lock serializes them; one file per address names its owner.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use nix::fcntl::{Flock, FlockArg};

/// The first address that pods get; those before are the network's and the node's.
const FIRST: u128 = 2;
/// The most addresses of a subnet that are used: no node has so many pods.
const MOST: u128 = 1 << 16;

/// Why no address could be given.
#[derive(Debug, thiserror::Error)]
pub enum IpamError {
    /// All addresses are taken.
    #[error("no addresses left in {0}; delete pods or give the node a larger subnet")]
    Exhausted(IpNet),
    /// The subnet has no usable address.
    #[error("subnet {0} is too small: it needs at least two host addresses")]
    TooSmall(IpNet),
    /// The record cannot be read or written.
    #[error("address record {path}: {source}")]
    Record {
        /// File or directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// The record of one network.
#[derive(Debug)]
pub struct Ipam {
    directory: PathBuf,
    subnets: Vec<IpNet>,
}

impl Ipam {
    /// Opens the record below `data_dir`. Pods get an address of each subnet.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn open(data_dir: &Path, network: &str, subnets: &[IpNet]) -> Result<Self, IpamError> {
        let directory = data_dir.join(network);
        fs::create_dir_all(&directory).map_err(|source| IpamError::Record {
            path: directory.clone(),
            source,
        })?;
        Ok(Self {
            directory,
            subnets: subnets.iter().map(IpNet::trunc).collect(),
        })
    }

    /// Takes the next free address of each subnet for an owner; an owner that has one gets the same
    /// again. The first host address is left to the node.
    ///
    /// # Errors
    /// No address left, or the record is unusable.
    pub fn allocate(&self, owner: &str) -> Result<Vec<IpAddr>, IpamError> {
        let _lock = self.lock()?;
        let owned = self.owned(owner)?;
        let each = self.subnets.iter().map(|subnet| {
            let known = owned.iter().find(|address| subnet.contains(*address));
            known.map_or_else(|| self.take(subnet, owner), |address| Ok(*address))
        });
        each.collect()
    }

    fn take(&self, subnet: &IpNet, owner: &str) -> Result<IpAddr, IpamError> {
        let count = usable(subnet);
        if count == 0 {
            return Err(IpamError::TooSmall(*subnet));
        }
        // Going round instead of taking the lowest: an address rests before it is used again.
        let record = if subnet.addr().is_ipv4() {
            "last"
        } else {
            "last-v6"
        };
        let last = fs::read_to_string(self.directory.join(record)).ok();
        let last: Option<IpAddr> = last.and_then(|text| text.trim().parse().ok());
        let start = last
            .filter(|last| subnet.contains(last))
            .map_or(0, |last| offset(subnet, last) - FIRST + 1);
        for turn in 0..count {
            let address = at(subnet, FIRST + (start + turn) % count);
            if self.claim(address, owner)? {
                self.write(record, &address.to_string())?;
                return Ok(address);
            }
        }
        Err(IpamError::Exhausted(*subnet))
    }

    /// Gives back all addresses of an owner and returns them.
    ///
    /// # Errors
    /// The record is unusable.
    pub fn release(&self, owner: &str) -> Result<Vec<IpAddr>, IpamError> {
        let _lock = self.lock()?;
        let owned = self.owned(owner)?;
        for address in &owned {
            let path = self.directory.join(address.to_string());
            fs::remove_file(&path).map_err(|source| IpamError::Record { path, source })?;
        }
        Ok(owned)
    }

    fn claim(&self, address: IpAddr, owner: &str) -> Result<bool, IpamError> {
        if self.directory.join(address.to_string()).exists() {
            return Ok(false);
        }
        self.write(&address.to_string(), owner)?;
        Ok(true)
    }

    fn write(&self, name: &str, text: &str) -> Result<(), IpamError> {
        let path = self.directory.join(name);
        fs::write(&path, text).map_err(|source| IpamError::Record { path, source })
    }

    fn owned(&self, owner: &str) -> Result<Vec<IpAddr>, IpamError> {
        let entries = fs::read_dir(&self.directory).map_err(|source| IpamError::Record {
            path: self.directory.clone(),
            source,
        })?;
        let mut owned: Vec<IpAddr> = entries
            .flatten()
            .filter_map(|entry| {
                entry
                    .file_name()
                    .to_str()
                    .and_then(|name| name.parse().ok())
            })
            .filter(|address: &IpAddr| {
                fs::read_to_string(self.directory.join(address.to_string()))
                    .is_ok_and(|text| text == owner)
            })
            .collect();
        owned.sort();
        Ok(owned)
    }

    fn lock(&self) -> Result<Flock<File>, IpamError> {
        let path = self.directory.join("lock");
        let open = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path);
        open.and_then(|file| {
            Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
        })
        .map_err(|source| IpamError::Record { path, source })
    }
}

/// How many addresses of a subnet pods can have.
fn usable(subnet: &IpNet) -> u128 {
    let bits = u32::from(subnet.max_prefix_len() - subnet.prefix_len());
    let size = 1u128.checked_shl(bits).unwrap_or(MOST).min(MOST);
    // The last one of IPv4 is for broadcasts.
    let last = if subnet.addr().is_ipv4() { 1 } else { 0 };
    size.saturating_sub(FIRST + last)
}

fn at(subnet: &IpNet, offset: u128) -> IpAddr {
    match subnet.network() {
        IpAddr::V4(base) => {
            let offset = u32::try_from(offset).unwrap_or(u32::MAX);
            Ipv4Addr::from(u32::from(base).wrapping_add(offset)).into()
        }
        IpAddr::V6(base) => Ipv6Addr::from(u128::from(base).wrapping_add(offset)).into(),
    }
}

/// Where an address lies in its subnet; one that pods do not get counts as the first.
fn offset(subnet: &IpNet, address: IpAddr) -> u128 {
    let offset = match (subnet.network(), address) {
        (IpAddr::V4(base), IpAddr::V4(at)) => u128::from(u32::from(at) - u32::from(base)),
        (IpAddr::V6(base), IpAddr::V6(at)) => u128::from(at) - u128::from(base),
        _ => FIRST,
    };
    offset.max(FIRST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipam(dir: &Path, subnet: &str) -> Ipam {
        Ipam::open(dir, "net", &[subnet.parse().unwrap()]).unwrap()
    }

    fn one(addresses: Vec<IpAddr>) -> String {
        assert_eq!(addresses.len(), 1);
        addresses[0].to_string()
    }

    #[test]
    fn addresses_are_unique_stable_and_go_round() {
        let dir = tempfile::tempdir().unwrap();
        let ipam = ipam(dir.path(), "10.1.2.0/29");
        let addresses: Vec<String> = (0..5)
            .map(|n| one(ipam.allocate(&format!("o{n}")).unwrap()))
            .collect();
        assert_eq!(
            addresses,
            ["10.1.2.2", "10.1.2.3", "10.1.2.4", "10.1.2.5", "10.1.2.6"]
        );
        assert_eq!(one(ipam.allocate("o1").unwrap()), "10.1.2.3");
        assert!(matches!(ipam.allocate("o9"), Err(IpamError::Exhausted(_))));
        ipam.release("o0").unwrap();
        ipam.release("o3").unwrap();
        assert_eq!(one(ipam.allocate("p").unwrap()), "10.1.2.2");
        assert_eq!(one(ipam.allocate("q").unwrap()), "10.1.2.5");
        assert!(ipam.release("nobody").unwrap().is_empty());
    }

    #[test]
    fn parallel_processes_do_not_meet() {
        let dir = tempfile::tempdir().unwrap();
        let threads: Vec<_> = (0..8)
            .map(|n| {
                let path = dir.path().to_path_buf();
                std::thread::spawn(move || {
                    ipam(&path, "10.0.0.0/24")
                        .allocate(&format!("t{n}"))
                        .unwrap()
                })
            })
            .collect();
        let mut got: Vec<_> = threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect();
        got.sort();
        got.dedup();
        assert_eq!(got.len(), 8);
    }

    #[test]
    fn a_pod_has_an_address_of_each_subnet() {
        let dir = tempfile::tempdir().unwrap();
        let subnets = [
            "10.1.2.0/24".parse().unwrap(),
            "fd00:1::/64".parse().unwrap(),
        ];
        let ipam = Ipam::open(dir.path(), "net", &subnets).unwrap();
        let shown = |owner: &str| {
            let all = ipam.allocate(owner).unwrap();
            all.iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(shown("a"), "10.1.2.2 fd00:1::2");
        assert_eq!(shown("b"), "10.1.2.3 fd00:1::3");
        assert_eq!(shown("a"), "10.1.2.2 fd00:1::2");
        assert_eq!(ipam.release("a").unwrap().len(), 2);
        assert_eq!(shown("c"), "10.1.2.4 fd00:1::4");
    }

    #[test]
    fn a_subnet_without_hosts_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            ipam(dir.path(), "10.0.0.1/32").allocate("a"),
            Err(IpamError::TooSmall(_))
        ));
    }
}
