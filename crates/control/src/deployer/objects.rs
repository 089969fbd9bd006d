//! The objects that a waypoint is made of, as values.

use std::collections::BTreeMap;

use ambit_kube_api::gateway_api::{MESH_CONTROLLER, gateway::Infrastructure};
use ambit_kube_api::{annotations, labels, names};
use ambit_model::Text;
use ambit_translate::overlays::Part;
use ambit_translate::waypoints::{object_name, service_account};
use ambit_translate::{GatewayFacts, Mesh};
use serde_json::{Map, Value, json};

use super::WaypointSettings;
use crate::engine::Wanted;

/// Value of the label [`labels::GATEWAY_MANAGED`] on what is made for waypoints.
pub const MANAGED_BY: &str = "istio.io-mesh-controller";
/// Annotation with the type of a gateway's service.
const SERVICE_TYPE: &str = "networking.istio.io/service-type";
/// Label keys that Kubernetes or the Gateway API own are not handed on.
const NOT_COPIED: &str = "gateway.networking.k8s.io/";

/// What a waypoint is made of, in this order.
#[derive(Clone, Debug, PartialEq)]
pub struct Objects {
    /// None where the gateway names an account of the user's.
    pub service_account: Option<Value>,
    /// Its pods.
    pub deployment: Value,
    /// Where clients find them.
    pub service: Value,
    /// How many pods there are, where somebody has something to say about it.
    pub autoscaler: Option<Value>,
    /// How many there are at least, where somebody has something to say about it.
    pub disruption_budget: Option<Value>,
}

/// The objects of a waypoint.
pub fn of(mesh: &Mesh, settings: &WaypointSettings, wanted: &Wanted) -> Objects {
    let Wanted {
        gateway,
        overlays,
        shows_caller,
    } = wanted;
    let maker = Maker {
        mesh,
        settings,
        gateway,
        shows_caller: *shows_caller,
        name: object_name(gateway),
        account: service_account(gateway),
        infrastructure: infrastructure(gateway),
    };
    let own = gateway
        .annotations
        .get(annotations::GATEWAY_SERVICE_ACCOUNT);
    let patched = |part: Part, object: Value| {
        let overlays = overlays.iter();
        overlays.fold(object, |object, overlay| overlay.apply(part, object))
    };
    let if_asked = |part: Part, object: Value| {
        let asked = overlays.iter().any(|overlay| overlay.has(part));
        asked.then(|| patched(part, object))
    };
    let account = own.is_none().then(|| maker.service_account());
    Objects {
        service_account: account.map(|account| patched(Part::ServiceAccount, account)),
        deployment: patched(Part::Deployment, maker.deployment()),
        service: patched(Part::Service, maker.service()),
        autoscaler: if_asked(Part::HorizontalPodAutoscaler, maker.autoscaler()),
        disruption_budget: if_asked(Part::PodDisruptionBudget, maker.disruption_budget()),
    }
}

/// What the user wants on the objects: `spec.infrastructure`, or else the gateway's own labels and
/// annotations.
fn infrastructure(gateway: &GatewayFacts) -> Infrastructure {
    if let Some(given) = &gateway.spec.infrastructure {
        return given.clone();
    }
    let copied = |own: &BTreeMap<Text, Text>| {
        let ours = [
            annotations::NAME_OVERRIDE,
            annotations::GATEWAY_SERVICE_ACCOUNT,
            "gateway.istio.io/controller-version",
            "kubectl.kubernetes.io/last-applied-configuration",
        ];
        let keep =
            |(key, _): &(&Text, &Text)| !key.starts_with(NOT_COPIED) && !ours.contains(&&***key);
        let pairs = own.iter().filter(keep);
        pairs.map(|(k, v)| (k.to_string(), v.to_string())).collect()
    };
    Infrastructure {
        labels: copied(&gateway.labels),
        annotations: copied(&gateway.annotations),
        parameters_ref: None,
    }
}

struct Maker<'a> {
    mesh: &'a Mesh,
    settings: &'a WaypointSettings,
    gateway: &'a GatewayFacts,
    shows_caller: bool,
    name: Text,
    account: Text,
    infrastructure: Infrastructure,
}

