//! Who manages which field.

use crate::{
    handlers::Context,
    http::Body,
    ops::Part,
    registry::Resource,
    status::{ApiError, Result},
};
use ::http::Response;
use serde_json::Value;
use std::sync::Arc;

/// Records who changed what.
pub fn track(
    _resource: &Resource,
    _before: Option<&Value>,
    _after: &mut Value,
    _manager: &str,
    _part: &str,
) {
}

/// Whether two states of an object have the same managers.
pub fn same_managers(_a: &Value, _b: &Value) -> bool {
    true
}

/// Server-side apply.
pub(crate) fn handle(
    _context: &Context,
    _resource: &Arc<Resource>,
    _body: &[u8],
    _part: Part,
) -> Result<Response<Body>> {
    Err(ApiError::unsupported_media_type(
        "server-side apply is not served yet",
    ))
}
