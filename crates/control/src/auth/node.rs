//! Whether the node that a discovery client says to be is the one that its token names.

use ambit_model::Text;
use prost_types::value::Kind;

use super::Caller;
use ambit_proto::discovery::Node;

/// Compares the node of a stream with the caller, whose pod runs on `pod_node`. The error is for
/// the client.
pub(super) fn check(caller: &Caller, pod_node: &Text, node: &Node) -> Result<(), String> {
    let Some(pod) = &caller.pod else {
        return Err("the token is not bound to a pod; use a projected token".to_owned());
    };
    let id = NodeId::parse(&node.id).ok_or_else(|| {
        format!(
            "the node id {:?} is not of the form role~ip~pod.namespace~domain",
            node.id
        )
    })?;
    let says = |what: &str, said: &str, is: &str| {
        if said == is {
            return Ok(());
        }
        Err(format!(
            "the client says that its {what} is {said:?}, but its token is for {is:?}"
        ))
    };
    says("namespace", id.namespace, &caller.namespace)?;
    says("pod", id.pod, &pod.name)?;
    if let Some(said) = text(node, "NODE_NAME") {
        says("node", said, pod_node)?;
    }
    for (key, is) in [
        ("NAME", &pod.name),
        ("NAMESPACE", &caller.namespace),
        ("SERVICE_ACCOUNT", &caller.service_account),
    ] {
        if let Some(said) = text(node, key) {
            says(key, said, is)?;
        }
    }
    Ok(())
}

/// The parts of a node id that say who the client is.
struct NodeId<'a> {
    pod: &'a str,
    namespace: &'a str,
}

impl<'a> NodeId<'a> {
    fn parse(id: &'a str) -> Option<Self> {
        let parts: Vec<&str> = id.split('~').collect();
        let [_role, _ip, name, _domain] = parts[..] else {
            return None;
        };
        // A pod's name may have dots, a namespace's may not.
        let (pod, namespace) = name.rsplit_once('.')?;
        (!pod.is_empty() && !namespace.is_empty()).then_some(Self { pod, namespace })
    }
}

fn text<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    match node.metadata.as_ref()?.fields.get(key)?.kind.as_ref()? {
        Kind::StringValue(text) if !text.is_empty() => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::CallerPod;
    use super::*;
    use prost_types::{Struct, Value};

    fn caller() -> Caller {
        Caller {
            namespace: "istio-system".into(),
            service_account: "ztunnel".into(),
            pod: Some(CallerPod {
                name: "ztunnel-x".into(),
                uid: "u".into(),
                node: None,
            }),
        }
    }

    fn node(id: &str, metadata: &[(&str, &str)]) -> Node {
        let fields = metadata.iter().map(|(k, v)| {
            (
                (*k).to_owned(),
                Value {
                    kind: Some(Kind::StringValue((*v).to_owned())),
                },
            )
        });
        Node {
            id: id.to_owned(),
            metadata: Some(Struct {
                fields: fields.collect(),
            }),
            ..Node::default()
        }
    }

    const ID: &str = "ztunnel~10.0.0.1~ztunnel-x.istio-system~istio-system.svc.cluster.local";

    fn checked(node: &Node) -> Result<(), String> {
        check(&caller(), &"n1".into(), node)
    }

    #[test]
    fn the_tokens_own_node() {
        assert_eq!(checked(&node(ID, &[])), Ok(()));
        let metadata = [
            ("NODE_NAME", "n1"),
            ("NAME", "ztunnel-x"),
            ("NAMESPACE", "istio-system"),
            ("SERVICE_ACCOUNT", "ztunnel"),
            ("OTHER", "x"),
        ];
        assert_eq!(checked(&node(ID, &metadata)), Ok(()));
    }

    #[test]
    fn anothers() {
        let refused =
            |id: &str, metadata: &[(&str, &str)]| checked(&node(id, metadata)).unwrap_err();
        assert!(refused(ID, &[("NODE_NAME", "n2")]).contains("node is \"n2\""));
        assert!(refused(ID, &[("SERVICE_ACCOUNT", "other")]).contains("SERVICE_ACCOUNT"));
        assert!(refused("ztunnel~1~ztunnel-y.istio-system~d", &[]).contains("pod"));
        assert!(refused("ztunnel~1~ztunnel-x.shop~d", &[]).contains("namespace"));
        for id in ["", "ztunnel", "a~b~c~d", "a~b~.c~d", "a~b~c.d~e~f"] {
            assert!(refused(id, &[]).contains("not of the form"), "{id}");
        }
        let mut unbound = caller();
        unbound.pod = None;
        assert!(check(&unbound, &"n1".into(), &node(ID, &[])).is_err());
    }
}
