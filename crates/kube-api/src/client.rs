//! A client for the API server, from a kubeconfig or from the pod that the program runs in.

use std::path::{Path, PathBuf};

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// Where to find the API server.
#[derive(Clone, Debug, Default)]
pub struct ClientOptions {
    /// A kubeconfig file that must exist. Without it: the files of `KUBECONFIG` that exist, then
    /// the service account of the pod, then `~/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
    /// Context to use instead of the current one of the kubeconfig.
    pub context: Option<String>,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A kubeconfig cannot be read or used.
    #[error("kubeconfig {path}: {source}; check the file, or name another one with --kubeconfig")]
    Kubeconfig {
        /// The file, or the list of files.
        path: String,
        /// What is wrong with it.
        #[source]
        source: Box<kube::config::KubeconfigError>,
    },
    /// The pod's service account cannot be used.
    #[error(
        "the service account of this pod: {0}; check that the pod mounts its service account token"
    )]
    InCluster(#[source] Box<kube::config::InClusterError>),
    /// There is nothing to use.
    #[error(
        "no Kubernetes cluster is configured: KUBECONFIG names no existing file, {home} does not \
         exist, and this is not a pod; set KUBECONFIG or give --kubeconfig"
    )]
    NoCluster {
        /// The default kubeconfig.
        home: String,
    },
    /// The configuration was read, but no connection can be made of it.
    #[error("the connection to the API server cannot be set up: {0}")]
    Build(#[source] Box<kube::Error>),
}

/// A client for the API server that the options, the environment and the pod lead to.
pub async fn client(options: &ClientOptions) -> Result<Client, ClientError> {
    let config = config(options).await?;
    Client::try_from(config).map_err(|e| ClientError::Build(Box::new(e)))
}

/// The configuration that [`client`] uses.
pub async fn config(options: &ClientOptions) -> Result<Config, ClientError> {
    match choose(options, &Environment::read()) {
        Source::Files(files) => from_files(&files, options.context.clone()).await,
        Source::Pod => Config::incluster().map_err(|e| ClientError::InCluster(Box::new(e))),
        Source::Nothing(home) => Err(ClientError::NoCluster { home }),
    }
}

/// What the choice depends on beside the options.
struct Environment {
    kubeconfig: Vec<PathBuf>,
    home: PathBuf,
    in_pod: bool,
}

impl Environment {
    fn read() -> Self {
        let kubeconfig = std::env::var_os("KUBECONFIG")
            .map(|v| {
                std::env::split_paths(&v)
                    .filter(|p| !p.as_os_str().is_empty())
                    .collect()
            })
            .unwrap_or_default();
        let home = std::env::home_dir().unwrap_or_else(|| PathBuf::from("/root"));
        Self {
            kubeconfig,
            home: home.join(".kube/config"),
            in_pod: std::env::var_os("KUBERNETES_SERVICE_HOST").is_some(),
        }
    }
}

#[derive(Debug, PartialEq)]
enum Source {
    Files(Vec<PathBuf>),
    Pod,
    Nothing(String),
}

fn choose(options: &ClientOptions, environment: &Environment) -> Source {
    if let Some(file) = &options.kubeconfig {
        return Source::Files(vec![file.clone()]);
    }
    let existing: Vec<PathBuf> = environment
        .kubeconfig
        .iter()
        .filter(|p| p.exists())
        .cloned()
        .collect();
    if !existing.is_empty() {
        return Source::Files(existing);
    }
    if environment.in_pod {
        return Source::Pod;
    }
    if environment.home.exists() {
        return Source::Files(vec![environment.home.clone()]);
    }
    Source::Nothing(environment.home.display().to_string())
}

async fn from_files(files: &[PathBuf], context: Option<String>) -> Result<Config, ClientError> {
    let path = list(files);
    let fail = |source| ClientError::Kubeconfig {
        path: path.clone(),
        source: Box::new(source),
    };
    let mut merged = Kubeconfig::default();
    for file in files {
        merged = merged
            .merge(Kubeconfig::read_from(file).map_err(fail)?)
            .map_err(fail)?;
    }
    let options = KubeConfigOptions {
        context,
        ..KubeConfigOptions::default()
    };
    Config::from_custom_kubeconfig(merged, &options)
        .await
        .map_err(fail)
}

fn list(files: &[PathBuf]) -> String {
    let names: Vec<String> = files
        .iter()
        .map(|f: &PathBuf| Path::display(f).to_string())
        .collect();
    names.join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(kubeconfig: &[&Path], home: &Path, in_pod: bool) -> Environment {
        Environment {
            kubeconfig: kubeconfig.iter().map(|p| p.to_path_buf()).collect(),
            home: home.to_path_buf(),
            in_pod,
        }
    }

    #[test]
    fn the_option_wins_then_the_environment_then_the_pod_then_the_home() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config");
        std::fs::write(&file, "").unwrap();
        let missing = dir.path().join("missing");
        let given = ClientOptions {
            kubeconfig: Some(missing.clone()),
            context: None,
        };
        let none = ClientOptions::default();

        assert_eq!(
            choose(&given, &environment(&[&file], &file, true)),
            Source::Files(vec![missing.clone()])
        );
        assert_eq!(
            choose(&none, &environment(&[&missing, &file], &missing, true)),
            Source::Files(vec![file.clone()])
        );
        assert_eq!(
            choose(&none, &environment(&[&missing], &file, true)),
            Source::Pod
        );
        assert_eq!(
            choose(&none, &environment(&[], &file, false)),
            Source::Files(vec![file.clone()])
        );
        assert!(matches!(
            choose(&none, &environment(&[], &missing, false)),
            Source::Nothing(_)
        ));
    }

    #[tokio::test]
    async fn a_broken_kubeconfig_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config");
        std::fs::write(&file, "apiVersion: v1\nkind: Config\nclusters: 7\n").unwrap();
        let options = ClientOptions {
            kubeconfig: Some(file.clone()),
            context: None,
        };
        let error = config(&options).await.unwrap_err().to_string();
        assert!(error.contains(&file.display().to_string()), "{error}");
        assert!(error.contains("--kubeconfig"), "{error}");
    }
}
