//! What is served, told in both forms that clients ask for: aggregated (v2 and v2beta1) and one
//! document per group and version.

use crate::{
    api::Api,
    crd::version_order,
    http::{Body, with_type},
    object::encode,
    registry::{Resource, Subresource},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, Response, StatusCode, header};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

/// Resources by group and version, versions in order of preference.
type Groups = BTreeMap<Arc<str>, Vec<(Arc<str>, Vec<Arc<Resource>>)>>;

fn groups(api: &Api) -> Groups {
    let mut groups = Groups::new();
    for resource in api.registry.all() {
        let versions = groups.entry(resource.group.clone()).or_default();
        match versions.iter_mut().find(|(v, _)| *v == resource.version) {
            Some((_, resources)) => resources.push(resource),
            None => versions.push((resource.version.clone(), vec![resource])),
        }
    }
    for versions in groups.values_mut() {
        versions.sort_by_key(|(v, _)| Reverse(version_order(v)));
        // Clients show `all` in this order.
        for (_, resources) in versions {
            resources.sort_by(|a, b| a.plural.cmp(&b.plural));
        }
    }
    groups
}

/// `/api`.
pub fn core(api: &Api, headers: &HeaderMap) -> Response<Body> {
    aggregated(api, headers, true).unwrap_or_else(|| {
        crate::http::value(
            StatusCode::OK,
            &json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs":
                [{"clientCIDR": "0.0.0.0/0", "serverAddress": api.settings.advertise.to_string()}]}),
        )
    })
}

/// `/apis`.
pub fn all_groups(api: &Api, headers: &HeaderMap) -> Response<Body> {
    aggregated(api, headers, false).unwrap_or_else(|| {
        let groups: Vec<Value> = groups(api)
            .iter()
            .filter(|(g, _)| !g.is_empty())
            .map(|(g, v)| group_value(g, v))
            .collect();
        crate::http::value(
            StatusCode::OK,
            &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}),
        )
    })
}

/// `/apis/{group}`.
pub fn one_group(api: &Api, group: &str) -> Option<Value> {
    let groups = groups(api);
    let (name, versions) = groups.get_key_value(group).filter(|(g, _)| !g.is_empty())?;
    let mut value = group_value(name, versions);
    if let Some(map) = value.as_object_mut() {
        map.shift_insert(0, "kind".into(), "APIGroup".into());
        map.shift_insert(1, "apiVersion".into(), "v1".into());
    }
    Some(value)
}

fn group_value(group: &str, versions: &[(Arc<str>, Vec<Arc<Resource>>)]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|(v, _)| json!({"groupVersion": format!("{group}/{v}"), "version": v}))
        .collect();
    json!({"name": group, "preferredVersion": versions.first(), "versions": versions})
}

/// `/api/v1` and `/apis/{group}/{version}`.
pub fn resources(api: &Api, group: &str, version: &str) -> Option<Value> {
    let groups = groups(api);
    let (_, resources) = groups
        .get(group)?
        .iter()
        .find(|(v, _)| v.as_ref() == version)?;
    let mut entries = Vec::new();
    for r in resources {
        let mut entry = json!({"name": r.plural, "singularName": r.singular,
            "namespaced": r.namespaced, "kind": r.kind, "verbs": r.verbs});
        if let Some(map) = entry.as_object_mut() {
            if !r.short_names.is_empty() {
                map.insert("shortNames".into(), json!(r.short_names));
            }
            if !r.categories.is_empty() {
                map.insert("categories".into(), json!(r.categories));
            }
            if r.custom().is_some() {
                map.insert("storageVersionHash".into(), storage_hash(r).into());
            }
        }
        entries.push(entry);
        for s in &r.subresources {
            let mut entry = json!({"name": format!("{}/{}", r.plural, s.name), "singularName": "",
                "namespaced": r.namespaced, "kind": kind_of(r, s), "verbs": s.verbs});
            if let (Some((group, version)), Some(map)) = (s.group_version, entry.as_object_mut()) {
                map.insert("group".into(), group.into());
                map.insert("version".into(), version.into());
            }
            entries.push(entry);
        }
    }
    let group_version = if group.is_empty() {
        version.to_string()
    } else {
        format!("{group}/{version}")
    };
    Some(json!({"kind": "APIResourceList", "apiVersion": "v1",
        "groupVersion": group_version, "resources": entries}))
}

