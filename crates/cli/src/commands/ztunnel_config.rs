//! `ztunnel-config`: what a node proxy knows and does, from its `/config_dump`.

pub mod certificates;
mod connections;
pub mod dump;
pub mod log;
mod policies;
mod services;
mod target;
mod workloads;

use std::io::Read;
use std::path::PathBuf;

use anyhow::Context;
use http::Method;
use serde_json::Value;

use self::dump::Dump;
use self::target::{PodFilter, Selection, SelectionError};
use super::kube_flags::KubeFlags;
use super::output::{DATA, FAILURE, Format, USAGE, fail, json, yaml};
use super::portforward::request;

/// Arguments of `ztunnel-config`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    kube: KubeFlags,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Workloads, and how each is reached
    #[command(visible_aliases = ["workloads", "w"])]
    Workload(workloads::Args),
    /// Services with their addresses and endpoints
    #[command(visible_aliases = ["services", "svc", "s"])]
    Service(services::Args),
    /// Authorization policies
    #[command(visible_aliases = ["policies", "pol", "p"])]
    Policy(policies::Args),
    /// Certificates that the proxy holds
    #[command(visible_aliases = ["certificates", "certs", "cert"])]
    Certificate(Source),
    /// Open connections of the pods of a node
    #[command(visible_alias = "cons")]
    Connections(connections::Args),
    /// Everything
    All(All),
    /// Show or change log levels
    #[command(visible_alias = "o")]
    Log(log::Args),
}

/// Where the dump comes from and how it is shown.
#[derive(Clone, Debug, clap::Args)]
pub struct Source {
    /// A pod, [<type>/]<name>[.<namespace>]: a node proxy, or an application whose node proxy is meant
    name: Option<String>,
    /// The node proxy of this node
    #[arg(long)]
    node: Option<String>,
    /// Read the dump from a file, - for standard input
    #[arg(short, long)]
    file: Option<PathBuf>,
    /// Output format
    #[arg(short, long, default_value = "short")]
    output: Format,
    /// Admin port of the node proxy
    #[arg(long, default_value_t = 15000)]
    proxy_admin_port: u16,
}

#[derive(Debug, clap::Args)]
struct All {
    #[command(flatten)]
    source: Source,
    /// A title over each table
    #[arg(long)]
    with_headers: bool,
}

/// Which node proxies a command may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    /// Any: the whole mesh is known to each.
    AnyProxy,
    /// The one of a node: what is asked for differs between nodes.
    NodeProxy,
}

/// A view of a dump: the objects that are shown, and their table.
pub struct View {
    /// For JSON and YAML.
    pub objects: Value,
    /// For people.
    pub table: String,
}

/// Why there is no dump, and the exit code for it.
struct Refusal(i32, anyhow::Error);

/// Runs `ztunnel-config`.
pub async fn run(args: Args) -> anyhow::Result<i32> {
    let kube = &args.kube;
    let result = match args.command {
        Command::Log(log) => return log::run(log, kube).await,
        Command::Workload(own) => {
            let loaded = load(&own.source, kube, Needs::AnyProxy).await;
            loaded.map(|(dump, pod)| print(&own.source, &own.view(&dump, pod.as_ref())))
        }
        Command::Service(own) => load(&own.source, kube, Needs::AnyProxy)
            .await
            .map(|(dump, _)| print(&own.source, &own.view(&dump))),
        Command::Policy(own) => load(&own.source, kube, Needs::AnyProxy)
            .await
            .map(|(dump, _)| print(&own.source, &own.view(&dump))),
        Command::Certificate(source) => load(&source, kube, Needs::NodeProxy)
            .await
            .map(|(dump, _)| print(&source, &certificates::view(&dump, jiff::Timestamp::now()))),
        Command::Connections(own) => {
            let loaded = load(&own.source, kube, Needs::NodeProxy).await;
            loaded.map(|(dump, pod)| print(&own.source, &own.view(&dump, pod.as_ref())))
        }
        Command::All(all) => load(&all.source, kube, Needs::AnyProxy)
            .await
            .map(|(dump, _)| print_all(&all, &dump)),
    };
    match result {
        Ok(()) => Ok(0),
        Err(Refusal(code, error)) => fail(code, format!("{error:#}")),
    }
}

