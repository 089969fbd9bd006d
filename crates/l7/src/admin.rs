//! `/config_dump` and `/clusters`: what this waypoint knows, for `istioctl` and for people.

use std::collections::BTreeMap;
use std::sync::Arc;

use ambit_model::route::{Action, Route};
use ambit_proxy_core::dump;
use ambit_runtime::build_info::build_info;
use ambit_runtime::config::Effective;
use ambit_runtime::http::{Router, json as json_page, reply};
use http::StatusCode;
use serde_json::{Value, json};

use crate::dispatch::{Destination, Spoken};
use crate::envoy;
use crate::shared::Shared;

/// The routes of a waypoint on the admin port, beside those of every process.
pub(crate) fn routes(shared: Arc<Shared>, effective: Arc<BTreeMap<String, Effective>>) -> Router {
    let known = shared.clone();
    let dump = move |_| {
        let (shared, effective) = (known.clone(), effective.clone());
        async move {
            let text = page(&shared, &effective);
            reply(StatusCode::OK, "application/json", text)
        }
    };
    let clusters = move |_| {
        let shared = shared.clone();
        async move { json_page(&envoy::clusters(&shared)) }
    };
    Router::new()
        .get("/config_dump", dump)
        .get("/clusters", clusters)
}

fn page(shared: &Shared, effective: &BTreeMap<String, Effective>) -> String {
    let mut page = dump::state(&shared.store.load());
    let l7 = shared.l7.load();
    let config = &shared.config;
    let mut put = |key: &str, value: Value| page.insert(key.to_owned(), value);
    // For tools that know Envoy.
    put("configs", envoy::configs(shared));
    put("version", json!(build_info()));
    put("certificates", json!(shared.certificates.dump()));
    put("effective", json!(effective));
    put(
        "gateway",
        json!({
            "name": config.gateway, "namespace": config.pod.namespace,
            "service": config.service.to_string(), "identity": shared.identity.to_string(),
        }),
    );
    let state = shared.store.load();
    let served = state
        .services()
        .filter(|(service, _)| shared.own().serves(&state, service));
    // What is spoken on each port of what we serve.
    let served = served.map(|(service, _)| {
        let ports = service.ports.keys().map(|port| {
            let spoken = match Destination::Service(service.clone(), *port).spoken() {
                Spoken::Http => "HTTP",
                Spoken::Tcp => "TCP",
                Spoken::Unknown => "HTTP or TCP",
            };
            (port.to_string(), Value::from(spoken))
        });
        (service.key().to_string(), Value::Object(ports.collect()))
    });
    put("serves", Value::Object(served.collect()));
    put("routes", l7.routes().map(|route| of_route(route)).collect());
    let policies = l7.all_policies().map(|policy| {
        let attachments = policy.attachments.iter().map(|a| format!("{a:?}"));
        json!({
            "name": policy.name, "namespace": policy.namespace,
            "action": format!("{:?}", policy.action), "dryRun": policy.dry_run,
            "attachments": attachments.collect::<Vec<_>>(), "rules": policy.rules.len(),
        })
    });
    put("accessPolicies", policies.collect());
    let traffic = l7.traffic_policies().map(|policy| {
        let name = format!("{}.{}", policy.name, policy.namespace);
        (policy.service.to_string(), Value::from(name))
    });
    put("trafficPolicies", Value::Object(traffic.collect()));
    let reporting = l7.reporting(None);
    let logs = reporting.logs.iter().map(|log| log.name.to_string());
    put(
        "telemetry",
        json!({
            "objects": l7.telemetries().map(|object| object.key().to_string()).collect::<Vec<_>>(),
            "accessLogs": logs.collect::<Vec<_>>(),
            "tracing": reporting.tracing.as_ref().map(|tracing| {
                json!({
                    "provider": tracing.traced.provider.name,
                    "sampling": f64::from(tracing.traced.sampling) / 100.0,
                })
            }),
        }),
    );
    dump::page(page)
}

fn of_route(route: &Route) -> Value {
    let parents = route.parents.iter().map(|parent| match parent.port {
        Some(port) => format!("{}:{port}", parent.service),
        None => parent.service.to_string(),
    });
    let rules = route.rules.iter().map(|rule| {
        let backends = match &rule.action {
            Action::Forward(forward) => forward
                .backends
                .iter()
                .map(|backend| {
                    let target = backend.target.as_ref();
                    let target = target.map(|t| format!("{}:{}", t.service, t.port));
                    json!({"target": target, "weight": backend.weight})
                })
                .collect(),
            Action::Redirect(redirect) => json!({"redirect": redirect.status}),
            Action::Fail(reason) => json!({"fails": reason}),
        };
        let matches: Vec<String> = rule.matches.iter().map(ToString::to_string).collect();
        json!({"name": rule.name, "matches": matches, "backends": backends})
    });
    json!({
        "kind": route.kind.name(), "namespace": route.namespace, "name": route.name,
        "parents": parents.collect::<Vec<_>>(), "rules": rules.collect::<Vec<_>>(),
    })
}
