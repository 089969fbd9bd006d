//! The local cluster at size: how fast many pods start, how fast lists are beside many watchers and
//! steady writes, and how much memory its own processes take.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use futures_util::AsyncBufReadExt;
use futures_util::TryStreamExt;
use hdrhistogram::Histogram;
use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// How many connections write objects, and how many list them.
const WRITERS: usize = 8;
/// No figure counts that takes longer.
const LIMIT: Duration = Duration::from_secs(300);
const MAPS: &str = "/api/v1/namespaces/bench/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/bench/deployments";

/// How large.
#[derive(Args)]
pub struct Options {
    /// Nodes that pods run on.
    #[arg(long, default_value_t = 4)]
    nodes: usize,
    /// Pods.
    #[arg(long, default_value_t = 200)]
    pods: u64,
    /// Objects of about a kilobyte each.
    #[arg(long, default_value_t = 5000)]
    objects: u64,
    /// Watches of all of them.
    #[arg(long, default_value_t = 100)]
    watchers: usize,
    /// Lists of each kind that are measured.
    #[arg(long, default_value_t = 300)]
    lists: usize,
    /// The program `ambit`, if not the one beside this.
    #[arg(long)]
    program: Option<PathBuf>,
}

/// Measures.
pub fn run(options: &Options) -> Result<()> {
    ambit_testkit::require_root()?;
    let cluster = Cluster::up(options)?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let client = cluster.client().await?;
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "bench"}});
        post(&client, "/api/v1/namespaces", &namespace).await?;
        println!(
            "{:<34}{:>10}",
            "memory with nothing in it",
            mb(cluster.memory()?)
        );

        let took = pods(&client, options.pods).await?;
        let what = format!("{} pods on {} nodes", options.pods, options.nodes);
        println!("{what:<34}{:>8.1} s", took.as_secs_f64());
        println!("{:<34}{:>10}", "memory with them", mb(cluster.memory()?));

        let took = objects(&client, options.objects).await?;
        let what = format!("{} objects written", options.objects);
        println!("{what:<34}{:>8.1} s", took.as_secs_f64());

        lists(&cluster, &client, options).await?;
        println!("{:<34}{:>10}", "memory at the end", mb(cluster.memory()?));
        for (name, bytes) in cluster.processes()? {
            println!("  {name:<32}{:>10}", mb(bytes));
        }
        Ok(())
    })
}

/// Lists beside watchers, each of which sees every write.
async fn lists(cluster: &Cluster, client: &Client, options: &Options) -> Result<()> {
    let seen = Arc::new(AtomicU64::new(0));
    let mut watchers = JoinSet::new();
    for _ in 0..options.watchers {
        // A connection each, as programs of their own would have.
        let (client, seen) = (cluster.client().await?, seen.clone());
        watchers.spawn(watch(client, seen));
    }
    let writes = Arc::new(AtomicU64::new(0));
    let mut writer = JoinSet::new();
    writer.spawn(write_steadily(
        client.clone(),
        options.objects,
        writes.clone(),
    ));
    for (what, query) in [("pages of 500", "?limit=500"), ("lists of everything", "")] {
        let mut times = Histogram::<u64>::new(3)?;
        for _ in 0..options.lists {
            let began = Instant::now();
            text(client, &format!("{MAPS}{query}")).await?;
            times.record(u64::try_from(began.elapsed().as_micros())?)?;
        }
        let [p50, p99] = [0.5, 0.99].map(|q| times.value_at_quantile(q) as f64 / 1e3);
        let what = format!("{what}, p50 and p99");
        println!("{what:<34}{p50:>6.1} ms{p99:>8.1} ms");
    }
    writer.abort_all();
    let (written, seen) = (writes.load(Ordering::Relaxed), seen.load(Ordering::Relaxed));
    let per_watcher = seen as f64 / options.watchers.max(1) as f64;
    println!("{written} writes beside the lists, {per_watcher:.0} events seen by each watcher");
    ensure!(watchers.try_join_next().is_none(), "a watch has ended");
    Ok(())
}

