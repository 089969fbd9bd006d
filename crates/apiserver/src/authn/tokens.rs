//! Service account tokens: signed, bound to audiences and, where wanted, to a pod, a node or a
//! secret.
//!
//! A token is as alive as what it is bound to: verification looks the account and the bound
//! object up, so deleting a pod revokes its tokens at once.

use super::{CREDENTIAL, NODE_NAME, NODE_UID, POD_NAME, POD_UID, User};
use crate::{
    api::Api,
    object,
    pki::{KeyCert, PkiError},
    store::Key,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// How long tokens still count after the end that was set for what they are bound to, in seconds:
/// Kubernetes allows its clocks that much.
const DELETED_SECONDS: i64 = 60;

/// Signs and verifies tokens of one cluster.
pub struct TokenIssuer {
    issuer: String,
    key_id: String,
    jwk: Value,
    signing: EncodingKey,
    verifying: DecodingKey,
}

impl std::fmt::Debug for TokenIssuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenIssuer")
            .field("issuer", &self.issuer)
            .finish()
    }
}

/// Why a token is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a token of this cluster, changed, expired or for someone else.
    #[error("invalid bearer token: {0}")]
    Invalid(String),
    /// What the token stands for does not exist any more.
    #[error("the token is bound to {0}, which does not exist any more")]
    Gone(String),
}

