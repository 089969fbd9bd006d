//! The last hop: a workload behind HTTP policy takes connections from its waypoints alone.
//!
//! Requests are looked into by a waypoint, connections by the node proxy of the pod. So that no path
//! leads around the waypoint (the pod's own address, a caller outside the mesh, a waypoint that is
//! not there), the node proxy gets one more policy: it denies every principal but the waypoint's.
//! It is an ordinary policy of Istio's, so that node proxies other than ours enforce it, too.

use std::collections::BTreeSet;

use ambit_model::Text;
use ambit_model::access::{AccessPolicy, Action};
use ambit_model::policy::{self, Authorization, Match, PolicyScope, StringMatch};

use crate::key::ObjectKey;
use crate::mesh::Mesh;

/// Whether workloads behind HTTP policy can be reached around their waypoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LastHop {
    /// They cannot.
    #[default]
    Enforce,
    /// As in Istio: by the pod's address, and when the waypoint is not ready, they can.
    Istio,
}

impl std::str::FromStr for LastHop {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "enforce" => Ok(Self::Enforce),
            "istio" => Ok(Self::Istio),
            other => Err(format!("{other:?} is neither enforce nor istio")),
        }
    }
}

/// A gateway that is let through, and who it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Door {
    /// The gateway.
    pub gateway: ObjectKey,
    /// The service account of its pods.
    pub service_account: Text,
}

/// The policy for workloads of a namespace that are reached through these waypoints alone; without
/// any, they cannot be reached. Its name is what a refused caller's log says.
pub fn guard(mesh: &Mesh, namespace: &Text, doors: &BTreeSet<Door>) -> Authorization {
    let names: Vec<String> = doors
        .iter()
        .map(|door| format!("{}.{}", door.gateway.name, door.gateway.namespace))
        .collect();
    let name = match names.is_empty() {
        true => "last_hop_waypoint_is_missing".to_owned(),
        false => format!("last_hop_only_through_{}", names.join("_")),
    };
    let principal = |door: &Door| {
        let (namespace, account) = (&door.gateway.namespace, &door.service_account);
        let principal = format!("{}/ns/{namespace}/sa/{account}", mesh.trust_domain);
        StringMatch::Exact(principal.into())
    };
    // An attribute is needed: proxies skip a match that names none.
    let nobody = StringMatch::Exact("nobody".into());
    let not_principals = match doors.is_empty() {
        true => vec![nobody],
        false => doors.iter().map(principal).collect(),
    };
    Authorization {
        name: name.into(),
        namespace: namespace.clone(),
        scope: PolicyScope::WorkloadSelector,
        action: policy::Action::Deny,
        rules: vec![vec![vec![Match {
            not_principals,
            ..Match::default()
        }]]],
        dry_run: false,
    }
}

/// The policy can refuse a request: there is something to go around.
pub fn refuses(policy: &AccessPolicy) -> bool {
    !policy.dry_run && policy.action != Action::Audit
}
