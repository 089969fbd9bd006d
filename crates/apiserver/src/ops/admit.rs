//! The form of a body: its kind, its fields, its types.

use super::Writer;
use crate::{
    crd,
    decode::Decoded,
    defaults,
    registry::{Resource, Schema},
    schema::{self, Findings},
    status::{ApiError, Cause, Result},
};
use serde_json::Value;

/// What to do about fields that do not exist or occur twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// Nothing.
    Ignore,
    /// Tell the client.
    #[default]
    Warn,
    /// Refuse the request.
    Strict,
}

impl FieldValidation {
    /// The name in requests.
    pub fn name(self) -> &'static str {
        match self {
            FieldValidation::Ignore => "Ignore",
            FieldValidation::Warn => "Warn",
            FieldValidation::Strict => "Strict",
        }
    }

    /// The query parameter.
    pub fn parse(text: Option<&str>) -> Result<Self> {
        match text {
            None | Some("Warn") => Ok(FieldValidation::Warn),
            Some("Ignore") => Ok(FieldValidation::Ignore),
            Some("Strict") => Ok(FieldValidation::Strict),
            Some(other) => Err(ApiError::unprocessable(format!(
                "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
            ))),
        }
    }
}

/// Checks kind and API version of a body, drops what the kind does not know, brings values into
/// their canonical form.
pub fn shape(resource: &Resource, decoded: Decoded, writer: &mut Writer<'_>) -> Result<Value> {
    let (kind, version) = (resource.kind.as_ref(), resource.version.as_ref());
    formed(resource, decoded, writer, |why| {
        ApiError::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {kind}: {why}"
        ))
    })
}

/// As [`shape`], of what a patch has made of an object: the patch is to blame.
pub fn shape_patched(
    resource: &Resource,
    patch: &Value,
    decoded: Decoded,
    writer: &mut Writer<'_>,
) -> Result<Value> {
    formed(resource, decoded, writer, |why| {
        let cause = Cause::invalid("patch", patch, &why);
        ApiError::invalid("", "", "", vec![cause])
    })
}

/// As [`shape`], of what an apply wants: it may name only fields that the kind has.
pub fn shape_applied(
    resource: &Resource,
    decoded: Decoded,
    writer: &mut Writer<'_>,
) -> Result<Value> {
    let of = |key: &str| crate::object::text(&decoded.value, key).to_owned();
    let (namespace, name) = (of("/metadata/namespace"), of("/metadata/name"));
    let (group, version, kind) = (&resource.group, &resource.version, &resource.kind);
    let place = format!("({namespace}/{name}; {group}/{version}, Kind={kind})");
    let refused = |why: String| {
        ApiError::odd(format!(
            "failed to create typed patch object {place}: {why}"
        ))
    };
    let mut form = form(resource, decoded, refused)?;
    if let Some(path) = form.unknown.pop() {
        return Err(refused(format!(".{path}: field not declared in schema")));
    }
    settled(form, writer, refused)
}

/// A body in the form of its kind, and what was odd about it.
struct Form {
    value: Value,
    unknown: Vec<String>,
    duplicates: Vec<String>,
}

fn form(
    resource: &Resource,
    decoded: Decoded,
    refused: impl Fn(String) -> ApiError,
) -> Result<Form> {
    let Decoded {
        mut value,
        duplicates,
    } = decoded;
    check_type(resource, &value)?;
    let mut findings = Findings::default();
    match &resource.schema {
        Schema::Builtin(name) => schema::normalize(name, &mut value, &mut findings),
        Schema::Custom(version) => crd::prune(version, &mut value, &mut findings),
    }
    .map_err(refused)?;
    Ok(Form {
        value: crate::object::typed(value, &resource.api_version(), &resource.kind),
        unknown: findings.unknown,
        duplicates,
    })
}

fn formed(
    resource: &Resource,
    decoded: Decoded,
    writer: &mut Writer<'_>,
    refused: impl Fn(String) -> ApiError,
) -> Result<Value> {
    settled(form(resource, decoded, &refused)?, writer, refused)
}

/// The value of a form, with what is odd refused or told as the writer asks.
fn settled(
    form: Form,
    writer: &mut Writer<'_>,
    refused: impl Fn(String) -> ApiError,
) -> Result<Value> {
    let unknown = form
        .unknown
        .iter()
        .map(|path| format!("unknown field {path:?}"));
    let duplicates = form
        .duplicates
        .iter()
        .map(|path| format!("duplicate field {path:?}"));
    let problems: Vec<String> = unknown.chain(duplicates).collect();
    match writer.validation {
        FieldValidation::Strict if !problems.is_empty() => {
            let problems = problems.join(", ");
            return Err(refused(format!("strict decoding error: {problems}")));
        }
        FieldValidation::Warn => problems.into_iter().for_each(|p| writer.warn(p)),
        _ => {}
    }
    Ok(form.value)
}

/// Gives an object that a webhook has changed the form of its kind again.
pub fn reform(resource: &Resource, mut value: Value) -> Result<Value> {
    let mut findings = Findings::default();
    let formed = match &resource.schema {
        Schema::Builtin(name) => schema::normalize(name, &mut value, &mut findings),
        Schema::Custom(version) => crd::prune(version, &mut value, &mut findings),
    };
    formed.map_err(ApiError::internal)?;
    match &resource.schema {
        Schema::Builtin(_) => defaults::on_update(resource, &Value::Null, &mut value),
        Schema::Custom(_) => defaults::custom(resource, &mut value),
    }
    Ok(value)
}

fn check_type(resource: &Resource, value: &Value) -> Result<()> {
    let Some(map) = value.as_object() else {
        return Err(ApiError::bad_request("the body is not an object"));
    };
    let expected = resource.api_version();
    if let Some(found) = map
        .get("apiVersion")
        .and_then(Value::as_str)
        .filter(|v| !v.is_empty())
        && found != expected
    {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({found}) does not match the expected API version ({expected})"
        )));
    }
    if let Some(found) = map
        .get("kind")
        .and_then(Value::as_str)
        .filter(|v| !v.is_empty())
        && found != resource.kind.as_ref()
    {
        return Err(ApiError::bad_request(format!(
            "the kind in the data ({found}) does not match the expected kind ({})",
            resource.kind
        )));
    }
    Ok(())
}
