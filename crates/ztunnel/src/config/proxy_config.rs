//! `ProxyConfig` of the mesh configuration, as far as the node proxy has a use for it.

use std::collections::BTreeMap;
use std::path::Path;

use ambit_runtime::config::{ConfigError, Env};
use serde::Deserialize;
use serde_json::Value;

const MESH_FILE: &str = "./etc/istio/config/mesh";

/// The part that is read; the rest is for other kinds of proxies.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ProxyConfig {
    pub(super) discovery_address: Option<String>,
    pub(super) proxy_admin_port: Option<u16>,
    pub(super) stats_port: Option<u16>,
    pub(super) concurrency: Option<usize>,
    proxy_metadata: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct MeshConfig {
    default_config: ProxyConfig,
}

impl ProxyConfig {
    /// `PROXY_CONFIG` over the defaults in the mesh configuration file, if there is one.
    pub(super) fn load(env: &Env) -> Result<Self, ConfigError> {
        let mesh = match std::fs::read_to_string(Path::new(MESH_FILE)) {
            Ok(text) => parse::<MeshConfig>(MESH_FILE, &text)?,
            Err(_) => MeshConfig::default(),
        };
        let own: ProxyConfig = match env.non_empty("PROXY_CONFIG") {
            Some(text) => parse("PROXY_CONFIG", &text)?,
            None => ProxyConfig::default(),
        };
        let base = mesh.default_config;
        let mut proxy_metadata = base.proxy_metadata;
        proxy_metadata.extend(own.proxy_metadata);
        Ok(Self {
            discovery_address: own.discovery_address.or(base.discovery_address),
            proxy_admin_port: own.proxy_admin_port.or(base.proxy_admin_port),
            stats_port: own.stats_port.or(base.stats_port),
            concurrency: own.concurrency.or(base.concurrency),
            proxy_metadata,
        })
    }

    /// `proxyMetadata`, by the names that they have on the xDS node.
    pub(super) fn metadata(&self) -> BTreeMap<String, Value> {
        let key = |key: &str| key.strip_prefix("ISTIO_META_").unwrap_or(key).to_owned();
        self.proxy_metadata
            .iter()
            .map(|(k, v)| (key(k), v.as_str().into()))
            .collect()
    }
}

fn parse<T: for<'de> Deserialize<'de> + Default>(name: &str, text: &str) -> Result<T, ConfigError> {
    if text.trim().is_empty() {
        return Ok(T::default());
    }
    serde_saphyr::from_str(text).map_err(|e| ConfigError::Invalid {
        name: name.to_owned(),
        value: text.to_owned(),
        reason: e.to_string(),
    })
}
