//! Requests, from authentication to the answer.
//!
//! The phases are always the same: authenticate, parse the target, authorize, route. A request
//! that is not authorized learns nothing about what exists.

mod binding;
mod change;
mod eviction;
mod read;
mod reviews;
mod scale;
mod streams;
mod subresources;
mod token;

use crate::{
    api::Api,
    authn::{self, User},
    discovery,
    http::{self as answer, Body, View, add_warnings},
    openapi,
    ops::{FieldValidation, Writer},
    rbac,
    registry::Resource,
    request::{Query, Target},
    status::{ApiError, Result},
    webhooks::{self, Attributes},
};
use ::http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::Value;
use std::{sync::Arc, time::Instant};

/// What handlers know of a request that is authenticated and authorized.
pub(crate) struct Context {
    api: Arc<Api>,
    user: User,
    target: Target<'static>,
    query: Query,
    headers: HeaderMap,
    method: Method,
}

/// Serves one request of a connection whose client certificate belongs to `certificate`.
pub async fn serve(
    api: Arc<Api>,
    certificate: Arc<Option<User>>,
    request: Request<Incoming>,
) -> Response<Body> {
    let started = Instant::now();
    let method = request.method().clone();
    let path = request.uri().path().to_string();
    let mut who = String::new();
    let response = match handle(api, certificate.as_ref().as_ref(), request, &mut who).await {
        Ok(response) => response,
        Err(error) => {
            if error.code.is_server_error() {
                tracing::warn!(%method, path, user = who, %error, "request failed");
            }
            answer::failure(&error)
        }
    };
    let code = response.status().as_u16();
    let took = started.elapsed();
    tracing::debug!(target: "ambit_apiserver::audit", %method, path, user = who, code, ?took);
    response
}

async fn handle(
    api: Arc<Api>,
    certificate: Option<&User>,
    request: Request<Incoming>,
    who: &mut String,
) -> Result<Response<Body>> {
    let user = authn::authenticate(&api, certificate, request.headers())?;
    who.clone_from(&user.name);
    let query = Query::parse(request.uri().query());
    let target = Target::parse(request.method(), request.uri().path(), &query);
    let user = authn::impersonate(&api, user, request.headers())?;
    who.clone_from(&user.name);
    rbac::authorize_request(&api, &user, &target)?;
    let context = Context {
        api,
        user,
        target,
        query,
        headers: request.headers().clone(),
        method: request.method().clone(),
    };
    match context.target.is_resource {
        true => resource(context, request).await,
        false => document(&context),
    }
}