impl Maker<'_> {
    fn labels(&self) -> Map<String, Value> {
        let mut labels: Map<String, Value> = Map::new();
        for (key, value) in &self.infrastructure.labels {
            labels.insert(key.clone(), value.as_str().into());
        }
        labels.insert(labels::GATEWAY_NAME.into(), (*self.gateway.key.name).into());
        let class = self.gateway.spec.gateway_class_name.as_str();
        labels.insert(labels::GATEWAY_CLASS_NAME.into(), class.into());
        labels.insert(labels::GATEWAY_MANAGED.into(), MANAGED_BY.into());
        labels
    }

    fn metadata(&self, name: &str) -> Value {
        json!({
            "name": name,
            "namespace": &*self.gateway.key.namespace,
            "labels": self.labels(),
            "annotations": self.infrastructure.annotations,
            "ownerReferences": [{
                "apiVersion": "gateway.networking.k8s.io/v1",
                "kind": "Gateway",
                "name": &*self.gateway.key.name,
                "uid": &*self.gateway.uid,
            }],
        })
    }

    fn service_account(&self) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": self.metadata(&self.account),
        })
    }

    fn service(&self) -> Value {
        let mut metadata = self.metadata(&self.name);
        if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
            annotations
                .entry(annotations::TRAFFIC_DISTRIBUTION)
                .or_insert_with(|| "PreferClose".into());
        }
        let mut ports = vec![json!({
            "name": "status-port", "port": 15021, "protocol": "TCP", "appProtocol": "tcp",
        })];
        for listener in &self.gateway.spec.listeners {
            ports.push(json!({
                "name": listener.name.replace('.', "-"),
                "port": listener.port,
                "protocol": "TCP",
                "appProtocol": listener.protocol.to_ascii_lowercase(),
            }));
        }
        let type_ = self.gateway.annotations.get(SERVICE_TYPE);
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {
                "type": type_.map_or("ClusterIP", |t| &**t),
                "ipFamilyPolicy": "PreferDualStack",
                "selector": {labels::GATEWAY_NAME: &*self.gateway.key.name},
                "ports": ports,
            },
        })
    }

    fn autoscaler(&self) -> Value {
        json!({
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": self.metadata(&self.name),
            "spec": {
                "scaleTargetRef": {
                    "apiVersion": "apps/v1", "kind": "Deployment", "name": &*self.name,
                },
                "maxReplicas": 1,
            },
        })
    }

    fn disruption_budget(&self) -> Value {
        json!({
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": self.metadata(&self.name),
            "spec": {
                "selector": {"matchLabels": {labels::GATEWAY_NAME: &*self.gateway.key.name}},
            },
        })
    }

    fn deployment(&self) -> Value {
        json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": self.metadata(&self.name),
            "spec": {
                "selector": {"matchLabels": {labels::GATEWAY_NAME: &*self.gateway.key.name}},
                "template": {
                    "metadata": {"labels": self.pod_labels(), "annotations": self.pod_annotations()},
                    "spec": self.pod(),
                },
            },
        })
    }

    fn pod_labels(&self) -> Map<String, Value> {
        let mut labels = self.labels();
        let mut put = |key: &str, value: &str| labels.insert(key.to_owned(), value.into());
        put(labels::DATAPLANE_MODE, labels::DATAPLANE_MODE_NONE);
        put(labels::SIDECAR_INJECT, "false");
        put(labels::CANONICAL_NAME, &self.name);
        put(labels::CANONICAL_REVISION, "latest");
        labels
    }

    fn pod_annotations(&self) -> Map<String, Value> {
        let given = self.infrastructure.annotations.iter();
        let mut annotations: Map<String, Value> =
            given.map(|(k, v)| (k.clone(), v.as_str().into())).collect();
        let mut put = |key: &str, value: &str| annotations.insert(key.to_owned(), value.into());
        put(labels::REVISION, &self.mesh.revision);
        put("prometheus.io/path", "/stats/prometheus");
        put("prometheus.io/port", "15020");
        put("prometheus.io/scrape", "true");
        annotations
    }

    fn pod(&self) -> Value {
        let settings = self.settings;
        let mut pod = json!({
            "serviceAccountName": &*self.account,
            "terminationGracePeriodSeconds": settings.termination_grace_period_seconds,
            "containers": [self.container()],
            "volumes": volumes(),
        });
        let placement = [
            ("affinity", &settings.affinity),
            ("nodeSelector", &settings.node_selector),
            ("tolerations", &settings.tolerations),
            (
                "topologySpreadConstraints",
                &settings.topology_spread_constraints,
            ),
        ];
        for (field, value) in placement {
            if !is_empty(value) {
                pod[field] = value.clone();
            }
        }
        if !settings.image_pull_secrets.is_empty() {
            let secrets = settings
                .image_pull_secrets
                .iter()
                .map(|name| json!({"name": name}));
            pod["imagePullSecrets"] = secrets.collect();
        }
        pod
    }

    fn container(&self) -> Value {
        let settings = self.settings;
        let domain = &self.mesh.cluster_domain;
        let mut container = json!({
            "name": "istio-proxy",
            "image": settings.image,
            "args": [
                "proxy", "waypoint",
                "--domain", format!("$(POD_NAMESPACE).svc.{domain}"),
                "--serviceCluster", format!("{}.$(POD_NAMESPACE)", self.account),
                format!("--log_output_level={}", settings.log_level),
            ],
            "ports": [
                {"containerPort": 15020, "name": "metrics", "protocol": "TCP"},
                {"containerPort": 15021, "name": "status-port", "protocol": "TCP"},
                {"containerPort": 15090, "name": "http-envoy-prom", "protocol": "TCP"},
            ],
            "env": self.environment(),
            "startupProbe": {
                "httpGet": {"path": "/healthz/ready", "port": 15021},
                "initialDelaySeconds": 1, "periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 30,
            },
            "readinessProbe": {
                "httpGet": {"path": "/healthz/ready", "port": 15021},
                "periodSeconds": 15, "timeoutSeconds": 1, "failureThreshold": 4,
            },
            "resources": settings.resources,
            "securityContext": {
                "runAsUser": 1337, "runAsGroup": 1337, "runAsNonRoot": true,
                "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false, "privileged": false,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [
                {"name": "istiod-ca-cert", "mountPath": "/var/run/secrets/istio"},
                {"name": "istio-token", "mountPath": "/var/run/secrets/tokens"},
                {"name": "istio-podinfo", "mountPath": "/etc/istio/pod"},
            ],
        });
        if !settings.image_pull_policy.is_empty() {
            container["imagePullPolicy"] = settings.image_pull_policy.as_str().into();
        }
        container
    }

    fn environment(&self) -> Value {
        let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
        let value = |name: &str, value: &str| json!({"name": name, "value": value});
        let owner = format!(
            "kubernetes://apis/apps/v1/namespaces/{}/deployments/{}",
            self.gateway.key.namespace, self.name
        );
        let network = self.infrastructure.labels.get(labels::NETWORK);
        let grace = self.settings.termination_grace_period_seconds.to_string();
        let mut all = json!([
            field("POD_NAME", "metadata.name"),
            field("POD_NAMESPACE", "metadata.namespace"),
            field("INSTANCE_IP", "status.podIP"),
            field("HOST_IP", "status.hostIP"),
            field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
            field("ISTIO_META_NODE_NAME", "spec.nodeName"),
            value("CA_ADDR", &self.settings.discovery_address),
            value("GATEWAY_NAME", &self.gateway.key.name),
            value("GATEWAY_SERVICE", &self.name),
            value("ISTIO_META_CLUSTER_ID", &self.mesh.cluster_id),
            value(
                "ISTIO_META_NETWORK",
                network.map_or(&*self.mesh.network, String::as_str)
            ),
            value("ISTIO_META_INTERCEPTION_MODE", "REDIRECT"),
            value("ISTIO_META_WORKLOAD_NAME", &self.name),
            value("ISTIO_META_OWNER", &owner),
            value("ISTIO_META_MESH_ID", &self.mesh.trust_domain),
            value("TRUST_DOMAIN", &self.mesh.trust_domain),
            value("TERMINATION_GRACE_PERIOD_SECONDS", &grace),
        ]);
        if let (true, Some(all)) = (self.shows_caller, all.as_array_mut()) {
            all.push(value("SHOW_CALLER", "true"));
        }
        all
    }
}

