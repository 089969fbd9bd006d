//! Events about pods and the node. Repeats of one event count up instead of piling up, and a
//! failing API server never delays the kubelet: events are sent by a task of their own, and dropped
//! when too many wait.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Event, EventSource, Node, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::mpsc;

/// Waiting events.
const QUEUE: usize = 256;
/// Remembered events for counting repeats.
const REMEMBERED: usize = 512;

/// Severity of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Normal,
    Warning,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Report {
    namespace: String,
    object_kind: &'static str,
    name: String,
    uid: String,
    field_path: Option<String>,
    kind: Kind,
    reason: String,
    message: String,
}

/// Sends events.
#[derive(Clone)]
pub(crate) struct Recorder {
    sender: mpsc::Sender<Report>,
}

impl Recorder {
    /// Starts the sending task; it ends when the recorder is dropped.
    pub(crate) fn new(client: kube::Client, node: String) -> Self {
        let (sender, mut receiver) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            let mut sink = Sink {
                client,
                node,
                seen: HashMap::new(),
            };
            while let Some(report) = receiver.recv().await {
                sink.send(report).await;
            }
        });
        Self { sender }
    }

    /// An event about a pod, or about one of its containers.
    pub(crate) fn pod(
        &self,
        pod: &Pod,
        container: Option<&str>,
        kind: Kind,
        reason: &str,
        message: impl Into<String>,
    ) {
        let meta = &pod.metadata;
        self.push(Report {
            namespace: meta.namespace.clone().unwrap_or_default(),
            object_kind: "Pod",
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            field_path: container.map(|name| format!("spec.containers{{{name}}}")),
            kind,
            reason: reason.to_string(),
            message: message.into(),
        });
    }

    /// An event about the node; such events live in the default namespace.
    pub(crate) fn node(&self, node: &Node, kind: Kind, reason: &str, message: impl Into<String>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        self.push(Report {
            namespace: "default".to_string(),
            object_kind: "Node",
            // The node's name stands for its uid in node events, as in any cluster.
            uid: name.clone(),
            name,
            field_path: None,
            kind,
            reason: reason.to_string(),
            message: message.into(),
        });
    }

    fn push(&self, report: Report) {
        if let Err(error) = self.sender.try_send(report) {
            tracing::debug!("event dropped: {error}");
        }
    }
}

struct Sink {
    client: kube::Client,
    node: String,
    seen: HashMap<Report, (String, i32)>,
}

impl Sink {
    async fn send(&mut self, report: Report) {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &report.namespace);
        let now = Time(jiff::Timestamp::now());
        if let Some((name, count)) = self.seen.get_mut(&report) {
            *count += 1;
            let patch = json!({"count": *count, "lastTimestamp": now});
            if api
                .patch(name, &PatchParams::default(), &Patch::Merge(patch))
                .await
                .is_ok()
            {
                return;
            }
        }
        match api
            .create(&PostParams::default(), &self.event(&report, now))
            .await
        {
            Ok(event) => {
                if self.seen.len() >= REMEMBERED {
                    self.seen.clear();
                }
                self.seen
                    .insert(report, (event.metadata.name.unwrap_or_default(), 1));
            }
            Err(error) => tracing::debug!(reason = report.reason, "event not recorded: {error}"),
        }
    }

    fn event(&self, report: &Report, now: Time) -> Event {
        let name = format!("{}.{:x}", report.name, now.0.as_nanosecond());
        Event {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: Some(report.namespace.clone()),
                ..Default::default()
            },
            involved_object: ObjectReference {
                api_version: Some("v1".to_string()),
                kind: Some(report.object_kind.to_string()),
                name: Some(report.name.clone()),
                namespace: (report.object_kind == "Pod").then(|| report.namespace.clone()),
                uid: Some(report.uid.clone()),
                field_path: report.field_path.clone(),
                ..Default::default()
            },
            reason: Some(report.reason.clone()),
            message: Some(report.message.clone()),
            type_: Some(
                if report.kind == Kind::Normal {
                    "Normal"
                } else {
                    "Warning"
                }
                .to_string(),
            ),
            source: Some(EventSource {
                component: Some("kubelet".to_string()),
                host: Some(self.node.clone()),
            }),
            reporting_component: Some("kubelet".to_string()),
            reporting_instance: Some(self.node.clone()),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            count: Some(1),
            ..Default::default()
        }
    }
}
