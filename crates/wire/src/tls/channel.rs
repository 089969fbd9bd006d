//! A gRPC channel to the control plane.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use super::provider;
use super::roots::{Roots, RootsError};
use super::verifier::AlternativeName;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// The first state of the world can be tens of megabytes.
const WINDOW: u32 = 4 << 20;

/// The server that a client talks to.
#[derive(Clone, Debug)]
pub struct Target {
    uri: Uri,
    name: ServerName<'static>,
    host: String,
    port: u16,
    roots: Roots,
    alternative_name: Option<ServerName<'static>>,
}

/// An address or name that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Not a URI with a host.
    #[error("{0:?} is not an address of the form https://<host>:<port>")]
    Malformed(String),
    /// Plaintext.
    #[error("{0:?} asks for plaintext; only https:// is spoken to the control plane")]
    Plaintext(String),
    /// The alternative name is none.
    #[error("{0:?} is not a host name")]
    Name(String),
}

/// No channel could be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No roots to check the server with.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// TLS could not be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// The server was not reached, or is not who it should be.
    #[error("no connection to {address}: {reason}")]
    Transport {
        /// Whom we tried to reach.
        address: String,
        /// Everything that is known.
        reason: String,
    },
}

impl Target {
    /// A target from an address such as `https://istiod.istio-system.svc:15012`. The scheme may be
    /// left out, the port too (443). `alternative_name` is another name that the server may have.
    pub fn new(
        address: &str,
        roots: Roots,
        alternative_name: Option<&str>,
    ) -> Result<Self, TargetError> {
        let malformed = || TargetError::Malformed(address.to_owned());
        let full = if address.contains("://") {
            address.to_owned()
        } else {
            format!("https://{address}")
        };
        let uri: Uri = full.parse().map_err(|_| malformed())?;
        if uri.scheme_str() != Some("https") {
            return Err(TargetError::Plaintext(address.to_owned()));
        }
        let host = uri
            .host()
            .filter(|host| !host.is_empty())
            .ok_or_else(malformed)?;
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let name = |text: &str| ServerName::try_from(text.to_owned());
        let alternative_name = alternative_name
            .map(|text| name(text).map_err(|_| TargetError::Name(text.to_owned())))
            .transpose()?;
        let port = uri.port_u16().unwrap_or(443);
        let name = name(&host).map_err(|_| malformed())?;
        Ok(Self {
            name,
            host,
            port,
            roots,
            alternative_name,
            uri,
        })
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Where its roots come from.
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    /// Connects, with the roots as they are now. Later connections of the same channel (after a
    /// loss) use the same roots.
    pub async fn connect(&self) -> Result<Channel, ConnectError> {
        let tls = TlsConnector::from(Arc::new(self.client_config()?));
        let (host, port, name) = (self.host.clone(), self.port, self.name.clone());
        let connector = tower::service_fn(move |_: Uri| {
            let (host, name, tls) = (host.clone(), name.clone(), tls.clone());
            async move { open(&host, port, name, tls).await.map(TokioIo::new) }
        });
        let connected = self.endpoint().connect_with_connector(connector).await;
        connected.map_err(|error| ConnectError::Transport {
            address: self.address(),
            reason: crate::error_chain(&error),
        })
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::from(self.uri.clone())
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
    }

    fn client_config(&self) -> Result<ClientConfig, ConnectError> {
        let roots = self.roots.load()?;
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?;
        let mut config = match &self.alternative_name {
            None => builder.with_root_certificates(roots).with_no_client_auth(),
            Some(name) => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AlternativeName::new(
                    roots,
                    name.clone(),
                )?))
                .with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

async fn open(
    host: &str,
    port: u16,
    name: ServerName<'static>,
    tls: TlsConnector,
) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(300))
        .with_interval(Duration::from_secs(75))
        .with_retries(9);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    tls.connect(name, stream).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_completed_and_checked() {
        let target = |text| Target::new(text, Roots::System, None).map(|t| t.address());
        assert_eq!(
            target("https://istiod.istio-system.svc:15012").unwrap(),
            "istiod.istio-system.svc:15012"
        );
        assert_eq!(target("istiod:15012").unwrap(), "istiod:15012");
        assert_eq!(target("https://[::1]:15012").unwrap(), "::1:15012");
        assert!(matches!(
            target("http://istiod:15010"),
            Err(TargetError::Plaintext(_))
        ));
        assert!(matches!(target("https://"), Err(TargetError::Malformed(_))));
        let bad_name = Target::new("a:1", Roots::System, Some("not a name"));
        assert!(matches!(bad_name, Err(TargetError::Name(_))));
    }

    #[tokio::test]
    async fn an_unreachable_server_is_named() {
        // Nothing listens on the discard port of the loopback interface.
        let roots = crate::ca::Authority::self_signed("test", Duration::from_secs(60)).unwrap();
        let target = Target::new(
            "https://127.0.0.1:9",
            Roots::Pem(roots.root_pem().to_owned()),
            None,
        );
        let error = target.unwrap().connect().await.unwrap_err().to_string();
        assert!(
            error.starts_with("no connection to 127.0.0.1:9: "),
            "{error}"
        );
        assert!(error.contains("refused"), "{error}");
    }
}
