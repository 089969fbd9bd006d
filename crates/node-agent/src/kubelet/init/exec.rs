//! Adds a process to a running container, and replaces a helper by the final program.

use std::convert::Infallible;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::spec::{ExecSpec, ProcessSpec};
use super::{InitError, Step, clone_child, container, kernel};

/// Joins the container's namespaces, its mount namespace included, and clones the process.
pub(super) fn start(spec: ExecSpec, channel: &mut UnixStream) -> Result<(), InitError> {
    kernel::join_cgroups(&spec.cgroup_procs)?;
    kernel::join_namespaces(&spec.namespaces)?;
    clone_child(channel, |_| container::run(&spec.process))
}

/// execve(2) of the program, found through the process's own `PATH`.
pub(super) fn replace(process: &ProcessSpec) -> Result<Infallible, InitError> {
    let name = process.argv.first().map(String::as_str).unwrap_or_default();
    let path = find_program(name, &process.env).step(format!("exec: {name:?}"))?;
    let program = kernel::c_string(&path.to_string_lossy(), "program path")?;
    let argv = process
        .argv
        .iter()
        .map(|text| kernel::c_string(text, "argument"))
        .collect::<Result<Vec<_>, _>>()?;
    let env = process
        .env
        .iter()
        .map(|(name, value)| kernel::c_string(&format!("{name}={value}"), "environment"))
        .collect::<Result<Vec<_>, _>>()?;
    nix::unistd::execve(&program, &argv, &env).step(format!("exec {}", path.display()))
}

fn find_program(name: &str, env: &[(String, String)]) -> io::Result<PathBuf> {
    if name.contains('/') {
        return Ok(PathBuf::from(name));
    }
    let search = env
        .iter()
        .rev()
        .find(|(key, _)| key == "PATH")
        .map_or("", |(_, value)| value.as_str());
    let not_found = || {
        io::Error::new(
            io::ErrorKind::NotFound,
            "executable file not found in $PATH",
        )
    };
    if name.is_empty() {
        return Err(not_found());
    }
    search
        .split(':')
        .filter(|directory| !directory.is_empty())
        .map(|directory| Path::new(directory).join(name))
        .find(|path| is_executable(path))
        .ok_or_else(not_found)
}

fn is_executable(path: &Path) -> bool {
    debug_assert!(!path.as_os_str().as_bytes().contains(&0));
    std::fs::metadata(path)
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
