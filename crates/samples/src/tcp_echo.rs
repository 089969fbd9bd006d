//! tcp-echo: repeats each line with a prefix, on several ports.

use anyhow::Context;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::serve;

/// `tcp-echo 9000,9001,9002 hello`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Ports to listen on
    #[arg(value_delimiter = ',', default_value = "9000")]
    ports: Vec<u16>,
    /// What stands before each line of the answer
    #[arg(default_value = "hello")]
    prefix: String,
}

/// Serves until the process is told to stop.
///
/// # Errors
/// When a port cannot be had.
pub async fn run(args: Args) -> anyhow::Result<i32> {
    for port in args.ports {
        let listener = serve::listen(port).with_context(|| format!("tcp-echo, port {port}"))?;
        println!("listening on [::]:{port}, prefix: {}", args.prefix);
        tokio::spawn(accept(listener, args.prefix.clone()));
    }
    serve::stop_signal().await;
    Ok(0)
}

/// Answers each line of every connection.
pub async fn accept(listener: TcpListener, prefix: String) {
    loop {
        // An error here is one connection's (or a shortage that passes), never the listener's end.
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(echo(stream, prefix.clone()));
            }
            Err(error) => {
                eprintln!("cannot accept: {error}");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

async fn echo(mut stream: TcpStream, prefix: String) -> std::io::Result<()> {
    let (read, mut write) = stream.split();
    let mut lines = BufReader::new(read).lines();
    while let Some(line) = lines.next_line().await? {
        println!("request: {line}");
        let answer = format!("{prefix} {line}\n");
        write.write_all(answer.as_bytes()).await?;
        print!("response: {answer}");
    }
    Ok(())
}
