//! Addresses of one node's pod subnet, recorded as files so that short-lived plugin processes
//! share them. A file lock serializes them; one file per address names its owner.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use nix::fcntl::{Flock, FlockArg};

/// Why no address could be given.
#[derive(Debug, thiserror::Error)]
pub enum IpamError {
    /// All addresses are taken.
    #[error("no addresses left in {0}; delete pods or give the node a larger subnet")]
    Exhausted(Ipv4Net),
    /// The subnet has no usable address.
    #[error("subnet {0} is too small: it needs at least two host addresses")]
    TooSmall(Ipv4Net),
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
    subnet: Ipv4Net,
}

impl Ipam {
    /// Opens the record below `data_dir`.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn open(data_dir: &Path, network: &str, subnet: Ipv4Net) -> Result<Self, IpamError> {
        let directory = data_dir.join(network);
        fs::create_dir_all(&directory).map_err(|source| IpamError::Record {
            path: directory.clone(),
            source,
        })?;
        Ok(Self {
            directory,
            subnet: subnet.trunc(),
        })
    }

    /// Takes the next free address for an owner; an owner that has one gets the same again. The
    /// first host address is left to the node.
    ///
    /// # Errors
    /// No address left, or the record is unusable.
    pub fn allocate(&self, owner: &str) -> Result<Ipv4Addr, IpamError> {
        let _lock = self.lock()?;
        if let Some(address) = self.owned(owner)?.first() {
            return Ok(*address);
        }
        let hosts: Vec<Ipv4Addr> = self.subnet.hosts().skip(1).collect();
        if hosts.is_empty() {
            return Err(IpamError::TooSmall(self.subnet));
        }
        // Going round instead of taking the lowest: an address rests before it is used again.
        let last = fs::read_to_string(self.directory.join("last"))
            .ok()
            .and_then(|text| text.trim().parse().ok());
        let start = last
            .and_then(|last: Ipv4Addr| hosts.iter().position(|host| *host == last))
            .map_or(0, |at| at + 1);
        for offset in 0..hosts.len() {
            let address = hosts[(start + offset) % hosts.len()];
            if self.claim(address, owner)? {
                self.write("last", &address.to_string())?;
                return Ok(address);
            }
        }
        Err(IpamError::Exhausted(self.subnet))
    }

    /// Gives back all addresses of an owner and returns them.
    ///
    /// # Errors
    /// The record is unusable.
    pub fn release(&self, owner: &str) -> Result<Vec<Ipv4Addr>, IpamError> {
        let _lock = self.lock()?;
        let owned = self.owned(owner)?;
        for address in &owned {
            let path = self.directory.join(address.to_string());
            fs::remove_file(&path).map_err(|source| IpamError::Record { path, source })?;
        }
        Ok(owned)
    }

    fn claim(&self, address: Ipv4Addr, owner: &str) -> Result<bool, IpamError> {
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

    fn owned(&self, owner: &str) -> Result<Vec<Ipv4Addr>, IpamError> {
        let entries = fs::read_dir(&self.directory).map_err(|source| IpamError::Record {
            path: self.directory.clone(),
            source,
        })?;
        let mut owned: Vec<Ipv4Addr> = entries
            .flatten()
            .filter_map(|entry| {
                entry
                    .file_name()
                    .to_str()
                    .and_then(|name| name.parse().ok())
            })
            .filter(|address: &Ipv4Addr| {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn ipam(dir: &Path, subnet: &str) -> Ipam {
        Ipam::open(dir, "net", subnet.parse().unwrap()).unwrap()
    }

    #[test]
    fn addresses_are_unique_stable_and_go_round() {
        let dir = tempfile::tempdir().unwrap();
        let ipam = ipam(dir.path(), "10.1.2.0/29");
        let addresses: Vec<String> = (0..5)
            .map(|n| ipam.allocate(&format!("o{n}")).unwrap().to_string())
            .collect();
        assert_eq!(
            addresses,
            ["10.1.2.2", "10.1.2.3", "10.1.2.4", "10.1.2.5", "10.1.2.6"]
        );
        assert_eq!(ipam.allocate("o1").unwrap().to_string(), "10.1.2.3");
        assert!(matches!(ipam.allocate("o9"), Err(IpamError::Exhausted(_))));
        ipam.release("o0").unwrap();
        ipam.release("o3").unwrap();
        assert_eq!(ipam.allocate("p").unwrap().to_string(), "10.1.2.2");
        assert_eq!(ipam.allocate("q").unwrap().to_string(), "10.1.2.5");
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
    fn a_subnet_without_hosts_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            ipam(dir.path(), "10.0.0.1/32").allocate("a"),
            Err(IpamError::TooSmall(_))
        ));
    }
}