/// Gets the dump, and the application pod when one was named.
async fn load(
    source: &Source,
    kube: &KubeFlags,
    needs: Needs,
) -> Result<(Dump, Option<PodFilter>), Refusal> {
    let named = [
        source.node.is_some(),
        source.file.is_some(),
        source.name.is_some(),
    ];
    if named.iter().filter(|n| **n).count() > 1 {
        let message = "at most one of --file, --node, or pod name must be passed";
        return Err(Refusal(USAGE, anyhow::anyhow!(message)));
    }
    if let Some(file) = &source.file {
        let text = read(file).map_err(|e| Refusal(DATA, e))?;
        let dump =
            Dump::parse(&text).with_context(|| format!("{} is not a config dump", file.display()));
        return Ok((dump.map_err(|e| Refusal(DATA, e))?, None));
    }
    let failed = |e: anyhow::Error| Refusal(FAILURE, e);
    let client = kube.client().await.map_err(|e| failed(e.into()))?;
    let selection = Selection {
        namespace: kube.proxy_namespace(),
        pod_namespace: kube.namespace.as_deref(),
        name: source.name.as_deref(),
        node: source.node.as_deref(),
        one_of_many: needs == Needs::AnyProxy,
    };
    let (target, pod) = target::find(&client, &selection)
        .await
        .map_err(|e| match e {
            SelectionError::Usage(message) => Refusal(USAGE, anyhow::anyhow!(message)),
            SelectionError::Other(error) => failed(error),
        })?;
    let body = request(
        &client,
        &target,
        source.proxy_admin_port,
        Method::GET,
        "/config_dump",
    );
    let body = body.await.map_err(failed)?;
    let dump = Dump::parse(&String::from_utf8_lossy(&body))
        .with_context(|| format!("the answer of pod {}/{}", target.namespace, target.pod));
    Ok((dump.map_err(failed)?, pod))
}

/// The text of a file, or of standard input for `-`.
pub fn read(file: &PathBuf) -> anyhow::Result<String> {
    if file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .context("standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(file).with_context(|| file.display().to_string())
}

fn print(source: &Source, view: &View) {
    match source.output {
        Format::Short => print!("{}", view.table),
        Format::Json => print!("{}", json(&view.objects)),
        Format::Yaml => print!("{}", yaml(&view.objects)),
    }
}

fn print_all(all: &All, dump: &Dump) {
    match all.source.output {
        Format::Json => print!("{}", json(dump.raw())),
        Format::Yaml => print!("{}", yaml(dump.raw())),
        Format::Short => print!(
            "{}",
            all_tables(dump, all.with_headers, jiff::Timestamp::now())
        ),
    }
}

fn all_tables(dump: &Dump, with_headers: bool, now: jiff::Timestamp) -> String {
    let parts = [
        (
            "WORKLOAD INFO",
            workloads::view(dump, &workloads::Filter::default()),
        ),
        ("SERVICE INFO", services::view(dump, None)),
        ("POLICY INFO", policies::view(dump, None)),
        ("SECRET INFO", certificates::view(dump, now)),
        (
            "CONNECTIONS INFO",
            connections::view(dump, &connections::Filter::default()),
        ),
    ];
    let mut text = String::new();
    for (title, view) in parts {
        text.push('\n');
        if with_headers {
            text.push_str(&format!("------ {title} ------\n\n"));
        }
        text.push_str(&view.table);
    }
    text
}

/// Namespaces, names and addresses are compared without regard to case.
fn same(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

#[cfg(test)]
mod tests;
