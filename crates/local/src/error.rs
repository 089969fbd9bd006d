//! What can go wrong with a local cluster, said with the next step.

use std::path::PathBuf;

use crate::kind::ConfigError;

/// A failed step.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The configuration is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file could not be used.
    #[error("{action} {}: {source}", path.display())]
    File {
        /// What was being done.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A step with the operating system failed.
    #[error("{action}: {source}")]
    System {
        /// What was being done.
        action: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A request to the kernel's network configuration failed.
    #[error("{action}: {source}")]
    Network {
        /// What was being done.
        action: String,
        /// The cause.
        #[source]
        source: Box<rtnetlink::Error>,
    },
    /// Something that a local cluster needs is not there.
    #[error("this cannot be done here: {0}")]
    Missing(String),
    /// There is a cluster of that name.
    #[error("the cluster {0:?} exists already; `ambit local down --name {0}` removes it")]
    Exists(String),
    /// There is no cluster of that name.
    #[error("there is no local cluster {name:?}{}", known(others))]
    NoCluster {
        /// The name asked for.
        name: String,
        /// Those that exist.
        others: Vec<String>,
    },
    /// The cluster did not come up.
    #[error("the cluster did not come up: {reason}{}", tail(logs))]
    Start {
        /// Why.
        reason: String,
        /// Last lines of its logs.
        logs: String,
    },
    /// A kubeconfig file is not what it should be.
    #[error("the kubeconfig {} cannot be changed: {reason}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A record of our own does not parse.
    #[error("{} is damaged: {reason}; `ambit local down --name NAME` clears it", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A running cluster refuses a request.
    #[error("{0}")]
    Refused(String),
    /// A part of the cluster failed.
    #[error("{part}: {reason}")]
    Part {
        /// Which.
        part: String,
        /// Why.
        reason: String,
    },
}

fn known(others: &[String]) -> String {
    if others.is_empty() {
        "; `ambit local up` makes one".to_owned()
    } else {
        format!("; there are: {}", others.join(", "))
    }
}

fn tail(logs: &str) -> String {
    if logs.is_empty() {
        String::new()
    } else {
        format!("\nlast log lines:\n{logs}")
    }
}

/// Shorthand for this crate's results.
pub(crate) type Result<T> = std::result::Result<T, LocalError>;

/// Adds what was being done to an error of the operating system.
pub(crate) trait Doing<T> {
    /// Names the action that failed.
    fn doing(self, action: impl Into<String>) -> Result<T>;
}

impl<T> Doing<T> for std::io::Result<T> {
    fn doing(self, action: impl Into<String>) -> Result<T> {
        self.map_err(|source| LocalError::System {
            action: action.into(),
            source,
        })
    }
}

impl<T> Doing<T> for nix::Result<T> {
    fn doing(self, action: impl Into<String>) -> Result<T> {
        self.map_err(|errno| LocalError::System {
            action: action.into(),
            source: errno.into(),
        })
    }
}

impl<T> Doing<T> for std::result::Result<T, rtnetlink::Error> {
    fn doing(self, action: impl Into<String>) -> Result<T> {
        self.map_err(|source| LocalError::Network {
            action: action.into(),
            source: Box::new(source),
        })
    }
}

/// Names the file and what was being done with it.
pub(crate) fn file(
    action: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(std::io::Error) -> LocalError {
    let path = path.into();
    move |source| LocalError::File {
        action,
        path,
        source,
    }
}
