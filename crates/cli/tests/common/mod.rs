//! A local cluster per test: brought up under a name of its own, taken down with the value.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

pub mod captures;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A running cluster, and the commands of somebody who uses it.
pub struct Cluster {
    /// Its name.
    pub name: String,
    folder: tempfile::TempDir,
    kubectl: Option<PathBuf>,
    /// Process id of the router, which every process of the cluster descends from.
    router: OnceLock<String>,
}

impl Cluster {
    /// Brings up a cluster of three nodes.
    pub fn up(label: &str) -> Result<Self> {
        Self::up_with(label, "ipv4")
    }

    /// Brings up a cluster of three nodes with these versions of IP: ipv4, ipv6 or dual.
    pub fn up_with(label: &str, family: &str) -> Result<Self> {
        Self::start(label, family, "")
    }

    /// Brings up a cluster whose control plane is a real Kubernetes, of these programs.
    pub fn up_on(label: &str, programs: &Path) -> Result<Self> {
        let option = format!("--kubernetes {}", programs.display());
        Self::start(label, "ipv4", &option)
    }

    fn start(label: &str, family: &str, options: &str) -> Result<Self> {
        ambit_testkit::require_root()?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let cluster = Self {
            name: format!("{label}-{}-{number}", std::process::id()),
            folder: tempfile::tempdir()?,
            kubectl: find("kubectl"),
            router: OnceLock::new(),
        };
        let config = cluster.folder.path().join("kind.yaml");
        let text = format!(
            "{{kind: Cluster, apiVersion: kind.x-k8s.io/v1alpha4, \
              networking: {{ipFamily: \"{family}\"}}}}"
        );
        std::fs::write(&config, text)?;
        let (name, config) = (&cluster.name, config.display());
        cluster.ambit(&format!(
            "local up --name {name} --config {config} {options}"
        ))?;
        Ok(cluster)
    }

    /// Brings up a cluster with the mesh, and Bookinfo with curl in the namespace `bookinfo`.
    pub fn with_bookinfo(label: &str, enrolled: bool) -> Result<Self> {
        let cluster = Self::up(label)?;
        cluster.install_bookinfo(enrolled)?;
        Ok(cluster)
    }

