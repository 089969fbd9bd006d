//! Who sends a request: a client certificate, a service account token, or nobody.

mod impersonation;
pub mod tokens;

pub use impersonation::impersonate;

use crate::{
    api::Api,
    status::{ApiError, Result},
};
use http::{HeaderMap, header};
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use x509_parser::prelude::{FromDer, X509Certificate};

/// An authenticated user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// `system:serviceaccount:ns:name`, `system:node:n`, `kubernetes-admin` …
    pub name: String,
    /// Uid, where there is one.
    pub uid: String,
    /// Groups, `system:authenticated` among them.
    pub groups: Vec<String>,
    /// What else is known, such as the pod that a token is bound to.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// Key of [`User::extra`] that holds the name of the pod a token is bound to.
pub const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
/// Key of [`User::extra`] that holds the uid of the pod a token is bound to.
pub const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
/// Key of [`User::extra`] that holds the node of the pod a token is bound to.
pub const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
/// Key of [`User::extra`] that holds the uid of that node.
pub const NODE_UID: &str = "authentication.kubernetes.io/node-uid";
/// Key of [`User::extra`] that holds the identifier of the credential.
pub const CREDENTIAL: &str = "authentication.kubernetes.io/credential-id";

impl User {
    /// A part of the server itself: may do everything.
    pub fn system(name: &str) -> Self {
        User {
            name: name.into(),
            groups: vec!["system:masters".into()],
            ..User::default()
        }
    }

    /// Nobody.
    pub fn anonymous() -> Self {
        User {
            name: "system:anonymous".into(),
            groups: vec!["system:unauthenticated".into()],
            ..User::default()
        }
    }

    /// Whether the user belongs to a group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// The node that this user is, if it is one.
    pub fn node(&self) -> Option<&str> {
        self.is_in("system:nodes")
            .then(|| self.name.strip_prefix("system:node:"))
            .flatten()
    }

    /// `authentication.k8s.io/v1` UserInfo.
    pub fn to_value(&self) -> Value {
        let mut value = json!({"username": self.name});
        if let Some(map) = value.as_object_mut() {
            if !self.uid.is_empty() {
                map.insert("uid".into(), self.uid.clone().into());
            }
            map.insert("groups".into(), json!(self.groups));
            if !self.extra.is_empty() {
                map.insert("extra".into(), json!(self.extra));
            }
        }
        value
    }
}

/// The user of a client certificate, which TLS has verified: CN is the name, O are the groups.
pub fn from_certificate(der: &CertificateDer<'_>) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject
        .iter_common_name()
        .next()?
        .as_str()
        .ok()?
        .to_string();
    let mut groups: Vec<String> = subject
        .iter_organization()
        .filter_map(|o| o.as_str().ok())
        .map(str::to_string)
        .collect();
    groups.push("system:authenticated".into());
    let print: String = Sha256::digest(der)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let credential = (CREDENTIAL.to_string(), vec![format!("X509SHA256={print}")]);
    (!name.is_empty()).then(|| User {
        name,
        groups,
        extra: [credential].into(),
        ..User::default()
    })
}

/// Decides who sends a request. `certificate` is the connection's verified user, if any.
pub fn authenticate(api: &Api, certificate: Option<&User>, headers: &HeaderMap) -> Result<User> {
    if let Some(user) = certificate {
        return Ok(user.clone());
    }
    match bearer(headers) {
        Some(token) => {
            let audiences = [api.settings.issuer.clone()];
            match tokens::verify(api, token, &audiences) {
                Ok(verified) => Ok(verified.user),
                Err(error) => {
                    tracing::debug!(%error, "token refused");
                    Err(ApiError::unauthorized())
                }
            }
        }
        None => Ok(User::anonymous()),
    }
}

/// The bearer token of a request, from its header or, for browsers' WebSockets, its protocol list.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim())
        .filter(|t| !t.is_empty())
}
