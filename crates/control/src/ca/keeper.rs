//! Keeping the authority: found or made at the start, and followed when its secret changes.
//!
//! Two replicas that start at once agree, because a secret can be created only once. A secret that
//! is there and cannot be used is never replaced: that would silently change whom the mesh trusts.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ambit_kube_api::names;
use ambit_wire::ca::{Authority, AuthorityError};
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client};
use tokio::sync::watch;

use super::material::{self, ROOT_LIFETIME};

/// Attempts to agree with other replicas on a secret.
const ATTEMPTS: usize = 5;

/// There is no usable authority.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The secret cannot be used.
    #[error(
        "the secret {namespace}/{name}: {source}; correct it, or delete it to start with another root (all certificates change)"
    )]
    Material {
        /// Namespace of the secret.
        namespace: String,
        /// Name of the secret.
        name: &'static str,
        /// What is wrong.
        source: AuthorityError,
    },
    /// A secret exists and holds no authority.
    #[error(
        "the secret {namespace}/{name} holds no ca-cert.pem with ca-key.pem; complete it or delete it"
    )]
    Empty {
        /// Namespace of the secret.
        namespace: String,
        /// Name of the secret.
        name: &'static str,
    },
    /// A new authority could not be made.
    #[error("a self-signed root could not be made: {0}")]
    Make(#[source] AuthorityError),
    /// The API server refuses.
    #[error(
        "the secret {name} in namespace {namespace} cannot be read or made: {source}; check the Role of istiod"
    )]
    Api {
        /// Namespace of the secret.
        namespace: String,
        /// Name of the secret.
        name: &'static str,
        /// What it says.
        source: Box<kube::Error>,
    },
}

/// Finds, makes and follows the authority.
#[derive(Debug)]
pub struct Keeper {
    secrets: Api<Secret>,
    namespace: String,
}

impl Keeper {
    /// A keeper of the authority in a namespace.
    pub fn new(client: Client, namespace: &str) -> Self {
        Self {
            secrets: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
        }
    }

    /// The authority that the user brought, or the one that was made before, or a new one.
    /// `organization` is the name of a new root.
    pub async fn load_or_make(&self, organization: &str) -> Result<Authority, CaError> {
        if let Some(authority) = self.load_plugged().await? {
            tracing::info!(
                "the certificate authority is that of the secret {}",
                names::PLUGGED_CA_SECRET
            );
            return Ok(authority);
        }
        let name = names::SELF_SIGNED_CA_SECRET;
        for _ in 0..ATTEMPTS {
            if let Some(secret) = self.get(name).await? {
                let authority = self.read(name, &secret)?;
                let namespace = self.namespace.clone();
                tracing::info!("the certificate authority is that of the secret {name}");
                return authority.ok_or(CaError::Empty { namespace, name });
            }
            let made =
                Authority::self_signed(organization, ROOT_LIFETIME).map_err(CaError::Make)?;
            let secret = material::secret(&self.namespace, &made);
            match self.secrets.create(&PostParams::default(), &secret).await {
                Ok(_) => {
                    tracing::info!("a self-signed root was made and is kept in the secret {name}");
                    return Ok(made);
                }
                // Another replica was faster: its root is ours too.
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(self.api(name, error)),
            }
        }
        let namespace = self.namespace.clone();
        Err(CaError::Empty { namespace, name })
    }

    /// Follows the secrets for ever: who replaces the key does it without a restart.
    pub async fn follow(self, current: watch::Sender<Arc<Authority>>) {
        let names = [names::PLUGGED_CA_SECRET, names::SELF_SIGNED_CA_SECRET];
        let watches = names.map(|name| {
            let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
            watcher(self.secrets.clone(), config)
                .default_backoff()
                .boxed()
        });
        let mut events = futures_util::stream::select_all(watches);
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::InitApply(_) | watcher::Event::Apply(_)) => {
                    self.reload(&current).await;
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!("watching the CA's secrets failed, it is tried again: {error}")
                }
            }
        }
    }

    async fn reload(&self, current: &watch::Sender<Arc<Authority>>) {
        let loaded = match self.load_plugged().await {
            Ok(None) => self.load_self_signed().await,
            other => other,
        };
        match loaded {
            Ok(Some(authority)) => {
                let changed = current.send_if_modified(|have| {
                    let same = have.certificate_pem() == authority.certificate_pem()
                        && have.root_pem() == authority.root_pem();
                    if !same {
                        *have = Arc::new(authority);
                    }
                    !same
                });
                if changed {
                    tracing::info!("the certificate authority was replaced");
                }
                warn_of_expiry(&current.borrow());
            }
            Ok(None) => {}
            Err(error) => tracing::error!("{error}; the last good one is kept"),
        }
    }

    async fn load_plugged(&self) -> Result<Option<Authority>, CaError> {
        self.load(names::PLUGGED_CA_SECRET).await
    }

    async fn load_self_signed(&self) -> Result<Option<Authority>, CaError> {
        self.load(names::SELF_SIGNED_CA_SECRET).await
    }

    async fn load(&self, name: &'static str) -> Result<Option<Authority>, CaError> {
        match self.get(name).await? {
            Some(secret) => self.read(name, &secret),
            None => Ok(None),
        }
    }

    async fn get(&self, name: &'static str) -> Result<Option<Secret>, CaError> {
        self.secrets
            .get_opt(name)
            .await
            .map_err(|error| self.api(name, error))
    }

    fn read(&self, name: &'static str, secret: &Secret) -> Result<Option<Authority>, CaError> {
        let namespace = || self.namespace.clone();
        material::read(secret).map_err(|source| CaError::Material {
            namespace: namespace(),
            name,
            source,
        })
    }

    fn api(&self, name: &'static str, error: kube::Error) -> CaError {
        CaError::Api {
            namespace: self.namespace.clone(),
            name,
            source: Box::new(error),
        }
    }
}

/// A root in its last fifth is the user's to replace in time.
fn warn_of_expiry(authority: &Authority) {
    let validity = authority.validity();
    let life = validity
        .not_after
        .duration_since(validity.not_before)
        .unwrap_or_default();
    let left = validity
        .not_after
        .duration_since(SystemTime::now())
        .unwrap_or(Duration::ZERO);
    if left < life / 5 {
        let days = left.as_secs() / 86_400;
        tracing::warn!("the certificate authority expires in {days} days; replace its secret");
    }
}