/// The name of all but the account.
pub fn name(objects: &Objects) -> &str {
    let name = &objects.deployment["metadata"]["name"];
    name.as_str().unwrap_or_default()
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

fn volumes() -> Value {
    let info = |path: &str, field: &str| json!({"path": path, "fieldRef": {"fieldPath": field}});
    json!([
        {"name": "istio-podinfo", "downwardAPI": {"items": [
            info("labels", "metadata.labels"), info("annotations", "metadata.annotations"),
        ]}},
        {"name": "istio-token", "projected": {"sources": [{"serviceAccountToken": {
            "audience": names::TOKEN_AUDIENCE, "expirationSeconds": 43200, "path": "istio-token",
        }}]}},
        {"name": "istiod-ca-cert", "configMap": {"name": names::ROOT_CERT_CONFIG_MAP}},
    ])
}

/// The manager of these objects' fields.
pub const MANAGER: &str = MESH_CONTROLLER;

#[cfg(test)]
mod tests {
    use super::*;
    use ambit_translate::ObjectKey;
    use ambit_translate::overlays::Overlay;

    fn objects(extra: impl FnOnce(&mut Value)) -> Objects {
        patched(extra, &[])
    }

    fn patched(extra: impl FnOnce(&mut Value), patches: &[(&str, &str)]) -> Objects {
        let mut object = json!({
            "metadata": {
                "name": "waypoint", "namespace": "shop", "uid": "u",
                "labels": {"istio.io/waypoint-for": "service", "team": "a"}
            },
            "spec": {
                "gatewayClassName": "istio-waypoint",
                "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}]
            }
        });
        extra(&mut object);
        let gateway = GatewayFacts::of(&serde_json::from_value(object).unwrap());
        let map = ObjectKey::new("shop", "params");
        let overlays = patches.iter().map(|(key, text)| {
            let data = [((*key).to_owned(), (*text).to_owned())].into();
            Overlay::read(&gateway, &map, &data).unwrap()
        });
        let wanted = Wanted {
            shows_caller: false,
            overlays: overlays.collect(),
            gateway: gateway.clone(),
        };
        of(&Mesh::default(), &WaypointSettings::default(), &wanted)
    }

    #[test]
    fn the_caller_is_shown_on_demand() {
        let environment = |objects: &Objects| {
            let path = "/spec/template/spec/containers/0/env";
            objects.deployment.pointer(path).unwrap().to_string()
        };
        assert!(!environment(&objects(|_| {})).contains("SHOW_CALLER"));
        let gateway = GatewayFacts::of(&ambit_kube_api::gateway_api::Gateway::default());
        let wanted = Wanted {
            gateway,
            overlays: Vec::new(),
            shows_caller: true,
        };
        let shown = of(&Mesh::default(), &WaypointSettings::default(), &wanted);
        assert!(environment(&shown).contains("SHOW_CALLER"));
    }

    #[test]
    fn what_its_parameters_ask_for() {
        let plain = objects(|_| {});
        assert_eq!((plain.autoscaler, plain.disruption_budget), (None, None));
        let patches = [
            (
                "horizontalPodAutoscaler",
                "spec: {minReplicas: 2, maxReplicas: 5}",
            ),
            ("podDisruptionBudget", "spec: {minAvailable: 1}"),
            ("horizontalPodAutoscaler", "spec: {maxReplicas: 7}"),
            ("deployment", "spec: {replicas: 2}"),
        ];
        let own = patched(|_| {}, &patches);
        let autoscaler = own.autoscaler.unwrap();
        assert_eq!(
            autoscaler["spec"],
            json!({
                "scaleTargetRef": {
                    "apiVersion": "apps/v1", "kind": "Deployment", "name": "waypoint",
                },
                "minReplicas": 2, "maxReplicas": 7,
            })
        );
        assert_eq!(
            own.disruption_budget.unwrap()["spec"],
            json!({"minAvailable": 1, "selector": {
                "matchLabels": {"gateway.networking.k8s.io/gateway-name": "waypoint"},
            }})
        );
        assert_eq!(own.deployment["spec"]["replicas"], 2);
    }

    #[test]
    fn a_waypoint() {
        let objects = objects(|_| {});
        insta::assert_yaml_snapshot!([
            objects.service_account.unwrap(),
            objects.deployment,
            objects.service
        ]);
    }

    #[test]
    fn what_the_user_asks_for() {
        let own = objects(|g| {
            g["metadata"]["annotations"] = json!({
                "gateway.istio.io/service-account": "mine",
                "gateway.istio.io/name-override": "other",
                "networking.istio.io/service-type": "NodePort"
            });
            g["spec"]["infrastructure"] =
                json!({"labels": {"cost": "b"}, "annotations": {"note": "c"}});
        });
        assert_eq!(own.service_account, None);
        let pod = &own.deployment["spec"]["template"];
        assert_eq!(pod["spec"]["serviceAccountName"], "mine");
        assert_eq!(pod["metadata"]["labels"]["cost"], "b");
        assert_eq!(pod["metadata"]["labels"].get("team"), None);
        assert_eq!(own.service["metadata"]["name"], "other");
        assert_eq!(own.service["metadata"]["annotations"]["note"], "c");
        assert_eq!(own.service["spec"]["type"], "NodePort");
    }
}