/// Counts the events of one watch.
async fn watch(client: Client, seen: Arc<AtomicU64>) -> Result<()> {
    let list = get(&client, &format!("{MAPS}?limit=1")).await?;
    let version = list["metadata"]["resourceVersion"]
        .as_str()
        .unwrap_or_default();
    let request = http::Request::get(format!("{MAPS}?watch=true&resourceVersion={version}"));
    let mut lines = client
        .request_stream(request.body(Vec::new())?)
        .await?
        .lines();
    while lines.try_next().await?.is_some() {
        seen.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Twenty writes a second, until it is ended.
async fn write_steadily(client: Client, objects: u64, count: Arc<AtomicU64>) -> Result<()> {
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    for number in (0..objects).cycle() {
        tick.tick().await;
        let done = count.fetch_add(1, Ordering::Relaxed);
        let patch = json!({"data": {"count": done.to_string()}});
        let request = http::Request::patch(format!("{MAPS}/object-{number}"))
            .header("content-type", "application/merge-patch+json");
        client
            .request_text(request.body(patch.to_string().into())?)
            .await?;
    }
    Ok(())
}

async fn pods(client: &Client, count: u64) -> Result<Duration> {
    let labels = json!({"app": "many"});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "many"},
        "spec": {"replicas": count, "selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels},
            "spec": {"containers": [{"name": "pause", "image": "registry.k8s.io/pause:3.10"}],
                     "terminationGracePeriodSeconds": 0}}}});
    let began = Instant::now();
    post(client, DEPLOYMENTS, &deployment).await?;
    loop {
        let now = get(client, &format!("{DEPLOYMENTS}/many")).await?;
        let ready = now["status"]["readyReplicas"].as_u64().unwrap_or(0);
        if ready == count {
            return Ok(began.elapsed());
        }
        ensure!(
            began.elapsed() < LIMIT,
            "only {ready} of {count} pods are ready"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn objects(client: &Client, count: u64) -> Result<Duration> {
    let began = Instant::now();
    let mut writers = JoinSet::new();
    for first in 0..WRITERS as u64 {
        let client = client.clone();
        writers.spawn(async move {
            for number in (first..count).step_by(WRITERS) {
                let object = json!({"apiVersion": "v1", "kind": "ConfigMap",
                    "metadata": {"name": format!("object-{number}"), "labels": {"number": number.to_string()}},
                    "data": {"text": "x".repeat(500)}});
                post(&client, MAPS, &object).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = writers.join_next().await {
        done??;
    }
    Ok(began.elapsed())
}

async fn text(client: &Client, path: &str) -> Result<String> {
    let request = http::Request::get(path).body(Vec::new())?;
    Ok(client.request_text(request).await?)
}

async fn get(client: &Client, path: &str) -> Result<Value> {
    Ok(serde_json::from_str(&text(client, path).await?)?)
}

async fn post(client: &Client, path: &str, object: &Value) -> Result<()> {
    let request = http::Request::post(path).header("content-type", "application/json");
    client
        .request_text(request.body(object.to_string().into())?)
        .await?;
    Ok(())
}

fn mb(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// A local cluster that goes down with the value.
struct Cluster {
    program: PathBuf,
    name: String,
    folder: tempfile::TempDir,
}

impl Cluster {
    fn up(options: &Options) -> Result<Self> {
        let beside = std::env::current_exe()?.with_file_name("ambit");
        let program = options.program.clone().unwrap_or(beside);
        ensure!(
            program.exists(),
            "{} is not there; `make bench-cluster` builds it",
            program.display()
        );
        let cluster = Self {
            program,
            name: format!("bench-{}", std::process::id()),
            folder: tempfile::tempdir()?,
        };
        let roles = std::iter::once("control-plane");
        let roles = roles.chain(std::iter::repeat_n("worker", options.nodes));
        let nodes: Vec<Value> = roles.map(|role| json!({"role": role})).collect();
        let config =
            json!({"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4", "nodes": nodes});
        let file = cluster.folder.path().join("kind.yaml");
        std::fs::write(&file, config.to_string())?;
        cluster.ambit(&["up", "--config", &file.display().to_string()])?;
        Ok(cluster)
    }

    fn ambit(&self, command: &[&str]) -> Result<String> {
        let output = Command::new(&self.program)
            .arg("local")
            .args(command)
            .args(["--name", &self.name])
            .env("KUBECONFIG", self.kubeconfig())
            .output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "ambit local {command:?}: {errors}");
        Ok(String::from_utf8(output.stdout)?)
    }

    fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    async fn client(&self) -> Result<Client> {
        let file = Kubeconfig::read_from(self.kubeconfig())?;
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        Ok(Client::try_from(config)?)
    }

    /// Memory of all of its own processes. Pages that several share count once.
    fn memory(&self) -> Result<u64> {
        Ok(self.processes()?.iter().map(|(_, bytes)| bytes).sum())
    }

    /// Its own processes, not those of pods: the first one inside, its parent and its children.
    fn processes(&self) -> Result<Vec<(String, u64)>> {
        let status: Value = serde_json::from_str(&self.ambit(&["status", "-o", "json"])?)?;
        let router = status["routerPid"]
            .as_u64()
            .context("the status names no router")?;
        let mut own = Vec::new();
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let folder = entry.path();
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|n| n.parse::<u64>().ok())
            else {
                continue;
            };
            if pid == router
                || parent(&folder) == Some(router)
                || parent(&Path::new("/proc").join(router.to_string())) == Some(pid)
            {
                own.push((command_line(&folder), share(&folder)?));
            }
        }
        Ok(own)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = self.ambit(&["down"]) {
            eprintln!("{error:#}");
        }
    }
}

/// The parent of a process, by its folder in /proc.
fn parent(folder: &Path) -> Option<u64> {
    let status = std::fs::read_to_string(folder.join("status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("PPid:"))?;
    line.trim().parse().ok()
}

fn command_line(folder: &Path) -> String {
    let line = std::fs::read_to_string(folder.join("cmdline")).unwrap_or_default();
    let words: Vec<&str> = line
        .split('\0')
        .skip(1)
        .filter(|word| !word.contains('/'))
        .collect();
    words.join(" ")
}

/// Proportional set size: what is shared with others counts in parts.
fn share(folder: &Path) -> Result<u64> {
    let text = std::fs::read_to_string(folder.join("smaps_rollup"))?;
    let line = text.lines().find_map(|l| l.strip_prefix("Pss:"));
    let kib: u64 = line
        .context("no Pss")?
        .trim()
        .trim_end_matches("kB")
        .trim()
        .parse()?;
    Ok(kib * 1024)
}
