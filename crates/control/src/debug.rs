//! Pages for people who look for a mistake: what is known, and what is published.
//!
//! They tell about the whole mesh, so they ask for a token of the root namespace; the control plane's
//! own pod may look without one (loopback, port 9876), which is what a port-forward reaches.

use std::sync::Arc;

use ambit_proto::convert::Address;
use ambit_proto::{security, type_url, workload as pb};
use ambit_runtime::http::{Reply, Request, Router, json, text};
use ambit_wire::xds::Logs;
use http::StatusCode;
use prost::Message;
use serde_json::{Map, Value, json};
use tonic::metadata::MetadataMap;

use crate::auth::Reviewer;
use crate::state::State;

/// What the pages show.
#[derive(Clone, Debug)]
pub struct Pages {
    /// What is known.
    pub state: Arc<State>,
    /// What is published.
    pub logs: Logs,
    /// The settings that the process was started with.
    pub settings: Arc<Value>,
}

type Page = fn(&Pages) -> Reply;

const PAGES: [(&str, Page); 4] = [
    ("/debug/ambientz", |pages| json(&pages.published())),
    ("/debug/registryz", |pages| json(&pages.registry())),
    ("/debug/mesh", |pages| json(&pages.mesh())),
    ("/debug/settings", |pages| json(&*pages.settings)),
];

impl Pages {
    /// The pages, without asking who looks.
    pub fn open(self) -> Router {
        PAGES.iter().fold(Router::new(), |router, (path, page)| {
            let pages = self.clone();
            router.get(path, move |_| {
                let pages = pages.clone();
                async move { page(&pages) }
            })
        })
    }

    /// The pages, for callers of the root namespace.
    pub fn guarded(self, reviewer: &Arc<Reviewer>) -> Router {
        PAGES.iter().fold(Router::new(), |router, (path, page)| {
            let (pages, reviewer) = (self.clone(), reviewer.clone());
            router.get(path, move |request| {
                let (pages, reviewer) = (pages.clone(), reviewer.clone());
                async move {
                    match pages.refuse(&reviewer, request).await {
                        Some(refusal) => refusal,
                        None => page(&pages),
                    }
                }
            })
        })
    }

    async fn refuse(&self, reviewer: &Reviewer, request: Request) -> Option<Reply> {
        let metadata = MetadataMap::from_headers(request.headers);
        let caller = match reviewer.authenticate(&metadata).await {
            Ok(caller) => caller,
            Err(status) => {
                return Some(text(
                    StatusCode::UNAUTHORIZED,
                    format!("{}\n", status.message()),
                ));
            }
        };
        let root = self.state.read().mesh().root_namespace.clone();
        if caller.namespace == root {
            return None;
        }
        let message = format!("debug pages are for service accounts of namespace {root}\n");
        Some(text(StatusCode::FORBIDDEN, message))
    }

    fn registry(&self) -> Value {
        let engine = self.state.read();
        let counts: Map<String, Value> = engine
            .counts()
            .into_iter()
            .map(|(kind, n)| (kind.to_owned(), json!(n)))
            .collect();
        let waiting: Vec<&str> = engine
            .waiting_for()
            .map(crate::engine::Kind::name)
            .collect();
        json!({"objects": counts, "notSynced": waiting})
    }

    fn mesh(&self) -> Value {
        let engine = self.state.read();
        let mesh = engine.mesh();
        json!({
            "clusterId": &*mesh.cluster_id,
            "clusterDomain": &*mesh.cluster_domain,
            "trustDomain": &*mesh.trust_domain,
            "rootNamespace": &*mesh.root_namespace,
            "network": &*mesh.network,
            "revision": &*mesh.revision,
        })
    }

    fn published(&self) -> Value {
        let (mut workloads, mut services, mut policies) = (Vec::new(), Vec::new(), Vec::new());
        for (resource, version) in self
            .logs
            .get(type_url::ADDRESS)
            .map(|l| l.dump())
            .unwrap_or_default()
        {
            let decoded = pb::Address::decode(resource.body)
                .ok()
                .and_then(|a| Address::try_from(a).ok());
            match decoded {
                Some(Address::Workload(w)) => workloads.push(workload(&w, &version)),
                Some(Address::Service(s)) => services.push(service(&s, &version)),
                None => {}
            }
        }
        for (resource, _) in self
            .logs
            .get(type_url::AUTHORIZATION)
            .map(|l| l.dump())
            .unwrap_or_default()
        {
            if let Ok(policy) = security::Authorization::decode(resource.body) {
                policies.push(json!({
                    "name": policy.name,
                    "namespace": policy.namespace,
                    "scope": format!("{:?}", policy.scope()),
                    "action": format!("{:?}", policy.action()),
                    "rules": policy.rules.len(),
                }));
            }
        }
        json!({"workloads": workloads, "services": services, "policies": policies})
    }
}

fn workload(w: &ambit_model::Workload, version: &str) -> Value {
    let services: Map<String, Value> = w
        .services
        .iter()
        .map(|(key, ports)| {
            let ports: Map<String, Value> = ports
                .iter()
                .map(|(port, target)| (port.to_string(), json!(target)))
                .collect();
            (key.to_string(), Value::Object(ports))
        })
        .collect();
    json!({
        "uid": &*w.uid,
        "version": version,
        "name": &*w.name,
        "namespace": &*w.namespace,
        "workloadIps": w.addresses,
        "network": &*w.network,
        "networkMode": format!("{:?}", w.network_mode),
        "protocol": match w.protocol {
            ambit_model::workload::Protocol::Hbone => "HBONE",
            ambit_model::workload::Protocol::Tcp => "TCP",
        },
        "identity": w.identity().to_string(),
        "node": &*w.node,
        "workloadName": &*w.workload_name,
        "canonicalName": &*w.canonical_name,
        "canonicalRevision": &*w.canonical_revision,
        "status": format!("{:?}", w.status),
        "services": services,
        "authorizationPolicies": w.authorization_policies.iter().map(|p| &**p).collect::<Vec<_>>(),
    })
}

fn service(s: &ambit_model::Service, version: &str) -> Value {
    let ports: Map<String, Value> = s
        .ports
        .iter()
        .map(|(port, target)| (port.to_string(), json!(target)))
        .collect();
    json!({
        "name": &*s.name,
        "version": version,
        "namespace": &*s.namespace,
        "hostname": &*s.hostname,
        "vips": s.vips.iter().map(|v| format!("{}/{}", v.network, v.address)).collect::<Vec<_>>(),
        "ports": ports,
    })
}