fn kind_of<'a>(resource: &'a Resource, subresource: &Subresource) -> &'a str {
    if subresource.kind.is_empty() {
        &resource.kind
    } else {
        subresource.kind
    }
}

/// The aggregated document, if the client asks for it.
fn aggregated(api: &Api, headers: &HeaderMap, core: bool) -> Option<Response<Body>> {
    let accept = headers.get(header::ACCEPT)?.to_str().ok()?;
    let version = accept.split(',').find_map(|range| {
        let has = |p: &str| range.split(';').any(|part| part.trim() == p);
        if !has("application/json")
            || !has("g=apidiscovery.k8s.io")
            || !has("as=APIGroupDiscoveryList")
        {
            return None;
        }
        ["v2", "v2beta1"]
            .into_iter()
            .find(|v| has(&format!("v={v}")))
    })?;
    let items: Vec<Value> = groups(api)
        .iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, versions)| discovery_item(group, versions))
        .collect();
    let document = json!({"kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"), "metadata": {}, "items": items});
    let content_type = match version {
        "v2" => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        _ => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
    };
    let mut response = with_type(StatusCode::OK, content_type, encode(&document));
    response
        .headers_mut()
        .insert(header::VARY, header::HeaderValue::from_static("Accept"));
    Some(response)
}

fn discovery_item(group: &str, versions: &[(Arc<str>, Vec<Arc<Resource>>)]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|(version, resources)| {
            let resources: Vec<Value> = resources.iter().map(|r| discovery_resource(r)).collect();
            json!({"version": version, "resources": resources, "freshness": "Current"})
        })
        .collect();
    let metadata = match group {
        "" => json!({}),
        name => json!({ "name": name }),
    };
    json!({"metadata": metadata, "versions": versions})
}

/// Names the version that objects are stored in, without telling it: when it changes, who moves
/// stored objects has work to do.
fn storage_hash(r: &Resource) -> String {
    let own = r.api_version();
    let stored = r
        .custom()
        .map(|version| version.storage.api_version.as_str());
    let text = format!("{}/{}", stored.unwrap_or(&own), r.kind);
    STANDARD.encode(&Sha256::digest(text.as_bytes())[..8])
}

fn discovery_resource(r: &Resource) -> Value {
    let kind = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let mut entry = json!({
        "resource": r.plural,
        "responseKind": kind(&r.group, &r.version, &r.kind),
        "scope": if r.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": r.singular,
        "verbs": r.verbs,
    });
    let Some(map) = entry.as_object_mut() else {
        return entry;
    };
    if !r.short_names.is_empty() {
        map.insert("shortNames".into(), json!(r.short_names));
    }
    if !r.categories.is_empty() {
        map.insert("categories".into(), json!(r.categories));
    }
    if !r.subresources.is_empty() {
        let list: Vec<Value> = r
            .subresources
            .iter()
            .map(|s| {
                let (group, version) = s.group_version.unwrap_or((&r.group, &r.version));
                json!({"subresource": s.name, "responseKind": kind(group, version, kind_of(r, s)),
                       "verbs": s.verbs})
            })
            .collect();
        map.insert("subresources".into(), list.into());
    }
    entry
}

/// `/version`.
pub fn version(api: &Api) -> Value {
    let text = &api.settings.version;
    let mut numbers = text.trim_start_matches('v').split('.');
    json!({
        "major": numbers.next().unwrap_or_default(), "minor": numbers.next().unwrap_or_default(),
        "gitVersion": text, "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc",
        "platform": format!("linux/{}", match std::env::consts::ARCH { "x86_64" => "amd64", "aarch64" => "arm64", other => other }),
    })
}
