//! `BackendTLSPolicy` → [`BackendTls`], and its status. What cannot be used closes: nothing goes to its
//! services in plain text.

use std::collections::BTreeMap;
use std::sync::Arc;

use ambit_kube_api::annotations;
use ambit_kube_api::gateway_api::backend_tls_policy::{
    BackendTLSPolicy, BackendTlsPolicySpec, PolicyAncestorStatus, PolicyTarget, SubjectAltName,
};
use ambit_kube_api::gateway_api::{MESH_CONTROLLER, ParentReference};
use ambit_model::Text;
use ambit_model::service::NamespacedHostname;
use ambit_model::traffic::{BackendTls, ClientTls, Origination, TlsName};
use kube::ResourceExt;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::facts::ServiceFacts;
use crate::key::ObjectKey;
use crate::labels::{Labels, labels_from};
use crate::mesh::Mesh;
use crate::status::condition;

/// Key of a ConfigMap with authorities.
const AUTHORITIES: &str = "ca.crt";

/// What is known about one object.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendTlsFacts {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Labels of the object itself.
    pub labels: Labels,
    /// Version of the object, for its status.
    pub generation: Option<i64>,
    /// When it was made, seconds since 1970.
    pub created: i64,
    ignored: bool,
    spec: BackendTlsPolicySpec,
}

/// What a translation asks about other objects.
pub trait Others {
    /// A service.
    fn service(&self, key: &ObjectKey) -> Option<&ServiceFacts>;
    /// A ConfigMap; `None` if it has not been read yet.
    fn config_map(&self, key: &ObjectKey) -> Option<Option<&BTreeMap<String, String>>>;
    /// Whether an older object is about the same part of a service.
    fn is_taken(&self, service: &ObjectKey, section: Option<&str>) -> bool;
}

/// An object as it is sent to waypoints, and what is to be said about it.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendTlsTranslation {
    /// What is sent, if anything.
    pub policy: Option<BackendTls>,
    /// What its status says, for each of its targets.
    pub ancestors: Vec<PolicyAncestorStatus>,
}

impl BackendTlsFacts {
    /// The facts about an object.
    pub fn of(object: &BackendTLSPolicy) -> Self {
        let created = object.metadata.creation_timestamp.as_ref();
        let ignored = object.annotations().get(annotations::IGNORE_POLICY);
        Self {
            key: ObjectKey::of(object),
            labels: labels_from(object.metadata.labels.as_ref()),
            generation: object.metadata.generation,
            created: created.map_or(0, |time| time.0.as_second()),
            ignored: ignored.is_some_and(|value| value == "true"),
            spec: object.spec.clone(),
        }
    }

    /// The ConfigMap with its authorities.
    pub fn config_map(&self) -> Option<ObjectKey> {
        let first = self.spec.validation.ca_certificate_refs.first()?;
        let is_map = is_core(&first.group) && first.kind == "ConfigMap";
        is_map.then(|| ObjectKey::new(self.key.namespace.clone(), first.name.as_str()))
    }

    /// The services that it is about, and which part of them.
    pub fn services(&self) -> impl Iterator<Item = (ObjectKey, Option<&str>)> {
        let targets = self.spec.target_refs.iter().filter(|_| !self.ignored);
        targets.filter_map(|target| {
            let is_service = is_core(&target.group) && target.kind == "Service";
            let key = || ObjectKey::new(self.key.namespace.clone(), target.name.as_str());
            is_service.then(|| (key(), target.section_name.as_deref()))
        })
    }
}

fn is_core(group: &str) -> bool {
    matches!(group, "" | "core")
}

