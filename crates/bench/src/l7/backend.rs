//! The backend: the end of the waypoint's tunnels, and the application in it.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ambit_transport::hbone::{Http2Settings, server};
use ambit_transport::tls::{self, TlsOptions, WorkloadCertificate};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Args;
use http::Response;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};

use super::places::{BODY, HBONE, identity};

/// Where its certificate is.
#[derive(Args, Clone, Debug)]
pub struct Place {
    /// Directory with `server.chain`, `server.key` and `roots`.
    #[arg(long)]
    files: PathBuf,
}

/// A certificate from `<name>.chain`, `<name>.key` and `roots` in a directory.
pub fn certificate(files: &Path, name: &str) -> Result<WorkloadCertificate> {
    let read = |name: String| std::fs::read(files.join(&name)).context(name);
    let (chain, key) = (read(format!("{name}.chain"))?, read(format!("{name}.key"))?);
    let roots = read("roots".to_owned())?;
    let options = TlsOptions::default();
    Ok(WorkloadCertificate::from_pem(
        &chain, &key, &roots, &options,
    )?)
}

/// Serves until it is killed.
pub fn serve(place: &Place) -> Result<()> {
    let certificate = Arc::new(certificate(&place.files, "server")?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, HBONE)).await?;
        println!("serving");
        loop {
            let (stream, peer) = listener.accept().await?;
            let certificate = certificate.clone();
            tokio::spawn(async move {
                if let Err(e) = tunnel(&certificate, stream, peer).await {
                    eprintln!("tunnel from {peer}: {e:#}");
                }
            });
        }
    })
}

/// Serves one tunnel, if it comes from the waypoint.
async fn tunnel(
    certificate: &WorkloadCertificate,
    stream: TcpStream,
    peer: std::net::SocketAddr,
) -> Result<()> {
    stream.set_nodelay(true)?;
    let tls = tls::accept(certificate, stream).await?;
    let mut tunnel = server::Connection::handshake(tls, peer, &Http2Settings::server()).await?;
    let client = tunnel.peer_identity();
    ensure!(
        client == Some(&identity("waypoint")),
        "the client is {client:?} and not the waypoint"
    );
    while let Some(request) = tunnel.accept().await {
        let stream = request?.accept(None)?;
        tokio::spawn(async move {
            let service = service_fn(answer);
            let builder = auto::Builder::new(TokioExecutor::new());
            // Whoever has sent enough goes away without a word.
            let _ = builder
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
    Ok(())
}

async fn answer(
    request: http::Request<hyper::body::Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    static BYTES: [u8; BODY] = [b'r'; BODY];
    let _ = request.into_body().collect().await;
    Ok(Response::new(Full::new(Bytes::from_static(&BYTES))))
}