/// Paths that are no resources.
fn document(context: &Context) -> Result<Response<Body>> {
    if context.method != Method::GET && context.method != Method::HEAD {
        return Err(ApiError::method_not_allowed());
    }
    let (api, headers) = (&context.api, &context.headers);
    let path = context.target.path.trim_end_matches('/');
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let found = |value| Ok(answer::value(StatusCode::OK, &value));
    let text = |text: &'static str| {
        Ok(answer::with_type(
            StatusCode::OK,
            "text/plain; charset=utf-8",
            text,
        ))
    };
    match parts.as_slice() {
        [] | [""] => found(
            serde_json::json!({"paths": ["/api", "/apis", "/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]}),
        ),
        ["version"] => found(discovery::version(api)),
        ["healthz" | "livez" | "readyz", ..] => text("ok"),
        ["api"] => Ok(discovery::core(api, headers)),
        ["apis"] => Ok(discovery::all_groups(api, headers)),
        ["api", version] => {
            discovery::resources(api, "", version).map_or(Err(ApiError::unknown_path()), found)
        }
        ["apis", group] => {
            discovery::one_group(api, group).map_or(Err(ApiError::unknown_path()), found)
        }
        ["apis", group, version] => {
            discovery::resources(api, group, version).map_or(Err(ApiError::unknown_path()), found)
        }
        ["openapi", "v2"] => Ok(openapi::v2::document(api, headers)),
        ["openapi", "v3"] => Ok(openapi::v3::index(api)),
        ["openapi", "v3", rest @ ..] => openapi::v3::document(api, rest, headers),
        ["openid", "v1", "jwks"] => found(api.tokens.jwks()),
        [".well-known", "openid-configuration"] => found(serde_json::json!({
            "issuer": api.settings.issuer,
            "jwks_uri": format!("https://{}/openid/v1/jwks", api.settings.advertise),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })),
        _ => Err(ApiError::unknown_path()),
    }
}

/// Paths of resources.
async fn resource(context: Context, request: Request<Incoming>) -> Result<Response<Body>> {
    let target = &context.target;
    let resource = context
        .api
        .registry
        .find(&target.group, &target.version, &target.resource)
        .ok_or_else(ApiError::unknown_path)?;
    if resource.namespaced
        && target.namespace.is_empty()
        && (!target.name.is_empty() && target.verb != "list" && target.verb != "watch")
    {
        return Err(ApiError::unknown_path());
    }
    if !resource.namespaced && !target.object_namespace().is_empty() {
        return Err(ApiError::unknown_path());
    }
    if !target.subresource.is_empty() {
        return subresources::subresource(context, resource, request).await;
    }
    let is_review = resource.verbs == ["create"];
    if is_review && !target.name.is_empty() {
        return Err(ApiError::unknown_path());
    }
    // What is created is named in its body, what is changed in the path.
    let named = match target.verb {
        "update" | "patch" => !target.name.is_empty(),
        "create" => target.name.is_empty(),
        _ => true,
    };
    if !resource.verbs.contains(&target.verb) || !named {
        return Err(ApiError::method_not_allowed());
    }
    match target.verb {
        "get" => read::get(&context, &resource),
        "list" => read::list(&context, &resource),
        "watch" => read::watch(&context, &resource),
        "create" if is_review => reviews::create(&context, &resource, request).await,
        "create" => change::create(&context, &resource, request).await,
        "update" => change::replace(&context, &resource, request, crate::ops::Part::Object).await,
        "patch" => change::patch(&context, &resource, request, crate::ops::Part::Object).await,
        "delete" => change::delete(&context, &resource, request).await,
        "deletecollection" => change::delete_collection(&context, &resource, request).await,
        _ => Err(ApiError::method_not_allowed()),
    }
}

impl Context {
    /// How this request writes.
    fn writer(&self) -> Result<Writer<'_>> {
        let dry_run = match self.query.get("dryRun") {
            None => false,
            Some("All") => true,
            Some(other) => {
                return Err(ApiError::unprocessable(format!(
                    "dryRun: Unsupported value: {other:?}: supported values: \"All\""
                )));
            }
        };
        let agent = self
            .headers
            .get(::http::header::USER_AGENT)
            .and_then(|v| v.to_str().ok());
        let agent = agent.and_then(|a| a.split('/').next()).unwrap_or("unknown");
        Ok(Writer {
            user: &self.user,
            manager: self.query.get("fieldManager").unwrap_or(agent).to_string(),
            dry_run,
            validation: FieldValidation::parse(self.query.get("fieldValidation"))?,
            applying: false,
            warnings: Vec::new(),
        })
    }

    /// Asks the webhooks about a request that stores no object of the resource it names: a review,
    /// an action on an object or a stream. Answers what they made of the request's object.
    async fn admit(
        &self,
        operation: &'static str,
        resource: &Arc<Resource>,
        object: Value,
        old: Option<&Value>,
        writer: &mut Writer<'_>,
    ) -> Result<Value> {
        let (name, subresource) = (&self.target.name, self.target.subresource.as_str());
        let known = resource.subresources.iter().find(|s| s.name == subresource);
        let own = (resource.group.as_ref(), resource.version.as_ref());
        let kind = known.filter(|s| !s.kind.is_empty()).map(|s| {
            let (group, version) = s.group_version.unwrap_or(own);
            (group, version, s.kind)
        });
        let attributes = Attributes {
            subresource,
            kind,
            ..Attributes::of(operation, resource, self.namespace(), name, writer)
        };
        let mut warnings = Vec::new();
        let object = webhooks::admit(&self.api, &attributes, Some(object), old, &mut warnings);
        let object = object.await?;
        warnings.into_iter().for_each(|text| writer.warn(text));
        Ok(object.unwrap_or_default())
    }

    /// The form of the answer.
    fn view(&self) -> Result<View> {
        let view = answer::negotiate(&self.headers)?;
        let include = self.query.get("includeObject").unwrap_or_default();
        if matches!(view, View::Table(_)) && !matches!(include, "" | "Metadata" | "Object" | "None")
        {
            return Err(ApiError::bad_request(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: {include:?}: must be 'Metadata', 'Object', 'None', or empty"
            )));
        }
        Ok(view)
    }

    /// The namespace of the object asked for.
    fn namespace(&self) -> &str {
        self.target.object_namespace()
    }

    /// An object as answer.
    fn object(
        &self,
        status: StatusCode,
        resource: &Arc<Resource>,
        object: &Arc<crate::object::Object>,
        warnings: &[String],
    ) -> Result<Response<Body>> {
        let view = self.view()?;
        let bytes = crate::views::one(resource, object, view, self.query.get("includeObject"));
        let mut response = answer::json(status, bytes);
        add_warnings(response.headers_mut(), warnings);
        self.deprecation(resource, &mut response);
        Ok(response)
    }

    fn deprecation(&self, resource: &Resource, response: &mut Response<Body>) {
        if resource.is("", "Endpoints") {
            let text =
                "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice";
            add_warnings(response.headers_mut(), &[text.to_string()]);
        }
        if let crate::registry::Schema::Custom(version) = &resource.schema
            && let Some(text) = &version.deprecation
        {
            add_warnings(response.headers_mut(), std::slice::from_ref(text));
        }
    }
}
