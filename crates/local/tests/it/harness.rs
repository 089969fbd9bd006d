//! A cluster that lives as long as a test.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ambit_testkit::{eventually, require_root};
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams, DynamicObject, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::discovery::{Scope, pinned_kind};
use kube::{Client, Config};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;

/// Long enough for a machine that does much else.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A place for one cluster: program, state, kubeconfig.
pub struct Place {
    folder: TempDir,
    pub name: String,
}

impl Place {
    /// A place that no other test has.
    pub fn new(hint: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        require_root()?;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{hint}-{}-{count}", std::process::id());
        Ok(Self {
            folder: tempfile::tempdir()?,
            name,
        })
    }

    /// The folder of all state.
    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// The folder of the cluster's state.
    pub fn cluster(&self) -> PathBuf {
        self.state().join("clusters").join(&self.name)
    }

    /// The user's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// The program, with its environment set to this place.
    pub fn program(&self) -> Result<Command> {
        let test = std::env::current_exe()?;
        let target = test.ancestors().nth(2).context("a target folder")?;
        let path = target.join("examples").join("cluster");
        ensure!(
            path.exists(),
            "{} is not built; `cargo test` builds it",
            path.display()
        );
        let mut command = Command::new(path);
        command
            .env("AMBIT_STATE", self.state())
            .env("KUBECONFIG", self.kubeconfig());
        Ok(command)
    }

    /// Runs a verb on this place's cluster.
    pub fn run(&self, verb: &str, more: &[&str]) -> Result<Output> {
        Ok(self
            .program()?
            .arg(verb)
            .args(["--name", &self.name])
            .args(more)
            .output()?)
    }

    /// Runs a verb that must succeed, and returns what it prints.
    pub fn must(&self, verb: &str, more: &[&str]) -> Result<String> {
        let output = self.run(verb, more)?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{verb} failed: {errors}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The process ids of guardian and init.
    pub fn processes(&self) -> Result<(i32, i32)> {
        let text = std::fs::read(self.cluster().join("processes.json"))?;
        let value: Value = serde_json::from_slice(&text)?;
        let pid = |of: &str| {
            value[of]["pid"]
                .as_i64()
                .and_then(|pid| i32::try_from(pid).ok())
        };
        Ok((
            pid("guardian").context("a guardian")?,
            pid("init").context("an init")?,
        ))
    }

    /// The index of the cluster.
    pub fn index(&self) -> Result<u64> {
        let text = std::fs::read(self.cluster().join("cluster.json"))?;
        let value: Value = serde_json::from_slice(&text)?;
        value["index"].as_u64().context("an index")
    }

    /// Makes the cluster.
    pub fn up(self, more: &[&str]) -> Result<Cluster> {
        self.must("up", more)?;
        Ok(Cluster { place: self })
    }
}

/// A cluster that is up; it goes down with this value.
pub struct Cluster {
    pub place: Place,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.place.run("down", &[]);
    }
}

impl Cluster {
    /// A client with all rights.
    pub async fn client(&self) -> Result<Client> {
        let kubeconfig = Kubeconfig::read_from(self.place.kubeconfig())?;
        let config =
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        Ok(Client::try_from(config)?)
    }

    /// Applies objects given as YAML documents, in the namespace `default` if
    /// they do not name another.
    pub async fn apply(&self, yaml: &str) -> Result<()> {
        let client = self.client().await?;
        for object in serde_saphyr::from_multiple::<DynamicObject>(yaml)? {
            let types = object.types.clone().context("kind and apiVersion")?;
            let (resource, capabilities) = pinned_kind(&client, &types.try_into()?).await?;
            let api: Api<DynamicObject> = match capabilities.scope {
                Scope::Cluster => Api::all_with(client.clone(), &resource),
                Scope::Namespaced => match &object.metadata.namespace {
                    Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
                    None => Api::default_namespaced_with(client.clone(), &resource),
                },
            };
            let name = object.metadata.name.clone().context("a name")?;
            let params = PatchParams::apply("test").force();
            api.patch(&name, &params, &Patch::Apply(&object)).await?;
        }
        Ok(())
    }

    /// Waits until `accept` finds in an object what it looks for.
    pub async fn wait<K, T>(&self, name: &str, accept: impl Fn(&K) -> Option<T>) -> Result<T>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + serde::de::DeserializeOwned
            + std::fmt::Debug,
    {
        let api: Api<K> = Api::default_namespaced(self.client().await?);
        let what = format!("{} {name}", K::kind(&()));
        eventually(&what, PATIENCE, async || {
            accept(&api.get_opt(name).await.ok()??)
        })
        .await
    }

    /// Runs a command in a pod and returns what it prints.
    pub async fn exec(&self, pod: &str, command: &[&str]) -> Result<String> {
        self.exec_in("default", pod, command).await
    }

    /// Runs a command in a pod of a namespace and returns what it prints.
    pub async fn exec_in(&self, namespace: &str, pod: &str, command: &[&str]) -> Result<String> {
        let pods: Api<Pod> = Api::namespaced(self.client().await?, namespace);
        let params = AttachParams::default().stderr(false);
        let mut process = pods.exec(pod, command.to_vec(), &params).await?;
        let mut text = String::new();
        let mut output = process.stdout().context("an output")?;
        output.read_to_string(&mut text).await?;
        Ok(text.trim().to_owned())
    }
}

/// Whether a pod is ready.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}
