//! A cluster with an API server, a few objects, and a control plane that can be stopped.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use ambit_apiserver::{Handle, Server};
use ambit_control::{Discovery, Running, Settings};
use ambit_proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use ambit_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node as XdsNode};
use ambit_runtime::config::Env;
use ambit_wire::tls::{Roots, Target};
use clap::Parser;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, ServiceAccount};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ClusterResourceScope, NamespaceResourceScope};
use kube::{Api, Client, Config, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long nothing must happen, where nothing is expected.
pub const QUIET: Duration = Duration::from_millis(700);
pub const SYSTEM: &str = "istio-system";

/// An API server, with the mesh's CRDs and namespaces.
pub struct Cluster {
    pub client: Client,
    _server: Handle,
}

impl Cluster {
    pub async fn start() -> Self {
        let server = Server::builder().start().await.unwrap();
        let kubeconfig = Kubeconfig::from_yaml(&server.admin_kubeconfig().unwrap()).unwrap();
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .unwrap();
        let client = Client::try_from(config).unwrap();
        let cluster = Self {
            client,
            _server: server,
        };
        let ours = ambit_kube_api::crds::all().unwrap();
        for crd in [ours, ambit_kube_api::crds::gateway_api().unwrap()].concat() {
            Api::all(cluster.client.clone())
                .create(&PostParams::default(), &crd)
                .await
                .unwrap();
        }
        for namespace in [SYSTEM, "shop"] {
            cluster
                .create_in_cluster::<Namespace>(json!({"metadata": {"name": namespace}}))
                .await;
        }
        for node in ["n1", "n2"] {
            cluster
                .create_in_cluster::<Node>(json!({"metadata": {"name": node}}))
                .await;
        }
        for (namespace, name) in [
            (SYSTEM, "ztunnel"),
            ("shop", "cart"),
            ("shop", "web"),
            ("shop", "other"),
        ] {
            let account = json!({"metadata": {"name": name, "namespace": namespace}});
            cluster.create::<ServiceAccount>(account).await;
        }
        cluster
            .pod(SYSTEM, "ztunnel-n1", "ztunnel", "n1", "10.244.1.2")
            .await;
        cluster
    }

    pub fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    pub async fn create<K>(&self, object: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: Serialize + DeserializeOwned + Clone + std::fmt::Debug,
    {
        let namespace = object["metadata"]["namespace"].as_str().unwrap().to_owned();
        let object: K = serde_json::from_value(object).unwrap();
        self.api(&namespace)
            .create(&PostParams::default(), &object)
            .await
            .unwrap()
    }

    async fn create_in_cluster<K>(&self, object: Value)
    where
        K: Resource<DynamicType = (), Scope = ClusterResourceScope>,
        K: Serialize + DeserializeOwned + Clone + std::fmt::Debug,
    {
        let object: K = serde_json::from_value(object).unwrap();
        Api::all(self.client.clone())
            .create(&PostParams::default(), &object)
            .await
            .unwrap();
    }

    pub async fn delete<K>(&self, namespace: &str, name: &str)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: DeserializeOwned + Clone + std::fmt::Debug,
    {
        let now = DeleteParams {
            grace_period_seconds: Some(0),
            ..DeleteParams::default()
        };
        self.api::<K>(namespace).delete(name, &now).await.unwrap();
    }

    /// A pod that runs and is ready.
    pub async fn pod(&self, namespace: &str, name: &str, account: &str, node: &str, ip: &str) {
        self.create::<Pod>(json!({
            "metadata": {"name": name, "namespace": namespace, "labels": {"app": account}},
            "spec": {
                "nodeName": node, "serviceAccountName": account,
                "containers": [{"name": "c", "image": "host"}]
            }
        }))
        .await;
        let status = json!({"status": {
            "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True"}]
        }});
        let merge = Patch::Merge(status);
        self.api::<Pod>(namespace)
            .patch_status(name, &PatchParams::default(), &merge)
            .await
            .unwrap();
    }

    /// What the node agent writes when it has captured a pod.
    pub async fn capture(&self, namespace: &str, name: &str) {
        let patch =
            json!({"metadata": {"annotations": {"ambient.istio.io/redirection": "enabled"}}});
        self.api::<Pod>(namespace)
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .unwrap();
    }

    /// A token as a projected volume gives it.
    pub async fn token(
        &self,
        namespace: &str,
        account: &str,
        pod: Option<&str>,
        audience: &str,
    ) -> String {
        let mut spec = json!({"audiences": [audience], "expirationSeconds": 3600});
        if let Some(pod) = pod {
            let uid = self
                .api::<Pod>(namespace)
                .get(pod)
                .await
                .unwrap()
                .metadata
                .uid;
            spec["boundObjectRef"] =
                json!({"kind": "Pod", "apiVersion": "v1", "name": pod, "uid": uid});
        }
        let request = serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
        let answer = self
            .api::<ServiceAccount>(namespace)
            .create_token_request(account, &PostParams::default(), &request)
            .await
            .unwrap();
        answer.status.unwrap().token
    }

    pub async fn ztunnel_token(&self) -> String {
        self.token(SYSTEM, "ztunnel", Some("ztunnel-n1"), "istio-ca")
            .await
    }

    /// Starts a control plane; it listens on the given port, or on a free one.
    pub async fn control(&self, port: Option<SocketAddr>) -> Running {
        self.replica("istiod-1", port).await
    }

    pub async fn replica(&self, name: &str, address: Option<SocketAddr>) -> Running {
        let any = "127.0.0.1:0".to_owned();
        let secure = address.map_or(any.clone(), |a| a.to_string());
        let ambit_control::Command::Discovery(args) = ambit_control::Args::parse_from([
            "istiod",
            "discovery",
            "--httpAddr",
            &any,
            "--monitoringAddr",
            &any,
            "--secureGRPCAddr",
            &secure,
            "--ctrlz_port=0",
        ])
        .command;
        let env: Env = [("POD_NAME", name), ("POD_NAMESPACE", SYSTEM)]
            .into_iter()
            .collect();
        let settings = Settings::from_env(&env, &args as &Discovery).unwrap();
        ambit_control::start(self.client.clone(), &args, settings, json!({}))
            .await
            .unwrap()
    }

    /// The root that pods mount.
    pub async fn root(&self, namespace: &str) -> String {
        eventually("the root's ConfigMap", async || {
            let maps = self.api::<ConfigMap>(namespace);
            let map = maps.get_opt("istio-ca-root-cert").await.unwrap()?;
            map.data?.remove("root-cert.pem")
        })
        .await
    }

    /// The control plane as pods see it.
    pub async fn target(&self, control: &Running) -> Target {
        let roots = Roots::Pem(self.root(SYSTEM).await);
        let address = format!("https://{}", control.secure_grpc);
        Target::new(&address, roots, Some("istiod.istio-system.svc")).unwrap()
    }
}

