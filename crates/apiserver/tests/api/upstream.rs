//! Released definitions and samples of other projects, where a copy of them lies beside the
//! project (`../shared/upstream`, or `upstream` in the folder that `AMBIT_SHARED` names).

use crate::common::Cluster;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub fn folder() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let shared = std::env::var_os("AMBIT_SHARED").map_or_else(beside, PathBuf::from);
    let folder = shared.join("upstream");
    if folder.is_dir() {
        return Some(folder);
    }
    println!(
        "no upstream manifests at {}: nothing to try",
        folder.display()
    );
    None
}

/// All objects of the YAML files below a folder, with the file that each came from.
pub fn objects(folder: &Path) -> Vec<(PathBuf, Value)> {
    let mut found = Vec::new();
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .flatten()
        .map(|e| e.path())
        .collect();
    entries.sort();
    for entry in entries {
        if entry.is_dir() {
            found.extend(objects(&entry));
        } else if entry.extension().is_some_and(|e| e == "yaml") {
            let text = std::fs::read_to_string(&entry).unwrap();
            let values: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
            found.extend(
                values
                    .into_iter()
                    .filter(|v| v.get("kind").is_some())
                    .map(|v| (entry.clone(), v)),
            );
        }
    }
    found
}

pub async fn apply(cluster: &Cluster, object: &Value) -> crate::common::Answer {
    let version = object["apiVersion"].as_str().unwrap();
    let root = if version.contains('/') {
        format!("/apis/{version}")
    } else {
        format!("/api/{version}")
    };
    let resources = cluster.get(&root).await.ok();
    let kind = &object["kind"];
    let found = resources["resources"]
        .as_array()
        .unwrap()
        .iter()
        .find(|r| r["kind"] == *kind && !r["name"].as_str().unwrap().contains('/'));
    let found = found.unwrap_or_else(|| panic!("{kind} is not served"));
    let plural = found["name"].as_str().unwrap();
    let name = object["metadata"]["name"].as_str().unwrap();
    let namespace = object["metadata"]["namespace"]
        .as_str()
        .unwrap_or("default");
    let path = match found["namespaced"] == true {
        true => format!("{root}/namespaces/{namespace}/{plural}/{name}"),
        false => format!("{root}/{plural}/{name}"),
    };
    let path = format!("{path}?fieldManager=test&force=true&fieldValidation=Strict");
    cluster
        .send(
            "PATCH",
            &path,
            "application/apply-patch+yaml",
            object.to_string(),
        )
        .await
}

#[tokio::test]
async fn definitions_install_twice_without_a_change() {
    let Some(folder) = folder() else { return };
    let cluster = Cluster::start().await;
    let mut count = 0;
    let mut served = BTreeSet::new();
    for (file, object) in objects(&folder.join("crds")) {
        // The channels of the Gateway API hold the same definitions: one of them is enough.
        if object["kind"] != "CustomResourceDefinition"
            || file.to_string_lossy().contains("/standard/")
        {
            continue;
        }
        let first = apply(&cluster, &object).await;
        assert!(
            first.code < 300,
            "{}: {}",
            file.display(),
            first.body["message"]
        );
        let again = apply(&cluster, &object).await.ok();
        assert_eq!(
            again["metadata"]["resourceVersion"], first.body["metadata"]["resourceVersion"],
            "{}: applied again, it changed",
            object["metadata"]["name"]
        );
        served.extend(group_versions(&object));
        count += 1;
    }
    assert!(count > 20, "{count} definitions");
    // All of them are served, and described.
    let index = cluster.get("/openapi/v3").await.ok();
    for group_version in served {
        let url = index["paths"][&group_version]["serverRelativeURL"].as_str();
        cluster.get(url.expect(&group_version)).await.ok();
    }
}

/// `apis/GROUP/VERSION` of each version that a definition serves.
fn group_versions(definition: &Value) -> impl Iterator<Item = String> {
    let group = &definition["spec"]["group"];
    let versions = definition["spec"]["versions"].as_array().unwrap();
    let served = versions.iter().filter(|version| version["served"] == true);
    served.map(|version| {
        format!(
            "apis/{}/{}",
            group.as_str().unwrap(),
            version["name"].as_str().unwrap()
        )
    })
}

#[tokio::test]
async fn samples_are_accepted_as_they_are() {
    let Some(folder) = folder() else { return };
    let cluster = Cluster::start().await;
    for (_, object) in objects(&folder.join("crds")) {
        if object["kind"] == "CustomResourceDefinition" {
            apply(&cluster, &object).await.ok();
        }
    }
    for (file, object) in objects(&folder.join("samples")) {
        let namespace = object["metadata"]["namespace"]
            .as_str()
            .unwrap_or("default");
        if cluster
            .get(&format!("/api/v1/namespaces/{namespace}"))
            .await
            .code
            == 404
        {
            cluster
                .post(
                    "/api/v1/namespaces",
                    &serde_json::json!({"metadata": {"name": namespace}}),
                )
                .await
                .ok();
        }
        let answer = apply(&cluster, &object).await;
        assert!(
            answer.code < 300,
            "{}: {}",
            file.display(),
            answer.body["message"]
        );
    }
}
