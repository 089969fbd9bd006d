//! The generated CRDs are the ones that the charts carry, and compatible with Istio's.

use std::path::{Path, PathBuf};

use ambit_kube_api::crds;
use serde_json::Value;

fn generated_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(crds::GENERATED)
}

#[test]
fn the_charts_carry_the_generated_definitions() {
    let folder = generated_folder();
    let write = std::env::var_os("AMBIT_GENERATE").is_some();
    for (name, text) in crds::yaml().unwrap() {
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

#[test]
fn the_text_is_the_definition() {
    for ((_, text), crd) in crds::yaml().unwrap().iter().zip(crds::all().unwrap()) {
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
        assert_eq!(versions, [("v1", true, true), ("v1beta1", true, false)]);
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
            "peerauthentications" => assert_eq!(
                columns,
                [
                    ("Mode", ".spec.mtls.mode"),
                    ("Age", ".metadata.creationTimestamp")
                ]
            ),
            other => panic!("no expectation for {other}"),
        }
    }
}

#[test]
fn nothing_writes_into_the_users_objects() {
    for (name, text) in crds::yaml().unwrap() {
        assert!(!text.contains("default:"), "{name} has defaults");
        assert!(!text.contains("nullable:"), "{name} has nullable fields");
    }
}

/// Compares with Istio's own definitions, when a copy is there.
#[test]
fn compatible_with_istio() {
    let Some(file) = std::env::var_os("AMBIT_ISTIO_CRDS") else {
        println!("not compared: AMBIT_ISTIO_CRDS does not name a file with Istio's CRDs");
        return;
    };
    let text = std::fs::read_to_string(&file).unwrap();
    let theirs: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    for ours in crds::all().unwrap() {
        let ours = serde_json::to_value(ours).unwrap();
        let theirs = theirs
            .iter()
            .find(|c| c["metadata"]["name"] == ours["metadata"]["name"])
            .unwrap_or_else(|| panic!("no {} in {file:?}", ours["metadata"]["name"]));
        assert_eq!(ours["spec"]["names"], theirs["spec"]["names"]);
        assert_eq!(ours["spec"]["scope"], theirs["spec"]["scope"]);
        let (ours, theirs) = (&ours["spec"]["versions"], &theirs["spec"]["versions"]);
        for (ours, theirs) in ours
            .as_array()
            .unwrap()
            .iter()
            .zip(theirs.as_array().unwrap())
        {
            assert_eq!(ours["name"], theirs["name"]);
            assert_eq!(ours["subresources"], theirs["subresources"]);
            same_shape(
                "",
                &ours["schema"]["openAPIV3Schema"],
                &theirs["schema"]["openAPIV3Schema"],
            );
        }
    }
}

/// The same fields with the same types and limits, and as many validation rules.
fn same_shape(path: &str, ours: &Value, theirs: &Value) {
    for key in [
        "type",
        "enum",
        "maxItems",
        "maxLength",
        "minLength",
        "maxProperties",
        "minProperties",
        "pattern",
        "format",
        "x-kubernetes-preserve-unknown-fields",
    ] {
        assert_eq!(ours[key], theirs[key], "{key} of {path}");
    }
    let sorted = |v: &Value| {
        let mut names: Vec<String> = v
            .as_array()
            .into_iter()
            .flatten()
            .map(|n| n.to_string())
            .collect();
        names.sort();
        names
    };
    assert_eq!(
        sorted(&ours["required"]),
        sorted(&theirs["required"]),
        "required of {path}"
    );
    let rules = |v: &Value| v["x-kubernetes-validations"].as_array().map_or(0, Vec::len);
    assert_eq!(rules(ours), rules(theirs), "number of rules of {path}");
    let names = |v: &Value| {
        let mut names: Vec<String> = v["properties"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(k, _)| k.clone())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(ours), names(theirs), "fields of {path}");
    for name in names(ours) {
        let path = format!("{path}.{name}");
        same_shape(
            &path,
            &ours["properties"][&name],
            &theirs["properties"][&name],
        );
    }
    for key in ["items", "additionalProperties"] {
        if ours[key].is_object() || theirs[key].is_object() {
            same_shape(&format!("{path}.{key}"), &ours[key], &theirs[key]);
        }
    }
}
