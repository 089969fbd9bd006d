//! get, list and watch.

use super::Context;
use crate::{
    http::{self as answer, Body},
    list_options::{self, ListOptions, Version, reached},
    ops,
    registry::{Resource, Schema},
    selectors::{FieldSelector, LabelSelector},
    status::{ApiError, Result},
    views,
    watch::{self, Scope},
};
use ::http::{HeaderValue, Response, StatusCode, header};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use std::sync::Arc;

/// One object.
pub fn get(context: &Context, resource: &Arc<Resource>) -> Result<Response<Body>> {
    let version = context.query.get("resourceVersion").unwrap_or_default();
    let version = list_options::revision(version).map_err(ApiError::odd)?;
    reached(version, context.api.store.revision())?;
    let found = ops::get(
        &context.api,
        resource,
        context.namespace(),
        &context.target.name,
    )?;
    context.object(StatusCode::OK, resource, &found, &[])
}

pub(super) fn scope(context: &Context, resource: &Arc<Resource>) -> Result<Scope> {
    let extra: &[String] = match &resource.schema {
        Schema::Custom(version) => &version.selectable,
        Schema::Builtin(_) => &[],
    };
    let mut fields = context
        .query
        .get("fieldSelector")
        .unwrap_or_default()
        .to_string();
    // Old paths: a watch of one object by its name in the path.
    if context.target.verb == "watch" && !context.target.name.is_empty() && fields.is_empty() {
        fields = format!("metadata.name={}", context.target.name);
    }
    let namespace = context.namespace();
    Ok(Scope {
        resource: resource.clone(),
        namespace: (resource.namespaced && !namespace.is_empty()).then(|| namespace.to_string()),
        labels: LabelSelector::parse(context.query.get("labelSelector").unwrap_or_default())?,
        fields: FieldSelector::parse(&fields, &resource.group, &resource.kind, extra)?,
    })
}

/// A watch.
pub fn watch(context: &Context, resource: &Arc<Resource>) -> Result<Response<Body>> {
    let scope = scope(context, resource)?;
    let view = context.view()?;
    let body = watch::start(&context.api, scope, view, &context.query)?;
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, private"),
    );
    Ok(response)
}

/// A list, whole or in pages. All pages show the state at the revision of the first one.
pub fn list(context: &Context, resource: &Arc<Resource>) -> Result<Response<Body>> {
    let scope = scope(context, resource)?;
    let store = &context.api.store;
    let options = ListOptions::parse(&context.query, false)?;
    let token = options.from.as_deref().map(Token::decode).transpose()?;
    let at = |revision| store.list_at(&resource.storage, scope.namespace.as_deref(), revision);
    let (revision, all) = match (&token, options.version) {
        (Some(token), _) => {
            let objects = at(token.revision).map_err(|_| ApiError::continue_expired())?;
            (token.revision, objects)
        }
        (None, Version::Exact(exact)) => {
            reached(exact, store.revision())?;
            let objects = at(exact).map_err(|f| ApiError::expired(exact, f.oldest))?;
            (exact, objects)
        }
        (None, version) => {
            if let Version::AtLeast(version) = version {
                reached(version, store.revision())?;
            }
            store.list(&resource.storage, scope.namespace.as_deref())
        }
    };
    let after = token
        .as_ref()
        .map(|t| (t.namespace.as_str(), t.name.as_str()));
    let mut matching = all
        .into_iter()
        .filter(|o| scope.contains(o.value()))
        .filter(|o| after.is_none_or(|after| position(o.value()) > after));
    let (objects, next) = match options.limit {
        None => (matching.collect::<Vec<_>>(), None),
        Some(limit) => {
            let page: Vec<_> = matching.by_ref().take(limit).collect();
            let left = matching.count();
            let next = page.last().filter(|_| left > 0).map(|last| {
                let (namespace, name) = position(last.value());
                let token = Token {
                    revision,
                    namespace: namespace.into(),
                    name: name.into(),
                };
                (token.encode(), left)
            });
            (page, next)
        }
    };
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    if let Some((token, left)) = next {
        metadata["continue"] = token.into();
        // With a selector the real server does not say how many are left.
        if scope.labels.is_empty() && scope.fields.is_empty() {
            metadata["remainingItemCount"] = left.into();
        }
    }
    let view = context.view()?;
    let include = context.query.get("includeObject");
    let bytes = views::list(resource, &objects, &metadata, view, include);
    let mut response = answer::json(StatusCode::OK, bytes);
    context.deprecation(resource, &mut response);
    Ok(response)
}

fn position(value: &Value) -> (&str, &str) {
    (crate::object::namespace(value), crate::object::name(value))
}

/// Where a paged list goes on.
struct Token {
    revision: u64,
    namespace: String,
    name: String,
}

impl Token {
    fn encode(&self) -> String {
        URL_SAFE_NO_PAD
            .encode(json!({"rv": self.revision, "ns": self.namespace, "n": self.name}).to_string())
    }

    fn decode(text: &str) -> Result<Token> {
        let bad = || ApiError::bad_request("continue key is not valid");
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| bad())?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|_| bad())?;
        let part = |key: &str| {
            value
                .get(key)
                .and_then(Value::as_str)
                .map(str::to_string)
                .ok_or_else(bad)
        };
        let revision = value.get("rv").and_then(Value::as_u64).ok_or_else(bad)?;
        Ok(Token {
            revision,
            namespace: part("ns")?,
            name: part("n")?,
        })
    }
}
