//! The mesh configuration: key `mesh` of the ConfigMap `istio`, in the form of Istio's MeshConfig,
//! plus a section `ambit` of our own.
//!
//! What is ours is strict: an unknown key is an error. Of Istio's keys, those that mean something
//! here are read, the others are known by name, and a key that neither knows is a warning.

use ambit_kube_api::names;
use ambit_kube_api::networking::destination_rule::LocalityLbSetting;
use ambit_model::Text;
use ambit_model::identity::DEFAULT_TRUST_DOMAIN;
use ambit_model::telemetry::{LogFormat, LogProvider, Tracing};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::findings::{Code, Finding, Severity};
use crate::key::ObjectKey;
use crate::providers::{self, Providers};
use crate::telemetry;

/// The settings that mean something here.
#[derive(Clone, Debug, PartialEq)]
pub struct MeshConfig {
    /// Trust domain of all identities.
    pub trust_domain: Text,
    /// Namespace whose policies reach the whole mesh.
    pub root_namespace: Text,
    /// Which namespaces are seen; none means all.
    pub discovery_selectors: Vec<LabelSelector>,
    /// Service accounts that may ask for the certificates of the pods on their node, beside those
    /// that the control plane was started with.
    pub trusted_node_accounts: Vec<ObjectKey>,
    /// Who can be asked about requests, and told of them.
    pub providers: Providers,
    /// What place means for the traffic of which nobody says more.
    pub locality: LocalityLbSetting,
    /// Where access logs go of which nobody says more.
    pub logs: Vec<LogProvider>,
    /// What holds for traces of which nobody says more.
    pub tracing: Tracing,
}

impl Default for MeshConfig {
    fn default() -> Self {
        Self {
            trust_domain: DEFAULT_TRUST_DOMAIN.into(),
            root_namespace: names::SYSTEM_NAMESPACE.into(),
            discovery_selectors: Vec::new(),
            trusted_node_accounts: Vec::new(),
            providers: Providers::default(),
            locality: LocalityLbSetting::default(),
            logs: Vec::new(),
            tracing: Tracing::default(),
        }
    }
}

/// The section `ambit`.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct OwnSection {
    trusted_node_accounts: Vec<String>,
}

/// Reads the mesh configuration. Without an error among the findings the configuration can be
/// used; with one, the last good configuration has to hold.
pub fn parse(yaml: &str) -> (Option<MeshConfig>, Vec<Finding>) {
    let mut findings = Vec::new();
    let config = read(yaml, &mut findings);
    let usable = findings.iter().all(|f| f.code.severity() < Severity::Error);
    (config.filter(|_| usable), findings)
}

fn read(yaml: &str, findings: &mut Vec<Finding>) -> Option<MeshConfig> {
    if yaml.trim().is_empty() {
        return Some(MeshConfig::default());
    }
    let mut keys: Map<String, Value> = match serde_saphyr::from_str(yaml) {
        Ok(Value::Object(keys)) => keys,
        Ok(Value::Null) => Map::new(),
        Ok(_) => {
            let message = "the mesh configuration is not a map of keys and values";
            findings.push(Finding::new(Code::MeshConfigUnreadable, "mesh", message));
            return None;
        }
        Err(e) => {
            findings.push(Finding::new(
                Code::MeshConfigUnreadable,
                "mesh",
                one_line(&e),
            ));
            return None;
        }
    };
    let mut config = MeshConfig::default();
    if let Some(value) = keys
        .remove("trustDomain")
        .and_then(|v| text("trustDomain", v, findings))
    {
        config.trust_domain = value;
    }
    if let Some(value) = keys
        .remove("rootNamespace")
        .and_then(|v| text("rootNamespace", v, findings))
    {
        config.root_namespace = value;
    }
    if let Some(value) = keys.remove("discoverySelectors").filter(|v| !v.is_null()) {
        match serde_json::from_value(value) {
            Ok(selectors) => config.discovery_selectors = selectors,
            Err(e) => findings.push(invalid("discoverySelectors", &one_line(&e))),
        }
    }
    if let Some(value) = keys.remove("ambit").filter(|v| !v.is_null()) {
        config.trusted_node_accounts = own_section(value, findings);
    }
    if let Some(value) = keys.remove("localityLbSetting").filter(|v| !v.is_null()) {
        match serde_json::from_value(value) {
            Ok(locality) => config.locality = locality,
            Err(e) => findings.push(invalid("localityLbSetting", &one_line(&e))),
        }
    }
    config.providers = extension_providers(&mut keys, findings);
    let on = access_log(&mut keys, &mut config.providers.built_in, findings);
    let defaults = DefaultProviders::read(&mut keys, findings);
    config.logs = defaults.logs(on, &config.providers, findings);
    config.tracing = defaults.tracing(&mut keys, &config.providers, findings);
    for key in keys.keys().filter(|k| NOT_HONOURED.contains(&k.as_str())) {
        let message = "it has no effect: whom the mesh trusts and what it shares stays as it is";
        findings.push(Finding::new(
            Code::MeshConfigNotHonoured,
            key.as_str(),
            message,
        ));
    }
    let known = |k: &str| OTHER_ISTIO_KEYS.contains(&k) || NOT_HONOURED.contains(&k);
    for key in keys.keys().filter(|k| !known(k)) {
        let message = "Istio's mesh configuration has no such key; it is ignored";
        findings.push(Finding::new(
            Code::MeshConfigUnknownKey,
            key.as_str(),
            message,
        ));
    }
    Some(config)
}

