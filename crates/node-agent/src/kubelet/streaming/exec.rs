//! A command run inside a container for a client.

use std::path::Path;

use super::session::{self, Output, Progress, Session};
use super::status;
use crate::kubelet::pods::RunningContainer;
use crate::kubelet::process::{self, Started, Stdio};

/// What the client asked for.
#[derive(Debug, Clone)]
pub(crate) struct ExecOptions {
    pub command: Vec<String>,
    pub stdin: bool,
    pub tty: bool,
}

/// Runs the command to its end or until the client is gone, which kills it.
pub(crate) async fn run(
    init_program: &Path,
    container: &RunningContainer,
    options: ExecOptions,
    session: Session,
) {
    let spec = container.exec_spec(options.command, options.tty);
    let stdio = if options.tty {
        Stdio::Terminal
    } else {
        Stdio::Pipes {
            stdin: options.stdin,
        }
    };
    let Session {
        stdin,
        resize,
        output,
    } = session;
    let started = match process::start(init_program, &spec, stdio).await {
        Ok(started) => started,
        Err(error) => {
            return drop(
                output
                    .send(Output::Status(status::failure(&error.to_string())))
                    .await,
            );
        }
    };
    let Started {
        process,
        stdin: writer,
        stdout,
        stderr,
        terminal,
    } = started;
    let input = writer.filter(|_| options.stdin).map(|writer| {
        let is_terminal = options.tty;
        tokio::spawn(async move {
            let writer = session::pump_input(stdin, writer).await;
            // A pipe ends with the client's input; a terminal lives as long as its process.
            if is_terminal {
                std::future::pending::<()>().await;
            }
            drop(writer);
        })
    });
    let sizes = terminal.map(|terminal| tokio::spawn(session::pump_sizes(resize, terminal)));
    let progress = Progress::default();
    let copies = {
        let (output, progress) = (output.clone(), progress.clone());
        async move {
            tokio::join!(
                session::pump_output(stdout, Output::Stdout, output.clone(), progress.clone()),
                session::pump_output(stderr, Output::Stderr, output, progress),
            );
        }
    };
    let copies = tokio::spawn(copies);
    let abort = copies.abort_handle();
    tokio::select! {
        exit = process.wait() => {
            progress.settle(async { drop(copies.await) }).await;
            let _ = output.send(Output::Status(status::exit(exit))).await;
        }
        () = output.closed() => {
            process.signal(libc::SIGHUP);
            process.signal(libc::SIGKILL);
        }
    }
    abort.abort();
    for task in [input, sizes].into_iter().flatten() {
        task.abort();
    }
}
