//! Answering requests for certificates.

use std::sync::Arc;
use std::time::Duration;

use ambit_model::Identity;
use ambit_wire::ca::{Call, IssueError, Issuer};
use tonic::Status;

use super::CurrentAuthority;
use super::impersonation::{self, Refusal};
use crate::auth::{Caller, Reviewer};
use crate::metrics::Metrics;
use crate::state::State;

/// How long a request waits for a pod that the watch has not delivered yet.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long certificates are valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// When nothing is asked for.
    pub default: Duration,
    /// The most that can be asked for.
    pub max: Duration,
}

/// The certificate authority as a service.
pub struct CertificateService {
    /// Reviews tokens.
    pub reviewer: Arc<Reviewer>,
    /// Knows the pods.
    pub state: Arc<State>,
    /// Signs.
    pub authority: CurrentAuthority,
    /// How long certificates are valid.
    pub lifetimes: Lifetimes,
    /// Counters.
    pub metrics: Metrics,
}

impl Issuer for CertificateService {
    async fn issue(&self, call: Call) -> Result<Vec<String>, Status> {
        self.metrics.csr_count.inc();
        let caller = self
            .reviewer
            .authenticate(&call.metadata)
            .await
            .inspect_err(|status| {
                self.metrics.authentication_failures.inc();
                tracing::warn!(target: "ca", "a request was refused: {}", status.message());
            })?;
        let identity = self
            .identity(&caller, call.impersonated_identity.as_deref())
            .await?;
        if let Some(signer) = &call.cert_signer {
            let message =
                format!("there is no certificate signer {signer:?}; leave CertSigner out");
            return Err(Status::failed_precondition(message));
        }
        let lifetime = self.lifetime(call.validity_seconds)?;
        let authority = self.authority.borrow().clone();
        let chain = authority.issue(&call.csr, &identity, lifetime).map_err(|error| {
            tracing::warn!(target: "ca", "a request of {caller} for {identity} failed: {error}");
            self.status_of(&error)
        })?;
        self.metrics.issued.inc();
        tracing::debug!(target: "ca", "issued a certificate of {identity} to {caller}");
        Ok(chain)
    }
}

impl CertificateService {
    async fn identity(
        &self,
        caller: &Arc<Caller>,
        asked: Option<&str>,
    ) -> Result<Identity, Status> {
        let Some(asked) = asked else {
            let trust_domain = self.state.read().mesh().trust_domain.clone();
            return Ok(Identity {
                trust_domain,
                namespace: caller.namespace.clone(),
                service_account: caller.service_account.clone(),
            });
        };
        self.state
            .ask_until(
                PATIENCE,
                |engine| impersonation::authorize(engine, caller, asked),
                Refusal::may_pass,
            )
            .await
            .map_err(|refusal| {
                self.metrics.authentication_failures.inc();
                tracing::warn!(target: "ca", "a request of {caller} for {asked:?} was refused: {refusal}");
                let message = format!("request impersonation authentication failure: {refusal}");
                Status::unauthenticated(message)
            })
    }

    fn lifetime(&self, seconds: i64) -> Result<Duration, Status> {
        let asked = match u64::try_from(seconds) {
            Ok(seconds) if seconds > 0 => Duration::from_secs(seconds),
            _ => return Ok(self.lifetimes.default),
        };
        if asked > self.lifetimes.max {
            let max = self.lifetimes.max.as_secs();
            let message = format!(
                "a validity of {seconds} s is more than the {max} s of MAX_WORKLOAD_CERT_TTL"
            );
            return Err(Status::invalid_argument(message));
        }
        Ok(asked)
    }

    fn status_of(&self, error: &IssueError) -> Status {
        match error {
            IssueError::Request(_) => {
                self.metrics.csr_parsing_errors.inc();
                Status::invalid_argument(error.to_string())
            }
            IssueError::Expired | IssueError::Sign(_) => {
                self.metrics.csr_sign_errors.inc();
                Status::internal(error.to_string())
            }
        }
    }
}
