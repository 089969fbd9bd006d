//! The flags that say which cluster, and which namespaces.

use std::path::PathBuf;

use ambit_kube_api::{ClientError, ClientOptions, names};
use kube::Client;

/// Flags of every command that talks to a cluster.
#[derive(Clone, Debug, clap::Args)]
pub struct KubeFlags {
    /// Kubernetes configuration file
    #[arg(short = 'c', long, global = true)]
    kubeconfig: Option<PathBuf>,
    /// Context of the configuration file to use
    #[arg(long, global = true)]
    context: Option<String>,
    /// Namespace
    #[arg(short, long, global = true)]
    pub namespace: Option<String>,
    /// Namespace of the mesh
    #[arg(short = 'i', long = "istioNamespace", global = true, default_value = names::SYSTEM_NAMESPACE)]
    pub istio_namespace: String,
}

impl KubeFlags {
    /// A client for the cluster that the flags, the environment and the home directory lead to.
    ///
    /// # Errors
    /// When there is none, with what to do about it.
    pub async fn client(&self) -> Result<Client, ClientError> {
        let options = ClientOptions {
            kubeconfig: self.kubeconfig.clone(),
            context: self.context.clone(),
        };
        ambit_kube_api::client(&options).await
    }

    /// Where the node proxy is looked for: `-n`, else the namespace of the mesh.
    pub fn proxy_namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or(&self.istio_namespace)
    }
}