/// Asks until there is an answer.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking)
        .await
        .unwrap_or_else(|_| panic!("no {what} in time"))
}

/// A discovery stream, message by message.
pub struct Stream {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

pub const ADDRESS: &str = ambit_proto::type_url::ADDRESS;
pub const AUTHORIZATION: &str = ambit_proto::type_url::AUTHORIZATION;

/// The node that ztunnel says to be.
pub fn ztunnel_node(pod: &str, node: &str) -> XdsNode {
    let value = ambit_wire::xds::client::text_value(node);
    XdsNode {
        id: format!("ztunnel~10.244.1.2~{pod}.{SYSTEM}~{SYSTEM}.svc.cluster.local"),
        metadata: Some(prost_types::Struct {
            fields: [("NODE_NAME".to_owned(), value)].into(),
        }),
        ..XdsNode::default()
    }
}

impl Stream {
    /// Opens a stream and asks for all addresses.
    pub async fn open(target: &Target, token: Option<&str>, node: XdsNode) -> Result<Self, Status> {
        Self::resume(target, token, node, BTreeMap::new()).await
    }

    /// … of which some versions are known.
    pub async fn resume(
        target: &Target,
        token: Option<&str>,
        node: XdsNode,
        known: BTreeMap<String, String>,
    ) -> Result<Self, Status> {
        let (requests, receiver) = mpsc::channel(16);
        let mut request = Request::new(ReceiverStream::new(receiver));
        if let Some(token) = token {
            let value = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        let first = DeltaDiscoveryRequest {
            node: Some(node),
            type_url: ADDRESS.to_owned(),
            initial_resource_versions: known,
            ..DeltaDiscoveryRequest::default()
        };
        requests.send(first).await.unwrap();
        let channel = target.connect().await.unwrap();
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let responses = client
            .delta_aggregated_resources(request)
            .await?
            .into_inner();
        Ok(Self {
            requests,
            responses,
        })
    }

    pub async fn subscribe(&self, url: &str) {
        let request = DeltaDiscoveryRequest {
            type_url: url.to_owned(),
            ..Default::default()
        };
        self.requests.send(request).await.unwrap();
    }

    /// The next message, acknowledged.
    pub async fn next(&mut self) -> Result<DeltaDiscoveryResponse, Status> {
        let response = tokio::time::timeout(PATIENCE, self.responses.message())
            .await
            .expect("no message in time")?
            .expect("the stream ended");
        let ack = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(ack).await.unwrap();
        Ok(response)
    }

    /// Messages until nothing more comes.
    pub async fn rest(&mut self) -> Vec<DeltaDiscoveryResponse> {
        let mut all = Vec::new();
        while let Ok(next) = tokio::time::timeout(QUIET, self.next()).await {
            all.push(next.unwrap());
        }
        all
    }

    /// Messages until one holds the resource or its removal.
    pub async fn until(&mut self, name: &str) -> Vec<DeltaDiscoveryResponse> {
        let mut all = Vec::new();
        loop {
            let response = self.next().await.unwrap();
            let found = names(&response).iter().any(|n| n == name)
                || response.removed_resources.iter().any(|n| n == name);
            all.push(response);
            if found {
                return all;
            }
        }
    }
}

pub fn names(response: &DeltaDiscoveryResponse) -> Vec<String> {
    response.resources.iter().map(|r| r.name.clone()).collect()
}

pub fn workload(response: &DeltaDiscoveryResponse, name: &str) -> Option<ambit_model::Workload> {
    use ambit_proto::convert::Address;
    let resource = response.resources.iter().find(|r| r.name == name)?;
    let body = resource.resource.clone()?.value;
    let message: ambit_proto::workload::Address = prost::Message::decode(body).ok()?;
    match Address::try_from(message).ok()? {
        Address::Workload(workload) => Some(*workload),
        Address::Service(_) => None,
    }
}
