//! Facts about a namespace.

use ambit_kube_api::{annotations, labels};
use ambit_model::Text;
use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt;

use super::Distribution;
use crate::labels::{Labels, labels_from};

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceFacts {
    /// Name.
    pub name: Text,
    /// Labels.
    pub labels: Labels,
    /// Preference for the services in it that say nothing themselves.
    pub distribution: Option<Distribution>,
    /// It is about to go: nothing can be created in it.
    pub terminating: bool,
}

impl NamespaceFacts {
    /// The facts about a namespace.
    pub fn of(namespace: &Namespace) -> Self {
        let distribution = namespace
            .annotations()
            .get(annotations::TRAFFIC_DISTRIBUTION)
            .and_then(|v| Distribution::parse(v));
        Self {
            name: namespace.name_any().into(),
            labels: labels_from(namespace.metadata.labels.as_ref()),
            distribution,
            terminating: namespace.metadata.deletion_timestamp.is_some(),
        }
    }

    /// The network that the label names; on the system namespace, the cluster's.
    pub fn network(&self) -> Text {
        self.labels
            .get(labels::NETWORK)
            .cloned()
            .unwrap_or_else(|| "".into())
    }
}
