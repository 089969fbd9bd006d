//! Workloads, services and policies from a YAML document instead of a control plane
//! (`LOCAL_XDS_PATH`, `LOCAL_XDS`): for tests, benchmarks, and proxies that stand alone.

use std::path::Path;
use std::sync::Arc;

use ambit_model::state::Change;
use ambit_runtime::config::{ConfigError, Env};
use serde::{Deserialize, Serialize};

use super::shape;

/// The document. Unknown keys are errors: a misspelt policy must not be silently left out.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LocalConfig {
    /// Workloads.
    pub workloads: Vec<shape::Workload>,
    /// Services.
    pub services: Vec<shape::Service>,
    /// Policies.
    pub policies: Vec<shape::Policy>,
}

/// Why a document cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file cannot be read.
    #[error("cannot read the local configuration {path}: {source}")]
    Read {
        /// Which file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is not the YAML that is expected.
    #[error("the local configuration is not valid: {0}")]
    Yaml(String),
    /// A value has no meaning.
    #[error("the local configuration is not valid: {0}")]
    Value(#[from] shape::ShapeError),
}

impl LocalConfig {
    /// `LOCAL_XDS_PATH` or `LOCAL_XDS`.
    ///
    /// # Errors
    /// Both are set, or what is set cannot be read.
    pub fn from_env(env: &Env) -> Result<Option<Self>, ConfigError> {
        let invalid = |name: &str, value: String, e: &dyn std::fmt::Display| ConfigError::Invalid {
            name: name.to_owned(),
            value,
            reason: e.to_string(),
        };
        match (env.non_empty("LOCAL_XDS_PATH"), env.non_empty("LOCAL_XDS")) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => Err(ConfigError::Conflict(
                "LOCAL_XDS_PATH and LOCAL_XDS are both set; unset one of them".to_owned(),
            )),
            (Some(path), None) => LocalConfig::read(Path::new(&path))
                .map(Some)
                .map_err(|e| invalid("LOCAL_XDS_PATH", path, &e)),
            (None, Some(text)) => LocalConfig::parse(&text)
                .map(Some)
                .map_err(|e| invalid("LOCAL_XDS", text, &e)),
        }
    }

    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let text = std::fs::read_to_string(path).map_err(|source| FileError::Read {
            path: path.display().to_string(),
            source,
        })?;
        Self::parse(&text)
    }

    /// Reads a document.
    pub fn parse(text: &str) -> Result<Self, FileError> {
        serde_saphyr::from_str(text).map_err(|e| FileError::Yaml(e.to_string()))
    }

    /// The changes that bring it all into an empty state.
    pub fn changes(&self) -> Result<Vec<Change>, FileError> {
        let mut changes = Vec::new();
        // Policies first: no workload is ever there without those that cover it.
        for policy in &self.policies {
            changes.push(Change::Policy(Arc::new(policy.try_into()?)));
        }
        for service in &self.services {
            changes.push(Change::Service(Arc::new(service.try_into()?)));
        }
        for workload in &self.workloads {
            changes.push(Change::Workload(Arc::new(workload.try_into()?)));
        }
        Ok(changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ambit_model::service::NamespacedHostname;
    use ambit_model::workload::Protocol;

    const DOCUMENT: &str = r#"
workloads:
- uid: cluster1//Pod/default/local
  name: local
  namespace: default
  serviceAccount: default
  workloadIps: ["127.0.0.1", "fd00::1"]
  protocol: HBONE
  node: local
  waypoint:
    destination: default/wp.example.com
    hboneMtlsPort: 15008
  services:
    "default/example.com":
      80: 8080
  authorizationPolicies: ["default/deny-9999"]
- uid: cluster1//Pod/default/plain
  name: plain
  namespace: default
policies:
- name: deny-9999
  namespace: default
  scope: WorkloadSelector
  action: Deny
  rules:
  - - - destinationPorts: [9999]
        notPrincipals: [{Presence: []}]
        sourceIps: [10.0.0.0/8]
services:
- name: local
  namespace: default
  hostname: example.com
  vips: [/127.10.0.1, far/10.0.0.9]
  ports:
    80: 8080
  subjectAltNames: []
  loadBalancer: {routingPreferences: [Region], mode: Failover}
"#;

    #[test]
    fn reads_the_form_that_ztunnel_reads() {
        let (store, mut writer) = super::super::new(None);
        writer.apply(LocalConfig::parse(DOCUMENT).unwrap().changes().unwrap());
        let state = store.load();
        let local = state.workload("cluster1//Pod/default/local").unwrap();
        assert_eq!(local.protocol, Protocol::Hbone);
        assert_eq!(local.addresses.len(), 2);
        assert!(local.waypoint.is_some());
        let policies: Vec<_> = state.policies_of(local).map(|p| p.key()).collect();
        assert_eq!(policies, vec!["default/deny-9999".into()]);
        let key = NamespacedHostname::new("default", "example.com");
        let (service, entry) = state.service(&key).unwrap();
        assert_eq!(service.vips.len(), 2);
        assert_eq!(entry.endpoints().count(), 1);
        assert_eq!(
            &*state
                .workload("cluster1//Pod/default/plain")
                .unwrap()
                .cluster_id,
            "Kubernetes"
        );
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for (bad, reason) in [
            ("workloads: [{uid: a, protocol: QUIC}]", "QUIC"),
            ("workloads: [{uid: a, workloadIp: 1.1.1.1}]", "workloadIp"),
            ("polices: []", "polices"),
            ("services: [{hostname: h, vips: [nonsense]}]", "nonsense"),
            (
                "policies: [{name: p, rules: [[[{sourceIps: [10.0.0.0/99]}]]]}]",
                "10.0.0.0/99",
            ),
        ] {
            let error = LocalConfig::parse(bad)
                .and_then(|c| c.changes())
                .unwrap_err()
                .to_string();
            assert!(error.contains(reason), "{bad}: {error}");
        }
    }
}
