//! The plugin as the container runtime runs it, against agents of every kind.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Runs the plugin once with this run directory, namespace and pod.
fn add(run_dir: &Path, namespace: &str, pod: &str) -> Output {
    let config = json!({
        "cniVersion": "1.0.0", "name": "k8s", "type": "istio-cni", "ambient_enabled": true,
        "exclude_namespaces": ["kube-system"], "pod_namespace": "istio-system",
        "cni_agent_run_dir": run_dir,
        "prevResult": {"cniVersion": "1.0.0", "ips": [{"address": "10.244.1.7/24"}]},
    });
    let mut child = Command::new(env!("CARGO_BIN_EXE_istio-cni"))
        .env("CNI_COMMAND", "ADD")
        .env("CNI_NETNS", "/var/run/netns/test")
        .env(
            "CNI_ARGS",
            format!("K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={pod};K8S_POD_UID=u"),
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("plugin");
    child
        .stdin
        .take()
        .expect("stdin")
        .write_all(config.to_string().as_bytes())
        .expect("write");
    child.wait_with_output().expect("output")
}

/// An agent that answers once with these bytes (nothing: stays silent until the plugin leaves).
fn agent(dir: &Path, answer: &'static [u8]) -> std::thread::JoinHandle<String> {
    let listener = UnixListener::bind(dir.join("pluginevent.sock")).expect("bind");
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        let mut request = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            let n = stream.read(&mut chunk).expect("read");
            request.extend_from_slice(&chunk[..n]);
            let text = String::from_utf8_lossy(&request).into_owned();
            if n == 0
                || text
                    .split_once("\r\n\r\n")
                    .is_some_and(|(_, body)| body.ends_with('}'))
            {
                break;
            }
        }
        if answer.is_empty() {
            while stream.read(&mut chunk).is_ok_and(|n| n > 0) {}
        } else {
            let _ = stream.write_all(answer);
        }
        String::from_utf8_lossy(&request).into_owned()
    })
}

fn stdout(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).expect("JSON on stdout")
}

fn fails(answer: &'static [u8], hint: &str) {
    let dir = tempfile::tempdir().expect("dir");
    let agent = agent(dir.path(), answer);
    let output = add(dir.path(), "shop", "cart");
    agent.join().expect("agent");
    assert!(!output.status.success(), "{answer:?}");
    let error = stdout(&output);
    assert_eq!(
        (error["cniVersion"].as_str(), error["code"].as_u64()),
        (Some("1.0.0"), Some(11))
    );
    let message = error["msg"].as_str().expect("message");
    assert!(
        message.contains("shop/cart") && message.contains(hint),
        "{message}"
    );
}

#[test]
fn a_captured_pod_and_a_pod_outside_the_mesh_start() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\ncontent-length: 16\r\n\r\n{\"ambient\":true}"[..],
        &b"HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n{\"ambient\":false}"[..],
    ] {
        let dir = tempfile::tempdir().expect("dir");
        let agent = agent(dir.path(), answer);
        let output = add(dir.path(), "shop", "cart");
        let request = agent.join().expect("agent");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        );
        assert_eq!(stdout(&output)["ips"][0]["address"], "10.244.1.7/24");
        assert!(
            request.starts_with("POST /cmdadd HTTP/1.1\r\n"),
            "{request}"
        );
        let body: Value =
            serde_json::from_str(request.split_once("\r\n\r\n").expect("body").1).expect("JSON");
        assert_eq!(
            body,
            json!({"Netns": "/var/run/netns/test", "PodName": "cart", "PodNamespace": "shop",
                   "IPs": [{"Address": {"IP": "10.244.1.7"}}], "PodUID": "u"})
        );
    }
}

#[test]
fn any_other_answer_fails_the_start() {
    fails(
        b"HTTP/1.1 500 Internal Server Error\r\n\r\nno ztunnel",
        "answered 500: no ztunnel",
    );
    fails(b"HTTP/1.1 200 OK\r\n\r\n", "not understood");
    fails(b"HTTP/1.1 200 OK\r\n\r\n{}", "not understood");
    fails(
        b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{\"ambient\":true}",
        "not understood",
    );
    fails(b"\x00\x01\x02garbage", "not understood");
}

#[test]
fn silence_fails_the_start_within_the_deadline() {
    let started = Instant::now();
    fails(b"", "did not answer");
    let took = started.elapsed();
    assert!(
        took >= Duration::from_secs(4) && took < Duration::from_secs(10),
        "{took:?}"
    );
}

#[test]
fn without_an_agent_only_excluded_pods_start() {
    let dir = tempfile::tempdir().expect("dir");
    let output = add(dir.path(), "shop", "cart");
    assert!(!output.status.success());
    let message = stdout(&output)["msg"].as_str().expect("message").to_owned();
    assert!(message.contains("istio-cni-node"), "{message}");
    assert!(add(dir.path(), "kube-system", "coredns").status.success());
    assert!(
        add(dir.path(), "istio-system", "istio-cni-node-x2x")
            .status
            .success()
    );
    assert!(
        !add(dir.path(), "istio-system", "ztunnel-x2x")
            .status
            .success()
    );
}
