//! How every sample listens: on all addresses, IPv4 and IPv6, until SIGTERM or SIGINT.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Context;
use axum::Router;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Where to listen.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct Listen {
    /// TCP port
    #[arg(env = "PORT")]
    port: Option<u16>,
}

impl Listen {
    /// The port that was asked for, or the sample's own.
    pub fn or(self, default: u16) -> u16 {
        self.port.unwrap_or(default)
    }
}

/// A listener on all addresses of both families, or of IPv4 where the machine has no IPv6.
///
/// # Errors
/// When the port is taken or may not be used.
pub fn listen(port: u16) -> anyhow::Result<TcpListener> {
    let bind = |domain: Domain, addr: SocketAddr| -> std::io::Result<TcpListener> {
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        if domain == Domain::IPV6 {
            socket.set_only_v6(false)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        socket.listen(1024)?;
        TcpListener::from_std(socket.into())
    };
    bind(Domain::IPV6, (Ipv6Addr::UNSPECIFIED, port).into())
        .or_else(|_| bind(Domain::IPV4, (Ipv4Addr::UNSPECIFIED, port).into()))
        .with_context(|| format!("cannot listen on port {port}"))
}

/// Serves HTTP until the process is told to stop; requests in flight are finished.
///
/// # Errors
/// When the port cannot be had.
pub async fn http(port: u16, router: Router) -> anyhow::Result<i32> {
    let listener = listen(port)?;
    println!("listening on port {port}");
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service)
        .with_graceful_shutdown(stop_signal())
        .await?;
    Ok(0)
}

/// Ends with the first SIGTERM or SIGINT. A process without other threads of control may be pid 1,
/// where these signals do nothing unless somebody waits for them.
pub async fn stop_signal() {
    let (Ok(mut term), Ok(mut int)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}
