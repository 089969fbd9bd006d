//! Rules of the released definitions: what a user of a mesh gets wrong is refused with the words
//! of the definition, and what is right is accepted. The examples stand in `rules/`.

use crate::{
    common::{Answer, Cluster},
    upstream,
};
use serde_json::{Value, json};
use std::path::Path;

/// Where objects of a kind are.
async fn collection(cluster: &Cluster, object: &Value) -> String {
    let version = object["apiVersion"].as_str().unwrap();
    let list = cluster.get(&format!("/apis/{version}")).await.ok();
    let of_kind =
        |r: &&Value| r["kind"] == object["kind"] && !r["name"].as_str().unwrap().contains('/');
    let found = list["resources"].as_array().unwrap().iter().find(of_kind);
    let found = found.unwrap_or_else(|| panic!("{} is not served", object["kind"]));
    let plural = found["name"].as_str().unwrap();
    match found["namespaced"] == true {
        true => format!("/apis/{version}/namespaces/default/{plural}"),
        false => format!("/apis/{version}/{plural}"),
    }
}

/// One document of the examples.
struct Example {
    object: Value,
    path: String,
    document: Value,
}

impl Example {
    async fn read(cluster: &Cluster, document: Value) -> Example {
        let name = document["name"].as_str().unwrap_or("example");
        let object = json!({"apiVersion": document["apiVersion"], "kind": document["kind"],
            "metadata": {"name": name}, "spec": document["spec"]});
        let path = collection(cluster, &object).await;
        Example {
            object,
            path,
            document,
        }
    }

    /// Sends a variant: a changed copy that is created, or a later change of what exists.
    async fn send(&self, cluster: &Cluster, case: &Value) -> Answer {
        if let Some(later) = case.get("later") {
            let path = format!(
                "{}/{}",
                self.path,
                self.object["metadata"]["name"].as_str().unwrap()
            );
            let merge = "application/merge-patch+json";
            return cluster.send("PATCH", &path, merge, later.to_string()).await;
        }
        let mut variant = self.object.clone();
        if variant["metadata"]["name"] == "example" {
            variant["metadata"]["name"] = json!("variant");
        }
        json_patch::merge(&mut variant, &case["with"]);
        let strict = format!("{}?dryRun=All&fieldValidation=Strict", self.path);
        cluster.post(&strict, &variant).await
    }
}

async fn install(cluster: &Cluster, folders: &[&str]) -> bool {
    let Some(folder) = upstream::folder() else {
        return false;
    };
    for name in folders {
        for (file, object) in upstream::objects(&folder.join("crds").join(name)) {
            if object["kind"] == "CustomResourceDefinition" {
                let answer = upstream::apply(cluster, &object).await;
                assert!(
                    answer.code < 300,
                    "{}: {}",
                    file.display(),
                    answer.body["message"]
                );
            }
        }
    }
    true
}

async fn examples(folders: &[&str], text: &str) {
    let cluster = Cluster::start().await;
    if install(&cluster, folders).await {
        let documents = serde_saphyr::from_multiple(text).unwrap();
        judge(&cluster, documents, true).await;
    }
}

/// Sends the examples. `words`: refusals must be in the words that the examples have.
async fn judge(cluster: &Cluster, documents: Vec<Value>, words: bool) {
    let mut wrong = Vec::new();
    let mut count = 0;
    for document in documents {
        let example = Example::read(cluster, document).await;
        let kind = example.object["kind"].clone();
        let cases = |key: &str| {
            example.document[key]
                .as_array()
                .cloned()
                .unwrap_or_default()
        };
        // Variants of an object whose name is given come before it.
        let (first, later): (Vec<Value>, Vec<Value>) = cases("refused")
            .into_iter()
            .chain(cases("accepted"))
            .partition(|case| case.get("later").is_none());
        let mut answers = Vec::new();
        for case in first {
            answers.push((example.send(cluster, &case).await, case));
        }
        let created = cluster.post(&example.path, &example.object).await;
        assert!(created.code < 300, "{kind}: {}", created.body["message"]);
        for case in later {
            answers.push((example.send(cluster, &case).await, case));
        }
        for (answer, case) in answers {
            count += 1;
            let message = answer.body["message"].as_str().unwrap_or_default();
            let right = match case["because"].as_str() {
                Some(because) => answer.code == 422 && (!words || message.contains(because)),
                None => answer.code < 300,
            };
            if !right {
                wrong.push(format!("{kind} {case}\n    {} {message}", answer.code));
            }
        }
    }
    assert!(count > 0);
    assert!(
        wrong.is_empty(),
        "{} of {count}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[tokio::test]
async fn of_the_gateway_api() {
    examples(
        &["gateway-api/experimental"],
        include_str!("rules/gateway.yaml"),
    )
    .await;
}

/// A file of examples is named as the folder of the definitions that it is about.
#[tokio::test]
async fn of_the_other_definitions() {
    let mut count = 0;
    for (name, text) in files() {
        if name != "gateway" {
            examples(&[&name], &text).await;
            count += 1;
        }
    }
    assert!(count >= 2, "{count} files of examples");
}

/// The files of examples: name and text.
fn files() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api/rules");
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        (name, std::fs::read_to_string(&path).unwrap())
    };
    std::fs::read_dir(folder).unwrap().map(read).collect()
}

/// The definitions that are generated from our own types come to the same as the released ones.
#[tokio::test]
async fn of_our_own_definitions() {
    let cluster = Cluster::start().await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/base/files/crds");
    let mut kinds = Vec::new();
    for (_, definition) in upstream::objects(&folder) {
        upstream::apply(&cluster, &definition).await.ok();
        kinds.push(definition["spec"]["names"]["kind"].clone());
    }
    let mut own = Vec::new();
    for (_, text) in files() {
        let examples: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        own.extend(examples.into_iter().filter(|e| kinds.contains(&e["kind"])));
    }
    judge(&cluster, own, false).await;
}
