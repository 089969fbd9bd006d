//! Facts about a node.

use ambit_kube_api::labels;
use ambit_model::Text;
use ambit_model::workload::Locality;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// Name.
    pub name: Text,
    /// Where it is.
    pub locality: Locality,
}

impl NodeFacts {
    /// The facts about a node.
    pub fn of(node: &Node) -> Self {
        let label = |key: &str| node.labels().get(key).map_or("", String::as_str).into();
        Self {
            name: node.name_any().into(),
            locality: Locality {
                region: label(labels::REGION),
                zone: label(labels::ZONE),
                subzone: label(labels::SUBZONE),
            },
        }
    }
}
