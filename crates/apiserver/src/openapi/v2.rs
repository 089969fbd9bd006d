//! `/openapi/v2` in protobuf (gnostic's OpenAPIv2), the least that kubectl accepts: older clients
//! read it before every create, and all of them do for `kind: List`.

use crate::{
    api::Api,
    http::{Body, with_type},
    registry::Resource,
};
use http::{HeaderMap, Response, StatusCode};
use std::sync::Arc;

/// What clients can parse; the form with `@v1.0` that they ask for, they cannot.
const TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// The document.
pub fn document(api: &Api, _headers: &HeaderMap) -> Response<Body> {
    let mut out = Message::default();
    // Document: swagger = 1, info = 2, paths = 8, definitions = 9.
    out.text(1, "2.0");
    let mut info = Message::default();
    info.text(1, "Kubernetes");
    info.text(2, &api.settings.version);
    out.message(2, &info);
    let mut paths = Message::default();
    for resource in api
        .registry
        .all()
        .iter()
        .filter(|r| r.verbs.contains(&"patch"))
    {
        // Paths: path = 2; NamedPathItem: name = 1, value = 2.
        let mut named = Message::default();
        named.text(1, &path(resource));
        named.message(2, &path_item(resource));
        paths.message(2, &named);
    }
    out.message(8, &paths);
    out.message(9, &Message::default());
    with_type(StatusCode::OK, TYPE, out.0)
}

fn path(resource: &Arc<Resource>) -> String {
    let base = match resource.group.as_ref() {
        "" => format!("/api/{}", resource.version),
        group => format!("/apis/{group}/{}", resource.version),
    };
    match resource.namespaced {
        true => format!(
            "{base}/namespaces/{{namespace}}/{}/{{name}}",
            resource.plural
        ),
        false => format!("{base}/{}/{{name}}", resource.plural),
    }
}

/// PathItem with a PATCH (field 8) that knows `fieldValidation` and `dryRun`.
fn path_item(resource: &Resource) -> Message {
    let mut operation = Message::default();
    for name in ["dryRun", "fieldManager", "fieldValidation"] {
        // Operation.parameters = 8; ParametersItem.parameter = 1; Parameter.non_body = 2;
        // NonBodyParameter.query = 3 (`query_parameter_sub_schema`).
        let mut query = Message::default();
        query.text(2, "query");
        query.text(4, name);
        query.text(6, "string");
        let wrapped = query.inside(3).inside(2).inside(1);
        operation.message(8, &wrapped);
    }
    // Operation.responses = 9, required: an empty one will do.
    operation.message(9, &Message::default());
    // Operation.vendor_extension = 13; NamedAny: name = 1, value = 2; Any: yaml = 2.
    let mut any = Message::default();
    any.text(
        2,
        &format!(
            "group: {:?}\nkind: {:?}\nversion: {:?}\n",
            resource.group, resource.kind, resource.version
        ),
    );
    let mut named = Message::default();
    named.text(1, "x-kubernetes-group-version-kind");
    named.message(2, &any);
    operation.message(13, &named);
    operation.inside(8)
}

/// A protobuf message being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.0.push((n as u8 & 0x7f) | 0x80);
            n >>= 7;
        }
        self.0.push(n as u8);
    }

    fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, field: u32, text: &str) {
        self.bytes(field, text.as_bytes());
    }

    fn message(&mut self, field: u32, message: &Message) {
        self.bytes(field, &message.0);
    }

    /// A message that holds just this one.
    fn inside(&self, field: u32) -> Message {
        let mut outer = Message::default();
        outer.message(field, self);
        outer
    }
}