/// A provider that cannot be used is left out: a policy that names it closes.
fn extension_providers(keys: &mut Map<String, Value>, findings: &mut Vec<Finding>) -> Providers {
    let list = match keys.remove("extensionProviders") {
        None | Some(Value::Null) => return Providers::default(),
        Some(Value::Array(list)) => list,
        Some(_) => {
            findings.push(invalid("extensionProviders", "it is no list"));
            return Providers::default();
        }
    };
    providers::parse(&list, |number, why| {
        let key = format!("extensionProviders[{number}]");
        findings.push(Finding::new(Code::UnusableProvider, key, why));
    })
}

/// How the built-in provider writes (`accessLogEncoding`, `accessLogFormat`), and whether it is on
/// (`accessLogFile`).
fn access_log(
    keys: &mut Map<String, Value>,
    built_in: &mut LogProvider,
    findings: &mut Vec<Finding>,
) -> bool {
    let mut read = |key: &str| plain_text(key, keys.remove(key), findings).unwrap_or_default();
    let file = read("accessLogFile");
    let encoding = read("accessLogEncoding");
    let format = read("accessLogFormat");
    if !["", "/dev/stdout"].contains(&file.as_str()) {
        let message = "waypoints write to standard output, whichever file is named";
        findings.push(Finding::new(
            Code::MeshConfigNotHonoured,
            "accessLogFile",
            message,
        ));
    }
    built_in.format = match (encoding.as_str(), format.as_str()) {
        ("" | "TEXT", format) => LogFormat::Text(format.into()),
        ("JSON", "") => LogFormat::Json(Vec::new()),
        ("JSON", format) => {
            let fields = serde_json::from_str(format).map_err(|e| e.to_string());
            let fields = fields.and_then(|fields| providers::json_format(&fields));
            LogFormat::Json(fields.unwrap_or_else(|e| {
                findings.push(invalid("accessLogFormat", &e));
                Vec::new()
            }))
        }
        (other, _) => {
            let message = format!("{other:?} is neither TEXT nor JSON");
            findings.push(invalid("accessLogEncoding", &message));
            LogFormat::Text("".into())
        }
    };
    !file.is_empty()
}

/// `defaultProviders`: names of those that are told where nobody says more.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DefaultProviders {
    tracing: Vec<String>,
    access_logging: Vec<String>,
}

/// What of `defaultConfig.tracing` counts.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DefaultTracing {
    sampling: Option<f64>,
    zipkin: Option<DefaultZipkin>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct DefaultZipkin {
    address: String,
}

