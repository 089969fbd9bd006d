//! How the one program becomes many: by the name of the link it is called by, and by reserved first
//! arguments with which parts of the local cluster start their helpers.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

/// Arguments that a role of the same name takes elsewhere and that mean nothing here.
#[derive(Debug, clap::Args)]
pub struct Ignored {
    /// `proxy ztunnel`, as the images of Istio are started
    #[arg(hide = true)]
    args: Vec<String>,
}

/// Names of links, and the arguments that they stand for.
const NAMES: &[(&str, &[&str])] = &[
    ("istioctl", &[]),
    ("ztunnel", &["ztunnel"]),
    ("pilot-agent", &["waypoint", "run"]),
    ("pilot-discovery", &["istiod"]),
    ("install-cni", &["cni"]),
    ("curl", &["sample", "curl"]),
    ("netstat", &["sample", "netstat"]),
    ("client", &["sample", "echo-client"]),
    ("sleep", &["sample", "sleep"]),
];

/// The arguments as if the program had been called by its own name.
pub fn by_name(args: Vec<OsString>) -> Vec<OsString> {
    let name = args.first().map(Path::new).and_then(Path::file_name);
    let Some((_, stands_for)) = NAMES
        .iter()
        .find(|(n, _)| name.is_some_and(|name| name == *n))
    else {
        return args;
    };
    let rest = args.iter().skip(1).cloned();
    std::iter::once("ambit".into())
        .chain(stands_for.iter().map(Into::into))
        .chain(rest)
        .collect()
}

/// Runs the helper that a reserved name or first argument asks for.
pub fn reserved(args: &[OsString]) -> Option<ExitCode> {
    let name = args.first().map(Path::new).and_then(Path::file_name)?;
    if name == ambit_node_agent::cni::ptp::PLUGIN_NAME {
        return Some(code(ambit_node_agent::cni::ptp::main()));
    }
    let first = args.get(1)?.to_str()?;
    let rest: Vec<String> = args
        .iter()
        .skip(2)
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    if first == ambit_node_agent::kubelet::INIT_ARGUMENT {
        return Some(code(ambit_node_agent::kubelet::container_init_main(&rest)));
    }
    ambit_local::reserved(first, &rest).map(code)
}

fn code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(args: &[&str]) -> Vec<OsString> {
        by_name(args.iter().map(Into::into).collect())
    }

    #[test]
    fn a_link_stands_for_a_role() {
        assert_eq!(
            names(&["/usr/bin/istioctl", "version"]),
            ["ambit", "version"]
        );
        assert_eq!(
            names(&["curl", "-s", "a"]),
            ["ambit", "sample", "curl", "-s", "a"]
        );
        assert_eq!(names(&["/opt/ambit", "local"]), ["/opt/ambit", "local"]);
    }
}
