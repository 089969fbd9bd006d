//! Acting as somebody else: `kubectl --as`, `--as-group`, `--as-uid`.

use super::User;
use crate::{
    api::Api,
    rbac,
    request::Target,
    status::{ApiError, Result},
};
use http::{HeaderMap, HeaderValue};
use percent_encoding::percent_decode_str;

const EXTRA: &str = "impersonate-extra-";
const AUTHENTICATED: &str = "system:authenticated";
const UNAUTHENTICATED: &str = "system:unauthenticated";

/// Becomes the user that the request wants to act as, if the sender may do that.
pub fn impersonate(api: &Api, user: User, headers: &HeaderMap) -> Result<User> {
    let Some(wanted) = wanted(headers)? else {
        return Ok(user);
    };
    for (group, resource, part, namespace, name) in attributes(&wanted) {
        let target = Target {
            verb: "impersonate",
            is_resource: true,
            group: group.into(),
            version: "v1".into(),
            resource: resource.into(),
            subresource: part.into(),
            namespace: namespace.into(),
            name: name.into(),
            ..Target::default()
        };
        rbac::authorize_request(api, &user, &target)?;
    }
    Ok(complete(wanted))
}

/// Everything that one must be allowed to impersonate: group, resource, subresource, namespace
/// and name.
fn attributes(wanted: &User) -> Vec<(&str, &str, &str, &str, &str)> {
    const GROUP: &str = "authentication.k8s.io";
    let mut list = vec![match account(&wanted.name) {
        Some((namespace, name)) => ("", "serviceaccounts", "", namespace, name),
        None => ("", "users", "", "", wanted.name.as_str()),
    }];
    list.extend(
        wanted
            .groups
            .iter()
            .map(|g| ("", "groups", "", "", g.as_str())),
    );
    for (key, values) in &wanted.extra {
        let extra = values
            .iter()
            .map(|v| (GROUP, "userextras", key.as_str(), "", v.as_str()));
        list.extend(extra);
    }
    if !wanted.uid.is_empty() {
        list.push((GROUP, "uids", "", "", wanted.uid.as_str()));
    }
    list
}

/// Namespace and name of a service account.
fn account(user: &str) -> Option<(&str, &str)> {
    user.strip_prefix("system:serviceaccount:")?.split_once(':')
}

/// Who the request wants to act as, as its headers say.
fn wanted(headers: &HeaderMap) -> Result<Option<User>> {
    let text = |v: &HeaderValue| v.to_str().unwrap_or_default().to_string();
    let one = |key: &str| headers.get(key).map(text).unwrap_or_default();
    let mut user = User {
        name: one("impersonate-user"),
        uid: one("impersonate-uid"),
        groups: headers
            .get_all("impersonate-group")
            .iter()
            .map(text)
            .collect(),
        ..User::default()
    };
    for (key, value) in headers {
        if let Some(key) = key.as_str().strip_prefix(EXTRA) {
            let key = percent_decode_str(key).decode_utf8_lossy().into_owned();
            user.extra.entry(key).or_default().push(text(value));
        }
    }
    if !user.name.is_empty() {
        return Ok(Some(user));
    }
    let alone: Vec<String> = attributes(&user)
        .into_iter()
        .skip(1)
        .map(|(_, resource, part, _, name)| as_printed(resource, part, name))
        .collect();
    match alone.is_empty() {
        true => Ok(None),
        false => Err(ApiError::bad_request(format!(
            "requested [{}] without impersonating a user",
            alone.join(" ")
        ))),
    }
}

/// An object reference as the real server prints it: kind, namespace, name, uid, version, resource
/// version and path of the field.
fn as_printed(resource: &str, part: &str, name: &str) -> String {
    match resource {
        "groups" => format!("{{Group  {name}    }}"),
        "uids" => format!("{{UID  {name}  authentication.k8s.io/v1  }}"),
        _ => format!("{{UserExtra  {name}  authentication.k8s.io/v1  {part}}}"),
    }
}

/// Adds the groups that such a user is always in.
fn complete(mut user: User) -> User {
    if let Some((namespace, _)) = account(&user.name)
        && user.groups.is_empty()
    {
        let own = format!("system:serviceaccounts:{namespace}");
        user.groups = vec!["system:serviceaccounts".into(), own];
    }
    let group = match user.name.as_str() {
        "system:anonymous" => UNAUTHENTICATED,
        _ => AUTHENTICATED,
    };
    if !user.is_in(UNAUTHENTICATED) && !user.is_in(group) {
        user.groups.push(group.into());
    }
    user
}
