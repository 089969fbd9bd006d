//! Preparing a node for its kubelet, and leaving it clean.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::KubeletError;
use super::cgroup::Cgroups;
use super::config::{CniConfig, KubeletConfig, PrimaryNetwork};
use crate::cni::{config, ptp};

/// File name of the configuration that the kubelet installs.
const OWN_CONFLIST: &str = "10-pods.conflist";

trait While<T> {
    fn preparing(self, what: impl Into<String>) -> Result<T, KubeletError>;
}

impl<T> While<T> for io::Result<T> {
    fn preparing(self, what: impl Into<String>) -> Result<T, KubeletError> {
        self.map_err(|source| KubeletError::Prepare {
            what: what.into(),
            source,
        })
    }
}

/// Removes leftovers and makes directories, mounts and cgroups.
pub(super) async fn prepare(config: &KubeletConfig) -> Result<Cgroups, KubeletError> {
    let cgroups = Cgroups::open(&config.cgroup_parent).preparing("cgroups")?;
    clear(config, &cgroups).await;
    // `clear` removed the parent too if it was empty.
    let cgroups = Cgroups::open(&config.cgroup_parent).preparing("cgroups")?;
    fs::create_dir_all(config.state_dir.join("pods"))
        .preparing(format!("state in {}", config.state_dir.display()))?;
    fs::create_dir_all(&config.log_dir)
        .preparing(format!("logs in {}", config.log_dir.display()))?;
    share_netns_dir(&config.cni.netns_dir)
        .preparing(format!("{}", config.cni.netns_dir.display()))?;
    if let Some(primary) = &config.cni.primary {
        install_primary(config, &config.cni, primary)?;
    }
    Ok(cgroups)
}

/// Ends what is left of pods: processes, mounts, named network namespaces, directories.
pub(super) async fn clear(config: &KubeletConfig, cgroups: &Cgroups) {
    cgroups.clear().await;
    cgroups.remove_parent();
    let pods = config.state_dir.join("pods");
    unmount_below(&pods);
    let _ = fs::remove_dir_all(&pods);
    for entry in fs::read_dir(&config.cni.netns_dir)
        .into_iter()
        .flatten()
        .flatten()
    {
        if entry.file_name().to_string_lossy().starts_with("cni-") {
            let _ = umount2(&entry.path(), MntFlags::MNT_DETACH);
            let _ = fs::remove_file(entry.path());
        }
    }
    if let Some(primary) = &config.cni.primary {
        let _ = fs::remove_dir_all(&primary.data_dir);
    }
}

/// Unmounts everything mounted below a directory, deepest first.
fn unmount_below(directory: &Path) {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
    let mut below: Vec<&str> = points
        .filter(|point| Path::new(point).starts_with(directory))
        .collect();
    below.sort_unstable();
    for point in below.iter().rev() {
        let _ = umount2(*point, MntFlags::MNT_DETACH);
    }
}

/// Makes the directory of named network namespaces a shared mount, as `ip netns` does, so that a
/// namespace named later appears in pods that mount the directory with `HostToContainer`.
fn share_netns_dir(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let shared = MsFlags::MS_SHARED | MsFlags::MS_REC;
    if mount(None::<&str>, directory, None::<&str>, shared, None::<&str>).is_ok() {
        return Ok(());
    }
    // Not a mount point yet.
    mount(
        Some(directory),
        directory,
        None::<&str>,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        None::<&str>,
    )?;
    mount(None::<&str>, directory, None::<&str>, shared, None::<&str>)?;
    Ok(())
}

fn install_primary(
    config: &KubeletConfig,
    cni: &CniConfig,
    primary: &PrimaryNetwork,
) -> Result<(), KubeletError> {
    let Some(bin) = cni.bin_dirs.first() else {
        return Err(KubeletError::Network(
            "no CNI program directory is configured".to_string(),
        ));
    };
    fs::create_dir_all(bin).preparing(format!("{}", bin.display()))?;
    fs::create_dir_all(&cni.conf_dir).preparing(format!("{}", cni.conf_dir.display()))?;
    let link = bin.join(ptp::PLUGIN_NAME);
    let _ = fs::remove_file(&link);
    symlink(&primary.program, &link).preparing(format!("{}", link.display()))?;
    if config::load(&cni.conf_dir).is_ok() {
        return Ok(());
    }
    if config.pod_cidrs.is_empty() {
        return Err(KubeletError::Network(
            "it needs a pod CIDR in the kubelet's configuration".to_string(),
        ));
    }
    let list = ptp::conflist(&config.pod_cidrs, primary.mtu, &primary.data_dir);
    let path = cni.conf_dir.join(OWN_CONFLIST);
    let text = serde_json::to_string_pretty(&list)
        .map_err(|error| KubeletError::Network(error.to_string()))?;
    // Renamed into place: another component may be reading the directory.
    let temporary = cni.conf_dir.join(format!(".{OWN_CONFLIST}"));
    fs::write(&temporary, text)
        .and_then(|()| fs::rename(&temporary, &path))
        .preparing(format!("{}", path.display()))
}
