//! Asking the control plane for a certificate.

use std::sync::Arc;
use std::time::Duration;

use ambit_model::Identity;
use ambit_proto::ca::IstioCertificateRequest;
use ambit_proto::ca::istio_certificate_service_client::IstioCertificateServiceClient;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use rcgen::PublicKeyData;
use tokio::sync::Mutex;
use tonic::Request;
use tonic::transport::Channel;

use super::certificate::{CertificateError, IssuedCertificate};
use super::request::new_request;
use super::{CERT_SIGNER, IMPERSONATED_IDENTITY};
use crate::credentials::{Credentials, CredentialsError};
use crate::tls::{ConnectError, Target};

/// Longest time for one certificate.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How to reach the authority and what to ask for.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// The server.
    pub target: Target,
    /// Token and headers of each call.
    pub credentials: Credentials,
    /// Validity to ask for.
    pub lifetime: Duration,
    /// Ask for identities other than the caller's own: the node proxy does, for the pods of its
    /// node. Without, the authority decides the identity from the token.
    pub impersonate: bool,
    /// The Kubernetes signer to use.
    pub cert_signer: Option<String>,
}

/// A client of the authority. Calls may run side by side.
#[derive(Debug)]
pub struct Client {
    options: ClientOptions,
    connection: Mutex<Option<Connection>>,
}

/// A channel, and the roots that it was made with.
#[derive(Clone, Debug)]
struct Connection {
    channel: Channel,
    roots: Arc<[u8]>,
}

/// There is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The request could not be made.
    #[error("the certificate signing request could not be made: {0}")]
    Request(String),
    /// No usable credentials.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The server cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The server refuses.
    #[error("the certificate authority refused: {0}")]
    Refused(String),
    /// The server does not answer.
    #[error("the certificate authority did not answer within {} s", TIMEOUT.as_secs())]
    Timeout,
    /// The answer cannot be used.
    #[error(transparent)]
    Answer(#[from] CertificateError),
}

impl Client {
    /// A client that has not connected yet.
    pub fn new(options: ClientOptions) -> Self {
        Self {
            options,
            connection: Mutex::new(None),
        }
    }

    /// Asks for a certificate with a new key.
    pub async fn fetch(&self, identity: &Identity) -> Result<IssuedCertificate, FetchError> {
        match tokio::time::timeout(TIMEOUT, self.fetch_now(identity)).await {
            Ok(result) => result,
            Err(_) => Err(FetchError::Timeout),
        }
    }

    async fn fetch_now(&self, identity: &Identity) -> Result<IssuedCertificate, FetchError> {
        let (key, csr) = new_request(identity).map_err(|e| FetchError::Request(e.to_string()))?;
        let seconds = i64::try_from(self.options.lifetime.as_secs()).unwrap_or(i64::MAX);
        let mut request = Request::new(IstioCertificateRequest {
            csr,
            validity_duration: seconds,
            metadata: self.metadata(identity),
        });
        self.options
            .credentials
            .add_to(request.metadata_mut())
            .await?;
        let mut service = IstioCertificateServiceClient::new(self.channel().await?);
        let answer = service.create_certificate(request).await;
        let elements = answer
            .map_err(|status| FetchError::Refused(crate::status_text(&status)))?
            .into_inner()
            .cert_chain;
        let private = key.serialize_der();
        let check = self.options.impersonate;
        let public = key.der_bytes();
        Ok(IssuedCertificate::from_response(
            &elements, identity, private, public, check,
        )?)
    }

    fn metadata(&self, identity: &Identity) -> Option<Struct> {
        let mut fields = std::collections::BTreeMap::new();
        let text = |text: &str| Value {
            kind: Some(Kind::StringValue(text.to_owned())),
        };
        if self.options.impersonate {
            fields.insert(
                IMPERSONATED_IDENTITY.to_owned(),
                text(&identity.to_string()),
            );
        }
        if let Some(signer) = &self.options.cert_signer {
            fields.insert(CERT_SIGNER.to_owned(), text(signer));
        }
        (!fields.is_empty()).then_some(Struct { fields })
    }

    /// The channel, made anew when the roots have changed. If that fails, the old one stays: it may
    /// well serve until the roots and the server agree again.
    async fn channel(&self) -> Result<Channel, FetchError> {
        let mut connection = self.connection.lock().await;
        let roots: Arc<[u8]> = match (self.options.target.roots().read(), connection.as_ref()) {
            (Ok(roots), Some(have)) if *have.roots == *roots => return Ok(have.channel.clone()),
            (Ok(roots), _) => roots.into(),
            (Err(error), Some(have)) => {
                tracing::warn!(%error, "the previous roots stay in use");
                return Ok(have.channel.clone());
            }
            (Err(error), None) => return Err(ConnectError::from(error).into()),
        };
        match (self.options.target.connect().await, connection.as_ref()) {
            (Ok(channel), _) => {
                *connection = Some(Connection {
                    channel: channel.clone(),
                    roots,
                });
                Ok(channel)
            }
            (Err(error), Some(have)) => {
                tracing::warn!(%error, "the previous connection stays in use");
                Ok(have.channel.clone())
            }
            (Err(error), None) => Err(error.into()),
        }
    }
}
