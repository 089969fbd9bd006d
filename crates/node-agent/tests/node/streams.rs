//! Logs, exec and port-forward through the API server.

use std::time::Duration;

use futures_util::AsyncBufReadExt;
use futures_util::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{AttachParams, LogParams};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::cluster::{Cluster, shell};

/// Runs a command in a pod; returns its output and final status.
pub async fn run(
    cluster: &Cluster,
    pod: &str,
    command: &[&str],
    input: Option<&str>,
) -> (String, Status) {
    let params = AttachParams {
        stdin: input.is_some(),
        stdout: true,
        stderr: false,
        ..Default::default()
    };
    let command: Vec<String> = command.iter().map(|word| word.to_string()).collect();
    let mut attached = cluster.pods().exec(pod, command, &params).await.unwrap();
    let status = attached.take_status().unwrap();
    if let Some(input) = input {
        let mut stdin = attached.stdin().unwrap();
        stdin.write_all(input.as_bytes()).await.unwrap();
        stdin.shutdown().await.unwrap();
    }
    let mut output = String::new();
    attached
        .stdout()
        .unwrap()
        .read_to_string(&mut output)
        .await
        .unwrap();
    let status = tokio::time::timeout(Duration::from_secs(60), status)
        .await
        .unwrap()
        .unwrap_or_default();
    (output, status)
}

