//! Bodies, content negotiation, and the forms an answer can take.

use crate::{
    object::encode,
    status::{ApiError, Result},
};
use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Body as HttpBody, Frame, Incoming};
use serde_json::Value;

/// An error inside a body that is being sent or read.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of every answer.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Largest body that is read, as in Kubernetes.
pub const BODY_LIMIT: usize = 3 * 1024 * 1024;

/// A body that is there already.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A body that comes piece by piece.
pub fn streamed(stream: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static) -> Body {
    use futures_util::StreamExt;
    BodyExt::boxed_unsync(StreamBody::new(stream.map(|piece| piece.map(Frame::data))))
}

/// A JSON answer.
pub fn json(status: StatusCode, bytes: Bytes) -> Response<Body> {
    with_type(status, "application/json", bytes)
}

/// An answer of any content type.
pub fn with_type(
    status: StatusCode,
    content_type: &'static str,
    bytes: impl Into<Bytes>,
) -> Response<Body> {
    let mut response = Response::new(full(bytes));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, private"),
    );
    response
}

/// The answer to a request that failed.
pub fn failure(error: &ApiError) -> Response<Body> {
    let mut response = json(error.code, encode(&error.to_value()));
    if error.code == StatusCode::TOO_MANY_REQUESTS {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// Adds warnings as HTTP `Warning` headers, which clients print.
pub fn add_warnings(headers: &mut HeaderMap, warnings: &[String]) {
    for warning in warnings {
        let quoted: String = warning
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .flat_map(|c| match c {
                '"' | '\\' => vec!['\\', c],
                c => vec![c],
            })
            .collect();
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            headers.append(header::WARNING, value);
        }
    }
}

/// Reads a whole request body.
pub async fn read(body: Incoming) -> Result<Bytes> {
    if body.size_hint().lower() > BODY_LIMIT as u64 {
        return Err(ApiError::too_large(BODY_LIMIT));
    }
    let mut body = body;
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|e| ApiError::bad_request(format!("the request body broke off: {e}")))?;
        if let Ok(data) = frame.into_data() {
            if all.len() + data.len() > BODY_LIMIT {
                return Err(ApiError::too_large(BODY_LIMIT));
            }
            all.extend_from_slice(&data);
        }
    }
    Ok(all.freeze())
}

/// What an answer shows of the objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// All of them.
    Object,
    /// `meta.k8s.io` Table in the given version.
    Table(&'static str),
    /// Only their metadata, in the given version of `meta.k8s.io`.
    Metadata(&'static str),
}

/// Chooses the first form in an `Accept` header that this server can write.
pub fn negotiate(headers: &HeaderMap) -> Result<View> {
    let accept = match headers.get(header::ACCEPT) {
        None => return Ok(View::Object),
        Some(value) => value.to_str().unwrap_or_default(),
    };
    if accept.trim().is_empty() {
        return Ok(View::Object);
    }
    accept
        .split(',')
        .find_map(view_of)
        .ok_or_else(|| ApiError::not_acceptable(accept))
}

fn view_of(range: &str) -> Option<View> {
    let mut parts = range.split(';').map(str::trim);
    let media = parts.next()?;
    if !matches!(media, "application/json" | "*/*" | "application/*") {
        return None;
    }
    let (mut form, mut version, mut group) = ("", "", "");
    for part in parts {
        match part.split_once('=') {
            Some(("as", v)) => form = v,
            Some(("v", v)) => version = v,
            Some(("g", v)) => group = v,
            _ => {}
        }
    }
    if form.is_empty() {
        return Some(View::Object);
    }
    let version = match (group, version) {
        ("meta.k8s.io", "v1") => "v1",
        ("meta.k8s.io", "v1beta1") => "v1beta1",
        _ => return None,
    };
    match form {
        "Table" => Some(View::Table(version)),
        "PartialObjectMetadata" | "PartialObjectMetadataList" => Some(View::Metadata(version)),
        _ => None,
    }
}

/// The media type of a request body, without parameters, in lower case.
pub fn content_type(headers: &HeaderMap) -> String {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.split(';').next())
        .map(|v| v.trim().to_ascii_lowercase())
        .unwrap_or_default()
}

/// A JSON answer from a value.
pub fn value(status: StatusCode, value: &Value) -> Response<Body> {
    json(status, encode(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(accept: &str) -> Result<View> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().unwrap());
        negotiate(&headers)
    }

    #[test]
    fn the_first_form_that_can_be_written_wins() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(view(kubectl).unwrap(), View::Table("v1"));
        assert_eq!(
            view("application/vnd.kubernetes.protobuf,application/json").unwrap(),
            View::Object
        );
        assert_eq!(
            view("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1").unwrap(),
            View::Metadata("v1")
        );
        assert_eq!(view("*/*").unwrap(), View::Object);
        assert!(view("application/vnd.kubernetes.protobuf").is_err());
    }

    #[test]
    fn warnings_are_quoted() {
        let mut headers = HeaderMap::new();
        add_warnings(&mut headers, &["unknown field \"a\"\n".into()]);
        assert_eq!(
            headers[header::WARNING],
            "299 - \"unknown field \\\"a\\\" \""
        );
    }
}
