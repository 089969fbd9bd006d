//! `/openapi/v3`: an index, and a document per group and version.

use crate::{
    api::Api,
    http::{Body, value},
    object::encode,
    registry::{Resource, Schema},
    schema::{Field, Scalar, Shape, Types, builtin_types},
    status::{ApiError, Result},
};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, sync::Arc};

/// Resources by `api/v1` or `apis/group/version`.
fn documents(api: &Api) -> BTreeMap<String, Vec<Arc<Resource>>> {
    let mut documents: BTreeMap<String, Vec<Arc<Resource>>> = BTreeMap::new();
    for resource in api.registry.all() {
        let path = match resource.group.as_ref() {
            "" => format!("api/{}", resource.version),
            group => format!("apis/{group}/{}", resource.version),
        };
        documents.entry(path).or_default().push(resource);
    }
    documents
}

/// The index. The hash in each URL changes with the document, so that clients may cache.
pub fn index(api: &Api) -> Response<Body> {
    let paths: Map<String, Value> = documents(api)
        .into_iter()
        .map(|(path, resources)| {
            let hash = hash(&resources);
            let url = format!("/openapi/v3/{path}?hash={hash}");
            (path, json!({ "serverRelativeURL": url }))
        })
        .collect();
    value(StatusCode::OK, &json!({ "paths": paths }))
}

/// One document.
pub fn document(api: &Api, path: &[&str], headers: &HeaderMap) -> Result<Response<Body>> {
    let documents = documents(api);
    let resources = documents
        .get(&path.join("/"))
        .ok_or_else(ApiError::unknown_path)?;
    let etag = format!("\"{}\"", hash(resources));
    let known = headers
        .get(header::IF_NONE_MATCH)
        .and_then(|v| v.to_str().ok());
    let mut response = match known == Some(etag.as_str()) {
        true => crate::http::json(StatusCode::NOT_MODIFIED, bytes::Bytes::new()),
        false => crate::http::json(StatusCode::OK, encode(&render(resources))),
    };
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response.headers_mut().insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("public, max-age=60"),
    );
    Ok(response)
}

/// Names a document without rendering it: built-in kinds never change while the server runs, and
/// definitions change with their resource version.
fn hash(resources: &[Arc<Resource>]) -> String {
    let mut hasher = Sha256::new();
    hasher.update(env!("CARGO_PKG_VERSION"));
    for resource in resources {
        let revision = match &resource.schema {
            Schema::Builtin(_) => 0,
            Schema::Custom(version) => version.revision,
        };
        hasher.update(format!(
            "{}/{}@{revision};",
            resource.api_version(),
            resource.kind
        ));
    }
    hasher
        .finalize()
        .iter()
        .take(16)
        .map(|b| format!("{b:02X}"))
        .collect()
}

fn render(resources: &[Arc<Resource>]) -> Value {
    let mut paths = Map::new();
    let mut schemas = Map::new();
    for resource in resources {
        paths.extend(operations(resource));
        let name = schema_name(resource);
        match &resource.schema {
            Schema::Builtin(type_name) => builtin(type_name, &mut schemas),
            Schema::Custom(version) => {
                let mut schema = match version.source.is_object() {
                    true => version.source.clone(),
                    false => {
                        json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
                    }
                };
                if let Some(properties) = crate::object::child(&mut schema, "properties") {
                    properties.insert("metadata".into(), reference("meta.v1.ObjectMeta"));
                }
                schemas.insert(name.clone(), schema);
                builtin("meta.v1.ObjectMeta", &mut schemas);
            }
        }
        if let Some(Value::Object(schema)) = schemas.get_mut(&name) {
            schema.insert(
                "x-kubernetes-group-version-kind".into(),
                json!([gvk(resource)]),
            );
        }
    }
    json!({"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.35.0"},
           "paths": paths, "components": {"schemas": schemas}})
}

fn gvk(resource: &Resource) -> Value {
    json!({"group": resource.group, "version": resource.version, "kind": resource.kind})
}

fn parameter(name: &str, description: &str) -> Value {
    json!({"name": name, "in": "query", "description": description,
           "schema": {"type": "string", "uniqueItems": true}})
}

