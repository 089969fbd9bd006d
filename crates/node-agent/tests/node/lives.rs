//! Beginnings and ends: hooks, sidecars, deadlines, containers that are added later.

use std::time::Duration;

use kube::api::{AttachParams, LogParams, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::cluster::{Cluster, home, shell};

/// A container that notes in a file of the node when it starts and when it is told to end.
fn noting(name: &str, more: Value) -> Value {
    let script = format!(
        "echo +{name} >> /notes/all; trap 'echo -{name} >> /notes/all; exit 0' TERM; \
         while :; do sleep 0.1; done"
    );
    let mut container = shell(name, &script);
    container["volumeMounts"] = json!([{"name": "notes", "mountPath": "/notes"}]);
    for (key, value) in more.as_object().unwrap() {
        container[key] = value.clone();
    }
    container
}

/// A volume of the node for notes, and the path of the file.
fn notes(name: &str) -> (Value, std::path::PathBuf) {
    let dir = home(name);
    std::fs::create_dir_all(&dir).unwrap();
    let volume = json!([{"name": "notes", "hostPath": {"path": dir}}]);
    (volume, dir.join("all"))
}

pub async fn sidecars_start_in_order_and_end_last(cluster: &Cluster) {
    let (volumes, file) = notes("sidecars");
    let always = |more: Value| {
        let mut all = json!({"restartPolicy": "Always"});
        all.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        all
    };
    // The second one starts only when the first one's startup probe has succeeded.
    let probe = json!({"startupProbe": {"exec": {"command": ["test", "-e", "/notes/open"]},
        "periodSeconds": 1, "failureThreshold": 60}});
    let spec = json!({
        "initContainers": [noting("s1", always(probe)), noting("s2", always(json!({})))],
        "containers": [noting("main", json!({}))],
        "volumes": volumes,
    });
    cluster.create("sidecars", spec).await;
    cluster
        .until("sidecars", "waiting for its first sidecar", |pod| {
            let init = &pod["status"]["initContainerStatuses"];
            let waiting =
                |status: &Value| status["state"]["waiting"]["reason"] == "PodInitializing";
            init[0]["state"]["running"].is_object()
                && init[0]["started"] == false
                && waiting(&init[1])
                && waiting(&pod["status"]["containerStatuses"][0])
        })
        .await;
    std::fs::write(file.with_file_name("open"), "").unwrap();
    cluster.until_ready("sidecars").await;
    cluster.delete("sidecars").await;
    cluster.until_gone("sidecars").await;
    let order = std::fs::read_to_string(file).unwrap();
    assert_eq!(order, "+s1\n+s2\n+main\n-main\n-s2\n-s1\n");
}

pub async fn a_post_start_hook_holds_the_next_container(cluster: &Cluster) {
    let (volumes, file) = notes("hook");
    let wait = "while [ ! -e /notes/open ]; do sleep 0.1; done; echo hooked >> /notes/all";
    let hook = json!({"lifecycle": {"postStart": {"exec": {"command": ["sh", "-c", wait]}}}});
    let spec = json!({"containers": [noting("one", hook), noting("two", json!({}))],
        "volumes": volumes});
    cluster.create("hook", spec).await;
    cluster
        .until("hook", "running its first container", |pod| {
            let list = &pod["status"]["containerStatuses"];
            list[0]["state"]["running"].is_object()
                && list[1]["state"]["waiting"]["reason"] == "ContainerCreating"
        })
        .await;
    std::fs::write(file.with_file_name("open"), "").unwrap();
    cluster.until_ready("hook").await;
    let order = std::fs::read_to_string(file).unwrap();
    assert_eq!(order, "+one\nhooked\n+two\n");
    cluster.delete("hook").await;

    let mut failing = shell("c", "trap 'exit 0' TERM; while :; do sleep 0.1; done");
    failing["lifecycle"] = json!({"postStart": {"exec": {"command": ["false"]}}});
    cluster
        .create("badhook", json!({"containers": [failing]}))
        .await;
    cluster
        .until_event("badhook", "FailedPostStartHook: PostStartHook failed")
        .await;
    cluster
        .until("badhook", "restarted", |pod| {
            pod["status"]["containerStatuses"][0]["restartCount"].as_i64() >= Some(1)
        })
        .await;
    cluster.delete("badhook").await;
}

pub async fn a_pod_may_be_active_for_so_long(cluster: &Cluster) {
    let spec = json!({"activeDeadlineSeconds": 2, "terminationGracePeriodSeconds": 1,
        "containers": [shell("c", "sleep 1000")]});
    cluster.create("late", spec).await;
    let pod = cluster
        .until("late", "failed", |pod| pod["status"]["phase"] == "Failed")
        .await;
    assert_eq!(pod["status"]["reason"], "DeadlineExceeded");
    let message = "Pod was active on the node longer than the specified deadline";
    assert_eq!(pod["status"]["message"], message);
    cluster
        .until("late", "ended", |pod| {
            pod["status"]["containerStatuses"][0]["state"]["terminated"].is_object()
        })
        .await;
    cluster.delete("late").await;
    cluster.until_gone("late").await;
}

pub async fn containers_can_be_added_to_look_around(cluster: &Cluster) {
    cluster.script("debugged", "sleep 1000").await;
    cluster.until_ready("debugged").await;
    let script =
        "hostname; ps ax | grep 'sleep 100[0]'; cat /proc/self/ns/net >/dev/null 2>&1; echo seen";
    let mut debugger = shell("debugger", script);
    debugger["targetContainerName"] = json!("c");
    let patch = json!({"spec": {"ephemeralContainers": [debugger]}});
    let pods = cluster.pods();
    let added: k8s_openapi::api::core::v1::Pod = pods
        .patch_subresource(
            "ephemeralcontainers",
            "debugged",
            &PatchParams::default(),
            &Patch::Strategic(patch),
        )
        .await
        .unwrap();
    assert_eq!(added.spec.unwrap().ephemeral_containers.unwrap().len(), 1);
    let pod = cluster
        .until("debugged", "looked at", |pod| {
            pod["status"]["ephemeralContainerStatuses"][0]["state"]["terminated"].is_object()
        })
        .await;
    let ended = &pod["status"]["ephemeralContainerStatuses"][0];
    assert_eq!(ended["state"]["terminated"]["reason"], "Completed");
    // The pod is as it was.
    assert_eq!(pod["status"]["phase"], "Running");
    assert_eq!(crate::cluster::condition(&pod, "Ready"), "True");
    let params = LogParams {
        container: Some("debugger".to_string()),
        ..LogParams::default()
    };
    let logs = pods.logs("debugged", &params).await.unwrap();
    assert!(logs.starts_with("debugged\n"), "{logs}");
    assert!(
        logs.contains("sleep 1000") && logs.ends_with("seen\n"),
        "{logs}"
    );
    cluster.delete("debugged").await;
}

pub async fn the_first_client_sees_what_was_printed_before_it_came(cluster: &Cluster) {
    let mut early = shell("c", "echo early; read line; echo got $line");
    early["stdin"] = json!(true);
    let spec = json!({"containers": [early], "restartPolicy": "Never"});
    cluster.create("early", spec).await;
    cluster.until_logged("early", "early").await;
    let params = AttachParams {
        stdin: true,
        stdout: true,
        stderr: false,
        ..AttachParams::default()
    };
    let mut attached = cluster.pods().attach("early", &params).await.unwrap();
    let mut stdin = attached.stdin().unwrap();
    stdin.write_all(b"that\n").await.unwrap();
    let mut output = String::new();
    let mut stdout = attached.stdout().unwrap();
    let read = stdout.read_to_string(&mut output);
    tokio::time::timeout(Duration::from_secs(60), read)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(output, "early\ngot that\n");
    cluster.delete("early").await;
}

pub async fn volumes_follow_the_pods_labels(cluster: &Cluster) {
    let script =
        "while ! grep -q 'color=\"blue\"' /info/labels; do sleep 0.1; done; echo blue; sleep 1000";
    let mut container = shell("c", script);
    container["volumeMounts"] = json!([{"name": "info", "mountPath": "/info"}]);
    let spec = json!({"containers": [container], "volumes": [{"name": "info", "downwardAPI": {
        "items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]});
    cluster.create("labels", spec).await;
    cluster.until_ready("labels").await;
    let patch = json!({"metadata": {"labels": {"color": "blue"}}});
    let params = PatchParams::default();
    cluster
        .pods()
        .patch("labels", &params, &Patch::Merge(patch))
        .await
        .unwrap();
    cluster.until_logged("labels", "blue").await;
    cluster.delete("labels").await;
}

pub async fn a_deleted_pod_that_is_held_shows_how_it_ended(cluster: &Cluster) {
    let script = "trap 'exit 3' TERM; echo up; while :; do sleep 0.1; done";
    cluster.script("held", script).await;
    cluster.until_logged("held", "up").await;
    let hold = |finalizers: Value| Patch::Merge(json!({"metadata": {"finalizers": finalizers}}));
    let (pods, params) = (cluster.pods(), PatchParams::default());
    pods.patch("held", &params, &hold(json!(["example.org/hold"])))
        .await
        .unwrap();
    cluster.delete("held").await;
    let pod = cluster
        .until("held", "ended", |pod| pod["status"]["phase"] == "Failed")
        .await;
    let state = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(state["exitCode"], 3);
    pods.patch("held", &params, &hold(Value::Null))
        .await
        .unwrap();
    cluster.until_gone("held").await;
}

pub async fn a_pod_that_is_ending_still_tells_whether_it_serves(cluster: &Cluster) {
    let script = "touch /tmp/serving; trap 'rm /tmp/serving; sleep 4; exit 0' TERM; \
        while :; do sleep 0.1; done";
    let mut container = shell("c", script);
    container["readinessProbe"] = json!({"exec": {"command": ["test", "-e", "/tmp/serving"]},
        "periodSeconds": 1, "failureThreshold": 1});
    cluster
        .create("draining", json!({"containers": [container]}))
        .await;
    cluster.until_ready("draining").await;
    cluster.delete("draining").await;
    cluster
        .until("draining", "not serving while it ends", |pod| {
            pod["metadata"]["deletionTimestamp"].is_string()
                && crate::cluster::condition(pod, "Ready") == "False"
                && pod["status"]["containerStatuses"][0]["state"]["running"].is_object()
        })
        .await;
    tokio::time::timeout(Duration::from_secs(60), cluster.until_gone("draining"))
        .await
        .unwrap();
}