/// Why an object has no effect, or less than it seems: a reason and a message.
type Why = (&'static str, String);

/// The object as it is sent to waypoints, and its status.
pub fn translate(
    mesh: &Mesh,
    facts: &BackendTlsFacts,
    others: &impl Others,
) -> BackendTlsTranslation {
    let validation = validation(facts, others);
    let mut targets = Vec::new();
    let mut ancestors = Vec::new();
    for target in &facts.spec.target_refs {
        let found = found(mesh, facts, target, others);
        let accepted = match (&found, &validation) {
            _ if facts.ignored => Err((
                "IgnoredByIstio",
                format!("its annotation {} says so", annotations::IGNORE_POLICY),
            )),
            (Err(why), _) => Err(why.clone()),
            (Ok(_), Err((_, why))) => Err(("NoValidCACertificate", why.clone())),
            (Ok(_), Ok(_)) => Ok(()),
        };
        targets.extend(found.ok().filter(|_| !facts.ignored));
        ancestors.push(ancestor(facts, target, accepted, &validation));
    }
    let tls = match validation {
        Ok(Some(tls)) => Origination::Tls(tls),
        Ok(None) => Origination::Unusable("its authorities have not been read yet".into()),
        Err((_, why)) => Origination::Unusable(why.into()),
    };
    let policy = BackendTls {
        namespace: facts.key.namespace.clone(),
        name: facts.key.name.clone(),
        created: facts.created,
        targets,
        tls: Arc::new(tls),
    };
    BackendTlsTranslation {
        policy: (!policy.targets.is_empty()).then_some(policy),
        ancestors,
    }
}

/// The service, or its port, that a target names.
fn found(
    mesh: &Mesh,
    facts: &BackendTlsFacts,
    target: &PolicyTarget,
    others: &impl Others,
) -> Result<(NamespacedHostname, Option<u16>), Why> {
    let missing = |what: String| Err(("TargetNotFound", what));
    if !is_core(&target.group) || target.kind != "Service" {
        return missing(format!(
            "{} of {:?} is no target of a BackendTLSPolicy here",
            target.kind, target.group
        ));
    }
    let key = ObjectKey::new(facts.key.namespace.clone(), target.name.as_str());
    let Some(service) = others.service(&key) else {
        return missing(format!("Service {key} was not found"));
    };
    let section = target.section_name.as_deref();
    let port = match section {
        None => None,
        Some(name) => match service.ports.iter().find(|port| *port.name == *name) {
            Some(port) => Some(port.port),
            None => return missing(format!("Service {key} has no port {name:?}")),
        },
    };
    if others.is_taken(&key, section) {
        let message = "an older BackendTLSPolicy is about the same".to_owned();
        return Err(("Conflicted", message));
    }
    let hostname = mesh.hostname(&key.namespace, &key.name);
    Ok((NamespacedHostname::new(key.namespace, hostname), port))
}

/// What endpoints must show; `None` as long as that has not been read.
fn validation(facts: &BackendTlsFacts, others: &impl Others) -> Result<Option<ClientTls>, Why> {
    let validation = &facts.spec.validation;
    let names = validation.subject_alt_names.iter().map(name);
    let names = names.collect::<Option<Vec<_>>>().ok_or_else(|| {
        let message = "a name among subjectAltNames is neither a host name nor a URI";
        ("Invalid", message.to_owned())
    })?;
    let authorities = match (
        validation.ca_certificate_refs.first(),
        validation.well_known_ca_certificates.as_deref(),
    ) {
        (None, Some("System")) => None,
        (None, Some(other)) => {
            return Err(("Invalid", format!("nobody knows the authorities {other:?}")));
        }
        (None, None) => return Err(("Invalid", "it names no authorities".to_owned())),
        (Some(reference), _) => {
            let Some(key) = facts.config_map() else {
                let message = format!(
                    "{} of {:?} is no ConfigMap, which authorities must be in",
                    reference.kind, reference.group
                );
                return Err(("InvalidKind", message));
            };
            let bad = |why: String| ("InvalidCACertificateRef", why);
            match others.config_map(&key) {
                None => return Ok(None),
                Some(None) => return Err(bad(format!("ConfigMap {key} is not there"))),
                Some(Some(data)) => match data.get(AUTHORITIES) {
                    Some(pem) if is_pem(pem) => Some(pem.as_str().into()),
                    Some(_) => {
                        let message =
                            format!("{AUTHORITIES} of ConfigMap {key} is no certificate in PEM");
                        return Err(bad(message));
                    }
                    None => {
                        return Err(bad(format!("ConfigMap {key} has no key {AUTHORITIES}")));
                    }
                },
            }
        }
    };
    Ok(Some(ClientTls {
        server: validation.hostname.as_str().into(),
        names,
        authorities,
    }))
}

fn name(name: &SubjectAltName) -> Option<TlsName> {
    let text = |text: &Option<String>| text.as_deref().map(Text::from);
    match name.type_.as_str() {
        "Hostname" => text(&name.hostname).map(TlsName::Dns),
        "URI" => text(&name.uri).map(TlsName::Uri),
        _ => None,
    }
}

fn is_pem(text: &str) -> bool {
    let mut certificates = 0;
    for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
        if certificate.is_err() {
            return false;
        }
        certificates += 1;
    }
    certificates > 0
}

