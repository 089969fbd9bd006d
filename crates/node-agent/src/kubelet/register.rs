//! The node's own objects: the Node, its status, its Lease.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec, NodeStatus,
    NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::events::Kind;
use super::node::{API_TIMEOUT, Node as Shared};

/// Namespace of node leases.
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// Renewal period of the lease; it lasts four times that.
const LEASE_PERIOD: Duration = Duration::from_secs(10);
/// How often an unchanged status is written again.
const STATUS_PERIOD: Duration = Duration::from_secs(60);

/// A node could not be announced.
type Refused = String;

/// Creates or adopts the Node. Returns it as the API server has it.
///
/// # Errors
/// The API server's answer.
pub(crate) async fn register(shared: &Shared) -> Result<Node, Refused> {
    let api: Api<Node> = Api::all(shared.config.client.clone());
    let wanted = node_object(shared);
    let created = answer(api.create(&PostParams::default(), &wanted)).await;
    match created {
        Ok(node) => Ok(node),
        Err(Answer::Conflict) => {
            let labels = json!({"metadata": {"labels": wanted.metadata.labels}});
            let (params, patch) = (PatchParams::default(), Patch::Merge(labels));
            let patched = api.patch(&shared.config.node_name, &params, &patch);
            answer(patched).await.map_err(|error| error.to_string())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Keeps status and lease fresh until told to stop.
pub(crate) async fn keep_alive(shared: Arc<Shared>, node: Node, stop: CancellationToken) {
    let leases = tokio::spawn(renew_leases(shared.clone(), node.clone(), stop.clone()));
    let mut conditions = Vec::new();
    let mut written = None::<std::time::Instant>;
    let mut announced = false;
    while !stop.is_cancelled() {
        let next = conditions_now(&shared, &conditions);
        let changed = statuses(&next) != statuses(&conditions);
        let due = written.is_none_or(|at| at.elapsed() >= STATUS_PERIOD);
        conditions = next;
        if changed || due {
            match write_status(&shared, &conditions).await {
                Ok(()) => written = Some(std::time::Instant::now()),
                Err(error) => {
                    tracing::debug!("node status not written: {error}");
                    written = None;
                }
            }
        }
        let ready = conditions
            .iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True");
        if ready && !announced {
            announced = true;
            let message = format!("Node {} status is now: NodeReady", shared.config.node_name);
            shared
                .events
                .node(&node, Kind::Normal, "NodeReady", message);
        }
        let pause = if ready && written.is_some() {
            Duration::from_secs(5)
        } else {
            Duration::from_millis(200)
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => {}
        }
    }
    leases.abort();
}

fn node_object(shared: &Shared) -> Node {
    let config = &shared.config;
    let machine = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    let mut labels: BTreeMap<String, String> = [
        ("kubernetes.io/hostname", config.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", machine),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", machine),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_string(), value.to_string()))
    .collect();
    labels.extend(config.labels.clone());
    let cidrs: Vec<String> = config.pod_cidrs.iter().map(ToString::to_string).collect();
    Node {
        metadata: ObjectMeta {
            name: Some(config.node_name.clone()),
            labels: Some(labels),
            ..Default::default()
        },
        spec: Some(NodeSpec {
            pod_cidr: cidrs.first().cloned(),
            pod_cidrs: (!cidrs.is_empty()).then_some(cidrs),
            provider_id: None,
            taints: (!config.taints.is_empty()).then(|| config.taints.clone()),
            ..Default::default()
        }),
        status: Some(status(shared, &conditions_now(shared, &[]))),
    }
}

fn status(shared: &Shared, conditions: &[NodeCondition]) -> NodeStatus {
    let config = &shared.config;
    let address = |kind: &str, text: String| NodeAddress {
        type_: kind.to_string(),
        address: text,
    };
    let own = shared.addresses().into_iter();
    let mut addresses: Vec<_> = own.map(|text| address("InternalIP", text)).collect();
    addresses.push(address("Hostname", config.node_name.clone()));
    NodeStatus {
        addresses: Some(addresses),
        capacity: Some(shared.capacity.clone()),
        allocatable: Some(shared.capacity.clone()),
        conditions: Some(conditions.to_vec()),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint {
                port: i32::from(config.server.listen.port()),
            }),
        }),
        node_info: Some(system_info(&config.version)),
        ..Default::default()
    }
}

fn system_info(version: &str) -> NodeSystemInfo {
    let read = |path: &str| {
        std::fs::read_to_string(path)
            .unwrap_or_default()
            .trim()
            .to_string()
    };
    let machine = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    NodeSystemInfo {
        architecture: machine.to_string(),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: format!("process://{}", env!("CARGO_PKG_VERSION")),
        kernel_version: read("/proc/sys/kernel/osrelease"),
        kube_proxy_version: String::new(),
        kubelet_version: version.to_string(),
        machine_id: read("/etc/machine-id"),
        operating_system: "linux".to_string(),
        os_image: os_name(&read("/etc/os-release")),
        swap: None,
        system_uuid: String::new(),
    }
}

