//! The CNI plugin, chained after the node's other plugins. It asks the node agent whether a new pod
//! belongs to the mesh and to capture it, and it lets the pod start only on a clear answer.
//!
//! It runs once for every pod that starts on the node, also while the agent is being upgraded, so
//! it is one small static program: std, a JSON parser and a unix socket. It holds no credentials.
//!
//! What always holds: a pod outside the excluded namespaces starts only after the agent answered.
//! Silence, an error, or anything that is not understood fails the pod's start; the kubelet tries
//! again.

mod agent;
mod config;
mod request;

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use config::{NetworkConfig, Pod};

/// Versions of the CNI specification that the plugin speaks.
const SPEC_VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The version to answer with where the configuration names none.
const DEFAULT_SPEC_VERSION: &str = "0.3.1";
/// How long the agent may take. Less than the kubelet's own patience.
const AGENT_TIMEOUT: Duration = Duration::from_secs(5);

/// An error as the CNI specification wants it.
#[derive(Debug)]
struct CniError {
    /// 4, 6, 7 and 11 as in the specification: environment, decoding, configuration, try later.
    code: u32,
    message: String,
}

impl CniError {
    fn new(code: u32, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

fn main() -> ExitCode {
    let mut input = Vec::new();
    let read = std::io::stdin().lock().read_to_end(&mut input);
    let config: Value = serde_json::from_slice(&input).unwrap_or(Value::Null);
    let version = config["cniVersion"]
        .as_str()
        .unwrap_or(DEFAULT_SPEC_VERSION);
    let outcome = match read {
        Ok(_) => run(&input, &|name| std::env::var(name).ok()),
        Err(e) => Err(CniError::new(
            5,
            format!("cannot read the configuration: {e}"),
        )),
    };
    match outcome {
        Ok(Some(result)) => {
            println!("{result}");
            ExitCode::SUCCESS
        }
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => {
            println!(
                "{}",
                json!({"cniVersion": version, "code": error.code, "msg": error.message})
            );
            ExitCode::FAILURE
        }
    }
}

/// One invocation: the text to print, if any.
fn run(input: &[u8], env: &dyn Fn(&str) -> Option<String>) -> Result<Option<Value>, CniError> {
    let command = env("CNI_COMMAND")
        .ok_or_else(|| CniError::new(4, "CNI_COMMAND is not set; a container runtime sets it"))?;
    match command.as_str() {
        "VERSION" => Ok(Some(json!({
            "cniVersion": SPEC_VERSIONS[SPEC_VERSIONS.len() - 1],
            "supportedVersions": SPEC_VERSIONS,
        }))),
        "ADD" => add(&NetworkConfig::parse(input)?, env).map(Some),
        // The rules go away with the pod's namespace, and the agent watches the pod.
        "DEL" | "CHECK" | "GC" | "STATUS" => Ok(None),
        other => Err(CniError::new(
            4,
            format!("CNI_COMMAND={other} is not a CNI command"),
        )),
    }
}

fn add(config: &NetworkConfig, env: &dyn Fn(&str) -> Option<String>) -> Result<Value, CniError> {
    if let Some(pod) = Pod::from_args(&env("CNI_ARGS").unwrap_or_default())?
        && config.concerns(&pod)
    {
        let netns = env("CNI_NETNS").filter(|n| !n.is_empty()).ok_or_else(|| {
            CniError::new(
                4,
                "CNI_NETNS is not set; a container runtime sets it for ADD",
            )
        })?;
        let body = request::body(&pod, &netns, config.previous_result.as_ref());
        let socket = Path::new(&config.run_dir).join("pluginevent.sock");
        agent::ask(&socket, &body, AGENT_TIMEOUT).map_err(|e| {
            CniError::new(
                11,
                format!("pod {}/{} may not start yet: {e}", pod.namespace, pod.name),
            )
        })?;
    }
    Ok(config.result())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speaks_the_versions_it_says() {
        let env = |name: &str| (name == "CNI_COMMAND").then(|| "VERSION".to_owned());
        let answer = run(b"{}", &env).expect("answer").expect("text");
        assert_eq!(
            answer["supportedVersions"],
            json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
        );
    }

    #[test]
    fn wrong_use_is_an_error_and_deletion_always_works() {
        assert_eq!(run(b"", &|_| None).expect_err("no command").code, 4);
        let with =
            |command: &'static str| move |n: &str| (n == "CNI_COMMAND").then(|| command.into());
        assert_eq!(run(b"", &with("EAT")).expect_err("unknown").code, 4);
        assert_eq!(
            run(b"not json", &with("ADD")).expect_err("bad config").code,
            6
        );
        for command in ["DEL", "CHECK", "GC", "STATUS"] {
            assert!(run(b"not json", &with(command)).expect("no-op").is_none());
        }
    }
}