pub async fn logs_with_options(cluster: &Cluster) {
    cluster.script("logs", "exec 2>&1; for i in 1 2 3 4 5; do echo line $i; done; echo err >&2; while [ ! -e /tmp/go ]; do sleep 0.1; done; echo last; sleep 1000").await;
    cluster.until_logged("logs", "err").await;
    let pods = cluster.pods();
    let tail = LogParams {
        tail_lines: Some(2),
        ..Default::default()
    };
    let text = pods.logs("logs", &tail).await.unwrap();
    assert_eq!(text.lines().count(), 2, "{text}");
    let stamped = LogParams {
        timestamps: true,
        limit_bytes: Some(35),
        ..Default::default()
    };
    let text = pods.logs("logs", &stamped).await.unwrap();
    assert!(
        text.len() == 35 && text.starts_with("20") && text.contains("Z lin"),
        "{text}"
    );
    let follow = LogParams {
        follow: true,
        tail_lines: Some(0),
        ..Default::default()
    };
    let mut lines = pods.log_stream("logs", &follow).await.unwrap().lines();
    run(cluster, "logs", &["touch", "/tmp/go"], None).await;
    let line = tokio::time::timeout(Duration::from_secs(60), lines.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(line, "last");
    let unknown = LogParams {
        container: Some("none".to_string()),
        ..Default::default()
    };
    assert!(pods.logs("logs", &unknown).await.is_err());
    cluster.delete("logs").await;
    // The stream of a deleted pod ends.
    let end = tokio::time::timeout(Duration::from_secs(60), lines.next())
        .await
        .unwrap();
    assert!(end.is_none(), "{end:?}");
}

pub async fn exec_with_input_output_and_status(cluster: &Cluster) {
    cluster.script("exec", "export INNER=1; sleep 1000").await;
    cluster.until_ready("exec").await;
    let (output, status) = run(
        cluster,
        "exec",
        &["sh", "-c", "hostname; pwd; readlink /proc/self/ns/net"],
        None,
    )
    .await;
    assert_eq!(output.lines().take(2).collect::<Vec<_>>(), ["exec", "/"]);
    assert_eq!(status.status.as_deref(), Some("Success"));
    let (output, status) = run(
        cluster,
        "exec",
        &["sh", "-c", "cat; exit 7"],
        Some("through"),
    )
    .await;
    assert_eq!(output, "through");
    assert_eq!(status.reason.as_deref(), Some("NonZeroExitCode"));
    let causes = status.details.unwrap().causes.unwrap();
    assert_eq!(causes[0].message.as_deref(), Some("7"));
    // Bulk output arrives whole.
    let (output, _) = run(
        cluster,
        "exec",
        &["sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x"],
        None,
    )
    .await;
    assert_eq!(output.len(), 3_000_000);
    let (_, status) = run(cluster, "exec", &["no-such-program"], None).await;
    assert_eq!(status.status.as_deref(), Some("Failure"));
    assert!(
        status
            .message
            .unwrap()
            .contains("executable file not found")
    );

    let params = AttachParams {
        stdin: true,
        stdout: true,
        stderr: false,
        tty: true,
        ..Default::default()
    };
    let mut attached = cluster.pods().exec("exec", ["sh"], &params).await.unwrap();
    let mut sizes = attached.terminal_size().unwrap();
    futures_util::SinkExt::send(
        &mut sizes,
        kube::api::TerminalSize {
            width: 91,
            height: 17,
        },
    )
    .await
    .unwrap();
    let mut stdin = attached.stdin().unwrap();
    stdin
        .write_all(b"sleep 0.3; stty size; test -t 0 && echo terminal; exit\n")
        .await
        .unwrap();
    let mut output = String::new();
    tokio::time::timeout(
        Duration::from_secs(60),
        attached.stdout().unwrap().read_to_string(&mut output),
    )
    .await
    .unwrap()
    .unwrap();
    assert!(
        output.contains("17 91") && output.contains("\nterminal"),
        "{output}"
    );

    let mut echo = shell("c", "while read line; do echo got $line; done; sleep 1000");
    echo["stdin"] = json!(true);
    cluster
        .create("attach", json!({"containers": [echo]}))
        .await;
    cluster.until_ready("attach").await;
    let params = AttachParams {
        stdin: true,
        stdout: true,
        stderr: false,
        ..Default::default()
    };
    let mut attached = cluster.pods().attach("attach", &params).await.unwrap();
    let mut stdin = attached.stdin().unwrap();
    let mut stdout = attached.stdout().unwrap();
    stdin.write_all(b"word\n").await.unwrap();
    let mut buffer = [0; 64];
    let count = tokio::time::timeout(Duration::from_secs(60), stdout.read(&mut buffer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&buffer[..count], b"got word\n");
    cluster.delete("exec").await;
    cluster.delete("attach").await;
}

pub async fn port_forwarding_reaches_loopback(cluster: &Cluster) {
    // On the pod's loopback only.
    let spec =
        json!({"containers": [{"name": "c", "image": "test/server", "args": ["127.0.0.1:7000"]}]});
    cluster.create("forward", spec).await;
    cluster.until_logged("forward", "listening").await;
    let mut forwarder = cluster
        .pods()
        .portforward("forward", &[7000, 7001])
        .await
        .unwrap();
    let mut stream = forwarder.take_stream(7000).unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_secs(60), stream.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(answer, "HELLO");
    let refused = forwarder.take_error(7001).unwrap().await;
    assert!(
        refused
            .unwrap_or_default()
            .contains("failed to connect to localhost:7001")
    );
    cluster.delete("forward").await;
}

pub async fn only_the_api_server_is_served(_cluster: &Cluster) {
    use std::sync::Arc;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let kubeconfig = std::fs::read_to_string(crate::cluster::home("admin.kubeconfig")).unwrap();
    let value: serde_json::Value = serde_saphyr::from_str(&kubeconfig).unwrap();
    let decode = |text: &serde_json::Value| {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD
            .decode(text.as_str().unwrap())
            .unwrap()
    };
    use rustls_pki_types::pem::PemObject;
    let user = &value["users"][0]["user"];
    let mut roots = rustls::RootCertStore::empty();
    let ca = decode(&value["clusters"][0]["cluster"]["certificate-authority-data"]);
    roots
        .add(rustls_pki_types::CertificateDer::from_pem_slice(&ca).unwrap())
        .unwrap();
    let chain = vec![
        rustls_pki_types::CertificateDer::from_pem_slice(&decode(&user["client-certificate-data"]))
            .unwrap(),
    ];
    let key =
        rustls_pki_types::PrivateKeyDer::from_pem_slice(&decode(&user["client-key-data"])).unwrap();
    let builder = || {
        rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots.clone())
    };
    // Another certificate of the same CA: known, but not the API server.
    let config = builder().with_client_auth_cert(chain, key).unwrap();
    assert!(get(config).await.unwrap().starts_with("HTTP/1.1 403"));
    // No certificate at all.
    assert!(get(builder().with_no_client_auth()).await.is_err());
}

async fn get(config: rustls::ClientConfig) -> std::io::Result<String> {
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let stream = tokio::net::TcpStream::connect((crate::cluster::NODE_IP, 10250)).await?;
    let mut stream = connector
        .connect(crate::cluster::NODE_IP.try_into().unwrap(), stream)
        .await?;
    stream
        .write_all(b"GET /pods HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
