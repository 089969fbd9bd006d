//! `waypoint`: make waypoints, see how they are, take them away.

mod apply;
mod list;
mod status;

use std::time::Duration;

use ambit_kube_api::gateway_api::gateway::Listener;
use ambit_kube_api::gateway_api::{Gateway, WAYPOINT_CLASS};
use ambit_kube_api::labels;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client, ResourceExt};

use super::kube_flags::KubeFlags;
use super::output::{FAILURE, USAGE, fail};

/// The manager of what these commands apply.
const FIELD_MANAGER: &str = "istioctl";
/// Name of a waypoint that is not given one.
const NAME: &str = "waypoint";

/// Arguments of `waypoint`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  ambit waypoint apply -n shop --enroll-namespace --wait
  ambit waypoint generate --for all -n shop > waypoint.yaml
  ambit waypoint list -A
  ambit waypoint status -n shop
  ambit waypoint delete -n shop waypoint")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    /// Name of the waypoint
    #[arg(long, global = true, default_value = NAME)]
    name: String,
    #[command(flatten)]
    kube: KubeFlags,
}

/// Traffic that a waypoint is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Traffic {
    All,
    None,
    Service,
    Workload,
}

impl Traffic {
    fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::None => "none",
            Self::Service => "service",
            Self::Workload => "workload",
        }
    }
}

