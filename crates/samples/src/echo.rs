//! echo: answers with what it was asked, one line for each fact, over HTTP/1.1, HTTP/2, gRPC and TCP.
//!
//! It stands in for the image `echo-advanced` of the Gateway API's conformance suite, which asks from
//! one echo pod ([`client`]) to another and reads the lines.

use std::net::SocketAddr;

use anyhow::Context;
use axum::Router;
use axum::extract::{ConnectInfo, Request};
use axum::http::Version;
use axum::routing::{any, post};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};

use crate::serve;

pub mod client;
mod grpc;

/// The options of the original that count without TLS; ports of TLS are left alone.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Ports of HTTP/1.1 and HTTP/2 in cleartext
    #[arg(long, default_value = "8080")]
    port: Vec<u16>,
    /// Ports of gRPC in cleartext
    #[arg(long, default_value = "7070")]
    grpc: Vec<u16>,
    /// Ports where each line of TCP is answered
    #[arg(long)]
    tcp: Vec<u16>,
    /// Ports among the others that speak TLS in the original; nobody listens there here
    #[arg(long)]
    tls: Vec<u16>,
    /// Certificate of the TLS ports
    #[arg(long)]
    crt: Option<String>,
    /// Key of the TLS ports
    #[arg(long)]
    key: Option<String>,
    #[command(flatten)]
    who: Who,
}

/// What an echo says of itself.
#[derive(Clone, Debug, clap::Args)]
struct Who {
    /// Version of the service
    #[arg(long, env = "SERVICE_VERSION", default_value = "")]
    version: String,
    /// The pod's name
    #[arg(long, env = "HOSTNAME", default_value = "")]
    hostname: String,
}

/// Serves until the process is told to stop.
///
/// # Errors
/// When a port cannot be had.
pub async fn run(args: Args) -> anyhow::Result<i32> {
    for port in args.port.iter().chain(&args.grpc) {
        if args.tls.contains(port) {
            println!("port {port} would need TLS, which this echo does not speak");
            continue;
        }
        let listener = serve::listen(*port).with_context(|| format!("echo, port {port}"))?;
        println!("listening on port {port}");
        tokio::spawn(accept(listener, *port, args.who.clone()));
    }
    for port in args.tcp {
        let listener = serve::listen(port).with_context(|| format!("echo, TCP port {port}"))?;
        println!("listening on port {port} (TCP)");
        tokio::spawn(crate::tcp_echo::accept(listener, "hello".to_owned()));
    }
    serve::stop_signal().await;
    Ok(0)
}

async fn accept(listener: TcpListener, port: u16, who: Who) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                tokio::spawn(connection(stream, from, router(port, who.clone())));
            }
            Err(error) => {
                eprintln!("cannot accept: {error}");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, from: SocketAddr, router: Router) {
    let router = router.layer(axum::Extension(ConnectInfo(from)));
    let served = auto::Builder::new(TokioExecutor::new())
        .serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
    if let Err(error) = served {
        println!("the connection of {from} ended: {error}");
    }
}

/// Everything is answered with its own facts.
fn router(port: u16, who: Who) -> Router {
    let told = who.clone();
    Router::new()
        .route(
            grpc::METHOD,
            post(move |request: Request| grpc::serve(request, port, who)),
        )
        .fallback(any(move |request: Request| async move {
            let from = request.extensions().get::<ConnectInfo<SocketAddr>>();
            facts(&request, from.map(|info| info.0), port, &told)
        }))
}

/// One line for each fact of a request, and of who answers.
fn facts<B>(
    request: &axum::http::Request<B>,
    from: Option<SocketAddr>,
    port: u16,
    who: &Who,
) -> String {
    let uri = request.uri();
    let headers = request.headers();
    let host = match headers.get(http::header::HOST) {
        Some(host) => host.to_str().unwrap_or_default(),
        None => uri.authority().map_or("", |authority| authority.as_str()),
    };
    let proto = match request.version() {
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    };
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut lines = vec![
        format!("ServiceVersion={}", who.version),
        format!("ServicePort={port}"),
        format!("Host={host}"),
        format!("URL={path}"),
        format!("Method={}", request.method()),
        format!("Proto={proto}"),
        format!(
            "IP={}",
            from.map_or(String::new(), |from| from.ip().to_string())
        ),
        format!("Hostname={}", who.hostname),
    ];
    for (name, value) in headers {
        let name = crate::httpbin::canonical(name.as_str());
        let value = String::from_utf8_lossy(value.as_bytes());
        lines.push(format!("RequestHeader={name}:{value}"));
    }
    lines.push(String::new());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_facts_of_a_request() {
        let request = http::Request::get("/a?b=1")
            .header("host", "echo:80")
            .header("x-one", "1")
            .body(())
            .expect("a request");
        let from = Some(([10, 0, 0, 1], 5000).into());
        let who = Who {
            version: "v1".into(),
            hostname: "echo-v1-abc".into(),
        };
        let lines = facts(&request, from, 8080, &who);
        for line in [
            "ServiceVersion=v1",
            "ServicePort=8080",
            "Hostname=echo-v1-abc",
            "Host=echo:80",
            "URL=/a?b=1",
            "Method=GET",
            "Proto=HTTP/1.1",
            "IP=10.0.0.1",
            "RequestHeader=X-One:1",
        ] {
            assert!(
                lines.lines().any(|found| found == line),
                "{line} in {lines}"
            );
        }
    }
}