impl DefaultProviders {
    fn read(keys: &mut Map<String, Value>, findings: &mut Vec<Finding>) -> Self {
        let value = keys.remove("defaultProviders").filter(|v| !v.is_null());
        let read = value.map(serde_json::from_value).transpose();
        read.unwrap_or_else(|e| {
            findings.push(invalid("defaultProviders", &one_line(&e)));
            None
        })
        .unwrap_or_default()
    }

    /// Where access logs go: to those that are named here, or else to the file.
    fn logs(
        &self,
        on: bool,
        providers: &Providers,
        findings: &mut Vec<Finding>,
    ) -> Vec<LogProvider> {
        let mut logs = Vec::new();
        for name in &self.access_logging {
            match providers.log(name) {
                Some(provider) => logs.push(provider.clone()),
                None => findings.push(no_provider("defaultProviders.accessLogging", name)),
            }
        }
        if on && self.access_logging.is_empty() {
            logs.push(providers.built_in.clone());
        }
        logs
    }

    /// Where spans go, and how many: to the one that is named here, or else to Zipkin's address.
    fn tracing(
        &self,
        keys: &mut Map<String, Value>,
        providers: &Providers,
        findings: &mut Vec<Finding>,
    ) -> Tracing {
        let off = keys.get("enableTracing") == Some(&Value::Bool(false));
        let config = keys.get("defaultConfig").and_then(|v| v.get("tracing"));
        let config = config.map(DefaultTracing::deserialize).transpose();
        let config = config.unwrap_or_else(|e| {
            findings.push(invalid("defaultConfig.tracing", &one_line(&e)));
            None
        });
        let config = config.unwrap_or_default();
        let mut tracing = Tracing {
            sampling: config.sampling.map(telemetry::share),
            ..Tracing::default()
        };
        if let Some(name) = self.tracing.first() {
            tracing.provider = providers.trace(name).cloned();
            if tracing.provider.is_none() {
                findings.push(no_provider("defaultProviders.tracing", name));
            }
        } else if let Some(zipkin) = config.zipkin.filter(|_| !off) {
            match providers::zipkin_at(&zipkin.address) {
                Ok(provider) => tracing.provider = Some(provider),
                Err(e) => findings.push(no_collector(&e)),
            }
        }
        tracing
    }
}

fn no_provider(key: &str, name: &str) -> Finding {
    let message = format!("no provider of extensionProviders that could do it is called {name:?}");
    Finding::new(Code::UnusableProvider, key, message)
}

fn no_collector(why: &str) -> Finding {
    let key = "defaultConfig.tracing.zipkin.address";
    Finding::new(Code::UnusableProvider, key, why)
}

/// A text, or nothing.
fn plain_text(key: &str, value: Option<Value>, findings: &mut Vec<Finding>) -> Option<String> {
    match value {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text),
        Some(other) => {
            findings.push(invalid(key, &format!("{other} is no text")));
            None
        }
    }
}

fn text(key: &str, value: Value, findings: &mut Vec<Finding>) -> Option<Text> {
    match value {
        Value::Null => None,
        Value::String(s) if s.is_empty() => None,
        Value::String(s) if is_name(&s) => Some(s.into()),
        other => {
            findings.push(invalid(key, &format!("{other} is not a name")));
            None
        }
    }
}

