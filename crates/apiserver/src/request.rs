//! What a request asks for, read from its method, path and query alone.
//!
//! This is the value that authorization decides on and that routing follows, so both see the
//! same thing.

use percent_encoding::percent_decode_str;

/// The parsed target of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target<'a> {
    /// The path as it came.
    pub path: String,
    /// Kubernetes' verb: get, list, watch, create, update, patch, delete, deletecollection; for a
    /// path that is no resource the lower-case HTTP method. Reviews ask about any other.
    pub verb: &'a str,
    /// Whether the path names an API resource.
    pub is_resource: bool,
    /// API group, "" for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Plural name.
    pub resource: String,
    /// Subresource, or "".
    pub subresource: String,
    /// Namespace, or "" for all and for resources of the cluster.
    pub namespace: String,
    /// Object name, or "".
    pub name: String,
    /// What follows the subresource (`proxy/…`).
    pub rest: String,
    /// The node that a list of pods is limited to, if its field selector says so.
    pub node_selected: Option<String>,
}

impl Target<'_> {
    /// Reads a request line.
    pub fn parse(method: &http::Method, path: &str, query: &Query) -> Target<'static> {
        let mut target = Target {
            path: path.to_string(),
            verb: plain_verb(method),
            ..Target::default()
        };
        let parts: Vec<String> = path
            .split('/')
            .filter(|p| !p.is_empty())
            .map(|p| percent_decode_str(p).decode_utf8_lossy().into_owned())
            .collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let rest = match parts.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => {
                target.version = version.to_string();
                rest
            }
            ["apis", group, version, rest @ ..] if !rest.is_empty() => {
                target.group = group.to_string();
                target.version = version.to_string();
                rest
            }
            _ => return target,
        };
        // The old way to watch, which some clients keep.
        let (rest, watched) = match rest {
            ["watch", rest @ ..] if !rest.is_empty() => (rest, true),
            rest => (rest, false),
        };
        target.read_resource(rest);
        target.verb = match target.resource_verb(method, query) {
            "get" | "list" if watched => "watch",
            verb => verb,
        };
        if target.verb == "list" || target.verb == "watch" {
            // A list of one object by name is authorized like a read of that object.
            if let Some(name) = selected(query, "metadata.name=") {
                target.name = name;
            }
            target.node_selected = selected(query, "spec.nodeName=");
        }
        target
    }

    fn read_resource(&mut self, parts: &[&str]) {
        self.is_resource = true;
        let parts = match parts {
            ["namespaces", ns, resource, ..] if !matches!(*resource, "status" | "finalize") => {
                self.namespace = ns.to_string();
                &parts[2..]
            }
            other => other,
        };
        let mut parts = parts.iter();
        self.resource = parts.next().map(|s| s.to_string()).unwrap_or_default();
        self.name = parts.next().map(|s| s.to_string()).unwrap_or_default();
        self.subresource = parts.next().map(|s| s.to_string()).unwrap_or_default();
        self.rest = parts.copied().collect::<Vec<_>>().join("/");
        if self.resource == "namespaces" && self.group.is_empty() {
            // Rules about a namespace object apply inside it, as in Kubernetes.
            self.namespace = self.name.clone();
        }
    }

    fn resource_verb(&self, method: &http::Method, query: &Query) -> &'static str {
        let one = !self.name.is_empty();
        match method.as_str() {
            "POST" => "create",
            "PUT" => "update",
            "PATCH" => "patch",
            "DELETE" if one => "delete",
            "DELETE" => "deletecollection",
            "GET" | "HEAD" if query.flag("watch") => "watch",
            "GET" | "HEAD" if one => "get",
            "GET" | "HEAD" => "list",
            _ => "unknown",
        }
    }

    /// The namespace of the objects asked for: "" for a resource of the cluster even where the
    /// authorizer sees a namespace (namespaces themselves).
    pub fn object_namespace(&self) -> &str {
        if self.resource == "namespaces" && self.group.is_empty() {
            ""
        } else {
            &self.namespace
        }
    }

    /// `pods/log`, or `pods`.
    pub fn resource_path(&self) -> String {
        match self.subresource.as_str() {
            "" => self.resource.clone(),
            sub => format!("{}/{sub}", self.resource),
        }
    }
}