fn os_name(os_release: &str) -> String {
    let line = os_release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    line.unwrap_or("Linux").trim_matches('"').to_string()
}

/// The conditions now; the transition time moves only when an answer changes.
fn conditions_now(shared: &Shared, before: &[NodeCondition]) -> Vec<NodeCondition> {
    let now = Time(Timestamp::now());
    let healthy = |kind: &str, reason: &str, message: &str| {
        (
            kind.to_string(),
            false,
            reason.to_string(),
            message.to_string(),
        )
    };
    let network = shared.chain.ready();
    let (ready, reason, message) = match &network {
        Ok(()) => (
            true,
            "KubeletReady",
            "kubelet is posting ready status".to_string(),
        ),
        Err(error) => (
            false,
            "KubeletNotReady",
            format!("container runtime network not ready: {error}"),
        ),
    };
    let list = vec![
        healthy(
            "MemoryPressure",
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available",
        ),
        healthy(
            "DiskPressure",
            "KubeletHasNoDiskPressure",
            "kubelet has no disk pressure",
        ),
        healthy(
            "PIDPressure",
            "KubeletHasSufficientPID",
            "kubelet has sufficient PID available",
        ),
        ("Ready".to_string(), ready, reason.to_string(), message),
    ];
    list.into_iter()
        .map(|(kind, value, reason, message)| {
            let status = if value { "True" } else { "False" };
            let same = before
                .iter()
                .find(|c| c.type_ == kind && c.status == status);
            NodeCondition {
                type_: kind,
                status: status.to_string(),
                reason: Some(reason),
                message: Some(message),
                last_heartbeat_time: Some(now.clone()),
                last_transition_time: same
                    .and_then(|c| c.last_transition_time.clone())
                    .or(Some(now.clone())),
            }
        })
        .collect()
}

fn statuses(conditions: &[NodeCondition]) -> Vec<(&str, &str)> {
    conditions
        .iter()
        .map(|condition| (condition.type_.as_str(), condition.status.as_str()))
        .collect()
}

async fn write_status(shared: &Shared, conditions: &[NodeCondition]) -> Result<(), Refused> {
    let api: Api<Node> = Api::all(shared.config.client.clone());
    let patch = Patch::Strategic(json!({"status": status(shared, conditions)}));
    let params = PatchParams::default();
    let request = api.patch_status(&shared.config.node_name, &params, &patch);
    answer(request)
        .await
        .map(drop)
        .map_err(|error| error.to_string())
}

async fn renew_leases(shared: Arc<Shared>, node: Node, stop: CancellationToken) {
    let api: Api<Lease> = Api::namespaced(shared.config.client.clone(), LEASE_NAMESPACE);
    let name = shared.config.node_name.clone();
    while !stop.is_cancelled() {
        let now = MicroTime(Timestamp::now());
        let patch =
            json!({"spec": {"renewTime": now, "holderIdentity": name, "leaseDurationSeconds": 40}});
        let renewed = answer(api.patch(&name, &PatchParams::default(), &Patch::Merge(patch))).await;
        let outcome = match renewed {
            Err(Answer::NotFound) => {
                answer(api.create(&PostParams::default(), &lease(&name, &node, now))).await
            }
            other => other,
        };
        let pause = match outcome {
            Ok(_) => LEASE_PERIOD,
            Err(error) => {
                tracing::debug!("lease not renewed: {error}");
                Duration::from_secs(1)
            }
        };
        tokio::time::sleep(pause).await;
    }
}

fn lease(name: &str, node: &Node, now: MicroTime) -> Lease {
    Lease {
        metadata: ObjectMeta {
            name: Some(name.to_string()),
            namespace: Some(LEASE_NAMESPACE.to_string()),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_string(),
                kind: "Node".to_string(),
                name: name.to_string(),
                uid: node.metadata.uid.clone().unwrap_or_default(),
                ..Default::default()
            }]),
            ..Default::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.to_string()),
            lease_duration_seconds: Some(40),
            renew_time: Some(now),
            ..Default::default()
        }),
    }
}

/// An API answer by what the caller does next.
#[derive(Debug, thiserror::Error)]
enum Answer {
    #[error("already exists")]
    Conflict,
    #[error("not found")]
    NotFound,
    #[error("no answer from the API server")]
    Silence,
    #[error("{0}")]
    Other(Box<kube::Error>),
}

async fn answer<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Answer> {
    match tokio::time::timeout(API_TIMEOUT, request).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => Err(Answer::Conflict),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Err(Answer::NotFound),
        Ok(Err(error)) => Err(Answer::Other(Box::new(error))),
        Err(_) => Err(Answer::Silence),
    }
}
