//! Released definitions of other projects, which a clone does not have.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::target::{Request, Target};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const PATIENCE: Duration = Duration::from_secs(60);

/// The folder of released material, where this machine has it.
pub fn folder() -> Option<PathBuf> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    let beside = repository.and_then(Path::parent).map(|p| p.join("shared"));
    let folder = std::env::var_os("AMBIT_SHARED")
        .map(PathBuf::from)
        .or(beside);
    let folder = folder.map(|f| f.join("upstream"));
    match folder {
        Some(folder) if folder.is_dir() => Some(folder),
        _ => {
            eprintln!("no released definitions beside the clone: nothing to do");
            None
        }
    }
}

/// Creates all definitions of a folder and waits until they are served.
pub async fn install(target: &Target, part: &str) {
    let folder = folder().expect("checked before").join(part);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).expect("a folder of definitions") {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let objects: Vec<Value> = serde_saphyr::from_multiple(&text).expect("YAML");
        for object in objects {
            if object["kind"] != "CustomResourceDefinition" {
                continue;
            }
            let name = object["metadata"]["name"].as_str().unwrap().to_owned();
            let answer = target.send(&Request::post(DEFINITIONS, &object)).await;
            assert_eq!(answer.code, 201, "{name}: {}", answer.body);
            names.push(name);
        }
    }
    for name in names {
        served(target, &name).await;
    }
}

async fn served(target: &Target, name: &str) {
    let end = Instant::now() + PATIENCE;
    let get = Request::get(&format!("{DEFINITIONS}/{name}"));
    loop {
        let definition = target.send(&get).await.body;
        let spec = &definition["spec"];
        let version = spec["versions"][0]["name"].as_str().unwrap();
        let list = Request::get(&format!(
            "/apis/{}/{version}/{}",
            spec["group"].as_str().unwrap(),
            spec["names"]["plural"].as_str().unwrap()
        ));
        if target.send(&list).await.code == 200 {
            return;
        }
        assert!(Instant::now() < end, "{name} is not served: {definition}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
