//! `apply` and `create`.

use super::{
    args::{Apply, Create, CreateKind},
    client::{Cluster, JSON, Kind, escape, text},
    error::{self, ServerError},
    manifest::{self, Manifest},
    output,
    three_way::{self, LAST_APPLIED, Merge},
};
use serde_json::{Value, json};

/// `apply`.
pub async fn apply(cluster: &Cluster, args: Apply) -> anyhow::Result<i32> {
    let manifests = manifest::read(&args.files.filename, args.files.recursive)?;
    each(
        cluster,
        manifests,
        async |cluster: &Cluster, kind: &Kind, manifest: &Manifest| match args.server_side {
            true => server_side(cluster, kind, manifest, &args).await,
            false => client_side(cluster, kind, manifest).await,
        },
    )
    .await
}

/// `create`.
pub async fn create(cluster: &Cluster, args: Create) -> anyhow::Result<i32> {
    let manifests = match args.kind {
        Some(CreateKind::Namespace { name }) => vec![Manifest {
            source: String::new(),
            object: json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
        }],
        None if args.files.filename.is_empty() => {
            anyhow::bail!(
                "error: must specify one of -f and -k, or a kind that can be created here: namespace"
            )
        }
        None => manifest::read(&args.files.filename, args.files.recursive)?,
    };
    each(
        cluster,
        manifests,
        async |cluster: &Cluster, kind: &Kind, manifest: &Manifest| {
            post(cluster, kind, manifest, manifest.object.clone()).await?;
            Ok("created")
        },
    )
    .await
}

/// Does something with each object and prints what was done. One that fails does not stop the
/// others.
async fn each(
    cluster: &Cluster,
    manifests: Vec<Manifest>,
    mut act: impl AsyncFnMut(&Cluster, &Kind, &Manifest) -> anyhow::Result<&'static str>,
) -> anyhow::Result<i32> {
    let mut cluster = cluster.again();
    let mut code = 0;
    for manifest in manifests {
        let outcome = match cluster.kind_of(&manifest.object).await {
            Ok(kind) => act(&cluster, &kind, &manifest)
                .await
                .map(|done| (kind, done)),
            Err(error) => Err(error),
        };
        match outcome {
            Ok((kind, done)) => {
                println!(
                    "{}/{} {done}",
                    kind.printed(),
                    text(&manifest.object, "/metadata/name")
                );
            }
            Err(error) => {
                eprintln!("{}", error::shown(&error));
                code = 1;
            }
        }
    }
    Ok(code)
}

/// The namespace of a manifest, which must not contradict the command's.
fn namespace<'a>(cluster: &'a Cluster, kind: &Kind, manifest: &'a Manifest) -> &'a str {
    match text(&manifest.object, "/metadata/namespace") {
        "" => cluster.namespace(),
        own if kind.namespaced => own,
        _ => cluster.namespace(),
    }
}

async fn post(
    cluster: &Cluster,
    kind: &Kind,
    manifest: &Manifest,
    object: Value,
) -> anyhow::Result<Value> {
    let url = kind.url(Some(namespace(cluster, kind, manifest)));
    let path = format!("{url}?fieldManager=kubectl-create&fieldValidation=Strict");
    let answer = cluster
        .send("POST", &path, JSON, Some((JSON, &object)))
        .await;
    answer.map_err(|e| during(e, &creating(manifest)))
}

fn creating(manifest: &Manifest) -> String {
    match manifest.source.as_str() {
        "" => "failed to create".to_string(),
        source => format!("error when creating {source:?}"),
    }
}

fn during(error: anyhow::Error, what: &str) -> anyhow::Error {
    match error.downcast::<ServerError>() {
        Ok(error) => error.during(what).into(),
        Err(error) => error,
    }
}

/// The manifest with the annotation that remembers it.
fn remembered(cluster: &Cluster, kind: &Kind, manifest: &Manifest) -> Value {
    let mut object = manifest.object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        if kind.namespaced {
            metadata.insert(
                "namespace".into(),
                namespace(cluster, kind, manifest).into(),
            );
        }
        let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.shift_remove(LAST_APPLIED);
        }
    }
    let text = output::sorted(&object).to_string() + "\n";
    if let Some(annotations) = object
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
    {
        annotations.insert(LAST_APPLIED.into(), text.into());
    }
    object
}

async fn client_side(
    cluster: &Cluster,
    kind: &Kind,
    manifest: &Manifest,
) -> anyhow::Result<&'static str> {
    let name = text(&manifest.object, "/metadata/name");
    if name.is_empty() {
        anyhow::bail!(
            "error: from {}: cannot use generate name with apply",
            manifest.source
        );
    }
    let wanted = remembered(cluster, kind, manifest);
    let namespace = namespace(cluster, kind, manifest);
    let Some(live) = cluster.find(kind, namespace, name).await? else {
        post(cluster, kind, manifest, wanted).await?;
        return Ok("created");
    };
    let annotations = live.pointer("/metadata/annotations");
    let last = annotations
        .and_then(|a| a.get(LAST_APPLIED))
        .and_then(Value::as_str);
    if last.is_none() {
        eprintln!(
            "Warning: resource {}/{name} is missing the {LAST_APPLIED} annotation which is required by kubectl apply. kubectl apply should only be used on resources created declaratively by either kubectl create --save-config or kubectl apply. The missing annotation will be patched automatically.",
            kind.plural
        );
    }
    let last: Value = last
        .and_then(|t| serde_json::from_str(t).ok())
        .unwrap_or(Value::Null);
    let custom = kind.group.contains('.') && !kind.group.ends_with(".k8s.io");
    let custom = custom || kind.group.starts_with("gateway.networking.");
    let (merge, content_type) = match custom {
        true => (Merge::Plain, "application/merge-patch+json"),
        false => (Merge::Strategic, "application/strategic-merge-patch+json"),
    };
    let patch = three_way::patch(&last, &wanted, merge);
    let url = kind.url(Some(namespace));
    let path =
        format!("{url}/{name}?fieldManager=kubectl-client-side-apply&fieldValidation=Strict");
    let answer = cluster
        .send("PATCH", &path, JSON, Some((content_type, &patch)))
        .await;
    let answer = answer.map_err(|e| {
        during(
            e,
            &format!("error when applying patch: for {:?}", manifest.source),
        )
    })?;
    let version = |o: &Value| text(o, "/metadata/resourceVersion").to_string();
    Ok(if version(&answer) == version(&live) {
        "unchanged"
    } else {
        "configured"
    })
}

async fn server_side(
    cluster: &Cluster,
    kind: &Kind,
    manifest: &Manifest,
    args: &Apply,
) -> anyhow::Result<&'static str> {
    let manager = args.field_manager.as_deref().unwrap_or("kubectl");
    let url = kind.url(Some(namespace(cluster, kind, manifest)));
    let name = text(&manifest.object, "/metadata/name");
    let path = format!(
        "{url}/{name}?fieldManager={}&force={}&fieldValidation=Strict",
        escape(manager),
        args.force_conflicts
    );
    let body = Some(("application/apply-patch+yaml", &manifest.object));
    cluster.send("PATCH", &path, JSON, body).await?;
    Ok("serverside-applied")
}
