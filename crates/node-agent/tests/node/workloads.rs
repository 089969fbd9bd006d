//! What pods do on a node.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Secret};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::cluster::{Cluster, NODE, NODE_IP, condition, home, shell};

pub async fn node_is_ready(cluster: &Cluster) {
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let node = nodes.get_opt(NODE).await.unwrap();
        let node = serde_json::to_value(node).unwrap();
        if condition(&node, "Ready") == "True" {
            assert_eq!(node["spec"]["podCIDR"], "10.244.1.0/24");
            assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], NODE);
            assert_eq!(node["metadata"]["labels"]["zone"], "a");
            assert_eq!(
                node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"],
                10250
            );
            break;
        }
        assert!(Instant::now() < deadline, "node is not ready: {node:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), "kube-node-lease");
    let deadline = Instant::now() + Duration::from_secs(60);
    while leases.get_opt(NODE).await.unwrap().is_none() {
        assert!(Instant::now() < deadline, "no lease");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub async fn a_pod_from_start_to_end(cluster: &Cluster) {
    let created = cluster
        .script(
            "whole",
            "echo started; trap 'echo ending; exit 0' TERM; while :; do sleep 0.1; done",
        )
        .await;
    let uid = created.metadata.uid.unwrap();
    let pod = cluster.until_ready("whole").await;
    assert_eq!(pod["status"]["phase"], "Running");
    assert_eq!(pod["status"]["qosClass"], "BestEffort");
    assert!(
        pod["status"]["podIP"]
            .as_str()
            .unwrap()
            .starts_with("10.244.1."),
        "{}",
        pod["status"]
    );
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    for name in [
        "Initialized",
        "ContainersReady",
        "PodReadyToStartContainers",
        "PodScheduled",
    ] {
        assert_eq!(condition(&pod, name), "True", "{name}");
    }
    cluster.until_logged("whole", "started").await;
    // As on any node, the cgroup of the pod's processes names it, and they have a network of their own.
    let processes = processes_of(&uid);
    assert!(processes.len() >= 2, "{processes:?}");
    let own_net = std::fs::read_link("/proc/self/ns/net").unwrap();
    let mut seen = 0;
    for (pid, cgroup) in &processes {
        assert!(
            cgroup.contains(&format!(
                "{}/kubepods/besteffort/pod{uid}/",
                cluster.cgroups
            )),
            "{cgroup}"
        );
        // One of the short-lived ones may be gone by now.
        if let Ok(net) = std::fs::read_link(format!("/proc/{pid}/ns/net")) {
            assert_ne!(net, own_net);
            seen += 1;
        }
    }
    assert!(seen > 0, "{processes:?}");
    cluster.delete("whole").await;
    cluster.until_gone("whole").await;
    let left: Vec<String> = processes_of(&uid)
        .into_iter()
        .map(|(pid, cgroup)| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            format!("{cgroup}\n{status}")
        })
        .collect();
    let events = cluster.events("whole").await.join("\n");
    assert!(left.is_empty(), "{}\n{events}", left.join("\n"));
    assert!(!home("state/pods").join(&uid).exists());
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!text.contains(&uid), "{text}");
    cluster
        .until_event("whole", "Killing: Stopping container c")
        .await;
}

/// Process ids and cgroup texts of a pod's processes, found as a network agent finds them.
fn processes_of(uid: &str) -> Vec<(String, String)> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_string_lossy().into_owned();
            let cgroup = std::fs::read_to_string(entry.path().join("cgroup")).ok()?;
            cgroup.contains(uid).then_some((pid, cgroup))
        })
        .collect()
}

