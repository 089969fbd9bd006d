//! `version`: of this program, of the control plane and of the proxies.

use std::collections::BTreeMap;

use ambit_kube_api::names::PORT_MONITORING;
use ambit_runtime::build_info::build_info;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};
use serde_json::{Value, json};

use super::kube_flags::KubeFlags;
use super::output::{Format, json as to_json, yaml};
use super::portforward::{Target, request};

/// Label with the version of what a pod runs, from the charts.
const VERSION_LABEL: &str = "app.kubernetes.io/version";

/// Arguments of `version`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only version numbers
    #[arg(short, long, default_value = "true", num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    short: bool,
    /// Ask the cluster as well
    #[arg(long, default_value = "true", num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    remote: bool,
    /// Output format
    #[arg(short, long)]
    output: Option<Format>,
    /// Control plane revision
    #[arg(short, long)]
    revision: Option<String>,
    #[command(flatten)]
    kube: KubeFlags,
}

/// What the cluster runs.
#[derive(Debug, Default)]
struct Remote {
    /// Version of each control plane pod that answered.
    control: Vec<String>,
    /// Each proxy with its version.
    proxies: Vec<(String, String)>,
}

/// Runs `version`.
pub async fn run(args: Args) -> anyhow::Result<i32> {
    let mut remote = None;
    if args.remote {
        // Without a cluster there is still a client to speak of.
        match args.kube.client().await {
            Ok(client) => match ask(&client, &args).await {
                Ok(found) => remote = Some(found),
                Err(error) => eprintln!("the cluster did not answer: {error:#}"),
            },
            Err(error) => tracing::debug!("{error}"),
        }
    }
    match args.output {
        None | Some(Format::Short) => print!("{}", text(remote.as_ref(), args.short)),
        Some(Format::Json) => print!("{}", to_json(&value(remote.as_ref()))),
        Some(Format::Yaml) => print!("{}", yaml(&value(remote.as_ref()))),
    }
    Ok(0)
}

async fn ask(client: &Client, args: &Args) -> anyhow::Result<Remote> {
    let namespace = &args.kube.istio_namespace;
    let mut selector = "app=istiod".to_owned();
    if let Some(revision) = &args.revision {
        selector.push_str(&format!(",istio.io/rev={revision}"));
    }
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let mut remote = Remote::default();
    for pod in pods
        .list(&ListParams::default().labels(&selector))
        .await?
        .items
    {
        let target = Target {
            namespace: namespace.clone(),
            pod: pod.metadata.name.unwrap_or_default(),
        };
        match request(
            client,
            &target,
            PORT_MONITORING,
            http::Method::GET,
            "/version",
        )
        .await
        {
            Ok(body) => remote.control.push(number(&String::from_utf8_lossy(&body))),
            Err(error) => eprintln!("{error:#}"),
        }
    }
    let all: Api<Pod> = Api::all(client.clone());
    for selector in ["app=ztunnel", "gateway.networking.k8s.io/gateway-name"] {
        for pod in all
            .list(&ListParams::default().labels(selector))
            .await?
            .items
        {
            let labels = pod.metadata.labels.unwrap_or_default();
            let version = labels
                .get(VERSION_LABEL)
                .cloned()
                .unwrap_or_else(|| "unknown".into());
            let (name, namespace) = (pod.metadata.name, pod.metadata.namespace);
            let id = format!(
                "{}.{}",
                name.unwrap_or_default(),
                namespace.unwrap_or_default()
            );
            remote.proxies.push((id, version));
        }
    }
    Ok(remote)
}

/// The number in `<number>-<revision>-<status>`.
fn number(full: &str) -> String {
    let full = full.trim();
    full.rsplitn(3, '-').nth(2).unwrap_or(full).to_owned()
}

fn text(remote: Option<&Remote>, short: bool) -> String {
    let info = build_info();
    let mut text = match short {
        true => format!("client version: {}\n", info.version),
        false => format!(
            "client version: {} (revision {}, {}, {} build, speaks Istio {})\n",
            info.version,
            info.git_revision,
            info.rust_version,
            info.build_profile,
            info.istio_version
        ),
    };
    let Some(remote) = remote else { return text };
    if remote.control.is_empty() {
        return format!("Istio is not present in the cluster\n{text}");
    }
    let mut versions = remote.control.clone();
    versions.sort();
    versions.dedup();
    match versions.as_slice() {
        [one] => text.push_str(&format!("control plane version: {one}\n")),
        many => many
            .iter()
            .for_each(|v| text.push_str(&format!("istiod version: {v}\n"))),
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, version) in &remote.proxies {
        *counts.entry(version).or_default() += 1;
    }
    let counts: Vec<String> = counts
        .iter()
        .map(|(v, n)| format!("{v} ({n} proxies)"))
        .collect();
    let shown = if counts.is_empty() {
        "none".to_owned()
    } else {
        counts.join(", ")
    };
    text.push_str(&format!("data plane version: {shown}\n"));
    text
}

fn value(remote: Option<&Remote>) -> Value {
    let info = build_info();
    let version = |number: &str| {
        json!({"version": number, "revision": info.git_revision, "golang_version": "",
               "status": info.build_status, "tag": number})
    };
    let mut value = json!({"clientVersion": version(info.version)});
    if let Some(remote) = remote.filter(|r| !r.control.is_empty()) {
        let control = remote
            .control
            .iter()
            .map(|v| json!({"Component": "istiod", "Revision": "", "Info": version(v)}));
        value["meshVersion"] = control.collect();
        let proxies = remote
            .proxies
            .iter()
            .map(|(id, version)| json!({"ID": id, "IstioVersion": version, "Type": "ztunnel"}));
        value["dataPlaneVersion"] = proxies.collect();
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_case_has_its_lines() {
        let own = build_info().version;
        assert_eq!(text(None, true), format!("client version: {own}\n"));
        let none = Remote::default();
        assert_eq!(
            text(Some(&none), true),
            format!("Istio is not present in the cluster\nclient version: {own}\n")
        );
        let proxy = |v: &str| (String::new(), v.to_owned());
        let some = Remote {
            control: vec!["1.31.0".into(), "1.31.0".into()],
            proxies: vec![proxy("1.31.0"), proxy("1.30.2"), proxy("1.31.0")],
        };
        assert_eq!(
            text(Some(&some), true),
            format!(
                "client version: {own}\ncontrol plane version: 1.31.0\n\
                 data plane version: 1.30.2 (1 proxies), 1.31.0 (2 proxies)\n"
            )
        );
    }

    #[test]
    fn the_number_is_taken_out_of_the_full_version() {
        assert_eq!(number("0.1.0-unknown-unknown"), "0.1.0");
        assert_eq!(number("1.31.0-rc.1-abc-Clean\n"), "1.31.0-rc.1");
        assert_eq!(number("1.31.0"), "1.31.0");
    }
}
