//! The generated CRDs are the ones that the charts carry, and compatible with Istio's.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

use ambit_kube_api::crds;
use serde_json::Value;

fn generated_folder(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(folder)
}

#[test]
fn the_charts_carry_the_generated_definitions() {
    let write = std::env::var_os("AMBIT_GENERATE").is_some();
    for (folder, crds) in [
        (crds::GENERATED, crds::all().unwrap()),
        (crds::GATEWAY_API, crds::gateway_api().unwrap()),
    ] {
        let folder = generated_folder(folder);
        for (name, text) in crds::yaml(crds).unwrap() {
            let file = folder.join(&name);
            if write {
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(&file, &text).unwrap();
            }
            let kept = std::fs::read_to_string(&file).unwrap_or_default();
            assert!(
                kept == text,
                "{} differs from the types; run `AMBIT_GENERATE=1 cargo test -p ambit-kube-api`",
                file.display()
            );
        }
    }
}

#[test]
fn the_text_is_the_definition() {
    let crds = || crds::all().unwrap();
    for ((_, text), crd) in crds::yaml(crds()).unwrap().iter().zip(crds()) {
        let read: Value = serde_saphyr::from_str(text).unwrap();
        assert_eq!(read, serde_json::to_value(crd).unwrap());
    }
}

#[test]
fn versions_names_and_columns() {
    for crd in crds::all().unwrap() {
        let versions: Vec<_> = crd
            .spec
            .versions
            .iter()
            .map(|v| (v.name.as_str(), v.served, v.storage))
            .collect();
        let (stored, rest) = match crd.spec.group.as_str() {
            "networking.istio.io" => ("v1", &["v1alpha3", "v1beta1"][..]),
            "telemetry.istio.io" => ("v1alpha1", &["v1alpha1"][..]),
            _ => ("v1", &["v1beta1"][..]),
        };
        let all = ["v1"].iter().chain(rest);
        let wanted: Vec<_> = all.map(|name| (*name, true, *name == stored)).collect();
        assert_eq!(versions, wanted);
        let columns: Vec<_> = crd.spec.versions[1]
            .additional_printer_columns
            .iter()
            .flatten()
            .map(|c| (c.name.as_str(), c.json_path.as_str()))
            .collect();
        match crd.spec.names.plural.as_str() {
            "authorizationpolicies" => assert_eq!(
                columns,
                [
                    ("Action", ".spec.action"),
                    ("Age", ".metadata.creationTimestamp")
                ]
            ),
            "destinationrules" => assert_eq!(
                columns,
                [
                    ("Host", ".spec.host"),
                    ("Age", ".metadata.creationTimestamp")
                ]
            ),
            "peerauthentications" => assert_eq!(
                columns,
                [
                    ("Mode", ".spec.mtls.mode"),
                    ("Age", ".metadata.creationTimestamp")
                ]
            ),
            "requestauthentications" => assert_eq!(columns, []),
            "telemetries" => assert_eq!(columns, [("Age", ".metadata.creationTimestamp")]),
            other => panic!("no expectation for {other}"),
        }
    }
}

#[test]
fn nothing_writes_into_the_users_objects() {
    let crds = [crds::all().unwrap(), crds::gateway_api().unwrap()].concat();
    for (name, text) in crds::yaml(crds).unwrap() {
        assert!(!text.contains("default:"), "{name} has defaults");
        assert!(!text.contains("nullable:"), "{name} has nullable fields");
    }
}

/// Istio's own definitions, where a copy lies beside the project (`../shared/upstream`, or
/// `upstream` in the folder that `AMBIT_SHARED` names).
fn released() -> Option<Vec<Value>> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let shared = std::env::var_os("AMBIT_SHARED").map_or_else(beside, PathBuf::from);
    let file = shared.join("upstream/crds/istio/crd-all.gen.yaml");
    match std::fs::read_to_string(&file) {
        Ok(text) => Some(serde_saphyr::from_multiple(&text).unwrap()),
        Err(error) => {
            println!("nothing to compare with: {}: {error}", file.display());
            None
        }
    }
}

#[test]
fn the_same_as_the_released_ones_but_for_the_words() {
    let Some(released) = released() else {
        return;
    };
    for ours in crds::all().unwrap() {
        let ours = serde_json::to_value(ours).unwrap();
        let name = &ours["metadata"]["name"];
        let theirs = released.iter().find(|c| c["metadata"]["name"] == *name);
        let theirs = theirs.unwrap_or_else(|| panic!("no {name} is released"));
        same(&format!("{name}"), &plain(&ours), &plain(theirs));
    }
}

/// A definition without what is said to people. Rules are in other words: that they come to the
/// same is for the API server's tests; here their number and place count.
fn plain(value: &Value) -> Value {
    let map = match value {
        Value::Array(list) => return list.iter().map(plain).collect(),
        Value::Object(map) => map,
        other => return other.clone(),
    };
    let mut plainer = serde_json::Map::new();
    for (key, value) in map {
        let value = match key.as_str() {
            // Whether null means nothing: it does here, without a word.
            "nullable" => continue,
            // A field may have that name too: then it is a schema.
            "description" if value.is_string() => continue,
            "rule" | "message" if map.contains_key("rule") => continue,
            // Either of both, which is always so.
            "oneOf" if either_way(value) => continue,
            "required" => sorted(value),
            _ => plain(value),
        };
        plainer.insert(key.clone(), value);
    }
    Value::Object(plainer)
}

/// Whether this is "something is there, or is not there".
fn either_way(one_of: &Value) -> bool {
    match one_of.as_array().map(Vec::as_slice) {
        Some([not, there]) => not["not"]["anyOf"][0] == *there,
        _ => false,
    }
}

/// The order of required fields means nothing.
fn sorted(names: &Value) -> Value {
    let mut names: Vec<Value> = names.as_array().cloned().unwrap_or_default();
    names.sort_by_key(ToString::to_string);
    names.into()
}

/// Says where two values differ.
fn same(path: &str, ours: &Value, theirs: &Value) {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            let keys: std::collections::BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
            for key in keys {
                let of = |map: &serde_json::Map<String, Value>| map.get(key).cloned();
                let (ours, theirs) = (of(ours), of(theirs));
                assert!(
                    ours.is_some() == theirs.is_some(),
                    "{path}.{key}: {ours:?}, released: {theirs:?}"
                );
                same(
                    &format!("{path}.{key}"),
                    &ours.unwrap_or_default(),
                    &theirs.unwrap_or_default(),
                );
            }
        }
        (Value::Array(ours), Value::Array(theirs)) if ours.len() == theirs.len() => {
            for (i, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
                same(&format!("{path}[{i}]"), ours, theirs);
            }
        }
        (Value::Number(ours), Value::Number(theirs)) => {
            assert_eq!(ours.as_f64(), theirs.as_f64(), "{path}");
        }
        _ => assert_eq!(ours, theirs, "{path}"),
    }
}