pub async fn environment_and_names(cluster: &Cluster) {
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), "default");
    let secret = json!({"metadata": {"name": "env-secret"}, "stringData": {"key": "hidden"}});
    secrets
        .create(
            &PostParams::default(),
            &serde_json::from_value(secret).unwrap(),
        )
        .await
        .unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "default");
    let map = json!({"metadata": {"name": "env-map"}, "data": {"ONE": "1", "TWO": "2"}});
    maps.create(
        &PostParams::default(),
        &serde_json::from_value(map).unwrap(),
    )
    .await
    .unwrap();
    let spec = json!({
        "hostname": "web",
        "containers": [{
            "name": "c", "image": "test/shell:1",
            "args": ["echo $(GREETING)-$0; env; hostname; cat /etc/resolv.conf /etc/hosts; pwd; echo done; sleep 1000", "$(TWO)"],
            "workingDir": "/usr",
            "envFrom": [{"configMapRef": {"name": "env-map"}, "prefix": "P_"}, {"configMapRef": {"name": "env-map"}}],
            "env": [
                {"name": "GREETING", "value": "hello-$(ONE)-$(NONE)"},
                {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu", "divisor": "1m"}}},
                {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "env-secret", "key": "key"}}},
                {"name": "ABSENT", "valueFrom": {"configMapKeyRef": {"name": "none", "key": "x", "optional": true}}},
            ],
            "resources": {"requests": {"cpu": "250m"}},
        }]
    });
    cluster.create("environment", spec).await;
    let pod = cluster.until_ready("environment").await;
    assert_eq!(pod["status"]["qosClass"], "Burstable");
    let logs = cluster.until_logged("environment", "done").await;
    let ip = pod["status"]["podIP"].as_str().unwrap();
    for line in [
        // The unknown reference stays; the shell then takes it for a command of no output.
        "hello-1--2",
        "GREETING=hello-1-$(NONE)",
        "FROM_IMAGE=yes",
        "P_ONE=1",
        "POD=environment",
        "APP=environment",
        "CPU=250",
        "SECRET=hidden",
        "KUBERNETES_SERVICE_HOST=10.96.0.1",
        "HOSTNAME=web",
        "web",
        "nameserver 10.96.0.10",
        "search default.svc.cluster.local svc.cluster.local cluster.local example.org",
        "options ndots:5",
        "/usr",
        &format!("IP={ip}"),
        &format!("{ip}\tweb"),
    ] {
        assert!(
            logs.lines().any(|own| own == line),
            "no line {line:?} in\n{logs}"
        );
    }
    assert!(!logs.contains("ABSENT"), "{logs}");
    cluster.delete("environment").await;
}

