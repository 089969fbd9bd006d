//! `ztunnel-config log`.

use http::Method;

use super::target::{Selection, SelectionError, find, proxies, target};
use crate::commands::kube_flags::KubeFlags;
use crate::commands::output::{FAILURE, USAGE, fail};
use crate::commands::portforward::{Target, request};

const LEVELS: [&str; 8] = [
    "trace", "debug", "info", "warning", "warn", "error", "critical", "off",
];

/// Arguments of `ztunnel-config log`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A node proxy, or an application pod whose node proxy is meant; all node proxies otherwise
    name: Option<String>,
    /// The node proxy of this node
    #[arg(long)]
    node: Option<String>,
    /// [<scope>:]<level>, separated by commas
    #[arg(long)]
    level: Option<String>,
    /// Back to the levels of the start
    #[arg(short, long)]
    reset: bool,
    /// Admin port of the node proxy
    #[arg(long, default_value_t = 15000)]
    proxy_admin_port: u16,
}

/// Runs `ztunnel-config log`.
pub async fn run(args: Args, kube: &KubeFlags) -> anyhow::Result<i32> {
    if args.level.is_some() && args.reset {
        return fail(USAGE, "--level cannot be combined with --reset");
    }
    if args.name.is_some() && args.node.is_some() {
        return fail(USAGE, "at most one of --node or pod name must be passed");
    }
    let path = match path(args.level.as_deref(), args.reset) {
        Ok(path) => path,
        Err(error) => return fail(USAGE, error),
    };
    let client = match kube.client().await {
        Ok(client) => client,
        Err(error) => return fail(FAILURE, error),
    };
    let targets: Vec<Target> = if args.name.is_some() || args.node.is_some() {
        let selection = Selection {
            namespace: kube.proxy_namespace(),
            pod_namespace: kube.namespace.as_deref(),
            name: args.name.as_deref(),
            node: args.node.as_deref(),
            one_of_many: true,
        };
        match find(&client, &selection).await {
            Ok((one, _)) => vec![one],
            Err(SelectionError::Usage(message)) => return fail(USAGE, message),
            Err(SelectionError::Other(error)) => return fail(FAILURE, format!("{error:#}")),
        }
    } else {
        match proxies(&client, kube.proxy_namespace()).await {
            Ok(pods) => pods.iter().map(target).collect(),
            Err(error) => return fail(FAILURE, format!("{error:#}")),
        }
    };
    for one in targets {
        match request(&client, &one, args.proxy_admin_port, Method::POST, &path).await {
            Ok(body) => print!(
                "{}.{}:\n{}",
                one.pod,
                one.namespace,
                String::from_utf8_lossy(&body)
            ),
            Err(error) => return fail(FAILURE, format!("{error:#}")),
        }
    }
    Ok(0)
}

/// The request for a change, or for the present levels.
pub fn path(level: Option<&str>, reset: bool) -> Result<String, String> {
    if reset {
        return Ok("/logging?level=info&reset".to_owned());
    }
    let Some(level) = level else {
        return Ok("/logging".to_owned());
    };
    // The other spellings are only known where the whole value is one of them.
    let level = match level {
        "warning" => "warn",
        "critical" => "error",
        other => other,
    };
    let mut parts = Vec::new();
    for part in level.split(',') {
        let (scope, level) = part.rsplit_once(':').unwrap_or(("", part));
        if !LEVELS.contains(&level) {
            return Err(format!("unrecognized logging level: {level}"));
        }
        parts.push(if scope.is_empty() {
            level.to_owned()
        } else {
            format!("{scope}={level}")
        });
    }
    Ok(format!("/logging?level={}", parts.join(",")))
}

#[cfg(test)]
mod tests {
    use super::path;

    #[test]
    fn levels_and_scopes() {
        assert_eq!(path(None, false).as_deref(), Ok("/logging"));
        assert_eq!(path(None, true).as_deref(), Ok("/logging?level=info&reset"));
        assert_eq!(
            path(Some("warning"), false).as_deref(),
            Ok("/logging?level=warn")
        );
        assert_eq!(
            path(Some("critical"), false).as_deref(),
            Ok("/logging?level=error")
        );
        assert_eq!(
            path(Some("info,access:debug"), false).as_deref(),
            Ok("/logging?level=info,access=debug")
        );
        assert_eq!(
            path(Some("access:loud"), false),
            Err("unrecognized logging level: loud".into())
        );
    }
}
