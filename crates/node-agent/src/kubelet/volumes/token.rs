//! Service account tokens for projected volumes: requested bound to the pod, renewed in time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection};
use kube::Api;
use kube::api::PostParams;

use crate::kubelet::node::API_TIMEOUT;

/// Lifetime asked for when the projection gives none (API default).
const DEFAULT_LIFETIME: i64 = 3600;

struct Token {
    value: String,
    renew_at: Instant,
}

/// The tokens of one pod, by audience and lifetime.
#[derive(Default)]
pub(super) struct Tokens {
    held: HashMap<(Option<String>, i64), Token>,
}

impl Tokens {
    /// A token that is good for at least a fifth of its lifetime.
    ///
    /// # Errors
    /// The API server refused, and no earlier token is held.
    pub(super) async fn get(
        &mut self,
        client: &kube::Client,
        pod: &Pod,
        projection: &ServiceAccountTokenProjection,
    ) -> Result<String, String> {
        let lifetime = projection.expiration_seconds.unwrap_or(DEFAULT_LIFETIME);
        let audience = projection
            .audience
            .clone()
            .filter(|audience| !audience.is_empty());
        let key = (audience.clone(), lifetime);
        if let Some(token) = self
            .held
            .get(&key)
            .filter(|token| Instant::now() < token.renew_at)
        {
            return Ok(token.value.clone());
        }
        match request(client, pod, audience, lifetime).await {
            Ok(token) => {
                let value = token.value.clone();
                self.held.insert(key, token);
                Ok(value)
            }
            // The old one may still be good; the next refresh asks again.
            Err(error) => match self.held.get(&key) {
                Some(token) => {
                    tracing::warn!("service account token not renewed: {error}");
                    Ok(token.value.clone())
                }
                None => Err(format!("failed to fetch token: {error}")),
            },
        }
    }

    /// When the next token must be renewed.
    pub(super) fn next_renewal(&self) -> Option<Instant> {
        // A refused renewal is tried again soon, not at once.
        let soonest = Instant::now() + Duration::from_secs(10);
        self.held
            .values()
            .map(|token| token.renew_at.max(soonest))
            .min()
    }
}

async fn request(
    client: &kube::Client,
    pod: &Pod,
    audience: Option<String>,
    lifetime: i64,
) -> Result<Token, String> {
    let meta = &pod.metadata;
    let account = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.service_account_name.clone());
    let api: Api<ServiceAccount> = Api::namespaced(
        client.clone(),
        meta.namespace.as_deref().unwrap_or_default(),
    );
    let body = TokenRequest {
        spec: TokenRequestSpec {
            audiences: audience.into_iter().collect(),
            expiration_seconds: Some(lifetime),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_string()),
                kind: Some("Pod".to_string()),
                name: meta.name.clone(),
                uid: meta.uid.clone(),
            }),
        },
        ..Default::default()
    };
    let name = account
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "default".to_string());
    let params = PostParams::default();
    let asked = tokio::time::timeout(API_TIMEOUT, api.create_token_request(&name, &params, &body));
    let answer = asked
        .await
        .map_err(|_| "no answer from the API server".to_string())?;
    let answer = answer.map_err(|error| error.to_string())?;
    let status = answer
        .status
        .ok_or("the API server's answer has no token")?;
    let remaining = status.expiration_timestamp.0.as_second() - jiff::Timestamp::now().as_second();
    let remaining = Duration::from_secs(u64::try_from(remaining).unwrap_or(0));
    Ok(Token {
        value: status.token,
        renew_at: Instant::now() + remaining.mul_f64(0.8),
    })
}
