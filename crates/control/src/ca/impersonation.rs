//! Whether a node proxy may have the certificate of another: only of pods on its own node.

use ambit_model::Identity;

use crate::auth::Caller;
use crate::engine::Engine;

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// The caller is no node proxy.
    #[error("{0} is not trusted to act for others; see CA_TRUSTED_NODE_ACCOUNTS")]
    NotTrusted(String),
    /// What is asked for is no identity.
    #[error("{0}")]
    Malformed(String),
    /// It is of another trust domain.
    #[error("the trust domain of the mesh is {mesh}, not {asked}")]
    TrustDomain {
        /// The mesh's.
        mesh: String,
        /// The one asked for.
        asked: String,
    },
    /// The token is bound to no pod.
    #[error("the token is not bound to a pod; use a projected token")]
    Unbound,
    /// The caller's pod is not known, or not the one that the token was made for.
    #[error("the pod of the token is not known")]
    UnknownPod,
    /// Nobody on the node has the identity.
    #[error("no pod of {identity} is on node {node}")]
    NotOnNode {
        /// The identity.
        identity: String,
        /// The caller's node.
        node: String,
    },
}

impl Refusal {
    /// The watch may be behind: the answer can become another one within moments.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::UnknownPod | Self::NotOnNode { .. })
    }
}

/// The identity that the caller may have a certificate for.
pub(super) fn authorize(
    engine: &Engine,
    caller: &Caller,
    asked: &str,
) -> Result<Identity, Refusal> {
    if !engine.is_trusted_node_account(&caller.namespace, &caller.service_account) {
        return Err(Refusal::NotTrusted(caller.to_string()));
    }
    let identity: Identity =
        asked
            .parse()
            .map_err(|e: ambit_model::identity::ParseIdentityError| {
                Refusal::Malformed(e.to_string())
            })?;
    let mesh = &engine.mesh().trust_domain;
    if identity.trust_domain != *mesh {
        let asked = identity.trust_domain.to_string();
        return Err(Refusal::TrustDomain {
            mesh: mesh.to_string(),
            asked,
        });
    }
    let (Some(pod), Some(key)) = (&caller.pod, caller.pod_key()) else {
        return Err(Refusal::Unbound);
    };
    let account = engine
        .pod_account(&key)
        .filter(|known| known.uid == pod.uid && known.service_account == caller.service_account)
        .filter(|known| !known.node.is_empty())
        .ok_or(Refusal::UnknownPod)?;
    if !engine.runs_on(&account.node, &identity) {
        let node = account.node.to_string();
        return Err(Refusal::NotOnNode {
            identity: identity.to_string(),
            node,
        });
    }
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::CallerPod;
    use crate::engine::{Change, Settings};
    use ambit_translate::{Mesh, ObjectKey, PodFacts};
    use serde_json::json;

    fn pod(namespace: &str, name: &str, account: &str, node: &str) -> Change {
        let object = json!({
            "metadata": {"name": name, "namespace": namespace, "uid": name},
            "spec": {"nodeName": node, "serviceAccountName": account, "containers": []}
        });
        let facts = PodFacts::of(&serde_json::from_value(object).unwrap());
        Change::Pod(facts.key.clone(), Some(facts))
    }

    fn engine() -> Engine {
        let mut engine = Engine::new(Settings {
            mesh: Mesh::default(),
            system_namespace: "istio-system".into(),
            trusted_node_accounts: vec![ObjectKey::new("istio-system", "ztunnel")],
        });
        engine.apply([
            pod("istio-system", "zt-1", "ztunnel", "n1"),
            pod("shop", "cart", "cart", "n1"),
            pod("shop", "web", "web", "n2"),
        ]);
        engine
    }

    fn caller() -> Caller {
        Caller {
            namespace: "istio-system".into(),
            service_account: "ztunnel".into(),
            pod: Some(CallerPod {
                name: "zt-1".into(),
                uid: "zt-1".into(),
                node: None,
            }),
        }
    }

    fn asked(caller: &Caller, identity: &str) -> Result<Identity, Refusal> {
        authorize(&engine(), caller, identity)
    }

    const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";

    #[test]
    fn pods_of_the_own_node_only() {
        assert_eq!(asked(&caller(), CART).unwrap().to_string(), CART);
        let elsewhere = asked(&caller(), "spiffe://cluster.local/ns/shop/sa/web").unwrap_err();
        assert!(matches!(&elsewhere, Refusal::NotOnNode { node, .. } if node == "n1"));
        let nobody = asked(&caller(), "spiffe://cluster.local/ns/shop/sa/other").unwrap_err();
        assert!(nobody.may_pass());
        let namespace = asked(&caller(), "spiffe://cluster.local/ns/other/sa/cart");
        assert!(matches!(namespace, Err(Refusal::NotOnNode { .. })));
    }

    #[test]
    fn the_trust_domain_of_the_mesh_only() {
        let refused = asked(&caller(), "spiffe://example.org/ns/shop/sa/cart").unwrap_err();
        assert!(matches!(refused, Refusal::TrustDomain { .. }) && !refused.may_pass());
        let garbage = asked(&caller(), "cart").unwrap_err();
        assert!(matches!(garbage, Refusal::Malformed(_)));
    }

    #[test]
    fn trusted_callers_with_their_own_pod_only() {
        let mut other = caller();
        other.service_account = "default".into();
        assert!(matches!(asked(&other, CART), Err(Refusal::NotTrusted(_))));
        let mut namespace = caller();
        namespace.namespace = "shop".into();
        assert!(matches!(
            asked(&namespace, CART),
            Err(Refusal::NotTrusted(_))
        ));
        let mut unbound = caller();
        unbound.pod = None;
        assert_eq!(asked(&unbound, CART), Err(Refusal::Unbound));
        for (name, uid) in [("zt-2", "zt-1"), ("zt-1", "old")] {
            let mut stale = caller();
            stale.pod = Some(CallerPod {
                name: name.into(),
                uid: uid.into(),
                node: None,
            });
            assert_eq!(asked(&stale, CART), Err(Refusal::UnknownPod));
        }
    }
}
