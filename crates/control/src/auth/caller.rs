//! A caller: the service account, and the pod, that a token was made for.

use std::fmt;

use ambit_model::Text;
use ambit_translate::ObjectKey;
use k8s_openapi::api::authentication::v1::TokenReviewStatus;

/// Group of all service accounts.
const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";
const USER_PREFIX: &str = "system:serviceaccount:";
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// Whom a token names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Namespace of the service account.
    pub namespace: Text,
    /// Name of the service account.
    pub service_account: Text,
    /// The pod that the token is bound to, if it is.
    pub pod: Option<CallerPod>,
}

/// The pod that a token is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerPod {
    /// Its name.
    pub name: Text,
    /// Its UID.
    pub uid: Text,
    /// Its node, where the token says so.
    pub node: Option<Text>,
}

/// Why a token does not name a caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoCaller {
    /// The API server does not accept the token.
    #[error("the token is not valid{}", reason(.0))]
    Invalid(String),
    /// It is nobody's in a pod.
    #[error("the token is not one of a service account")]
    NoServiceAccount,
}

fn reason(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!(": {text}")
    }
}

impl Caller {
    /// The caller that a review names.
    pub(super) fn from_review(status: &TokenReviewStatus) -> Result<Self, NoCaller> {
        if status.authenticated != Some(true) {
            return Err(NoCaller::Invalid(status.error.clone().unwrap_or_default()));
        }
        let user = status.user.as_ref().ok_or(NoCaller::NoServiceAccount)?;
        let name = user.username.as_deref().unwrap_or_default();
        let in_group = user.groups.iter().flatten().any(|g| g == SERVICE_ACCOUNTS);
        let (namespace, service_account) = name
            .strip_prefix(USER_PREFIX)
            .and_then(|account| account.split_once(':'))
            .filter(|(ns, sa)| in_group && !ns.is_empty() && !sa.is_empty() && !sa.contains(':'))
            .ok_or(NoCaller::NoServiceAccount)?;
        let extra = |key: &str| {
            user.extra
                .as_ref()?
                .get(key)?
                .first()
                .filter(|v| !v.is_empty())
                .map(|v| Text::from(v.as_str()))
        };
        let pod = match (extra(POD_NAME), extra(POD_UID)) {
            (Some(name), Some(uid)) => Some(CallerPod {
                name,
                uid,
                node: extra(NODE_NAME),
            }),
            _ => None,
        };
        Ok(Self {
            namespace: namespace.into(),
            service_account: service_account.into(),
            pod,
        })
    }

    /// The key of its pod.
    pub fn pod_key(&self) -> Option<ObjectKey> {
        let pod = self.pod.as_ref()?;
        Some(ObjectKey {
            namespace: self.namespace.clone(),
            name: pod.name.clone(),
        })
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "service account {}/{}",
            self.namespace, self.service_account
        )?;
        match &self.pod {
            Some(pod) => write!(f, " in pod {}", pod.name),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn review(status: Value) -> Result<Caller, NoCaller> {
        Caller::from_review(&serde_json::from_value(status).unwrap())
    }

    fn user(name: &str, groups: Value, extra: Value) -> Value {
        json!({"authenticated": true, "user": {"username": name, "groups": groups, "extra": extra}})
    }

    #[test]
    fn a_token_of_a_pod() {
        let caller = review(user(
            "system:serviceaccount:istio-system:ztunnel",
            json!(["system:serviceaccounts", "system:authenticated"]),
            json!({
                "authentication.kubernetes.io/pod-name": ["ztunnel-x"],
                "authentication.kubernetes.io/pod-uid": ["u1"],
                "authentication.kubernetes.io/node-name": ["n1"]
            }),
        ))
        .unwrap();
        assert_eq!(
            caller.to_string(),
            "service account istio-system/ztunnel in pod ztunnel-x"
        );
        assert_eq!(caller.pod.unwrap().node, Some("n1".into()));
    }

    #[test]
    fn others() {
        let groups = json!(["system:serviceaccounts"]);
        assert_eq!(
            review(json!({"authenticated": false, "error": "expired"}))
                .unwrap_err()
                .to_string(),
            "the token is not valid: expired"
        );
        assert_eq!(review(json!({})), Err(NoCaller::Invalid(String::new())));
        for (name, groups) in [
            ("kubernetes-admin", groups.clone()),
            ("system:node:n1", groups.clone()),
            ("system:serviceaccount:a:b", json!(["system:authenticated"])),
            ("system:serviceaccount:a", groups.clone()),
            ("system:serviceaccount:a:", groups.clone()),
            ("system:serviceaccount:a:b:c", groups.clone()),
        ] {
            assert_eq!(
                review(user(name, groups, json!({}))),
                Err(NoCaller::NoServiceAccount),
                "{name}"
            );
        }
        // A token that is bound to no pod.
        let unbound = review(user("system:serviceaccount:a:b", groups, json!({}))).unwrap();
        assert_eq!(unbound.pod, None);
    }
}
