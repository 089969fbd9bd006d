//! Stock kubectl programs, where the caller has some: every version has its own streaming protocols.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::cluster::{Cluster, home};
use serde_json::json;

/// Exec, attach, logs and port-forward with each program that can be found.
pub async fn streams_of_every_version(cluster: &Cluster) {
    let clients = ambit_testkit::kubectls();
    if clients.is_empty() {
        println!("  no kubectl is installed: `streams` covers the protocols");
        return;
    }
    let spec = json!({"containers": [
        {"name": "server", "image": "test/server", "args": ["127.0.0.1:7100"]},
        {"name": "reader", "image": "host", "stdin": true, "command": ["sh", "-c", "while read x; do echo got $x; done; sleep 1000"]},
    ]});
    cluster.create("kubectl", spec).await;
    cluster.until_ready("kubectl").await;
    for client in clients {
        let (program, minor) = (client.path.display().to_string(), client.minor);
        tokio::task::spawn_blocking(move || check(&program, minor))
            .await
            .unwrap();
    }
    cluster.delete("kubectl").await;
}

fn kubectl(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command
        .env("KUBECONFIG", home("admin.kubeconfig"))
        .env("HOME", home(""))
        .args(args);
    command
}

fn check(program: &str, minor: u32) {
    let output = |args: &[&str], input: &str| {
        let mut child = kubectl(program, args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let (code, out, err) = output(
        &[
            "exec",
            "kubectl",
            "-c",
            "server",
            "--",
            "sh",
            "-c",
            "echo out; echo err >&2; exit 5",
        ],
        "",
    );
    assert_eq!((code, out.as_str()), (Some(5), "out\n"), "{program}: {err}");
    assert!(
        err.starts_with("err\n") && err.contains("exit code 5"),
        "{program}: {err}"
    );
    let long = "y".repeat(200_000);
    let (code, out, err) = output(
        &["exec", "-i", "kubectl", "-c", "server", "--", "cat"],
        &long,
    );
    assert_eq!((code, out.len()), (Some(0), long.len()), "{program}: {err}");
    let (code, _, err) = output(
        &["exec", "kubectl", "-c", "server", "--", "no-such-program"],
        "",
    );
    assert!(
        code != Some(0) && err.contains("executable file not found"),
        "{program}: {err}"
    );
    let (_, out, err) = output(&["logs", "kubectl", "-c", "server"], "");
    assert_eq!(out, "listening\n", "{program}: {err}");
    copy(program, &output);
    debug(program, minor, &output);
    attach(program);
    forward(program);
    println!("  {program}: ok");
}

/// Exit status, output and errors of kubectl with arguments and input.
type Run<'a> = &'a dyn Fn(&[&str], &str) -> (Option<i32>, String, String);

fn copy(program: &str, run: Run<'_>) {
    let (here, back) = (home("copied"), home("copied-back"));
    std::fs::write(&here, "some text").unwrap();
    let there = "kubectl:/tmp/copied";
    let path = |path: &std::path::Path| path.to_str().unwrap().to_string();
    let (code, _, err) = run(&["cp", &path(&here), there, "-c", "server"], "");
    assert_eq!(code, Some(0), "{program}: {err}");
    let (code, _, err) = run(&["cp", there, &path(&back), "-c", "server"], "");
    assert_eq!(code, Some(0), "{program}: {err}");
    assert_eq!(std::fs::read_to_string(back).unwrap(), "some text");
}

fn debug(program: &str, minor: u32, run: Run<'_>) {
    let name = format!("debugger-{minor}");
    let (code, out, err) = run(
        &[
            "debug",
            "-i",
            "kubectl",
            "--image=host",
            "--target=server",
            "-c",
            &name,
            "--",
            "sh",
            "-c",
            "echo looking; cat /proc/net/tcp",
        ],
        "",
    );
    // 127.0.0.1:7100, where the other container listens.
    assert_eq!(code, Some(0), "{program}: {out}{err}");
    assert!(
        out.contains("looking") && out.contains("0100007F:1BBC"),
        "{program}: {out}{err}"
    );
}

fn attach(program: &str) {
    let mut child = kubectl(program, &["attach", "-i", "kubectl", "-c", "reader"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // An attach shows only what is written from then on.
    std::thread::sleep(Duration::from_millis(500));
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"word\n").unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(line, "got word\n", "{program}");
}

fn forward(program: &str) {
    let mut child = kubectl(program, &["port-forward", "kubectl", ":7100"])
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    reader.read_line(&mut line).unwrap();
    let port: u16 = line
        .split("127.0.0.1:")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .unwrap()
        .parse()
        .unwrap();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        stream.write_all(b"hello").unwrap();
        let mut answer = [0; 5];
        std::io::Read::read_exact(&mut stream, &mut answer).unwrap();
        assert_eq!(&answer, b"HELLO", "{program}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}
