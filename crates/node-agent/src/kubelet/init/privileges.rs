//! User, groups and capabilities of the final program.
//!
//! Order matters: the bounding set first (needs `CAP_SETPCAP`), then groups and users (need
//! `CAP_SETGID`, `CAP_SETUID`), then the thread's own sets, then `no_new_privs`. A user other than
//! root loses all capabilities by the user change itself, as in any container runtime without
//! ambient capabilities.

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use super::spec::ProcessSpec;
use super::{InitError, Step, kernel};

/// Header version of capset(2) with two 32-bit words (`_LINUX_CAPABILITY_VERSION_3`).
const CAPABILITY_VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Gives up everything that the process shall not have.
pub(super) fn apply(process: &ProcessSpec) -> Result<(), InitError> {
    if let Some(wanted) = &process.capabilities {
        drop_bounding(wanted)?;
    }
    let groups: Vec<Gid> = process.groups.iter().copied().map(Gid::from_raw).collect();
    setgroups(&groups).step("set supplementary groups")?;
    let gid = Gid::from_raw(process.gid);
    setresgid(gid, gid, gid).step("set group")?;
    let uid = Uid::from_raw(process.uid);
    setresuid(uid, uid, uid).step("set user")?;
    if let (Some(wanted), 0) = (&process.capabilities, process.uid) {
        set_thread(wanted)?;
    }
    if process.no_new_privileges {
        kernel::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).step("set no_new_privs")?;
    }
    Ok(())
}

fn drop_bounding(wanted: &[u8]) -> Result<(), InitError> {
    for capability in 0..=last_capability() {
        if !wanted.contains(&capability) {
            kernel::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability))
                .step(format!("drop capability {capability}"))?;
        }
    }
    Ok(())
}

fn set_thread(wanted: &[u8]) -> Result<(), InitError> {
    let mut words = [Data::default(); 2];
    for capability in wanted {
        let word = &mut words[usize::from(*capability / 32).min(1)];
        word.permitted |= 1 << (capability % 32);
        word.effective = word.permitted;
    }
    let header = Header {
        version: CAPABILITY_VERSION,
        pid: 0,
    };
    // SAFETY: header and data have the layout of capset(2) for version 3 (two data words), and
    // live for the whole call.
    let result = unsafe { libc::syscall(libc::SYS_capset, &header, words.as_ptr()) };
    if result < 0 {
        return Err(std::io::Error::last_os_error())
            .step("set capabilities; the node lacks one that the pod asks for");
    }
    Ok(())
}

/// Highest capability number of this kernel.
fn last_capability() -> u8 {
    std::fs::read_to_string("/proc/sys/kernel/cap_last_cap")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(40)
}