/// What a waypoint is to be.
#[derive(Clone, Debug, clap::Args)]
struct Wanted {
    /// Traffic that it is for
    #[arg(long = "for", value_enum)]
    traffic: Option<Traffic>,
    /// Revision of the control plane that makes it
    #[arg(short, long)]
    revision: Option<String>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make or change a waypoint
    Apply(apply::Args),
    /// Print a waypoint as YAML
    Generate(Wanted),
    /// The waypoints of a namespace
    List {
        /// Of all namespaces
        #[arg(short = 'A', long)]
        all_namespaces: bool,
    },
    /// How waypoints are
    Status(status::Args),
    /// Delete waypoints
    Delete(Delete),
    /// Run a waypoint
    #[command(hide = true)]
    Run {
        /// `proxy waypoint`, as the images of Istio are started
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

#[derive(Debug, clap::Args)]
struct Delete {
    /// Names
    names: Vec<String>,
    /// All of the namespace
    #[arg(long)]
    all: bool,
    /// All of this revision
    #[arg(short, long)]
    revision: Option<String>,
}

impl Args {
    /// It is the waypoint itself that is to run, not a command about waypoints.
    pub fn is_role(&self) -> bool {
        matches!(self.command, Command::Run { .. })
    }

    fn namespace<'a>(&'a self, client: &'a Client) -> &'a str {
        self.kube
            .namespace
            .as_deref()
            .unwrap_or(client.default_namespace())
    }
}

/// Runs `waypoint`.
pub async fn run(args: Args) -> anyhow::Result<i32> {
    if args.name == labels::USE_WAYPOINT_NONE {
        let message = "invalid name provided for waypoint, 'none' is a reserved value";
        return fail(USAGE, message);
    }
    if let Command::Generate(wanted) = &args.command {
        let gateway = gateway(&args.name, args.kube.namespace.as_deref(), wanted);
        print!("{}", super::output::yaml(&serde_json::to_value(&gateway)?));
        return Ok(0);
    }
    let client = match args.kube.client().await {
        Ok(client) => client,
        Err(error) => return fail(FAILURE, error),
    };
    let namespace = args.namespace(&client).to_owned();
    let result = match &args.command {
        Command::Apply(apply) => apply::run(&client, &namespace, &args.name, apply).await,
        Command::List { all_namespaces } => {
            list::run(&client, (!all_namespaces).then_some(&namespace)).await
        }
        Command::Status(status) => status::run(&client, &namespace, status).await,
        Command::Delete(delete) => delete_all(&client, &namespace, delete).await,
        Command::Generate(_) | Command::Run { .. } => Ok(0),
    };
    match result {
        Ok(code) => Ok(code),
        Err(error) => match error.downcast_ref::<kube::Error>() {
            Some(kube::Error::Api(status)) if is_missing_kind(status) => fail(
                FAILURE,
                "the cluster has no Gateway API; `ambit install` brings its definitions, or apply \
                 those of the release",
            ),
            _ => fail(FAILURE, format!("{error:#}")),
        },
    }
}

fn is_missing_kind(status: &kube::core::Status) -> bool {
    status.code == 404 && (status.message.contains("page not found") || status.details.is_none())
}

/// The waypoint as an object.
fn gateway(name: &str, namespace: Option<&str>, wanted: &Wanted) -> Gateway {
    let mut gateway = Gateway::default();
    gateway.metadata.name = Some(name.to_owned());
    gateway.metadata.namespace = namespace.map(str::to_owned);
    let mut put = |key: &str, value: &str| {
        let labels = gateway.metadata.labels.get_or_insert_default();
        labels.insert(key.to_owned(), value.to_owned());
    };
    if let Some(traffic) = wanted.traffic {
        put(labels::WAYPOINT_FOR, traffic.name());
    }
    if let Some(revision) = &wanted.revision {
        put(labels::REVISION, revision);
    }
    gateway.spec.gateway_class_name = WAYPOINT_CLASS.to_owned();
    gateway.spec.listeners = vec![Listener {
        name: "mesh".to_owned(),
        port: 15008,
        protocol: "HBONE".to_owned(),
        ..Listener::default()
    }];
    gateway
}

/// Gateways that are waypoints, sorted; and how many gateways there are of any class.
async fn waypoints(
    client: &Client,
    namespace: Option<&str>,
) -> kube::Result<(Vec<Gateway>, usize)> {
    let api: Api<Gateway> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let mut all = api.list(&ListParams::default()).await?.items;
    let count = all.len();
    all.retain(|gateway| gateway.spec.gateway_class_name == WAYPOINT_CLASS);
    all.sort_by_key(|gateway| (gateway.namespace(), gateway.name_any()));
    Ok((all, count))
}

async fn delete_all(client: &Client, namespace: &str, delete: &Delete) -> anyhow::Result<i32> {
    let several = delete.all || delete.revision.is_some();
    if several && !delete.names.is_empty() {
        let message = "cannot specify waypoint names when deleting all waypoints";
        return fail(USAGE, message);
    }
    if !several && delete.names.is_empty() {
        return fail(
            USAGE,
            "must specify a waypoint name or delete all using --all or delete specific revision \
             using --revision",
        );
    }
    let mut names = delete.names.clone();
    if several {
        let (waypoints, _) = waypoints(client, Some(namespace)).await?;
        let of_revision = |gateway: &&Gateway| {
            let revision = gateway.labels().get(labels::REVISION);
            let revision = revision.map_or(labels::DEFAULT_REVISION, String::as_str);
            delete
                .revision
                .as_deref()
                .is_none_or(|wanted| wanted == revision)
        };
        names = waypoints
            .iter()
            .filter(of_revision)
            .map(ResourceExt::name_any)
            .collect();
        if names.is_empty() {
            println!("no waypoints found in namespace {namespace}");
        }
    }
    let api: Api<Gateway> = Api::namespaced(client.clone(), namespace);
    for name in names {
        match api.delete(&name, &DeleteParams::background()).await {
            Ok(_) => println!("waypoint {namespace}/{name} deleted"),
            Err(kube::Error::Api(status)) if status.code == 404 && !is_missing_kind(&status) => {
                println!("waypoint {namespace}/{name} not found");
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(0)
}

fn duration(text: &str) -> Result<Duration, String> {
    ambit_runtime::config::parse_duration(text).map_err(|e| e.to_string())
}

/// The condition `Programmed` of a gateway.
fn programmed(gateway: &Gateway) -> Option<&ambit_kube_api::status::Condition> {
    let conditions = &gateway.status.as_ref()?.conditions;
    conditions
        .iter()
        .find(|c| c.type_.as_deref() == Some("Programmed"))
}

fn is_programmed(gateway: &Gateway) -> bool {
    programmed(gateway).is_some_and(|c| c.status.as_deref() == Some("True"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_generated() {
        let wanted = Wanted {
            traffic: Some(Traffic::All),
            revision: Some("canary".into()),
        };
        let value = serde_json::to_value(gateway("waypoint", Some("shop"), &wanted)).unwrap();
        assert_eq!(
            crate::commands::output::yaml(&value),
            "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  labels:
    istio.io/rev: canary
    istio.io/waypoint-for: all
  name: waypoint
  namespace: shop
spec:
  gatewayClassName: istio-waypoint
  listeners:
  - name: mesh
    port: 15008
    protocol: HBONE
"
        );
    }
}
