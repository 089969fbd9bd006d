//! The gRPC service of the authority: it takes the call apart; who may have what is decided by the
//! [`Issuer`] behind it.

use std::sync::Arc;

use ambit_proto::ca::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use ambit_proto::ca::{IstioCertificateRequest, IstioCertificateResponse};
use prost_types::Struct;
use prost_types::value::Kind;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use super::{CERT_SIGNER, IMPERSONATED_IDENTITY};
use crate::tls::PeerInfo;

/// A request for a certificate.
#[derive(Clone, Debug)]
pub struct Call {
    /// Token and headers.
    pub metadata: MetadataMap,
    /// The other end of the connection, where TLS is ours.
    pub peer: Option<PeerInfo>,
    /// The certificate signing request, PEM.
    pub csr: String,
    /// Validity asked for, in seconds; zero or less for the default.
    pub validity_seconds: i64,
    /// The identity asked for, when it is not the caller's own.
    pub impersonated_identity: Option<String>,
    /// The Kubernetes signer asked for.
    pub cert_signer: Option<String>,
}

/// Decides about requests and signs.
pub trait Issuer: Send + Sync + 'static {
    /// Answers with the elements of a chain: the leaf, the intermediates, all roots in the last.
    fn issue(&self, call: Call) -> impl Future<Output = Result<Vec<String>, Status>> + Send;
}

/// The service, for [`tonic::transport::Server::add_service`].
pub fn service<I: Issuer>(
    issuer: Arc<I>,
) -> IstioCertificateServiceServer<impl IstioCertificateService> {
    IstioCertificateServiceServer::new(Service { issuer })
}

struct Service<I> {
    issuer: Arc<I>,
}

#[tonic::async_trait]
impl<I: Issuer> IstioCertificateService for Service<I> {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let text = |key| text_field(message.metadata.as_ref(), key);
        let call = Call {
            metadata,
            peer: extensions.get::<PeerInfo>().cloned(),
            impersonated_identity: text(IMPERSONATED_IDENTITY),
            cert_signer: text(CERT_SIGNER),
            csr: message.csr,
            validity_seconds: message.validity_duration,
        };
        let cert_chain = self.issuer.issue(call).await?;
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

fn text_field(fields: Option<&Struct>, key: &str) -> Option<String> {
    match fields?.fields.get(key)?.kind.as_ref()? {
        Kind::StringValue(text) if !text.is_empty() => Some(text.clone()),
        _ => None,
    }
}