fn plain_verb(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "get",
        "HEAD" => "head",
        "POST" => "post",
        "PUT" => "put",
        "PATCH" => "patch",
        "DELETE" => "delete",
        "OPTIONS" => "options",
        _ => "unknown",
    }
}

fn selected(query: &Query, term: &str) -> Option<String> {
    let selector = query.get("fieldSelector")?;
    let value = selector.split(',').find_map(|t| t.strip_prefix(term))?;
    Some(value.trim_start_matches('=').to_string())
}

/// Query parameters, read leniently: clients send `?`, `?&a=b` and empty values.
#[derive(Debug, Clone, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Parses the part after `?`.
    pub fn parse(text: Option<&str>) -> Query {
        let text = text.unwrap_or_default();
        Query(
            url::form_urlencoded::parse(text.as_bytes())
                .filter(|(k, _)| !k.is_empty())
                .map(|(k, v)| (k.into_owned(), v.into_owned()))
                .collect(),
        )
    }

    /// The first value of a parameter, None if it is missing or empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(k, _)| k == name)
            .map(|(_, v)| v.as_str())
            .filter(|v| !v.is_empty())
    }

    /// All values of a parameter.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(k, _)| k == name)
            .map(|(_, v)| v.as_str())
    }

    /// A boolean parameter; present without value means true.
    pub fn flag(&self, name: &str) -> bool {
        self.0
            .iter()
            .find(|(k, _)| k == name)
            .is_some_and(|(_, v)| !matches!(v.as_str(), "false" | "0" | "False" | "FALSE"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;

    fn parse(method: Method, url: &str) -> Target<'_> {
        let (path, query) = url
            .split_once('?')
            .map_or((url, None), |(p, q)| (p, Some(q)));
        Target::parse(&method, path, &Query::parse(query))
    }

    #[test]
    fn resources() {
        let t = parse(Method::GET, "/api/v1/namespaces/a/pods/b/log?follow=true");
        assert_eq!(
            (t.verb, t.resource.as_str(), t.name.as_str()),
            ("get", "pods", "b")
        );
        assert_eq!((t.namespace.as_str(), t.subresource.as_str()), ("a", "log"));
        let t = parse(Method::GET, "/apis/apps/v1/deployments?&watch=true");
        assert_eq!(
            (t.verb, t.group.as_str(), t.namespace.as_str()),
            ("watch", "apps", "")
        );
        let t = parse(Method::GET, "/api/v1/watch/namespaces/a/pods");
        assert_eq!((t.verb, t.resource.as_str()), ("watch", "pods"));
        let t = parse(Method::POST, "/api/v1/namespaces?");
        assert_eq!(
            (t.verb, t.resource.as_str(), t.name.as_str()),
            ("create", "namespaces", "")
        );
        let t = parse(Method::PUT, "/api/v1/namespaces/x/status");
        assert_eq!((t.resource.as_str(), t.name.as_str()), ("namespaces", "x"));
        assert_eq!(
            (t.subresource.as_str(), t.object_namespace()),
            ("status", "")
        );
        let t = parse(Method::GET, "/api/v1/namespaces/x/services/s:80/proxy/a/b");
        assert_eq!((t.name.as_str(), t.rest.as_str()), ("s:80", "a/b"));
        let t = parse(Method::DELETE, "/api/v1/namespaces/x/pods");
        assert_eq!(t.verb, "deletecollection");
    }

    #[test]
    fn a_list_by_name_counts_as_that_object() {
        let t = parse(
            Method::GET,
            "/api/v1/namespaces/x/secrets?fieldSelector=metadata.name%3Ds",
        );
        assert_eq!((t.verb, t.name.as_str()), ("list", "s"));
    }

    #[test]
    fn other_paths() {
        for path in [
            "/",
            "/version",
            "/api",
            "/apis/apps/v1",
            "/openapi/v3/api/v1",
        ] {
            assert!(!parse(Method::GET, path).is_resource, "{path}");
        }
    }
}
