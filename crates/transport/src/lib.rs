//! The data path: sockets, original destination, network namespaces, SPIFFE TLS, HBONE, copy,
//! PROXY header.
//!
//! A proxy is made of these parts in this order:
//!
//! 1. [`netns::Netns`] opens sockets inside a pod ([`socket::listen`], [`socket::connect`]); the
//!    socket stays in the pod, the thread comes back at once.
//! 2. [`tls::WorkloadCertificate`] is one epoch of a workload's certificate with everything TLS
//!    needs, built once; [`tls::accept`] and [`tls::connect`] check the peer's SPIFFE identity.
//! 3. [`hbone::server::Connection`] turns an accepted TLS connection into CONNECT requests;
//!    [`hbone::pool::Pool`] opens CONNECT streams over shared tunnels.
//! 4. [`copy::bidirectional`] moves the bytes and counts them.
//!
//! Everything runs on whatever tokio runtime polls it, and never moves to another thread by itself,
//! so that a proxy with one current-thread runtime per worker keeps a connection on one core. No
//! type of the HTTP/2 or TLS library shows in this API: framing and record layer can be replaced
//! without touching a proxy.
//!
//! # The two sides of a tunnel
//!
//! ```no_run
//! use ambit_transport::{copy, hbone, netns::Netns, socket, tls};
//! # async fn inbound(cert: tls::WorkloadCertificate, pod: Netns) -> Result<(), Box<dyn std::error::Error>> {
//! // Inbound: a listener in the pod, TLS, then one task per CONNECT request.
//! let listening = pod.run(|| socket::listen(&socket::ListenOptions::wildcard(15008, true)))??;
//! listening.listener.set_nonblocking(true)?;
//! let listener = tokio::net::TcpListener::from_std(listening.listener)?;
//! let (tcp, peer) = listener.accept().await?;
//! let tls = tls::accept(&cert, tcp).await?;
//! let mut tunnel =
//!     hbone::server::Connection::handshake(tls, peer, &hbone::Http2Settings::server()).await?;
//! while let Some(request) = tunnel.accept().await {
//!     let request = request?;
//!     let pod = pod.clone();
//!     tokio::spawn(async move {
//!         let to = match &request.head().authority {
//!             Ok(hbone::Authority::Address(a)) => *a,
//!             _ => return request.refuse(http::StatusCode::BAD_REQUEST),
//!         };
//!         let options = socket::ConnectOptions::default();
//!         let Ok(app) = socket::connect(Some(&pod), to, &options).await else {
//!             return request.refuse(http::StatusCode::SERVICE_UNAVAILABLE);
//!         };
//!         let counters = copy::Counters::default();
//!         if let Ok(stream) = request.accept(None) {
//!             let _ = copy::bidirectional(stream, app, &counters).await;
//!         }
//!     });
//! }
//! # Ok(()) }
//! # async fn outbound(pool: hbone::pool::Pool<(u32, u32)>, cert: tls::WorkloadCertificate,
//! #    server: std::net::SocketAddr, app: tokio::net::TcpStream, expected: std::sync::Arc<[ambit_model::Identity]>)
//! #    -> Result<(), Box<dyn std::error::Error>> {
//! // Outbound: one pool per worker; the closure dials only when no tunnel of this key has room.
//! let request = hbone::ConnectRequest::new("10.1.2.3:8080");
//! let dial = move || hbone::client::dial(hbone::client::Dial {
//!     destination: server, netns: None, socket: Default::default(),
//!     certificate: cert.clone(), expected: expected.clone(), http2: hbone::Http2Settings::client(),
//! });
//! let opened = pool.open(&(1, 2), dial, &request).await?;
//! copy::bidirectional(app, opened.stream, &copy::Counters::default()).await?;
//! # Ok(()) }
//! ```

mod buffers;
pub mod copy;
pub mod hbone;
pub mod netns;
pub mod proxy_header;
pub mod socket;
pub mod tls;
