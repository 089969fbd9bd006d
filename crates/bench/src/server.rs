//! The application under load: one thread, like a small server with one worker.

use std::net::Ipv4Addr;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Reads to the end, then answers with the number of bytes.
pub const SINK: u16 = 9000;
/// Answers each request, for as long as the client likes.
pub const ECHO: u16 = 9001;
/// Answers one request and closes.
pub const CLOSE: u16 = 9002;

/// Bytes of a request, and of its answer.
pub const REQUEST: usize = 128;
/// Bytes of an answer.
pub const RESPONSE: usize = 1024;

/// Serves until it is killed.
pub fn serve() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let sink = listen(SINK).await?;
        let echo = listen(ECHO).await?;
        let close = listen(CLOSE).await?;
        println!("serving");
        loop {
            tokio::select! {
                accepted = sink.accept() => drop(tokio::spawn(drain(accepted?.0))),
                accepted = echo.accept() => drop(tokio::spawn(answer(accepted?.0, true))),
                accepted = close.accept() => drop(tokio::spawn(answer(accepted?.0, false))),
            }
        }
    })
}

async fn listen(port: u16) -> Result<TcpListener> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv4Addr::UNSPECIFIED, port).into())?;
    Ok(socket.listen(1024)?)
}

async fn drain(mut stream: TcpStream) -> Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    let mut total = 0u64;
    loop {
        match stream.read(&mut buffer).await? {
            0 => break,
            n => total += n as u64,
        }
    }
    stream.write_all(&total.to_be_bytes()).await?;
    Ok(())
}

async fn answer(mut stream: TcpStream, keep: bool) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut request = [0; REQUEST];
    let response = [b'r'; RESPONSE];
    loop {
        stream.read_exact(&mut request).await?;
        stream.write_all(&response).await?;
        if !keep {
            return Ok(());
        }
    }
}
