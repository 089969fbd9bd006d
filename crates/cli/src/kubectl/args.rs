//! The command line: kubectl's names and short forms.

use std::path::PathBuf;

/// Control a Kubernetes cluster: the commands of kubectl that the walkthroughs need.
#[derive(Debug, clap::Parser)]
#[command(name = "kubectl", disable_version_flag = true)]
pub struct Kubectl {
    #[command(flatten)]
    pub flags: Flags,
    #[command(subcommand)]
    pub verb: Verb,
}

/// Flags of every verb.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Flags {
    /// Path to the kubeconfig file
    #[arg(long, global = true)]
    pub kubeconfig: Option<PathBuf>,
    /// The name of the kubeconfig context to use
    #[arg(long, global = true)]
    pub context: Option<String>,
    /// If present, the namespace scope for this request
    #[arg(short, long, global = true)]
    pub namespace: Option<String>,
}

#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// Display one or many resources
    Get(Get),
    /// Apply a configuration to a resource by file name or stdin
    Apply(Apply),
    /// Create a resource from a file or from stdin
    Create(Create),
    /// Update the labels on a resource
    Label(Metadata),
    /// Update the annotations on a resource
    Annotate(Metadata),
    /// Delete resources
    Delete(Delete),
    /// Print the logs for a container in a pod
    Logs(Logs),
    /// Execute a command in a container
    Exec(Exec),
    /// Add a container to a pod, to look around
    Debug(Debug),
    /// Wait for a specific condition on one or many resources
    Wait(Wait),
    /// Manage the rollout of a resource
    Rollout(Rollout),
}

#[derive(Debug, clap::Args)]
pub struct Get {
    /// `TYPE`, `TYPE NAME…`, `TYPE/NAME…` or `TYPE,TYPE`
    #[arg(required = true)]
    pub what: Vec<String>,
    /// Output format: json, yaml, name, wide, jsonpath=…
    #[arg(short, long)]
    pub output: Option<String>,
    /// Selector (label query)
    #[arg(short = 'l', long)]
    pub selector: Option<String>,
    /// Selector (field query)
    #[arg(long)]
    pub field_selector: Option<String>,
    /// Across all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// After listing, watch for changes
    #[arg(short, long)]
    pub watch: bool,
    /// Show all labels as the last column
    #[arg(long)]
    pub show_labels: bool,
    /// Labels to show as columns
    #[arg(short = 'L', long, value_delimiter = ',')]
    pub label_columns: Vec<String>,
    /// No headings
    #[arg(long)]
    pub no_headers: bool,
    /// It is no error if the object does not exist
    #[arg(long)]
    pub ignore_not_found: bool,
}

#[derive(Debug, clap::Args)]
pub struct Files {
    /// Files, folders, or - for stdin
    #[arg(short = 'f', long = "filename", required = true)]
    pub filename: Vec<PathBuf>,
    /// Also folders in folders
    #[arg(short = 'R', long)]
    pub recursive: bool,
}

#[derive(Debug, clap::Args)]
pub struct Apply {
    #[command(flatten)]
    pub files: Files,
    /// Let the server merge (server-side apply)
    #[arg(long)]
    pub server_side: bool,
    /// With --server-side: take fields from other managers
    #[arg(long)]
    pub force_conflicts: bool,
    /// Name of the manager of the fields
    #[arg(long)]
    pub field_manager: Option<String>,
}

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Create {
    #[command(subcommand)]
    pub kind: Option<CreateKind>,
    #[command(flatten)]
    pub files: OptionalFiles,
}

#[derive(Debug, clap::Args)]
pub struct OptionalFiles {
    /// Files, folders, or - for stdin
    #[arg(short = 'f', long = "filename")]
    pub filename: Vec<PathBuf>,
    /// Also folders in folders
    #[arg(short = 'R', long)]
    pub recursive: bool,
}

#[derive(Debug, clap::Subcommand)]
pub enum CreateKind {
    /// Create a namespace
    #[command(visible_alias = "ns")]
    Namespace { name: String },
}

#[derive(Debug, clap::Args)]
pub struct Metadata {
    /// `TYPE NAME…` or `TYPE/NAME…`, then `KEY=VALUE` or `KEY-`
    #[arg(required = true)]
    pub what: Vec<String>,
    /// Change keys that have another value
    #[arg(long)]
    pub overwrite: bool,
    /// All objects of the type in the namespace
    #[arg(long)]
    pub all: bool,
    /// Selector (label query)
    #[arg(short = 'l', long)]
    pub selector: Option<String>,
    /// Across all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
}

#[derive(Debug, clap::Args)]
pub struct Delete {
    /// `TYPE NAME…`, `TYPE/NAME…`, or `TYPE` with -l or --all
    pub what: Vec<String>,
    #[command(flatten)]
    pub files: OptionalFiles,
    /// Selector (label query)
    #[arg(short = 'l', long)]
    pub selector: Option<String>,
    /// All objects of the types in the namespace
    #[arg(long)]
    pub all: bool,
    /// Across all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// It is no error if an object does not exist
    #[arg(long)]
    pub ignore_not_found: bool,
    /// Wait until the objects are gone
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub wait: bool,
    /// How long to wait, such as 30s; 0s means for ever
    #[arg(long, default_value = "0s")]
    pub timeout: String,
    /// Seconds until a pod is killed; -1 means its own
    #[arg(long, default_value_t = -1, allow_hyphen_values = true)]
    pub grace_period: i64,
    /// A grace period of one second
    #[arg(long)]
    pub now: bool,
    /// With a grace period of 0: do not wait for the kubelet
    #[arg(long)]
    pub force: bool,
    /// background, foreground or orphan
    #[arg(long, default_value = "background")]
    pub cascade: String,
}

