//! `proxy-config`: what a waypoint knows and does, from its `/config_dump`, with istioctl's columns and
//! objects.

mod envoy;
mod views;

use std::path::PathBuf;

use anyhow::{Context, anyhow};
use http::Method;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::core::Selector;
use kube::{Api, Client, ResourceExt};

use ambit_kube_api::labels;

use super::kube_flags::KubeFlags;
use super::output::{DATA, FAILURE, Format, USAGE, fail, json, yaml};
use super::portforward::{Target, request};
use super::ztunnel_config::dump::Dump;
use super::ztunnel_config::{View, log, read};

/// Arguments of `proxy-config`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  ambit proxy-config routes deploy/waypoint -n shop
  ambit proxy-config endpoints waypoint-7d9f.shop --cluster reviews
  ambit proxy-config all deploy/waypoint.shop -o json
  ambit proxy-config log deploy/waypoint -n shop --level access:debug")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    kube: KubeFlags,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// What it accepts: addresses and ports, and where each leads
    #[command(visible_aliases = ["listeners", "l"])]
    Listener(Source),
    /// Routes of each port of a service
    #[command(visible_aliases = ["routes", "r"])]
    Route(Source),
    /// Services that it sends to
    #[command(visible_aliases = ["clusters", "c"])]
    Cluster(Source),
    /// Endpoints of those services
    #[command(visible_aliases = ["endpoints", "ep"])]
    Endpoint(Source),
    /// Policies on requests
    #[command(visible_aliases = ["policies", "p"])]
    Policy(Source),
    /// Certificates that it holds
    #[command(visible_aliases = ["secrets", "s"])]
    Secret(Source),
    /// The settings that it was started with
    #[command(visible_alias = "b")]
    Bootstrap(Source),
    /// Everything
    #[command(visible_alias = "a")]
    All(Source),
    /// Show or change log levels
    #[command(visible_alias = "o")]
    Log(Log),
}

/// Where the dump comes from, what of it is shown, and how.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Source {
    /// A pod, [<type>/]<name>[.<namespace>]; types are pod, deployment and gateway
    name: Option<String>,
    /// Read the dump from a file, - for standard input
    #[arg(short, long)]
    file: Option<PathBuf>,
    /// Output format; json and yaml are in the words of Envoy, as istioctl's
    #[arg(short, long, default_value = "short")]
    output: Format,
    /// Only services whose host name contains this
    #[arg(long, visible_aliases = ["cluster", "name-filter"])]
    fqdn: Option<String>,
    /// Only this port of services
    #[arg(long)]
    port: Option<u16>,
    /// Admin port of the waypoint
    #[arg(long, default_value_t = 15000)]
    proxy_admin_port: u16,
}

#[derive(Debug, clap::Args)]
struct Log {
    /// A pod, [<type>/]<name>[.<namespace>]; types are pod, deployment and gateway
    name: String,
    /// [<scope>:]<level>, separated by commas
    #[arg(long, conflicts_with = "reset")]
    level: Option<String>,
    /// Back to the levels of the start
    #[arg(short, long)]
    reset: bool,
    /// Admin port of the waypoint
    #[arg(long, default_value_t = 15000)]
    proxy_admin_port: u16,
}

/// Why there is nothing to show, and the exit code for it.
struct Refusal(i32, anyhow::Error);

/// Runs `proxy-config`.
pub async fn run(args: Args) -> anyhow::Result<i32> {
    let kube = &args.kube;
    let result = match args.command {
        Command::Log(own) => change_log(own, kube).await,
        Command::Listener(source) => show(source, kube, views::listeners).await,
        Command::Route(source) => show(source, kube, views::routes).await,
        Command::Cluster(source) => show(source, kube, views::clusters).await,
        Command::Endpoint(source) => show(source, kube, views::endpoints).await,
        Command::Policy(source) => show(source, kube, |dump, _| views::policies(dump)).await,
        Command::Secret(source) => show(source, kube, |dump, _| views::secrets(dump)).await,
        Command::Bootstrap(source) => show(source, kube, |dump, _| views::settings(dump)).await,
        Command::All(source) => show(source, kube, views::all).await,
    };
    match result {
        Ok(()) => Ok(0),
        Err(Refusal(code, error)) => fail(code, format!("{error:#}")),
    }
}

async fn show(
    source: Source,
    kube: &KubeFlags,
    view: impl Fn(&Dump, &views::Filter) -> View,
) -> Result<(), Refusal> {
    let dump = load(&source, kube).await?;
    let filter = views::Filter {
        host: source.fqdn.clone(),
        port: source.port,
    };
    let view = view(&dump, &filter);
    match source.output {
        Format::Short => print!("{}", view.table),
        Format::Json => print!("{}", json(&view.objects)),
        Format::Yaml => print!("{}", yaml(&view.objects)),
    }
    Ok(())
}

