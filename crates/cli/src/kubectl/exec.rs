//! `exec`, over the WebSocket protocol that kube speaks.

use super::{
    args::Exec,
    client::{Cluster, text},
    logs,
};
use anyhow::Context;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams, AttachedProcess};
use std::io::IsTerminal;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Runs the command. The exit code is that of the command in the container.
pub async fn run(cluster: &Cluster, args: Exec) -> anyhow::Result<i32> {
    let pods = cluster.kind("pods")?;
    let pod = logs::pod_of(cluster, &pods, &args.pod).await?;
    let container = logs::container(&pod, args.container.clone());
    let tty = args.tty && std::io::stdin().is_terminal();
    if args.tty && !tty {
        eprintln!("Unable to use a TTY - input is not a terminal or the right kind of file");
    }
    let namespace = match text(&pod, "/metadata/namespace") {
        "" => cluster.namespace(),
        own => own,
    };
    let api: Api<Pod> = Api::namespaced(cluster.client(), namespace);
    let params = AttachParams::default()
        .container(container)
        .stdin(args.stdin)
        .stdout(true)
        .stderr(!tty)
        .tty(tty);
    let name = text(&pod, "/metadata/name");
    let process = api
        .exec(name, args.command.clone(), &params)
        .await
        .map_err(refused)?;
    let _raw = if tty {
        Some(RawTerminal::enter()?)
    } else {
        None
    };
    carry(process, args.stdin).await
}

/// What the server said, in kubectl's words.
pub(super) fn refused(error: kube::Error) -> anyhow::Error {
    match error {
        kube::Error::Api(status) => super::error::ServerError {
            code: status.code,
            reason: status.reason.clone(),
            message: status.message.clone(),
        }
        .into(),
        other => anyhow::anyhow!("error: {other}"),
    }
}

/// Carries the streams, until the command ends. Answers its exit code.
pub(super) async fn carry(mut process: AttachedProcess, with_input: bool) -> anyhow::Result<i32> {
    let status = process
        .take_status()
        .context("error: the server gives no status of commands")?;
    let stdout = process.stdout();
    let stderr = process.stderr();
    let input = process.stdin().filter(|_| with_input);
    // Reading stdin blocks a thread that nothing can wake, so it is not waited for.
    let input = tokio::spawn(async move {
        if let Some(mut writer) = input {
            let _ = copy(&mut tokio::io::stdin(), &mut writer).await;
            let _ = writer.shutdown().await;
        }
    });
    let out = async {
        if let Some(mut reader) = stdout {
            copy(&mut reader, &mut tokio::io::stdout()).await?;
        }
        anyhow::Ok(())
    };
    let err = async {
        if let Some(mut reader) = stderr {
            copy(&mut reader, &mut tokio::io::stderr()).await?;
        }
        anyhow::Ok(())
    };
    tokio::try_join!(out, err)?;
    let status = status.await;
    input.abort();
    let Some(status) = status else { return Ok(0) };
    if status.status.as_deref() == Some("Success") {
        return Ok(0);
    }
    let causes = status.details.and_then(|d| d.causes).unwrap_or_default();
    let code = causes
        .iter()
        .find(|c| c.reason.as_deref() == Some("ExitCode"))
        .and_then(|c| c.message.as_deref()?.parse::<i32>().ok());
    match code {
        Some(code) => {
            eprintln!("command terminated with exit code {code}");
            Ok(code)
        }
        None => anyhow::bail!("error: {}", status.message.unwrap_or_default()),
    }
}

/// Copies, and shows each piece at once: an interactive session waits for prompts.
async fn copy(
    reader: &mut (impl AsyncRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
) -> std::io::Result<()> {
    let mut buffer = vec![0; 8192];
    loop {
        let n = reader.read(&mut buffer).await?;
        if n == 0 {
            return writer.flush().await;
        }
        writer.write_all(&buffer[..n]).await?;
        writer.flush().await?;
    }
}

/// The terminal without echo and line editing, as long as this value lives.
pub(super) struct RawTerminal(nix::sys::termios::Termios);

impl RawTerminal {
    /// From now on, keys go to the container.
    pub(super) fn enter() -> anyhow::Result<Self> {
        use nix::sys::termios;
        let stdin = std::io::stdin();
        let before = termios::tcgetattr(&stdin)?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(&stdin, termios::SetArg::TCSANOW, &raw)?;
        Ok(RawTerminal(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        use nix::sys::termios;
        // There is no one to tell if the terminal is gone.
        let _ = termios::tcsetattr(std::io::stdin(), termios::SetArg::TCSANOW, &self.0);
    }
}
