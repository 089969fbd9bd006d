//! `debug`: a container is added to a running pod, and attached to.

use super::{
    args::Debug,
    client::{Cluster, text},
    exec::{self, RawTerminal},
    logs,
};
use anyhow::bail;
use k8s_openapi::api::core::v1::{ContainerState, Pod};
use kube::api::{Api, AttachParams, LogParams, Patch, PatchParams};
use kube::runtime::wait::await_condition;
use serde_json::{Value, json};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::IsTerminal;
use std::time::Duration;

/// What made-up names are made of: no vowels, as in the names of pods.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// How long the container may need to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// Adds the container; with stdin, attaches and answers its exit code.
pub async fn run(cluster: &Cluster, args: Debug) -> anyhow::Result<i32> {
    let pods = cluster.kind("pods")?;
    let pod = logs::pod_of(cluster, &pods, &args.pod).await?;
    let namespace = match text(&pod, "/metadata/namespace") {
        "" => cluster.namespace(),
        own => own,
    };
    let api: Api<Pod> = Api::namespaced(cluster.client(), namespace);
    let pod = text(&pod, "/metadata/name");
    let tell = |line: &str| {
        if !args.quiet {
            eprintln!("{line}");
        }
    };
    let name = args.container.clone().unwrap_or_else(|| {
        let name = format!("debugger-{}", made_up());
        tell(&format!("Defaulting debug container name to {name}."));
        name
    });
    let patch = json!({"spec": {"ephemeralContainers": [container(&name, &args)]}});
    api.patch_subresource(
        "ephemeralcontainers",
        pod,
        &PatchParams::default(),
        &Patch::Strategic(patch),
    )
    .await
    .map_err(exec::refused)?;
    if !args.stdin {
        return Ok(0);
    }
    let tty = args.tty && std::io::stdin().is_terminal();
    if args.tty && !tty {
        tell("Unable to use a TTY - input is not a terminal or the right kind of file");
    }
    if started(&api, pod, &name).await?.terminated.is_some() {
        return print_log(&api, pod, name).await;
    }
    tell("If you don't see a command prompt, try pressing enter.");
    let params = AttachParams::default()
        .container(name.clone())
        .stdin(true)
        .stdout(true)
        .stderr(!tty)
        .tty(tty);
    let process = match api.attach(pod, &params).await {
        Ok(process) => process,
        // It has ended in the meantime.
        Err(error) => {
            eprintln!(
                "warning: couldn't attach to pod/{pod}, falling back to streaming logs: {}",
                exec::refused(error)
            );
            return print_log(&api, pod, name).await;
        }
    };
    let _raw = tty.then(RawTerminal::enter).transpose()?;
    exec::carry(process, true).await
}

/// Prints what a container that has ended has said.
async fn print_log(api: &Api<Pod>, pod: &str, container: String) -> anyhow::Result<i32> {
    let params = LogParams {
        container: Some(container),
        ..LogParams::default()
    };
    print!("{}", api.logs(pod, &params).await.map_err(exec::refused)?);
    Ok(0)
}

fn container(name: &str, args: &Debug) -> Value {
    let mut container = json!({
        "name": name,
        "image": args.image,
        "imagePullPolicy": "IfNotPresent",
        "terminationMessagePolicy": "File",
        "stdin": args.stdin,
        "tty": args.tty && std::io::stdin().is_terminal(),
    });
    if !args.command.is_empty() {
        container["command"] = args.command.clone().into();
    }
    if let Some(target) = &args.target {
        container["targetContainerName"] = target.clone().into();
    }
    container
}

/// Five letters that are not likely to come again.
fn made_up() -> String {
    let mut number = RandomState::new().build_hasher().finish();
    let count = LETTERS.len() as u64;
    let mut letter = || {
        let at = usize::try_from(number % count).unwrap_or_default();
        number /= count;
        char::from(LETTERS[at])
    };
    (0..5).map(|_| letter()).collect()
}

/// Waits until the container runs or has ended.
async fn started(api: &Api<Pod>, pod: &str, container: &str) -> anyhow::Result<ContainerState> {
    let state = |pod: Option<&Pod>| {
        let statuses = pod?
            .status
            .as_ref()?
            .ephemeral_container_statuses
            .as_ref()?;
        let status = statuses.iter().find(|status| status.name == container)?;
        let state = status.state.clone()?;
        (state.running.is_some() || state.terminated.is_some()).then_some(state)
    };
    let wait = await_condition(api.clone(), pod, |pod: Option<&Pod>| state(pod).is_some());
    let Ok(found) = tokio::time::timeout(PATIENCE, wait).await else {
        bail!("error: the container {container} did not start in {PATIENCE:?}");
    };
    let found = found.map_err(|e| anyhow::anyhow!("error: {e}"))?;
    match state(found.as_ref()) {
        Some(state) => Ok(state),
        None => bail!("error: the pod {pod} is gone"),
    }
}
