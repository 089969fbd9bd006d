//! Defaults of pods and pod templates.

use super::items;
use crate::object::set_default;
use serde_json::{Map, Value, json};

/// Defaults of a pod's spec, also inside a template.
pub fn spec(spec: &mut Map<String, Value>) {
    set_default(spec, "restartPolicy", "Always");
    set_default(spec, "terminationGracePeriodSeconds", 30);
    set_default(spec, "dnsPolicy", "ClusterFirst");
    set_default(spec, "securityContext", json!({}));
    set_default(spec, "schedulerName", "default-scheduler");
    // The deprecated twin of the name is kept in step, as clients compare either.
    if let Some(account) = spec
        .get("serviceAccountName")
        .or_else(|| spec.get("serviceAccount"))
        .cloned()
    {
        spec.insert("serviceAccountName".into(), account.clone());
        spec.insert("serviceAccount".into(), account);
    }
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    if spec.get("hostNetwork") == Some(&Value::Bool(false)) {
        spec.shift_remove("hostNetwork");
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in items(spec, list) {
            let is_ephemeral = list == "ephemeralContainers";
            self::container(container, host_network, !is_ephemeral);
            if is_ephemeral {
                set_default(container, "resources", json!({}));
            }
        }
    }
    for volume in items(spec, "volumes") {
        self::volume(volume);
    }
    for constraint in items(spec, "topologySpreadConstraints") {
        set_default(constraint, "nodeAffinityPolicy", "Honor");
        set_default(constraint, "nodeTaintsPolicy", "Ignore");
    }
    if !spec.contains_key("enableServiceLinks") {
        spec.insert("enableServiceLinks".into(), true.into());
    }
}

/// Defaults that only a template leaves out, and only a pod gets, are none; but the real server
/// does not default service links in templates.
pub fn template_spec(spec_map: &mut Map<String, Value>) {
    let links = spec_map.get("enableServiceLinks").cloned();
    spec(spec_map);
    if links.is_none() {
        spec_map.shift_remove("enableServiceLinks");
    }
}

fn container(container: &mut Map<String, Value>, host_network: bool, full: bool) {
    set_default(container, "terminationMessagePath", "/dev/termination-log");
    set_default(container, "terminationMessagePolicy", "File");
    let image = container
        .get("image")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let policy = if is_latest(image) {
        "Always"
    } else {
        "IfNotPresent"
    };
    set_default(container, "imagePullPolicy", policy);
    if full || container.contains_key("resources") {
        set_default(container, "resources", json!({}));
    }
    for port in items(container, "ports") {
        set_default(port, "protocol", "TCP");
        if host_network && let Some(number) = port.get("containerPort").cloned() {
            set_default(port, "hostPort", number);
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(probe).and_then(Value::as_object_mut) {
            self::probe(probe);
        }
    }
    if let Some(lifecycle) = container
        .get_mut("lifecycle")
        .and_then(Value::as_object_mut)
    {
        for hook in ["postStart", "preStop"] {
            if let Some(hook) = lifecycle.get_mut(hook).and_then(Value::as_object_mut) {
                handler(hook);
            }
        }
    }
    for env in items(container, "env") {
        let source = env.get_mut("valueFrom").and_then(Value::as_object_mut);
        let Some(source) = source else { continue };
        field_ref(source.get_mut("fieldRef"));
        let resource = source.get_mut("resourceFieldRef");
        if let Some(resource) = resource.and_then(Value::as_object_mut) {
            set_default(resource, "divisor", "0");
        }
    }
    requests(container);
}

/// A limit without a request is the request too.
fn requests(container: &mut Map<String, Value>) {
    let Some(resources) = container
        .get_mut("resources")
        .and_then(Value::as_object_mut)
    else {
        return;
    };
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else {
        return;
    };
    let requests = resources.entry("requests").or_insert_with(|| json!({}));
    if let Some(requests) = requests.as_object_mut() {
        for (name, limit) in limits {
            requests.entry(name).or_insert(limit);
        }
    }
}

fn probe(probe: &mut Map<String, Value>) {
    for (key, value) in [
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ] {
        if probe.get(key) == Some(&json!(0)) {
            probe.shift_remove(key);
        }
        set_default(probe, key, value);
    }
    handler(probe);
}

fn handler(map: &mut Map<String, Value>) {
    if let Some(http) = map.get_mut("httpGet").and_then(Value::as_object_mut) {
        set_default(http, "path", "/");
        set_default(http, "scheme", "HTTP");
    }
    if let Some(grpc) = map.get_mut("grpc").and_then(Value::as_object_mut) {
        set_default(grpc, "service", "");
    }
}

fn field_ref(reference: Option<&mut Value>) {
    if let Some(reference) = reference.and_then(Value::as_object_mut) {
        set_default(reference, "apiVersion", "v1");
    }
}

fn volume(volume: &mut Map<String, Value>) {
    if volume.len() == 1 {
        volume.insert("emptyDir".into(), json!({}));
    }
    for kind in ["configMap", "secret", "projected", "downwardAPI"] {
        if let Some(source) = volume.get_mut(kind).and_then(Value::as_object_mut) {
            set_default(source, "defaultMode", 420);
            for item in items(source, "items") {
                field_ref(item.get_mut("fieldRef"));
            }
        }
    }
    if let Some(path) = volume.get_mut("hostPath").and_then(Value::as_object_mut) {
        set_default(path, "type", "");
    }
    if let Some(projected) = volume.get_mut("projected").and_then(Value::as_object_mut) {
        for source in items(projected, "sources") {
            if let Some(token) = source
                .get_mut("serviceAccountToken")
                .and_then(Value::as_object_mut)
            {
                set_default(token, "expirationSeconds", 3600);
            }
            if let Some(api) = source.get_mut("downwardAPI").and_then(Value::as_object_mut) {
                for item in items(api, "items") {
                    field_ref(item.get_mut("fieldRef"));
                }
            }
        }
    }
}

/// No tag, or the tag `latest`.
fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let name = image.rsplit('/').next().unwrap_or_default();
    name.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

/// A condition says when it was looked at, if only that nobody knows.
pub fn conditions(pod: &mut Value) {
    let conditions = pod.pointer_mut("/status/conditions");
    for condition in conditions
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        if let Some(condition) = condition.as_object_mut() {
            condition.entry("lastProbeTime").or_insert(Value::Null);
        }
    }
}

