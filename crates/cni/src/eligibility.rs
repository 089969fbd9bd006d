//! Which pods belong to the mesh, and what their annotations ask for. Pure.

use std::collections::{BTreeMap, BTreeSet};

use ambit_kube_api::{annotations, labels};
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::core::{Selector, SelectorExt};
use serde::Deserialize;

use crate::rules::{PodCapture, ProbeSource};

type Labels = BTreeMap<String, String>;

/// Selectors of which one must match.
#[derive(Clone, Debug)]
pub struct EnablementSelectors(Vec<(Selector, Selector)>);

/// Why enablement selectors cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SelectorError {
    /// The text is not a list of selectors.
    #[error("not a YAML list of podSelector and namespaceSelector: {0}")]
    Yaml(String),
    /// A selector has an unknown operator.
    #[error("selector {index}: {reason}")]
    Selector {
        /// Position in the list, from 0.
        index: usize,
        /// What is wrong.
        reason: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawSelector {
    #[serde(default)]
    pod_selector: LabelSelector,
    #[serde(default)]
    namespace_selector: LabelSelector,
}

/// The selectors of the charts: a pod's own label, or its namespace's unless the pod opts out.
pub const DEFAULT_SELECTORS: &str = "\
- podSelector:
    matchLabels: {istio.io/dataplane-mode: ambient}
- podSelector:
    matchExpressions: [{key: istio.io/dataplane-mode, operator: NotIn, values: [none]}]
  namespaceSelector:
    matchLabels: {istio.io/dataplane-mode: ambient}
";

impl EnablementSelectors {
    /// Parses the YAML of `AMBIENT_ENABLEMENT_SELECTOR`.
    ///
    /// # Errors
    /// When it is not a list of selectors, or one of them is not valid.
    pub fn parse(yaml: &str) -> Result<Self, SelectorError> {
        let raw: Vec<RawSelector> =
            serde_saphyr::from_str(yaml).map_err(|e| SelectorError::Yaml(e.to_string()))?;
        let convert = |index, selector: LabelSelector| {
            Selector::try_from(selector).map_err(|e| SelectorError::Selector {
                index,
                reason: e.to_string(),
            })
        };
        raw.into_iter()
            .enumerate()
            .map(|(i, s)| {
                Ok((
                    convert(i, s.pod_selector)?,
                    convert(i, s.namespace_selector)?,
                ))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    fn matches(&self, pod: &Labels, namespace: &Labels) -> bool {
        self.0
            .iter()
            .any(|(p, n)| p.matches(pod) && n.matches(namespace))
    }
}

/// Everything that decides about membership beside the pod itself.
#[derive(Clone, Debug)]
pub struct Eligibility {
    /// One of these must match.
    pub selectors: EnablementSelectors,
    /// Namespaces whose pods are never enrolled.
    pub exclude_namespaces: BTreeSet<String>,
    /// Namespace of the node proxy.
    pub system_namespace: String,
    /// Capture DNS unless the pod says otherwise.
    pub dns_capture: bool,
    /// Capture IPv6.
    pub ipv6: bool,
}

impl Eligibility {
    /// Whether this is a pod of the node proxy, which must never be captured.
    pub fn is_node_proxy(&self, pod: &Pod) -> bool {
        pod.metadata.namespace.as_deref() == Some(&self.system_namespace)
            && label(pod, labels::APP) == Some("ztunnel")
    }

    /// Whether the pod belongs to the mesh.
    pub fn is_eligible(&self, pod: &Pod, namespace: &Labels) -> bool {
        let host_network = pod
            .spec
            .as_ref()
            .and_then(|s| s.host_network)
            .unwrap_or_default();
        let excluded = pod
            .metadata
            .namespace
            .as_ref()
            .is_some_and(|n| self.exclude_namespaces.contains(n));
        let empty = Labels::new();
        !host_network
            && !excluded
            && annotation(pod, annotations::SIDECAR_STATUS).is_none()
            && !self.is_node_proxy(pod)
            && self
                .selectors
                .matches(pod.metadata.labels.as_ref().unwrap_or(&empty), namespace)
    }

    /// How the pod's traffic is captured.
    pub fn capture(&self, pod: &Pod) -> PodCapture {
        let flag = |key| annotation(pod, key).and_then(parse_bool);
        PodCapture {
            dns: flag(annotations::DNS_CAPTURE).unwrap_or(self.dns_capture),
            ipv6: self.ipv6,
            bypass_inbound: flag(annotations::BYPASS_INBOUND_CAPTURE).unwrap_or_default(),
            reroute_interfaces: annotation(pod, annotations::REROUTE_VIRTUAL_INTERFACES)
                .map(|list| list.split(',').map(str::trim).filter(|s| !s.is_empty()))
                .map(|names| names.map(str::to_owned).collect())
                .unwrap_or_default(),
            probes: ProbeSource::for_ports(probe_ports(pod)),
        }
    }
}

fn label<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.labels.as_ref()?.get(key).map(String::as_str)
}

/// The value of an annotation of the pod.
pub fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata
        .annotations
        .as_ref()?
        .get(key)
        .map(String::as_str)
}

/// Go's `strconv.ParseBool`; anything else counts as absent.
fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// The ports that the kubelet connects to: probes and HTTP life cycle hooks of all containers.
/// They cannot change while the pod lives.
pub fn probe_ports(pod: &Pod) -> BTreeSet<u16> {
    let Some(spec) = &pod.spec else {
        return BTreeSet::new();
    };
    let containers = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    containers.flat_map(container_probe_ports).collect()
}

fn container_probe_ports(container: &Container) -> Vec<u16> {
    let resolve = |port: &IntOrString| match port {
        IntOrString::Int(n) => u16::try_from(*n).ok(),
        IntOrString::String(name) => {
            let named = container
                .ports
                .iter()
                .flatten()
                .find(|p| p.name.as_ref() == Some(name));
            named
                .and_then(|p| u16::try_from(p.container_port).ok())
                .or_else(|| name.parse().ok())
        }
    };
    let of_probe = |probe: &Probe| {
        let http = probe.http_get.as_ref().and_then(|a| resolve(&a.port));
        let tcp = probe.tcp_socket.as_ref().and_then(|a| resolve(&a.port));
        let grpc = probe.grpc.as_ref().and_then(|a| u16::try_from(a.port).ok());
        [http, tcp, grpc].into_iter().flatten()
    };
    let probes = [
        &container.liveness_probe,
        &container.readiness_probe,
        &container.startup_probe,
    ];
    let hooks = container
        .lifecycle
        .iter()
        .flat_map(|l| [&l.post_start, &l.pre_stop]);
    let mut ports: Vec<u16> = probes.into_iter().flatten().flat_map(of_probe).collect();
    ports.extend(
        hooks
            .flatten()
            .filter_map(|h| resolve(&h.http_get.as_ref()?.port)),
    );
    ports
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn eligibility() -> Eligibility {
        Eligibility {
            selectors: EnablementSelectors::parse(DEFAULT_SELECTORS).expect("selectors"),
            exclude_namespaces: ["kube-system".to_owned()].into(),
            system_namespace: "istio-system".into(),
            dns_capture: true,
            ipv6: true,
        }
    }

    fn pod(value: Value) -> Pod {
        serde_json::from_value(value).expect("pod")
    }

    fn labels(mode: Option<&str>) -> Labels {
        mode.map(|m| (labels::DATAPLANE_MODE.to_owned(), m.to_owned()))
            .into_iter()
            .collect()
    }

    #[test]
    fn the_table_of_labels() {
        let table = [
            // namespace, pod, enrolled
            (None, None, false),
            (Some("ambient"), None, true),
            (Some("ambient"), Some("none"), false),
            (Some("ambient"), Some("ambient"), true),
            (Some("ambient"), Some("other"), true),
            (None, Some("ambient"), true),
            (Some("none"), Some("ambient"), true),
            (Some(""), None, false),
            (Some("none"), None, false),
        ];
        for (namespace, own, expected) in table {
            let pod = pod(json!({"metadata": {"namespace": "shop", "labels": labels(own)}}));
            assert_eq!(
                eligibility().is_eligible(&pod, &labels(namespace)),
                expected,
                "namespace {namespace:?}, pod {own:?}"
            );
        }
    }

    #[test]
    fn what_is_never_enrolled() {
        for value in [
            json!({"metadata": {"namespace": "kube-system"}}),
            json!({"metadata": {"namespace": "shop"}, "spec": {"hostNetwork": true, "containers": []}}),
            json!({"metadata": {"namespace": "shop", "annotations": {"sidecar.istio.io/status": "{}"}}}),
            json!({"metadata": {"namespace": "istio-system", "labels": {"app": "ztunnel"}}}),
        ] {
            assert!(
                !eligibility().is_eligible(&pod(value.clone()), &labels(Some("ambient"))),
                "{value}"
            );
        }
        let elsewhere =
            pod(json!({"metadata": {"namespace": "shop", "labels": {"app": "ztunnel"}}}));
        assert!(eligibility().is_eligible(&elsewhere, &labels(Some("ambient"))));
    }

    #[test]
    fn annotations_change_the_capture() {
        let with = |key: &str, value: &str| {
            eligibility().capture(&pod(json!({"metadata": {"annotations": {key: value}}})))
        };
        assert!(!with(annotations::DNS_CAPTURE, "false").dns);
        assert!(
            with(annotations::DNS_CAPTURE, "nonsense").dns,
            "a bad value counts as absent"
        );
        assert!(with(annotations::BYPASS_INBOUND_CAPTURE, "T").bypass_inbound);
        assert!(!with(annotations::BYPASS_INBOUND_CAPTURE, "yes").bypass_inbound);
        assert_eq!(
            with(annotations::REROUTE_VIRTUAL_INTERFACES, "k6t-eth0, tap1,").reroute_interfaces,
            ["k6t-eth0", "tap1"]
        );
    }

    #[test]
    fn ports_of_every_kind_of_probe() {
        let pod = pod(json!({"spec": {"containers": [{
            "name": "app",
            "ports": [{"name": "web", "containerPort": 9080}],
            "livenessProbe": {"httpGet": {"port": "web"}},
            "readinessProbe": {"tcpSocket": {"port": 9081}},
            "startupProbe": {"grpc": {"port": 9082}},
            "lifecycle": {"preStop": {"httpGet": {"port": 9083}}}
        }, {"name": "b", "livenessProbe": {"exec": {}}, "readinessProbe": {"httpGet": {"port": "unknown"}}}]}}));
        assert_eq!(probe_ports(&pod), [9080, 9081, 9082, 9083].into());
    }

    #[test]
    fn bad_selectors_are_refused() {
        assert!(matches!(
            EnablementSelectors::parse("{"),
            Err(SelectorError::Yaml(_))
        ));
        assert!(matches!(
            EnablementSelectors::parse("- podselector: {}"),
            Err(SelectorError::Yaml(_))
        ));
        let odd = "- podSelector: {matchExpressions: [{key: a, operator: Like, values: [b]}]}";
        assert!(matches!(
            EnablementSelectors::parse(odd),
            Err(SelectorError::Selector { index: 0, .. })
        ));
        let none = EnablementSelectors::parse("[]").expect("empty list");
        assert!(!none.matches(&labels(Some("ambient")), &labels(Some("ambient"))));
    }
}