fn ancestor(
    facts: &BackendTlsFacts,
    target: &PolicyTarget,
    accepted: Result<(), Why>,
    validation: &Result<Option<ClientTls>, Why>,
) -> PolicyAncestorStatus {
    let generation = facts.generation;
    let accepted = match accepted {
        Ok(()) => condition("Accepted", true, "Accepted", "Policy accepted", generation),
        Err((reason, message)) => condition("Accepted", false, reason, message, generation),
    };
    let resolved = match validation {
        Err((reason @ ("InvalidKind" | "InvalidCACertificateRef"), message)) => {
            condition("ResolvedRefs", false, reason, message.as_str(), generation)
        }
        _ => {
            let message = "References resolved";
            condition("ResolvedRefs", true, "ResolvedRefs", message, generation)
        }
    };
    PolicyAncestorStatus {
        ancestor_ref: ParentReference {
            group: Some(target.group.clone()),
            kind: Some(target.kind.clone()),
            name: target.name.clone(),
            section_name: target.section_name.clone(),
            ..ParentReference::default()
        },
        controller_name: MESH_CONTROLLER.to_owned(),
        conditions: vec![accepted, resolved],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Service;
    use serde_json::{Value, json};

    const PEM: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

    struct World {
        service: ServiceFacts,
        maps: BTreeMap<ObjectKey, Option<BTreeMap<String, String>>>,
        taken: bool,
    }

    impl Others for World {
        fn service(&self, key: &ObjectKey) -> Option<&ServiceFacts> {
            (self.service.key == *key).then_some(&self.service)
        }

        fn config_map(&self, key: &ObjectKey) -> Option<Option<&BTreeMap<String, String>>> {
            self.maps.get(key).map(Option::as_ref)
        }

        fn is_taken(&self, _: &ObjectKey, _: Option<&str>) -> bool {
            self.taken
        }
    }

    fn world() -> World {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": "cart", "namespace": "shop"},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443}]},
        }))
        .unwrap();
        let map = |name: &str, key: &str, text: &str| {
            let data = BTreeMap::from([(key.to_owned(), text.to_owned())]);
            (ObjectKey::new("shop", name), Some(data))
        };
        World {
            service: ServiceFacts::of(&service).unwrap(),
            maps: [
                map("good", "ca.crt", PEM),
                map("text", "ca.crt", "hello"),
                map("other", "tls.crt", PEM),
                (ObjectKey::new("shop", "gone"), None),
            ]
            .into(),
            taken: false,
        }
    }

    fn translated(world: &World, change: impl FnOnce(&mut Value)) -> BackendTlsTranslation {
        let mut object = json!({
            "metadata": {"name": "tls", "namespace": "shop"},
            "spec": {
                "targetRefs": [{"group": "", "kind": "Service", "name": "cart"}],
                "validation": {
                    "hostname": "cart.example.com",
                    "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "good"}],
                },
            },
        });
        change(&mut object);
        let facts = BackendTlsFacts::of(&serde_json::from_value(object).unwrap());
        translate(&Mesh::default(), &facts, world)
    }

    fn reasons(translation: &BackendTlsTranslation) -> Vec<String> {
        let conditions = translation.ancestors[0].conditions.iter();
        conditions.filter_map(|c| c.reason.clone()).collect()
    }

    #[test]
    fn a_policy() {
        let translation = translated(&world(), |object| {
            object["spec"]["targetRefs"][0]["sectionName"] = json!("https");
            object["spec"]["validation"]["subjectAltNames"] = json!([
                {"type": "Hostname", "hostname": "a.example.com"},
                {"type": "URI", "uri": "spiffe://b"},
            ]);
        });
        assert_eq!(reasons(&translation), ["Accepted", "ResolvedRefs"]);
        let policy = translation.policy.unwrap();
        let service = NamespacedHostname::new("shop", "cart.shop.svc.cluster.local");
        assert_eq!(policy.targets, [(service, Some(443))]);
        let tls = ClientTls {
            server: "cart.example.com".into(),
            names: vec![
                TlsName::Dns("a.example.com".into()),
                TlsName::Uri("spiffe://b".into()),
            ],
            authorities: Some(PEM.into()),
        };
        assert_eq!(*policy.tls, Origination::Tls(tls));
    }

    #[test]
    fn the_systems_authorities() {
        let translation = translated(&world(), |object| {
            object["spec"]["validation"] =
                json!({"hostname": "a", "wellKnownCACertificates": "System"});
        });
        let policy = translation.policy.unwrap();
        assert!(matches!(&*policy.tls, Origination::Tls(tls) if tls.authorities.is_none()));
    }

    /// Nothing goes out in plain text for want of authorities.
    #[test]
    fn without_authorities_it_closes() {
        let reference = |kind: &str, name: &str| json!([{"group": "", "kind": kind, "name": name}]);
        for (validation, wanted) in [
            (
                json!({"caCertificateRefs": reference("Secret", "good")}),
                ["NoValidCACertificate", "InvalidKind"],
            ),
            (
                json!({"caCertificateRefs": reference("ConfigMap", "gone")}),
                ["NoValidCACertificate", "InvalidCACertificateRef"],
            ),
            (
                json!({"caCertificateRefs": reference("ConfigMap", "text")}),
                ["NoValidCACertificate", "InvalidCACertificateRef"],
            ),
            (
                json!({"caCertificateRefs": reference("ConfigMap", "other")}),
                ["NoValidCACertificate", "InvalidCACertificateRef"],
            ),
            (
                json!({"wellKnownCACertificates": "example.com/mine"}),
                ["NoValidCACertificate", "ResolvedRefs"],
            ),
            // Not read yet: nothing is said, and nothing is sent.
            (
                json!({"caCertificateRefs": reference("ConfigMap", "unread")}),
                ["Accepted", "ResolvedRefs"],
            ),
        ] {
            let translation = translated(&world(), |object| {
                object["spec"]["validation"] = validation.clone();
            });
            assert_eq!(reasons(&translation), wanted, "{validation}");
            let policy = translation.policy.unwrap();
            assert!(
                matches!(&*policy.tls, Origination::Unusable(_)),
                "{validation}"
            );
        }
    }

    #[test]
    fn targets_that_are_none() {
        let target = |target: Value| {
            move |object: &mut Value| object["spec"]["targetRefs"] = json!([target])
        };
        for bad in [
            json!({"group": "", "kind": "Service", "name": "none"}),
            json!({"group": "", "kind": "Service", "name": "cart", "sectionName": "http"}),
            json!({"group": "", "kind": "Pod", "name": "cart"}),
        ] {
            let translation = translated(&world(), target(bad));
            assert_eq!(reasons(&translation)[0], "TargetNotFound");
            assert_eq!(translation.policy, None);
        }
        let taken = World {
            taken: true,
            ..world()
        };
        let translation = translated(&taken, |_| {});
        assert_eq!(reasons(&translation)[0], "Conflicted");
        assert_eq!(translation.policy, None);
        let translation = translated(&world(), |object| {
            object["metadata"]["annotations"] =
                json!({"istio.io/ignore-policy-attachment": "true"});
        });
        assert_eq!(reasons(&translation)[0], "IgnoredByIstio");
        assert_eq!(translation.policy, None);
    }
}