/// An accepted token.
#[derive(Debug, Clone)]
pub struct Verified {
    /// Whose token it is.
    pub user: User,
    /// The audiences that were asked for and that the token has.
    pub audiences: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Claims {
    aud: Vec<String>,
    exp: i64,
    iat: i64,
    nbf: i64,
    iss: String,
    jti: String,
    sub: String,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Bound,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Bound {
    namespace: String,
    serviceaccount: Reference,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    warnafter: Option<i64>,
}

/// A name and the uid that the object had.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// The object's name.
    pub name: String,
    /// Its uid.
    #[serde(default)]
    pub uid: String,
}

/// What a new token shall stand for.
#[derive(Debug, Clone, Default)]
pub struct Grant {
    /// Namespace of the account.
    pub namespace: String,
    /// The account.
    pub account: Reference,
    /// The pod it is bound to.
    pub pod: Option<Reference>,
    /// The node of that pod, or the node it is bound to itself.
    pub node: Option<Reference>,
    /// The secret it is bound to.
    pub secret: Option<Reference>,
    /// Who may accept it; empty means the API server.
    pub audiences: Vec<String>,
    /// How long it is valid.
    pub seconds: i64,
}

impl TokenIssuer {
    /// Takes the cluster's service account key.
    pub fn new(key: &KeyCert, issuer: &str) -> Result<Self, PkiError> {
        let bad = |source| PkiError::Certificate {
            what: "service account tokens".into(),
            source,
        };
        let pair = rcgen::KeyPair::from_pem(&key.key_pem).map_err(bad)?;
        let unusable = |_| bad(rcgen::Error::CouldNotParseKeyPair);
        let signing = EncodingKey::from_ec_pem(key.key_pem.as_bytes()).map_err(unusable)?;
        let verifying = DecodingKey::from_ec_pem(key.cert_pem.as_bytes()).map_err(unusable)?;
        let point = pair.public_key_raw();
        let key_id = URL_SAFE_NO_PAD.encode(Sha256::digest(point));
        // An uncompressed P-256 point: 4, x, y.
        let (x, y) = match point {
            [4, xy @ ..] if xy.len() == 64 => xy.split_at(32),
            _ => return Err(bad(rcgen::Error::CouldNotParseKeyPair)),
        };
        let jwk = json!({
            "use": "sig", "kty": "EC", "kid": key_id, "crv": "P-256", "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        });
        Ok(TokenIssuer {
            issuer: issuer.to_string(),
            key_id,
            jwk,
            signing,
            verifying,
        })
    }

    /// The public keys, as `/openid/v1/jwks` shows them.
    pub fn jwks(&self) -> Value {
        json!({"keys": [self.jwk]})
    }

    /// Makes a token. Answers it with its end in seconds since 1970.
    pub fn issue(&self, grant: &Grant) -> Result<(String, i64), TokenError> {
        let now = jiff::Timestamp::now().as_second();
        let exp = now + grant.seconds;
        let audiences = match grant.audiences.is_empty() {
            true => vec![self.issuer.clone()],
            false => grant.audiences.clone(),
        };
        let claims = Claims {
            aud: audiences,
            exp,
            iat: now,
            nbf: now,
            iss: self.issuer.clone(),
            jti: uuid::Uuid::new_v4().to_string(),
            sub: format!(
                "system:serviceaccount:{}:{}",
                grant.namespace, grant.account.name
            ),
            kubernetes: Bound {
                namespace: grant.namespace.clone(),
                serviceaccount: grant.account.clone(),
                pod: grant.pod.clone(),
                node: grant.node.clone(),
                secret: grant.secret.clone(),
                warnafter: None,
            },
        };
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.key_id.clone());
        let token = jsonwebtoken::encode(&header, &claims, &self.signing)
            .map_err(|e| TokenError::Invalid(e.to_string()))?;
        Ok((token, exp))
    }

    fn claims(&self, token: &str, audiences: &[String]) -> Result<Claims, TokenError> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(audiences);
        validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        validation.validate_nbf = true;
        validation.leeway = 0;
        jsonwebtoken::decode::<Claims>(token, &self.verifying, &validation)
            .map(|data| data.claims)
            .map_err(|e| TokenError::Invalid(e.to_string()))
    }
}

/// Accepts a token that has one of the audiences and whose bound objects exist.
pub fn verify(api: &Api, token: &str, audiences: &[String]) -> Result<Verified, TokenError> {
    let claims = api.tokens.claims(token, audiences)?;
    let bound = &claims.kubernetes;
    let namespace = &bound.namespace;
    alive(
        api,
        "serviceaccounts",
        namespace,
        &bound.serviceaccount,
        "service account",
    )?;
    if let Some(secret) = &bound.secret {
        alive(api, "secrets", namespace, secret, "secret")?;
    }
    match (&bound.pod, &bound.node) {
        // The node of a pod is only named: the token lives as long as the pod.
        (Some(pod), _) => alive(api, "pods", namespace, pod, "pod")?,
        (None, Some(node)) => alive(api, "nodes", "", node, "node")?,
        (None, None) => {}
    }
    let mut extra = std::collections::BTreeMap::new();
    extra.insert(CREDENTIAL.to_string(), vec![format!("JTI={}", claims.jti)]);
    for (reference, name, uid) in [
        (&bound.pod, POD_NAME, POD_UID),
        (&bound.node, NODE_NAME, NODE_UID),
    ] {
        if let Some(reference) = reference {
            extra.insert(name.to_string(), vec![reference.name.clone()]);
            if !reference.uid.is_empty() {
                extra.insert(uid.to_string(), vec![reference.uid.clone()]);
            }
        }
    }
    let user = User {
        name: format!(
            "system:serviceaccount:{namespace}:{}",
            bound.serviceaccount.name
        ),
        uid: bound.serviceaccount.uid.clone(),
        groups: vec![
            "system:serviceaccounts".into(),
            format!("system:serviceaccounts:{namespace}"),
            "system:authenticated".into(),
        ],
        extra,
    };
    let audiences = audiences
        .iter()
        .filter(|a| claims.aud.contains(a))
        .cloned()
        .collect();
    Ok(Verified { user, audiences })
}

fn alive(
    api: &Api,
    resource: &str,
    namespace: &str,
    wanted: &Reference,
    what: &str,
) -> Result<(), TokenError> {
    let resource: Arc<str> = resource.into();
    let found = api.store.get(&Key::new(&resource, namespace, &wanted.name));
    match found {
        Some(found) if object::uid(found.value()) == wanted.uid && !over(found.value()) => Ok(()),
        _ => Err(TokenError::Gone(format!(
            "the {what} {namespace}/{}",
            wanted.name
        ))),
    }
}

/// Whether an object that waits to be removed should have been gone for a while.
fn over(value: &Value) -> bool {
    let at = object::text(value, "/metadata/deletionTimestamp").parse::<jiff::Timestamp>();
    at.is_ok_and(|at| {
        jiff::Timestamp::now() > at + jiff::SignedDuration::from_secs(DELETED_SECONDS)
    })
}
