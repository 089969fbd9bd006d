//! New pods: the answer to the plugin.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;

use crate::cluster::Cluster;
use crate::enroll::{EnrolError, PodKey, uid};
use crate::kernel::HostKernel;
use crate::plugin_server::{AddPod, AddRequest};

use super::NodeEnroller;

/// How long a pod is tried while the node proxy does not take it: less than the plugin waits.
const PATIENCE: Duration = Duration::from_millis(3500);
const PROXY_RETRY: Duration = Duration::from_millis(200);

/// Decides with the API as it is now: a watch may lag behind a label that was set just before the
/// pod was made.
#[derive(Clone)]
pub struct Adds {
    cluster: Cluster,
    enroller: Arc<NodeEnroller>,
    kernel: Arc<HostKernel>,
}

impl Adds {
    /// For this node.
    pub fn new(cluster: Cluster, enroller: Arc<NodeEnroller>, kernel: Arc<HostKernel>) -> Self {
        Self {
            cluster,
            enroller,
            kernel,
        }
    }
}

impl AddPod for Adds {
    async fn add(&self, request: AddRequest) -> Result<bool, String> {
        // On a task of its own: when the plugin gives up, the steps are still finished or undone.
        let adds = self.clone();
        let task = tokio::spawn(async move { adds.capture(&request).await });
        task.await.unwrap_or_else(|e| Err(e.to_string()))
    }
}

impl Adds {
    async fn capture(&self, request: &AddRequest) -> Result<bool, String> {
        let key = PodKey {
            namespace: request.pod_namespace.clone(),
            name: request.pod_name.clone(),
        };
        let (pod, namespace) = self.cluster.pod_and_namespace(&key).await?;
        if let Some(wanted) = request.pod_uid.as_deref().filter(|u| *u != uid(&pod)) {
            return Err(format!(
                "the API knows pod {key} as {}, not as {wanted}",
                uid(&pod)
            ));
        }
        self.enroller.forget_others(&key, Some(uid(&pod))).await;
        if !self.enroller.eligibility().is_eligible(&pod, &namespace) {
            return Ok(false);
        }
        if request.addresses().is_empty() {
            return Err("the plugins before istio-cni gave the pod no address".into());
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.enrol(&pod, request).await {
                Ok(()) => break,
                Err(error @ EnrolError::Proxy(_)) if Instant::now() < deadline => {
                    tracing::debug!("pod {key} waits for the node proxy: {error}");
                    tokio::time::sleep(PROXY_RETRY).await;
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        tracing::info!("pod {key} starts in the mesh");
        Ok(true)
    }

    async fn enrol(&self, pod: &Pod, request: &AddRequest) -> Result<(), EnrolError> {
        let netns =
            self.kernel
                .open_pod(&request.netns)
                .map_err(|source| EnrolError::PluginNetns {
                    path: request.netns.clone(),
                    source,
                })?;
        self.enroller
            .enrol_new(pod, netns, request.addresses())
            .await
    }
}
