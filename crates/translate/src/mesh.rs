//! What is the same for every object: the settings of the mesh and of this control plane.

use ambit_kube_api::networking::destination_rule::LocalityLbSetting;
use ambit_kube_api::{labels, names};
use ambit_model::Text;
use ambit_model::identity::DEFAULT_TRUST_DOMAIN;
use ambit_model::telemetry::{LogProvider, Share, Tracing};

use crate::labels::Labels;
use crate::last_hop::LastHop;
use crate::providers::Providers;

/// How many requests are traced where nobody says more: one in a hundred, as in Istio.
pub const DEFAULT_SAMPLING: Share = 100;

/// Settings that outputs depend on.
#[derive(Clone, Debug, PartialEq)]
pub struct Mesh {
    /// Id of the cluster.
    pub cluster_id: Text,
    /// DNS suffix of the cluster's services.
    pub cluster_domain: Text,
    /// Trust domain of all identities.
    pub trust_domain: Text,
    /// Namespace whose policies reach the whole mesh.
    pub root_namespace: Text,
    /// Network of the cluster, empty for the default one.
    pub network: Text,
    /// Revision of this control plane.
    pub revision: Text,
    /// Dry-run policies are sent to the node proxies. Off, because proxies that do not know dry
    /// runs would enforce them.
    pub dry_run: bool,
    /// Whether workloads behind HTTP policy can be reached around their waypoint.
    pub last_hop: LastHop,
    /// Waypoints of the first release are understood.
    pub legacy_waypoint: bool,
    /// Who can be asked about requests, and told of them.
    pub providers: Providers,
    /// What place means for the traffic of which nobody says more.
    pub locality: LocalityLbSetting,
    /// Where access logs go of which nobody says more.
    pub logs: Vec<LogProvider>,
    /// What holds for traces of which nobody says more.
    pub tracing: Tracing,
}

impl Default for Mesh {
    fn default() -> Self {
        Self {
            cluster_id: names::DEFAULT_CLUSTER_ID.into(),
            cluster_domain: names::DEFAULT_CLUSTER_DOMAIN.into(),
            trust_domain: DEFAULT_TRUST_DOMAIN.into(),
            root_namespace: names::SYSTEM_NAMESPACE.into(),
            network: "".into(),
            revision: labels::DEFAULT_REVISION.into(),
            dry_run: false,
            last_hop: LastHop::default(),
            legacy_waypoint: false,
            providers: Providers::default(),
            locality: LocalityLbSetting::default(),
            logs: Vec::new(),
            tracing: Tracing {
                sampling: Some(DEFAULT_SAMPLING),
                ..Tracing::default()
            },
        }
    }
}

impl Mesh {
    /// Whether a configuration object with these labels is meant for this control plane: it names
    /// its revision, or none.
    pub fn owns(&self, labels: &Labels) -> bool {
        labels
            .get(labels::REVISION)
            .is_none_or(|r| *r == self.revision)
    }

    /// The host name of a Kubernetes service.
    pub fn hostname(&self, namespace: &str, name: &str) -> Text {
        format!("{name}.{namespace}.svc.{}", self.cluster_domain).into()
    }
}