    /// Installs the mesh, and Bookinfo with curl in the namespace `bookinfo`.
    pub fn install_bookinfo(&self, enrolled: bool) -> Result<()> {
        let cluster = self;
        cluster.ambit("install --set profile=ambient -y")?;
        cluster.kubectl("create namespace bookinfo")?;
        if enrolled {
            cluster.kubectl("label namespace bookinfo istio.io/dataplane-mode=ambient")?;
        }
        let samples = repository().join("samples");
        for sample in ["bookinfo/platform/kube/bookinfo.yaml", "curl/curl.yaml"] {
            let file = samples.join(sample);
            cluster.kubectl(&format!("apply -n bookinfo -f {}", file.display()))?;
        }
        cluster
            .kubectl("wait -n bookinfo --for=condition=Available deployment --all --timeout=90s")?;
        Ok(())
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// Runs `ambit`; what it prints.
    pub fn ambit(&self, command: &str) -> Result<String> {
        succeed(
            command,
            self.run(Command::new(env!("CARGO_BIN_EXE_ambit")), command)?,
        )
    }

    /// Runs the real kubectl, or ours where there is none; what it prints.
    pub fn kubectl(&self, command: &str) -> Result<String> {
        succeed(command, self.try_kubectl(command)?)
    }

    /// Runs kubectl, whatever comes of it.
    pub fn try_kubectl(&self, command: &str) -> Result<Output> {
        self.run(self.kubectl_program(), command)
    }

    /// Runs kubectl and types something; what it prints.
    pub fn kubectl_typing(&self, command: &str, typed: &str) -> Result<String> {
        use std::io::Write;
        let mut program = self.kubectl_program();
        self.prepare(&mut program, command);
        let mut child = program
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {program:?}"))?;
        let mut input = child.stdin.take().context("its input")?;
        input.write_all(typed.as_bytes())?;
        drop(input);
        succeed(command, child.wait_with_output()?)
    }

    /// Applies a manifest given as text.
    pub fn apply(&self, manifest: &str) -> Result<String> {
        succeed("apply", self.try_apply(manifest)?)
    }

    /// Applies a manifest given as text, whatever comes of it.
    pub fn try_apply(&self, manifest: &str) -> Result<Output> {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let file = self.folder.path().join(format!("manifest-{number}.yaml"));
        std::fs::write(&file, manifest)?;
        self.try_kubectl(&format!("apply -f {}", file.display()))
    }

    /// Asks `url` from the curl pod of a namespace: the status code, or curl's exit code.
    pub fn curl(&self, namespace: &str, url: &str) -> Result<std::result::Result<u16, i32>> {
        let output = self.try_kubectl(&format!(
            "exec -n {namespace} deploy/curl -- curl -s --max-time 5 -o /dev/null -w %{{http_code}} {url}"
        ))?;
        match output.status.code() {
            Some(0) => Ok(Ok(String::from_utf8_lossy(&output.stdout)
                .trim()
                .parse()?)),
            Some(code) => Ok(Err(code)),
            None => bail!("kubectl was ended by a signal"),
        }
    }

    /// What the cluster says of itself.
    pub fn status(&self) -> Result<serde_json::Value> {
        let status = self.ambit(&format!("local status --name {} -o json", self.name))?;
        Ok(serde_json::from_str(&status)?)
    }

    /// Host process ids of the processes with `word` as one of their arguments, in this cluster
    /// alone.
    pub fn processes(&self, word: &str) -> Result<Vec<i32>> {
        let router = self.router()?;
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc")? {
            let pid = entry?.file_name().to_string_lossy().into_owned();
            let Ok(number) = pid.parse::<i32>() else {
                continue;
            };
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line);
            let is = |argument: &str| argument.rsplit('/').next() == Some(word);
            if line.split('\0').any(is) && descends(number, router) {
                found.push(number);
            }
        }
        Ok(found)
    }

    /// Asked once: the answer must be there while the API server does not answer.
    fn router(&self) -> Result<&str> {
        if let Some(router) = self.router.get() {
            return Ok(router);
        }
        let status = self.status()?;
        let pid = status["routerPid"].as_i64();
        let pid = pid.context("the status names no router")?.to_string();
        Ok(self.router.get_or_init(|| pid))
    }

    fn kubectl_program(&self) -> Command {
        match &self.kubectl {
            Some(path) => Command::new(path),
            None => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_ambit"));
                command.arg("kubectl");
                command
            }
        }
    }

    fn prepare(&self, program: &mut Command, command: &str) {
        program
            .args(command.split_whitespace())
            .env("KUBECONFIG", self.kubeconfig())
            .stdin(Stdio::null());
    }

    fn run(&self, mut program: Command, command: &str) -> Result<Output> {
        self.prepare(&mut program, command);
        program
            .output()
            .with_context(|| format!("cannot run {program:?}"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for command in ["get pods -A -o wide", "get events -A"] {
                if let Ok(output) = self.try_kubectl(command) {
                    eprintln!(
                        "$ kubectl {command}\n{}",
                        String::from_utf8_lossy(&output.stdout)
                    );
                }
            }
        }
        if let Err(error) = self.ambit(&format!("local down --name {}", self.name)) {
            eprintln!(
                "the cluster {} could not be taken down: {error:#}",
                self.name
            );
        }
    }
}

fn succeed(command: &str, output: Output) -> Result<String> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "`{command}` ended with {}: {text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}

fn descends(mut pid: i32, ancestor: &str) -> bool {
    while pid > 1 {
        if pid.to_string() == ancestor {
            return true;
        }
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
            return false;
        };
        // The name in parentheses may contain spaces; the parent is the second word behind it.
        let parent = stat
            .rsplit(')')
            .next()
            .and_then(|rest| rest.split_whitespace().nth(1));
        pid = parent.and_then(|p| p.parse().ok()).unwrap_or(0);
    }
    false
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.exists())
}

/// The root of the repository.
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// Released material of other projects that tests compare with, where this machine has it.
pub fn shared() -> Option<PathBuf> {
    let beside = repository().parent().map(|folder| folder.join("shared"));
    let folder = std::env::var_os("AMBIT_SHARED")
        .map(PathBuf::from)
        .or(beside)?;
    if folder.join("upstream").is_dir() {
        return Some(folder);
    }
    eprintln!(
        "{} is not there: what compares with released manifests has nothing to do",
        folder.display()
    );
    None
}

/// Repeats a check until it holds.
pub fn eventually<T>(seconds: u64, mut check: impl FnMut() -> Result<T>) -> Result<T> {
    let end = Instant::now() + Duration::from_secs(seconds);
    loop {
        match check() {
            Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(100)),
            other => return other.with_context(|| format!("waited for {seconds} s")),
        }
    }
}