/// The operations of the collection and of one object.
fn operations(resource: &Resource) -> Vec<(String, Value)> {
    let base = match resource.group.as_ref() {
        "" => format!("/api/{}", resource.version),
        group => format!("/apis/{group}/{}", resource.version),
    };
    let collection = match resource.namespaced {
        true => format!("{base}/namespaces/{{namespace}}/{}", resource.plural),
        false => format!("{base}/{}", resource.plural),
    };
    let operation = |action: &str| {
        json!({
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": gvk(resource),
            "parameters": [
                parameter("dryRun", "when present, modifications are not persisted: All"),
                parameter("fieldManager", "who makes the change"),
                parameter("fieldValidation", "what to do about unknown fields: Ignore, Warn or Strict"),
            ],
            "responses": {"200": {"description": "OK"}},
        })
    };
    let mut all = vec![(
        collection.clone(),
        json!({"get": operation("list"), "post": operation("post")}),
    )];
    if resource.verbs.contains(&"patch") {
        all.push((
            format!("{collection}/{{name}}"),
            json!({"get": operation("get"), "put": operation("put"), "patch": operation("patch"),
                   "delete": operation("delete")}),
        ));
    }
    all
}

/// `io.k8s.api.core.v1.Pod`, or the reversed group of a custom resource.
fn schema_name(resource: &Resource) -> String {
    match &resource.schema {
        Schema::Builtin(name) => component(name),
        Schema::Custom(_) => {
            let mut parts: Vec<&str> = resource.group.split('.').collect();
            parts.reverse();
            format!("{}.{}.{}", parts.join("."), resource.version, resource.kind)
        }
    }
}

fn component(type_name: &str) -> String {
    match type_name.split_once('.') {
        Some(("meta", rest)) => format!("io.k8s.apimachinery.pkg.apis.meta.{rest}"),
        Some(("apiextensions", rest)) => {
            format!("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.{rest}")
        }
        _ => format!("io.k8s.api.{type_name}"),
    }
}

fn reference(type_name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{}", component(type_name))})
}

/// Adds the schema of a built-in type and of all types that it uses.
fn builtin(type_name: &str, schemas: &mut Map<String, Value>) {
    let types = builtin_types();
    let Some(index) = types.index(type_name) else {
        return;
    };
    let name = component(type_name);
    if schemas.contains_key(&name) {
        return;
    }
    schemas.insert(name.clone(), Value::Null);
    let fields = types.json_fields(index);
    let mut properties = Map::new();
    let is_kind = fields.iter().any(|f| f.json == "metadata");
    if is_kind && !type_name.ends_with("TemplateSpec") {
        properties.insert("apiVersion".into(), json!({"type": "string"}));
        properties.insert("kind".into(), json!({"type": "string"}));
    }
    for field in &fields {
        properties.insert(field.json.into(), schema_of(types, &field.shape, schemas));
    }
    let required: Vec<&str> = fields.iter().filter(|f| must(f)).map(|f| f.json).collect();
    let mut schema = json!({"type": "object", "properties": properties});
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schemas.insert(name, schema);
}

fn must(field: &Field) -> bool {
    field.required
}

fn schema_of(types: &Types, shape: &Shape, schemas: &mut Map<String, Value>) -> Value {
    match shape {
        Shape::Message(index) => {
            let name = types.get(*index).name;
            builtin(name, schemas);
            reference(name)
        }
        Shape::List(inner) => json!({"type": "array", "items": schema_of(types, inner, schemas)}),
        Shape::Map(inner) => {
            json!({"type": "object", "additionalProperties": schema_of(types, inner, schemas)})
        }
        Shape::Scalar(scalar) => match scalar {
            Scalar::String | Scalar::Duration => json!({"type": "string"}),
            Scalar::Quantity => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            Scalar::Bool => json!({"type": "boolean"}),
            Scalar::Int32 => json!({"type": "integer", "format": "int32"}),
            Scalar::Int64 => json!({"type": "integer", "format": "int64"}),
            Scalar::Double => json!({"type": "number", "format": "double"}),
            Scalar::Bytes => json!({"type": "string", "format": "byte"}),
            Scalar::Time | Scalar::MicroTime => json!({"type": "string", "format": "date-time"}),
            Scalar::IntOrString => {
                json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
            }
            Scalar::Raw | Scalar::FieldsV1 => json!({"type": "object"}),
            Scalar::Json => json!({"x-kubernetes-preserve-unknown-fields": true}),
            Scalar::Extra => json!({"type": "array", "items": {"type": "string"}}),
        },
    }
}