#[derive(Debug, clap::Args)]
pub struct Logs {
    /// `POD`, `TYPE/NAME` such as deploy/web, and perhaps `CONTAINER`
    pub what: Vec<String>,
    /// Selector (label query)
    #[arg(short = 'l', long)]
    pub selector: Option<String>,
    /// The container
    #[arg(short, long)]
    pub container: Option<String>,
    /// All containers of the pods
    #[arg(long)]
    pub all_containers: bool,
    /// Go on as the log grows
    #[arg(short, long)]
    pub follow: bool,
    /// The container before the last restart
    #[arg(short, long)]
    pub previous: bool,
    /// Lines from the end; -1 means all
    #[arg(long, allow_hyphen_values = true)]
    pub tail: Option<i64>,
    /// Only lines newer than this, such as 5s, 2m, 3h
    #[arg(long)]
    pub since: Option<String>,
    /// With times
    #[arg(long)]
    pub timestamps: bool,
    /// Each line with its pod and container
    #[arg(long)]
    pub prefix: bool,
}

#[derive(Debug, clap::Args)]
pub struct Exec {
    /// The pod, or TYPE/NAME such as deploy/web
    pub pod: String,
    /// The container
    #[arg(short, long)]
    pub container: Option<String>,
    /// Pass stdin to the container
    #[arg(short = 'i', long)]
    pub stdin: bool,
    /// Stdin is a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// The command
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub struct Debug {
    /// The pod, or pod/NAME
    pub pod: String,
    /// The image of the container
    #[arg(long)]
    pub image: String,
    /// The name of the container; one is made up when left out
    #[arg(short, long)]
    pub container: Option<String>,
    /// Share the processes of this container
    #[arg(long)]
    pub target: Option<String>,
    /// Attach, with stdin
    #[arg(short = 'i', long)]
    pub stdin: bool,
    /// Stdin is a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Say nothing beside what the container says
    #[arg(short, long)]
    pub quiet: bool,
    /// The command in place of the image's
    #[arg(last = true)]
    pub command: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub struct Wait {
    /// `TYPE/NAME…`, `TYPE NAME…`, or `TYPE` with -l or --all
    #[arg(required = true)]
    pub what: Vec<String>,
    /// delete, create, condition=NAME[=VALUE] or jsonpath='{…}'[=VALUE]
    #[arg(long = "for", required = true)]
    pub condition: String,
    /// How long to wait
    #[arg(long, default_value = "30s")]
    pub timeout: String,
    /// Selector (label query)
    #[arg(short = 'l', long)]
    pub selector: Option<String>,
    /// All objects of the type in the namespace
    #[arg(long)]
    pub all: bool,
    /// Across all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
}

#[derive(Debug, clap::Args)]
pub struct Rollout {
    #[command(subcommand)]
    pub action: RolloutAction,
}

#[derive(Debug, clap::Subcommand)]
pub enum RolloutAction {
    /// Show the status of the rollout
    Status {
        /// `TYPE/NAME` or `TYPE NAME`
        #[arg(required = true)]
        what: Vec<String>,
        /// How long to wait; 0s means for ever
        #[arg(long, default_value = "0s")]
        timeout: String,
        /// Wait until it is done
        #[arg(short, long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
        watch: bool,
    },
    /// Restart the pods of a resource
    Restart {
        /// `TYPE/NAME` or `TYPE NAME`
        #[arg(required = true)]
        what: Vec<String>,
    },
}

/// A duration such as `90s`, `5m`, `1h30m`, or seconds.
pub fn duration(text: &str) -> anyhow::Result<std::time::Duration> {
    let bad = || anyhow::anyhow!("error: invalid duration {text:?}: write 30s, 5m or 1h30m");
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(std::time::Duration::from_secs(seconds));
    }
    let (mut millis, mut rest) = (0f64, text);
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .ok_or_else(bad)?;
        let number: f64 = rest[..end].parse().map_err(|_| bad())?;
        let unit_end = rest[end..]
            .find(|c: char| c.is_ascii_digit())
            .map_or(rest.len(), |i| end + i);
        millis += number
            * match &rest[end..unit_end] {
                "ms" => 1.0,
                "s" => 1e3,
                "m" => 60e3,
                "h" => 3600e3,
                _ => return Err(bad()),
            };
        rest = &rest[unit_end..];
    }
    Ok(std::time::Duration::from_millis(millis as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Kubectl::command().debug_assert();
    }

    #[test]
    fn durations() {
        assert_eq!(duration("90s").unwrap().as_secs(), 90);
        assert_eq!(duration("1h30m").unwrap().as_secs(), 5400);
        assert_eq!(duration("5").unwrap().as_secs(), 5);
        assert_eq!(duration("500ms").unwrap().as_millis(), 500);
        for bad in ["", "x", "5x", "s"] {
            assert!(duration(bad).is_err() || bad.is_empty(), "{bad}");
        }
    }
}