async fn load(source: &Source, kube: &KubeFlags) -> Result<Dump, Refusal> {
    let failed = |e: anyhow::Error| Refusal(FAILURE, e);
    let (text, from) = match (&source.file, &source.name) {
        (Some(file), None) => {
            let text = read(file).map_err(|e| Refusal(DATA, e))?;
            (text, file.display().to_string())
        }
        (None, Some(name)) => {
            let client = kube.client().await.map_err(|e| failed(e.into()))?;
            let target = find(&client, name, kube).await?;
            let port = source.proxy_admin_port;
            let body = request(&client, &target, port, Method::GET, "/config_dump").await;
            let text = String::from_utf8_lossy(&body.map_err(failed)?).into_owned();
            (
                text,
                format!("the answer of pod {}/{}", target.namespace, target.pod),
            )
        }
        _ => {
            let message = "name a pod of a waypoint, or a file with --file; not both";
            return Err(Refusal(USAGE, anyhow!(message)));
        }
    };
    let dump = Dump::parse(&text).with_context(|| format!("{from} is no config dump"));
    let dump = dump.map_err(|e| Refusal(DATA, e))?;
    match dump.raw()["gateway"].is_object() {
        true => Ok(dump),
        false => Err(Refusal(
            USAGE,
            anyhow!("{from} is that of a node proxy: use ztunnel-config"),
        )),
    }
}

/// The pod that is meant.
async fn find(client: &Client, text: &str, kube: &KubeFlags) -> Result<Target, Refusal> {
    let failed = |e: anyhow::Error| Refusal(FAILURE, e);
    let (kind, rest) = text.split_once('/').unwrap_or(("pod", text));
    let (name, namespace) = match rest.rsplit_once('.') {
        Some((name, namespace)) => (name, Some(namespace)),
        None => (rest, kube.namespace.as_deref()),
    };
    let namespace = namespace.unwrap_or(client.default_namespace()).to_owned();
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let selector = match kind {
        "pod" | "pods" | "po" => {
            let pod = pods.get_opt(name).await.map_err(|e| failed(e.into()))?;
            let pod = pod.ok_or_else(|| failed(anyhow!("pod {namespace}/{name} not found")))?;
            return Ok(target(&pod));
        }
        "deployment" | "deployments" | "deploy" => {
            let all: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
            let found = all.get_opt(name).await.map_err(|e| failed(e.into()))?;
            let found =
                found.ok_or_else(|| failed(anyhow!("deployment {namespace}/{name} not found")))?;
            let selector = found.spec.map(|s| s.selector).unwrap_or_default();
            let selector: Result<Selector, _> = selector.try_into();
            selector.map_err(|_| failed(anyhow!("the deployment's selector is unreadable")))?
        }
        "gateway" | "gateways" | "gtw" => {
            let label = (labels::GATEWAY_NAME.to_owned(), name.to_owned());
            Selector::from_iter([label])
        }
        other => {
            let message = "name a pod, deployment/NAME or gateway/NAME";
            return Err(Refusal(USAGE, anyhow!("{other}/{name}: {message}")));
        }
    };
    let listed = pods
        .list(&ListParams::default().labels_from(&selector))
        .await;
    let mut items = listed.map_err(|e| failed(e.into()))?.items;
    items.sort_by_key(ResourceExt::name_any);
    let running = |pod: &&Pod| pod.metadata.deletion_timestamp.is_none();
    let pod = items.iter().find(running).or(items.first());
    let pod = pod.ok_or_else(|| failed(anyhow!("{text} has no pods in namespace {namespace}")))?;
    Ok(target(pod))
}

fn target(pod: &Pod) -> Target {
    Target {
        namespace: pod.namespace().unwrap_or_default(),
        pod: pod.name_any(),
    }
}

async fn change_log(own: Log, kube: &KubeFlags) -> Result<(), Refusal> {
    let failed = |e: anyhow::Error| Refusal(FAILURE, e);
    let path =
        log::path(own.level.as_deref(), own.reset).map_err(|e| Refusal(USAGE, anyhow!(e)))?;
    let client = kube.client().await.map_err(|e| failed(e.into()))?;
    let target = find(&client, &own.name, kube).await?;
    let body = request(&client, &target, own.proxy_admin_port, Method::POST, &path).await;
    let body = body.map_err(failed)?;
    print!(
        "{}.{}:\n{}",
        target.pod,
        target.namespace,
        String::from_utf8_lossy(&body)
    );
    Ok(())
}
