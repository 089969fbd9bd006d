//! Objects and lists in the forms that answers have: whole, as metadata, as a table, and events
//! in the shape of either of their groups.

use crate::{
    crd, events,
    http::View,
    object::{self, Object, encode},
    registry::Resource,
    table::Tables,
};
use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Value, json};
use std::{borrow::Cow, sync::Arc};

/// Kind and API version that objects of a view say.
pub fn type_of(resource: &Resource, view: View) -> (String, String) {
    match view {
        View::Object => (resource.kind.to_string(), resource.api_version()),
        View::Metadata(version) => (
            "PartialObjectMetadata".into(),
            format!("meta.k8s.io/{version}"),
        ),
        View::Table(version) => ("Table".into(), format!("meta.k8s.io/{version}")),
    }
}

/// An object as the version and group of the request show it.
pub fn present<'a>(resource: &Resource, value: &'a Value) -> Cow<'a, Value> {
    if resource.storage.as_ref() == "events" {
        return events::present(resource, value);
    }
    if let Some(version) = resource.custom() {
        return crd::present(resource, version, value);
    }
    let version = resource.api_version();
    if object::text(value, "/apiVersion") == version {
        return Cow::Borrowed(value);
    }
    Cow::Owned(object::typed(value.clone(), &version, &resource.kind))
}

/// Only the metadata of an object.
pub fn metadata(value: &Value, version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": value.get("metadata").cloned().unwrap_or_else(|| json!({})),
    })
}

/// The JSON of one object in a view other than a table.
pub fn object_json(resource: &Resource, object: &Arc<Object>, view: View) -> Bytes {
    match view {
        View::Metadata(version) => encode(&metadata(object.value(), version)),
        _ => match present(resource, object.value()) {
            Cow::Borrowed(_) => object.json(),
            Cow::Owned(value) => encode(&value),
        },
    }
}

/// One object in any view.
pub fn one(
    resource: &Arc<Resource>,
    object: &Arc<Object>,
    view: View,
    include: Option<&str>,
) -> Bytes {
    match view {
        View::Table(_) => {
            let revision = object::text(object.value(), "/metadata/resourceVersion");
            let metadata = json!({"resourceVersion": revision});
            encode(
                &Tables::new(resource, view, include)
                    .table(std::slice::from_ref(object), &metadata),
            )
        }
        view => object_json(resource, object, view),
    }
}

/// A list in any view. `metadata` is that of the list.
pub fn list(
    resource: &Arc<Resource>,
    objects: &[Arc<Object>],
    metadata: &Value,
    view: View,
    include: Option<&str>,
) -> Bytes {
    if let View::Table(_) = view {
        return encode(&Tables::new(resource, view, include).table(objects, metadata));
    }
    let (kind, version) = match view {
        View::Metadata(version) => (
            "PartialObjectMetadataList".to_string(),
            format!("meta.k8s.io/{version}"),
        ),
        _ => (resource.list_kind.to_string(), resource.api_version()),
    };
    let mut out = BytesMut::new();
    let head = json!({"kind": kind, "apiVersion": version, "metadata": metadata});
    let head = encode(&head);
    out.put_slice(&head[..head.len() - 1]);
    out.put_slice(b",\"items\":[");
    for (i, object) in objects.iter().enumerate() {
        if i > 0 {
            out.put_u8(b',');
        }
        out.put_slice(&object_json(resource, object, view));
    }
    out.put_slice(b"]}");
    out.freeze()
}
