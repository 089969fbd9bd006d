//! Building Kubernetes from the Go module in `tests/kubernetes`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use super::printed;

/// The oldest Go that compiles this Kubernetes.
const GO: (u32, u32) = (1, 25);

/// The names under which the one program that is built acts as one of Kubernetes' own.
const NAMES: &[&str] = &[
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
];

/// Where the programs of Kubernetes are.
#[derive(Debug)]
pub struct Programs {
    /// Where they are.
    pub folder: PathBuf,
    /// The version of Kubernetes, as `v1.35.4`.
    pub version: String,
}

impl Programs {
    /// Where one of the programs is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// Builds what has changed, which after the first time is nothing. The folder is outside the
/// sources, so that it lasts between runs.
///
/// # Errors
/// When Go is missing or too old, or when the module does not build.
pub fn programs(root: &Path) -> anyhow::Result<Programs> {
    let go = std::env::var_os("GO").map_or_else(|| PathBuf::from("go"), PathBuf::from);
    require_go(&go)?;
    let module = root.join("tests/kubernetes");
    let folder = root.join("target/kubernetes");
    fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let version = printed(in_module(&go, &module).args([
        "list",
        "-m",
        "-f",
        "{{.Version}}",
        "k8s.io/kubernetes",
    ]))?;
    let program = folder.join("kubernetes");
    if !program.exists() {
        println!("Building Kubernetes {version}: about ten minutes the first time, seconds after.");
    }
    let built = in_module(&go, &module)
        .args(["build", "-trimpath", "-ldflags", &stamp(&version), "-o"])
        .arg(&program)
        .arg(".")
        .status()
        .context("cannot run go build")?;
    if !built.success() {
        bail!("Kubernetes does not build: see above");
    }
    for name in NAMES {
        let link = folder.join(name);
        if !link.exists() {
            std::os::unix::fs::symlink("kubernetes", &link)
                .with_context(|| format!("cannot make the link {}", link.display()))?;
        }
    }
    Ok(Programs { folder, version })
}

/// The program of `tests/clients`, built.
///
/// # Errors
/// When Go is missing or too old, or when the module does not build.
pub fn clients(root: &Path) -> anyhow::Result<PathBuf> {
    module_program(root, "clients", &["build"])
}

/// The Gateway API's suite in `tests/conformance`, built: a program of Go's tests.
///
/// # Errors
/// When Go is missing or too old, or when the module does not build.
pub fn conformance(root: &Path) -> anyhow::Result<PathBuf> {
    println!("Building the conformance suite: minutes the first time, seconds after.");
    module_program(root, "conformance", &["test", "-c"])
}

/// The program of the module in `tests/NAME`.
fn module_program(root: &Path, name: &str, verb: &[&str]) -> anyhow::Result<PathBuf> {
    let go = std::env::var_os("GO").map_or_else(|| PathBuf::from("go"), PathBuf::from);
    require_go(&go)?;
    let program = root.join("target/kubernetes").join(name);
    let built = in_module(&go, &root.join("tests").join(name))
        .args(verb)
        .args(["-trimpath", "-o"])
        .arg(&program)
        .arg(".")
        .status()
        .context("cannot run go")?;
    if !built.success() {
        bail!("the module tests/{name} does not build: see above");
    }
    Ok(program)
}

/// A `go` command for the module: nothing fetched but modules, no C compiler.
fn in_module(go: &Path, module: &Path) -> Command {
    let mut command = Command::new(go);
    command
        .current_dir(module)
        .env("GOTOOLCHAIN", "local")
        .env("CGO_ENABLED", "0");
    command
}

/// What the linker writes into the program: without it, Kubernetes reports v0.0.0-master.
fn stamp(version: &str) -> String {
    let mut numbers = version.trim_start_matches('v').split('.');
    let mut number = || numbers.next().unwrap_or_default();
    let (major, minor) = (number(), number());
    let package = "k8s.io/component-base/version";
    format!(
        "-s -w -X {package}.gitVersion={version} -X {package}.gitMajor={major} \
         -X {package}.gitMinor={minor} -X {package}.gitTreeState=clean"
    )
}

fn require_go(go: &Path) -> anyhow::Result<()> {
    let need = format!(
        "programs of the real Kubernetes need Go {}.{} or newer",
        GO.0, GO.1
    );
    let Ok(found) = printed(Command::new(go).args(["env", "GOVERSION"])) else {
        bail!("{need}, and no Go is installed");
    };
    match parse_version(&found) {
        Some(version) if version >= GO => Ok(()),
        _ => bail!("{need}; this is {found}"),
    }
}

/// `go1.26.8` → (1, 26).
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.strip_prefix("go")?.split('.');
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next()?;
    let digits = minor.find(|c: char| !c.is_ascii_digit());
    Some((major, minor[..digits.unwrap_or(minor.len())].parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_go() {
        assert_eq!(parse_version("go1.26.8"), Some((1, 26)));
        assert_eq!(parse_version("go1.25rc1"), Some((1, 25)));
        assert_eq!(parse_version("devel +a1b2"), None);
        assert!(Some((1, 9)) < Some(GO), "numbers, not text");
    }

    #[test]
    fn the_program_knows_its_version() {
        let stamp = stamp("v1.35.4");
        assert!(stamp.contains("gitVersion=v1.35.4 ") && stamp.contains("gitMinor=35 "));
    }
}