/// The status of a new pod.
pub fn new_status(pod: &mut Value) {
    let class = quality(pod.pointer("/spec").unwrap_or(&Value::Null));
    if let Some(map) = pod.as_object_mut() {
        map.insert(
            "status".into(),
            json!({"phase": "Pending", "qosClass": class}),
        );
    }
}

/// `status.qosClass`: Guaranteed when every container limits cpu and memory to its request.
fn quality(spec: &Value) -> &'static str {
    let (mut any, mut guaranteed) = (false, true);
    for list in ["containers", "initContainers"] {
        for container in spec
            .get(list)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let of = |kind: &str, name: &str| {
                container
                    .pointer(&format!("/resources/{kind}/{name}"))
                    .cloned()
            };
            for name in ["cpu", "memory"] {
                let (request, limit) = (of("requests", name), of("limits", name));
                any |= request.is_some() || limit.is_some();
                guaranteed &= limit.is_some() && request == limit;
            }
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_pod_gets_what_clients_rely_on() {
        let mut pod = json!({"containers": [{"name": "c", "image": "x:1", "ports": [{"containerPort": 80}],
            "livenessProbe": {"httpGet": {"port": 80}}}], "volumes": [{"name": "v"}]});
        spec(pod.as_object_mut().unwrap());
        assert_eq!(pod["securityContext"], json!({}));
        assert_eq!(pod["containers"][0]["imagePullPolicy"], "IfNotPresent");
        assert_eq!(pod["containers"][0]["ports"][0]["protocol"], "TCP");
        assert_eq!(
            pod["containers"][0]["livenessProbe"]["httpGet"]["scheme"],
            "HTTP"
        );
        assert_eq!(pod["volumes"][0]["emptyDir"], json!({}));
        let once = pod.clone();
        spec(pod.as_object_mut().unwrap());
        assert_eq!(pod, once, "defaulting twice changes nothing");
    }

    #[test]
    fn latest() {
        for image in ["x", "x:latest", "r:5000/x", "r:5000/x:latest"] {
            assert!(is_latest(image), "{image}");
        }
        for image in ["x:1", "x@sha256:00", "r:5000/x:1"] {
            assert!(!is_latest(image), "{image}");
        }
    }

    #[test]
    fn quality_classes() {
        let with = |r: Value| quality(&json!({"containers": [{"resources": r}]}));
        assert_eq!(with(json!({})), "BestEffort");
        assert_eq!(with(json!({"requests": {"cpu": "1"}})), "Burstable");
        let both = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(
            with(json!({"requests": both, "limits": both})),
            "Guaranteed"
        );
    }
}