/// Names of trust domains and namespaces end up in paths; nothing that divides one may be in them.
fn is_name(s: &str) -> bool {
    s.bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

fn own_section(value: Value, findings: &mut Vec<Finding>) -> Vec<ObjectKey> {
    let section: OwnSection = match serde_json::from_value(value) {
        Ok(section) => section,
        Err(e) => {
            let error = one_line(&e);
            findings.push(Finding::new(Code::MeshConfigUnknownOwnKey, "ambit", error));
            return Vec::new();
        }
    };
    match parse_accounts(section.trusted_node_accounts.iter().map(String::as_str)) {
        Ok(accounts) => accounts,
        Err(bad) => {
            findings.push(invalid("ambit.trustedNodeAccounts", &not_an_account(&bad)));
            Vec::new()
        }
    }
}

/// Service accounts written `namespace/name`; the first bad one is the error.
pub fn parse_accounts<'a>(
    accounts: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<ObjectKey>, String> {
    accounts
        .into_iter()
        .map(str::trim)
        .filter(|a| !a.is_empty())
        .map(|account| match account.split_once('/') {
            Some((ns, name))
                if !ns.is_empty() && is_name(ns) && !name.is_empty() && is_name(name) =>
            {
                Ok(ObjectKey::new(ns, name))
            }
            _ => Err(account.to_owned()),
        })
        .collect()
}

fn not_an_account(text: &str) -> String {
    format!("{text:?} is not of the form namespace/service-account")
}

fn invalid(key: &str, message: &str) -> Finding {
    Finding::new(Code::MeshConfigInvalidValue, key, message)
}

/// Errors of parsers show the place over several lines; a finding has one.
fn one_line(error: &impl std::fmt::Display) -> String {
    let text = error.to_string();
    text.lines()
        .next()
        .unwrap_or_default()
        .trim_end_matches(['.', ':'])
        .to_owned()
}

/// Keys of Istio's MeshConfig that would change whom the mesh trusts, or what it shares.
const NOT_HONOURED: &[&str] = &[
    "ca",
    "caCertificates",
    "serviceEntryVisibility",
    "serviceScopeConfigs",
    "trustDomainAliases",
];

/// Keys of Istio's MeshConfig that say nothing to the part of the mesh that this crate derives.
const OTHER_ISTIO_KEYS: &[&str] = &[
    "certificates",
    "configSources",
    "connectTimeout",
    "defaultConfig",
    "defaultDestinationRuleExportTo",
    "defaultHttpRetryPolicy",
    "defaultServiceExportTo",
    "defaultTrafficPolicy",
    "defaultVirtualServiceExportTo",
    "disableEnvoyListenerLog",
    "dnsRefreshRate",
    "enableAutoMtls",
    "enableEnvoyAccessLogService",
    "enablePrometheusMerge",
    "enableTracing",
    "h2UpgradePolicy",
    "hboneIdleTimeout",
    "inboundClusterStatName",
    "inboundTrafficPolicy",
    "ingressClass",
    "ingressControllerMode",
    "ingressSelector",
    "ingressService",
    "meshMTLS",
    "outboundClusterStatName",
    "outboundTrafficPolicy",
    "pathNormalization",
    "protocolDetectionTimeout",
    "proxyHttpPort",
    "proxyInboundListenPort",
    "proxyListenPort",
    "serviceSettings",
    "tcpKeepalive",
    "thriftConfig",
    "tlsDefaults",
    "verifyCertificateAtClient",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(findings: &[Finding]) -> Vec<Code> {
        findings.iter().map(|f| f.code).collect()
    }

    #[test]
    fn nothing_is_the_default() {
        assert_eq!(parse(""), (Some(MeshConfig::default()), vec![]));
        assert_eq!(parse("# nothing\n"), (Some(MeshConfig::default()), vec![]));
    }

    #[test]
    fn what_an_install_writes() {
        let (config, findings) = parse(
            "defaultConfig:\n  discoveryAddress: istiod.istio-system.svc:15012\n\
             enablePrometheusMerge: true\nrootNamespace: mesh-root\ntrustDomain: example.org\n\
             discoverySelectors:\n- matchLabels: {mesh: \"yes\"}\n\
             ambit:\n  trustedNodeAccounts: [kube-system/ztunnel]\n",
        );
        let config = config.unwrap();
        assert_eq!(findings, vec![]);
        assert_eq!(
            (&*config.trust_domain, &*config.root_namespace),
            ("example.org", "mesh-root")
        );
        assert_eq!(config.discovery_selectors.len(), 1);
        assert_eq!(
            config.trusted_node_accounts,
            [ObjectKey::new("kube-system", "ztunnel")]
        );
    }

    #[test]
    fn the_access_log() {
        let (config, findings) = parse("accessLogFile: /dev/stdout\naccessLogEncoding: JSON\n");
        let logs = config.unwrap().logs;
        assert_eq!(logs.len(), 1);
        assert_eq!(logs[0].format, LogFormat::Json(Vec::new()));
        assert_eq!(findings, vec![]);
        let (config, _) = parse("accessLogFormat: \"%PROTOCOL%\"\n");
        let config = config.unwrap();
        assert_eq!(config.logs, vec![]);
        let built_in = config.providers.log("envoy").unwrap();
        assert_eq!(built_in.format, LogFormat::Text("%PROTOCOL%".into()));
        let bad = "accessLogFile: /dev/stdout\naccessLogEncoding: JSON\naccessLogFormat: \"{\"\n";
        assert!(parse(bad).0.is_none());
        let (_, findings) = parse("accessLogFile: /var/log/a\n");
        assert_eq!(codes(&findings), [Code::MeshConfigNotHonoured]);
        assert!(parse("accessLogEncoding: XML\n").0.is_none());
    }

    #[test]
    fn who_is_told_where_nobody_says_more() {
        let (config, findings) = parse(
            "extensionProviders:\n\
             - name: otel\n  opentelemetry: {service: c.o.svc.cluster.local, port: 4317}\n\
             - name: als\n  envoyOtelAls: {service: c.o.svc.cluster.local, port: 4317}\n\
             defaultProviders: {tracing: [otel], accessLogging: [als, envoy], metrics: [prometheus]}\n\
             accessLogFile: /dev/stdout\ndefaultConfig: {tracing: {sampling: 12.5}}\n",
        );
        let config = config.unwrap();
        assert_eq!(findings, vec![]);
        let names: Vec<_> = config.logs.iter().map(|log| &*log.name).collect();
        assert_eq!(names, ["als", "envoy"]);
        assert_eq!(config.tracing.sampling, Some(1250));
        assert_eq!(&*config.tracing.provider.unwrap().name, "otel");
        let (config, findings) = parse("defaultProviders: {tracing: [a], accessLogging: [b]}\n");
        assert!(config.is_some());
        assert_eq!(codes(&findings), [Code::UnusableProvider; 2]);
        let zipkin = "defaultConfig: {tracing: {zipkin: {address: \"z.o.svc.cluster.local:1\"}}}\n";
        let provider = |yaml: &str| parse(yaml).0.unwrap().tracing.provider;
        assert_eq!(provider(zipkin).unwrap().collector.port, 1);
        assert_eq!(provider(&format!("{zipkin}enableTracing: false\n")), None);
        assert!(parse("defaultProviders: [a]\n").0.is_none());
    }

    #[test]
    fn unknown_keys_of_istio_are_warnings_and_ours_are_errors() {
        let (config, findings) = parse("trustDomian: x\n");
        assert!(config.is_some());
        assert_eq!(codes(&findings), [Code::MeshConfigUnknownKey]);
        let (config, findings) = parse("ambit: {trustedNodeAcounts: []}\n");
        assert!(config.is_none());
        assert_eq!(codes(&findings), [Code::MeshConfigUnknownOwnKey]);
    }

    #[test]
    fn what_is_not_honoured_is_said() {
        let (config, findings) = parse("trustDomainAliases: [old.example.org]\n");
        assert!(config.is_some());
        assert_eq!(codes(&findings), [Code::MeshConfigNotHonoured]);
    }

    #[test]
    fn bad_values_keep_the_last_good_configuration() {
        for yaml in [
            "trustDomain: 7",
            "trustDomain: a/b",
            "rootNamespace: [a]",
            "discoverySelectors: {a: b}",
            "ambit: {trustedNodeAccounts: [noslash]}",
            "localityLbSetting: {failover: eu}",
            "- a\n- b",
            "a: b: c",
        ] {
            let (config, findings) = parse(yaml);
            assert_eq!(config, None, "{yaml}");
            assert_eq!(findings.len(), 1, "{yaml}: {findings:?}");
            assert!(!findings[0].to_string().contains('\n'), "{yaml}");
        }
    }

    #[test]
    fn accounts() {
        assert_eq!(parse_accounts(["a/b", "", " c/d "]).unwrap().len(), 2);
        for bad in ["a", "a/", "/b", "a/b/c"] {
            assert_eq!(parse_accounts([bad]), Err(bad.to_owned()));
        }
    }
}
