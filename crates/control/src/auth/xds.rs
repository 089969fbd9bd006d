//! Who may open a discovery stream: pods with a token, as the node that they are on.

use std::fmt;
use std::sync::Arc;

use ambit_model::Text;
use ambit_proto::discovery::Node;
use ambit_wire::xds::{Authenticator, StreamRequest};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use tonic::Status;

use super::{Caller, Reviewer, node};
use crate::state::State;

/// Authenticates discovery streams.
pub struct XdsAuthenticator {
    reviewer: Arc<Reviewer>,
    state: Arc<State>,
    client: Client,
}

/// A client of the discovery service.
#[derive(Debug)]
pub struct XdsPeer {
    caller: Arc<Caller>,
    node: Text,
}

impl fmt::Display for XdsPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on node {}", self.caller, self.node)
    }
}

impl XdsAuthenticator {
    /// An authenticator that reviews tokens, and looks pods up in `state` or with `client`.
    pub fn new(reviewer: Arc<Reviewer>, state: Arc<State>, client: Client) -> Self {
        Self {
            reviewer,
            state,
            client,
        }
    }

    /// The node of the caller's pod: as the token says, as the watch knows, or as the API server
    /// says, since a new pod may be ahead of the watch.
    async fn node_of(&self, caller: &Caller) -> Result<Text, Status> {
        let (Some(pod), Some(key)) = (&caller.pod, caller.pod_key()) else {
            return Ok("".into());
        };
        if let Some(node) = &pod.node {
            return Ok(node.clone());
        }
        let known = self
            .state
            .read()
            .pod_account(&key)
            .filter(|p| p.uid == pod.uid);
        if let Some(account) = known.filter(|p| !p.node.is_empty()) {
            return Ok(account.node);
        }
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let found = pods.get_opt(&key.name).await.map_err(|error| {
            tracing::warn!("the pod {key} of a client could not be read: {error}");
            Status::unavailable("the API server cannot be asked for the pod now; try again")
        })?;
        let node = found
            .filter(|p| p.metadata.uid.as_deref() == Some(&*pod.uid))
            .and_then(|p| p.spec?.node_name)
            .ok_or_else(|| {
                Status::permission_denied(format!("the pod {key} of the token is gone"))
            })?;
        Ok(node.into())
    }
}

impl Authenticator for XdsAuthenticator {
    type Peer = XdsPeer;

    async fn authenticate(&self, request: &StreamRequest) -> Result<XdsPeer, Status> {
        let caller = self.reviewer.authenticate(&request.metadata).await?;
        let node = self.node_of(&caller).await?;
        Ok(XdsPeer { caller, node })
    }

    fn check_node(&self, peer: &XdsPeer, node: &Node) -> Result<(), Status> {
        node::check(&peer.caller, &peer.node, node).map_err(Status::permission_denied)
    }
}