pub async fn volumes_follow_their_sources(cluster: &Cluster) {
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "default");
    let map = json!({"metadata": {"name": "files"}, "data": {"a": "first", "b": "other"}});
    maps.create(
        &PostParams::default(),
        &serde_json::from_value(map).unwrap(),
    )
    .await
    .unwrap();
    std::fs::write(home("given"), "from the node").unwrap();
    let script = "cat /map/a; echo; cat /sub; echo; cat /given; echo; cat /info/name; echo; \
        ls /var/run/secrets/kubernetes.io/serviceaccount; wc -c < /tokens/t; echo x > /made/dir/y; ls -ld /shared; df /memory | tail -1; \
        echo x > /ro/x || echo readonly; echo ready; while ! grep -q second /map/a; do sleep 0.1; done; echo changed; sleep 1000";
    let mut container = shell("c", script);
    container["volumeMounts"] = json!([
        {"name": "map", "mountPath": "/map"},
        {"name": "map", "mountPath": "/sub", "subPath": "b"},
        {"name": "given", "mountPath": "/given"},
        {"name": "made", "mountPath": "/made", "subPath": ""},
        {"name": "info", "mountPath": "/info"},
        {"name": "tokens", "mountPath": "/tokens", "readOnly": true},
        {"name": "shared", "mountPath": "/shared"},
        {"name": "shared", "mountPath": "/ro", "readOnly": true},
        {"name": "memory", "mountPath": "/memory"},
    ]);
    let spec = json!({
        "containers": [container],
        "securityContext": {"fsGroup": 77},
        "volumes": [
            {"name": "map", "configMap": {"name": "files"}},
            {"name": "given", "hostPath": {"path": home("given"), "type": "File"}},
            {"name": "made", "hostPath": {"path": home("made"), "type": "DirectoryOrCreate"}},
            {"name": "info", "downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
            {"name": "tokens", "projected": {"sources": [
                {"serviceAccountToken": {"path": "t", "audience": "someone", "expirationSeconds": 3600}}]}},
            {"name": "shared", "emptyDir": {}},
            {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        ]
    });
    std::fs::create_dir_all(home("made/dir")).unwrap();
    cluster.create("volumes", spec).await;
    let logs = cluster.until_logged("volumes", "ready").await;
    for line in [
        "first",
        "other",
        "from the node",
        "volumes",
        "ca.crt",
        "namespace",
        "token",
        "readonly",
    ] {
        assert!(
            logs.lines().any(|own| own == line),
            "no line {line:?} in\n{logs}"
        );
    }
    assert!(
        logs.contains("drwxrwsrwx") && logs.contains(" 77 "),
        "{logs}"
    );
    assert!(logs.contains("tmpfs") && logs.contains(" 1024 "), "{logs}");
    assert_eq!(std::fs::read_to_string(home("made/dir/y")).unwrap(), "x\n");
    let change = json!({"data": {"a": "second"}});
    maps.patch("files", &PatchParams::default(), &Patch::Merge(change))
        .await
        .unwrap();
    cluster.until_logged("volumes", "changed").await;
    cluster.delete("volumes").await;
    cluster.until_gone("volumes").await;
}

pub async fn users_capabilities_and_read_only_roots(cluster: &Cluster) {
    let script = "id -u; id -g; id -G; grep -E 'CapBnd|CapEff|NoNewPrivs' /proc/self/status; touch /x || echo fixed; touch /tmp/x && echo loose; sleep 1000";
    let mut locked = shell("locked", script);
    locked["securityContext"] = json!({
        "runAsUser": 1234, "runAsGroup": 5, "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}});
    let mut root = shell("root", script);
    root["securityContext"] =
        json!({"capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "SYS_ADMIN"]}});
    let privileged = {
        let mut container = shell(
            "privileged",
            "grep CapBnd /proc/self/status; touch /sys/kernel/x 2>&1; ls /dev | wc -l; sleep 1000",
        );
        container["securityContext"] = json!({"privileged": true});
        container
    };
    let mut refused = shell("refused", "echo never");
    refused["securityContext"] = json!({"runAsNonRoot": true});
    let spec = json!({"containers": [locked, root, privileged, refused],
        "securityContext": {"supplementalGroups": [6], "fsGroup": 7}});
    cluster.create("users", spec).await;
    cluster
        .until("users", "refused", |pod| {
            let list = pod["status"]["containerStatuses"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            list.iter().any(|c| {
                c["name"] == "refused"
                    && c["state"]["waiting"]["reason"] == "CreateContainerConfigError"
            })
        })
        .await;
    let log = |container: &str| {
        let params = kube::api::LogParams {
            container: Some(container.to_string()),
            ..Default::default()
        };
        let pods = cluster.pods();
        async move {
            let deadline = Instant::now() + Duration::from_secs(60);
            loop {
                let text = pods.logs("users", &params).await.unwrap_or_default();
                if text.lines().count() >= 2
                    && (text.contains("fixed") || text.contains("loose") || text.contains("CapBnd"))
                    || Instant::now() > deadline
                {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    return pods.logs("users", &params).await.unwrap();
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    let locked = log("locked").await;
    let lines: Vec<&str> = locked
        .lines()
        .filter(|line| !line.contains("annot"))
        .collect();
    assert_eq!(lines[..2], ["1234", "5"], "{locked}");
    assert!(lines[2].contains('6') && lines[2].contains('7'), "{locked}");
    assert!(
        locked.contains("CapEff:\t0000000000000000")
            && locked.contains("CapBnd:\t0000000000001000"),
        "{locked}"
    );
    assert!(
        locked.contains("NoNewPrivs:\t1") && locked.contains("fixed") && !locked.contains("loose"),
        "{locked}"
    );
    let root = log("root").await;
    assert!(
        root.contains("CapEff:\t0000000000201000")
            && root.contains("loose")
            && !root.contains("fixed"),
        "{root}"
    );
    let privileged = log("privileged").await;
    assert!(
        !privileged.contains("CapBnd:\t0000000000201000"),
        "{privileged}"
    );
    cluster.delete("users").await;
}

pub async fn init_containers_run_in_order(cluster: &Cluster) {
    let mounts = json!([{"name": "shared", "mountPath": "/shared"}]);
    let with_mounts = |mut container: Value| {
        container["volumeMounts"] = mounts.clone();
        container
    };
    let first = with_mounts(shell("first", "echo 1 >> /shared/order"));
    // Fails the first time.
    let second = with_mounts(shell(
        "second",
        "echo 2 >> /shared/order; test -e /shared/again || { touch /shared/again; exit 1; }",
    ));
    let mut sidecar = with_mounts(shell("sidecar", "echo side >> /shared/order; sleep 1000"));
    sidecar["restartPolicy"] = json!("Always");
    let main = with_mounts(shell("c", "cat /shared/order; echo end; sleep 1000"));
    let spec = json!({"initContainers": [first, second, sidecar], "containers": [main],
        "volumes": [{"name": "shared", "emptyDir": {}}]});
    cluster.create("inits", spec).await;
    let pod = cluster.until_ready("inits").await;
    let deadline = Instant::now() + Duration::from_secs(60);
    let params = kube::api::LogParams {
        container: Some("c".to_string()),
        ..Default::default()
    };
    let logs = loop {
        let logs = cluster.pods().logs("inits", &params).await.unwrap();
        if logs.contains("end") {
            break logs;
        }
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(logs, "1\n2\n2\nside\nend\n");
    let init = &pod["status"]["initContainerStatuses"];
    assert_eq!(init[0]["state"]["terminated"]["reason"], "Completed");
    assert_eq!(init[1]["restartCount"], 1);
    assert!(init[2]["state"]["running"].is_object(), "{init:#}");
    cluster.delete("inits").await;
    cluster.until_gone("inits").await;
}

pub async fn an_ended_container_starts_again(cluster: &Cluster) {
    cluster.script("crash", "echo run; exit 3").await;
    let pod = cluster
        .until("crash", "backing off", |pod| {
            pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"]
                == "CrashLoopBackOff"
        })
        .await;
    // One restart at once, the next one waits.
    let status = &pod["status"]["containerStatuses"][0];
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 3);
    assert_eq!(status["lastState"]["terminated"]["reason"], "Error");
    assert!(
        status["state"]["waiting"]["message"]
            .as_str()
            .unwrap()
            .starts_with("back-off 10s restarting failed container=c pod=crash_default(")
    );
    // The wait of ten seconds is that of the second restart: the first one had none.
    assert_eq!(status["restartCount"], 2);
    let previous = kube::api::LogParams {
        previous: true,
        ..Default::default()
    };
    assert_eq!(
        cluster.pods().logs("crash", &previous).await.unwrap(),
        "run\n"
    );
    cluster
        .until_event("crash", "BackOff: Back-off restarting failed container c")
        .await;
    cluster.delete("crash").await;
    cluster.until_gone("crash").await;
}

pub async fn pods_that_finish(cluster: &Cluster) {
    for (name, policy, script, phase) in [
        ("good", "Never", "exit 0", "Succeeded"),
        ("bad", "Never", "exit 2", "Failed"),
        ("fine", "OnFailure", "exit 0", "Succeeded"),
    ] {
        let spec = json!({"restartPolicy": policy, "containers": [shell("c", script)]});
        let uid = cluster.create(name, spec).await.metadata.uid.unwrap();
        let pod = cluster
            .until(name, phase, |pod| pod["status"]["phase"] == phase)
            .await;
        assert_eq!(condition(&pod, "Ready"), "False");
        let deadline = Instant::now() + Duration::from_secs(60);
        while !processes_of(&uid).is_empty() {
            assert!(Instant::now() < deadline, "{name} still has processes");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        cluster.delete(name).await;
        cluster.until_gone(name).await;
    }
}

pub async fn an_unknown_image_says_what_there_is(cluster: &Cluster) {
    cluster
        .create(
            "unknown",
            json!({"containers": [{"name": "c", "image": "nginx:1.27"}]}),
        )
        .await;
    let pod = cluster
        .until("unknown", "refused", |pod| {
            let reason = pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"]
                .as_str()
                .unwrap_or_default()
                .to_string();
            reason == "ErrImagePull" || reason == "ImagePullBackOff"
        })
        .await;
    let message = pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"]
        .as_str()
        .unwrap()
        .to_string();
    assert!(
        message.contains("nginx:1.27") && message.contains("docker.io/test/shell"),
        "{message}"
    );
    cluster
        .until_event("unknown", "Failed to pull image \"nginx:1.27\"")
        .await;
    let missing =
        json!({"containers": [{"name": "c", "image": "host", "command": ["no-such-program"]}]});
    cluster.create("missing", missing).await;
    cluster
        .until("missing", "failed", |pod| {
            let status = &pod["status"]["containerStatuses"][0];
            status["lastState"]["terminated"]["reason"] == "StartError"
                && status["lastState"]["terminated"]["message"]
                    .as_str()
                    .unwrap_or_default()
                    .contains("executable file not found in $PATH")
        })
        .await;
    cluster.delete("unknown").await;
    cluster.delete("missing").await;
}

pub async fn a_missing_config_map_stops_the_pod(cluster: &Cluster) {
    let mut container = shell("c", "cat /map/key; echo; sleep 1000");
    container["volumeMounts"] = json!([{"name": "map", "mountPath": "/map"}]);
    let spec = json!({"containers": [container], "volumes": [{"name": "map", "configMap": {"name": "late"}}]});
    cluster.create("waiting", spec).await;
    cluster.until_event("waiting", "FailedMount: MountVolume.SetUp failed for volume \"map\" : configmap \"late\" not found").await;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "default");
    let map = json!({"metadata": {"name": "late"}, "data": {"key": "there"}});
    maps.create(
        &PostParams::default(),
        &serde_json::from_value(map).unwrap(),
    )
    .await
    .unwrap();
    cluster.until_logged("waiting", "there").await;
    cluster.delete("waiting").await;
    let spec = json!({"containers": [shell("c", "exit")], "volumes": [{"name": "v", "nfs": {"server": "s", "path": "/"}}]});
    cluster.create("unsupported", spec).await;
    cluster
        .until_event("unsupported", "volumes of kind nfs are not supported")
        .await;
    cluster.delete("unsupported").await;
}

pub async fn probes_decide_readiness_and_life(cluster: &Cluster) {
    let mut ready = shell("c", "sleep 1000");
    ready["readinessProbe"] =
        json!({"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1});
    cluster
        .create("ready", json!({"containers": [ready]}))
        .await;
    cluster
        .until("ready", "running", |pod| {
            pod["status"]["phase"] == "Running"
        })
        .await;
    cluster
        .until_event("ready", "Unhealthy: Readiness probe failed")
        .await;
    assert_eq!(
        condition(
            &serde_json::to_value(cluster.pods().get("ready").await.unwrap()).unwrap(),
            "Ready"
        ),
        "False"
    );
    crate::streams::run(cluster, "ready", &["touch", "/tmp/ready"], None).await;
    cluster.until_ready("ready").await;
    crate::streams::run(cluster, "ready", &["rm", "/tmp/ready"], None).await;
    cluster
        .until("ready", "unready again", |pod| {
            condition(pod, "Ready") == "False"
        })
        .await;

    let mut live = shell("c", "sleep 1000");
    live["livenessProbe"] =
        json!({"tcpSocket": {"port": 9}, "periodSeconds": 1, "failureThreshold": 1});
    live["terminationGracePeriodSeconds"] = json!(0);
    let spec = json!({"containers": [live], "terminationGracePeriodSeconds": 0});
    cluster.create("live", spec).await;
    cluster
        .until("live", "restarted", |pod| {
            pod["status"]["containerStatuses"][0]["restartCount"].as_i64() >= Some(1)
        })
        .await;
    cluster
        .until_event("live", "failed liveness probe, will be restarted")
        .await;
    let spec = json!({"containers": [{
        "name": "c", "image": "test/server", "args": ["0.0.0.0:8080"], "ports": [{"name": "web", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/", "port": "web"}, "periodSeconds": 1},
        "startupProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 30},
    }]});
    cluster.create("http", spec).await;
    cluster.until_ready("http").await;
    cluster.delete("http").await;
    cluster.delete("ready").await;
    cluster.delete("live").await;
}

pub async fn host_network_pods_share_the_nodes(cluster: &Cluster) {
    let script = "readlink /proc/self/ns/net; hostname; grep nameserver /etc/resolv.conf; echo end; sleep 1000";
    let mut container = shell("c", script);
    container["volumeMounts"] =
        json!([{"name": "netns", "mountPath": "/netns", "mountPropagation": "HostToContainer"}]);
    let spec = json!({"hostNetwork": true, "containers": [container],
        "volumes": [{"name": "netns", "hostPath": {"path": "/run/netns", "type": "DirectoryOrCreate"}}]});
    cluster.create("shared", spec).await;
    let pod = cluster.until_ready("shared").await;
    assert_eq!(pod["status"]["podIP"], NODE_IP);
    let logs = cluster.until_logged("shared", "end").await;
    let net = std::fs::read_link("/proc/self/ns/net").unwrap();
    for line in [net.to_str().unwrap(), NODE, "nameserver 192.0.2.1"] {
        assert!(
            logs.lines().any(|own| own == line),
            "no line {line:?} in\n{logs}"
        );
    }
    // A pod that starts later: its named network namespace appears in the running container.
    cluster.script("later", "sleep 1000").await;
    cluster.until_ready("later").await;
    let look = ["sh", "-c", "stat -f -c %T /netns/cni-*"];
    let mut listing = String::new();
    // Other tests start pods meanwhile: a name is a file for a moment before it is a namespace.
    for _ in 0..50 {
        (listing, _) = crate::streams::run(cluster, "shared", &look, None).await;
        if listing.lines().all(|line| line == "nsfs") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert!(
        listing.lines().count() >= 1 && listing.lines().all(|line| line == "nsfs"),
        "{listing}"
    );
    cluster.delete("shared").await;
    cluster.delete("later").await;
    cluster.until_gone("later").await;
}

pub async fn a_lost_sandbox_is_made_again(cluster: &Cluster) {
    let uid = cluster
        .script("lost", "sleep 1000")
        .await
        .metadata
        .uid
        .unwrap();
    let before = cluster.until_ready("lost").await;
    // The sandbox is the first process of the pod's PID namespace.
    let first = processes_of(&uid)
        .into_iter()
        .find(|(pid, _)| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status
                .lines()
                .any(|line| line.starts_with("NSpid:") && line.ends_with("\t1"))
        })
        .unwrap();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(first.0.parse().unwrap()),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    cluster.until_event("lost", "SandboxChanged").await;
    let after = cluster
        .until("lost", "running again", |pod| {
            condition(pod, "Ready") == "True"
                && pod["status"]["containerStatuses"][0]["restartCount"] == 1
        })
        .await;
    assert_eq!(before["metadata"]["uid"], after["metadata"]["uid"]);
    cluster.delete("lost").await;
}

pub async fn a_condition_that_others_changed_is_put_right(cluster: &Cluster) {
    cluster.script("overridden", "sleep 1000").await;
    cluster.until_ready("overridden").await;
    // What a controller does to the pods of a node that seems lost.
    let lost = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    let patch = kube::api::Patch::Strategic(lost);
    let changed = cluster
        .pods()
        .patch_status("overridden", &Default::default(), &patch)
        .await
        .unwrap();
    let changed = serde_json::to_value(changed).unwrap();
    assert_eq!(condition(&changed, "Ready"), "False");
    cluster.until_ready("overridden").await;
    cluster.delete("overridden").await;
}

pub async fn termination_messages_and_grace(cluster: &Cluster) {
    let spec = json!({"restartPolicy": "Never", "containers": [shell("c", "echo reason > /dev/termination-log; exit 4")]});
    cluster.create("message", spec).await;
    let pod = cluster
        .until("message", "failed", |pod| {
            pod["status"]["phase"] == "Failed"
        })
        .await;
    let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(
        (&ended["message"], &ended["exitCode"]),
        (&json!("reason\n"), &json!(4))
    );
    cluster.delete("message").await;

    // Ignores SIGTERM: killed when the grace period is over, not before.
    let mut stubborn = shell("c", "trap '' TERM; echo up; while :; do sleep 0.1; done");
    stubborn["lifecycle"] =
        json!({"preStop": {"exec": {"command": ["sh", "-c", "echo stopping > /given/hook"]}}});
    stubborn["volumeMounts"] = json!([{"name": "given", "mountPath": "/given"}]);
    std::fs::create_dir_all(home("hooks")).unwrap();
    let spec = json!({"terminationGracePeriodSeconds": 2, "containers": [stubborn],
        "volumes": [{"name": "given", "hostPath": {"path": home("hooks")}}]});
    cluster.create("stubborn", spec).await;
    cluster.until_logged("stubborn", "up").await;
    let begin = Instant::now();
    cluster.delete("stubborn").await;
    cluster.until_gone("stubborn").await;
    let took = begin.elapsed();
    assert!(
        took >= Duration::from_millis(1500) && took < Duration::from_secs(30),
        "{took:?}"
    );
    assert_eq!(
        std::fs::read_to_string(home("hooks/hook")).unwrap(),
        "stopping\n"
    );
}

pub async fn a_failing_network_stops_the_pod(cluster: &Cluster) {
    use std::os::unix::fs::PermissionsExt;
    let conf = home("net.d/10-pods.conflist");
    let good = std::fs::read_to_string(&conf).unwrap();
    // A chained plugin appears, as a mesh inserts it, and refuses.
    let gate = home("bin/gate");
    let script = "#!/bin/sh\n[ \"$CNI_COMMAND\" = ADD ] || exit 0\n[ -e /run/node/open ] || { echo '{\"code\":100,\"msg\":\"the gate is closed\"}'; exit 1; }\n\
        printf '%s\\n' \"$CNI_NETNS\" > /run/node/seen; cat /run/node/result\n";
    std::fs::write(&gate, script).unwrap();
    std::fs::set_permissions(&gate, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(
        home("result"),
        r#"{"cniVersion":"1.0.0","ips":[{"address":"10.244.1.250/32"}]}"#,
    )
    .unwrap();
    let mut list: Value = serde_json::from_str(&good).unwrap();
    list["plugins"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "gate"}));
    std::fs::write(&conf, list.to_string()).unwrap();
    cluster.script("gated", "sleep 1000").await;
    cluster.until_event("gated", "FailedCreatePodSandBox: Failed to create pod sandbox: failed to setup network for sandbox").await;
    cluster.until_event("gated", "the gate is closed").await;
    let pod = serde_json::to_value(cluster.pods().get("gated").await.unwrap()).unwrap();
    assert_eq!(pod["status"]["phase"], "Pending");
    assert!(pod["status"]["containerStatuses"][0]["state"]["running"].is_null());
    std::fs::write(home("open"), "").unwrap();
    let pod = cluster.until_ready("gated").await;
    assert_eq!(pod["status"]["podIP"], "10.244.1.250");
    assert!(
        std::fs::read_to_string(home("seen"))
            .unwrap()
            .starts_with("/run/netns/cni-")
    );
    std::fs::write(&conf, good).unwrap();
    cluster.delete("gated").await;
    cluster.until_gone("gated").await;
}

/// Where a cgroup would be, in each hierarchy of this machine.
fn cgroup_paths(group: &str) -> Vec<std::path::PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let cgroups = mounts.lines().filter(|line| line.contains(" - cgroup"));
    let points = cgroups.filter_map(|line| line.split(' ').nth(4));
    points
        .map(|point| std::path::Path::new(point).join(group))
        .collect()
}

/// What a kubelet that was killed would leave: a process in a pod's cgroup, a mounted volume, a named
/// network namespace.
fn plant_leftovers(group: &str) -> std::process::Child {
    use nix::mount::{MsFlags, mount};
    let process = std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    let group = cgroup_paths(group)
        .into_iter()
        .find(|path| path.exists())
        .unwrap();
    let cgroup = group.join("kubepods/burstable/podleft/over");
    std::fs::create_dir_all(&cgroup).unwrap();
    std::fs::write(cgroup.join("cgroup.procs"), process.id().to_string()).unwrap();
    let volume = home("state/pods/left/volumes/memory");
    std::fs::create_dir_all(&volume).unwrap();
    mount(
        Some("tmpfs"),
        &volume,
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )
    .unwrap();
    let netns = std::path::Path::new("/run/netns/cni-left");
    std::fs::File::create(netns).unwrap();
    mount(
        Some("/proc/self/ns/net"),
        netns,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .unwrap();
    process
}

/// Ends the kubelet with a pod still running and looks for leftovers.
#[expect(
    clippy::zombie_processes,
    reason = "an early return ends the test, and with it the process"
)]
pub async fn nothing_is_left(cluster: Cluster) -> Result<(), String> {
    let uid = cluster
        .script("remaining", "sleep 1000")
        .await
        .metadata
        .uid
        .unwrap();
    cluster.until_ready("remaining").await;
    let group = cluster.cgroups.trim_start_matches('/').to_string();
    let mut leftover = plant_leftovers(&group);
    cluster.stop().await?;
    let mut problems = Vec::new();
    if !processes_of(&uid).is_empty() {
        problems.push(format!("processes: {:?}", processes_of(&uid)));
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    problems.extend(
        mounts
            .lines()
            .filter(|line| line.contains("/pods/") || line.contains("/cni-"))
            .map(str::to_string),
    );
    let links = std::fs::read_to_string("/proc/net/dev").unwrap();
    problems.extend(
        links
            .lines()
            .filter(|line| line.contains("veth"))
            .map(str::to_string),
    );
    let groups = cgroup_paths(&group)
        .into_iter()
        .filter(|path| path.exists());
    problems.extend(groups.map(|path| format!("cgroup {}", path.display())));
    if leftover.try_wait().unwrap().is_none() {
        leftover.kill().unwrap();
        problems.push("a process of a pod that this kubelet did not know".to_string());
    }
    if home("state/pods").exists() {
        problems.push("state directory".to_string());
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems.join("\n"))
    }
}
