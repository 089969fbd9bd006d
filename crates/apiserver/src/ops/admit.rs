//! The form of a body: its kind, its fields, its types.

use super::Writer;
use crate::{
    crd,
    decode::Decoded,
    defaults,
    registry::{Resource, Schema},
    schema::{self, Findings},
    status::{ApiError, Result},
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
    let Decoded {
        mut value,
        duplicates,
    } = decoded;
    check_type(resource, &value)?;
    let (kind, version) = (resource.kind.as_ref(), resource.version.as_ref());
    let handled = |why: String| {
        ApiError::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {kind}: {why}"
        ))
    };
    let mut findings = Findings::default();
    match &resource.schema {
        Schema::Builtin(name) => {
            schema::normalize(name, &mut value, &mut findings).map_err(handled)?
        }
        Schema::Custom(version) => {
            crd::prune(version, &mut value, &mut findings).map_err(handled)?
        }
    }
    let mut problems: Vec<String> = findings
        .unknown
        .iter()
        .map(|path| format!("unknown field {path:?}"))
        .collect();
    problems.extend(
        duplicates
            .iter()
            .map(|path| format!("duplicate field {path:?}")),
    );
    match writer.validation {
        FieldValidation::Strict if !problems.is_empty() => {
            return Err(handled(format!(
                "strict decoding error: {}",
                problems.join(", ")
            )));
        }
        FieldValidation::Warn => problems.into_iter().for_each(|p| writer.warn(p)),
        _ => {}
    }
    Ok(crate::object::typed(value, &resource.api_version(), kind))
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
