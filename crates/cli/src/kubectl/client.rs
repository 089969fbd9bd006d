//! The connection: requests as JSON, and names of resources resolved by discovery.

use super::{args::Flags, error::ServerError};
use ambit_kube_api::ClientOptions;
use anyhow::{Context, bail};
use futures_util::{AsyncBufReadExt, Stream, StreamExt, stream};
use kube::Client;
use serde_json::Value;

/// A cluster, and the namespace that commands mean.
pub struct Cluster {
    client: Client,
    namespace: String,
    kinds: Vec<Kind>,
}

/// One resource that the cluster serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind {
    /// API group, "" for core.
    pub group: String,
    /// Version.
    pub version: String,
    /// Kind of an object.
    pub kind: String,
    /// Name in URLs.
    pub plural: String,
    /// Name for people.
    pub singular: String,
    /// Abbreviations.
    pub short: Vec<String>,
    /// `all` and the like.
    pub categories: Vec<String>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
}

impl Kind {
    /// `pod`, or `deployment.apps`, as printed before a name.
    pub fn printed(&self) -> String {
        qualified(&self.group, &self.singular)
    }

    /// `v1`, or `apps/v1`.
    pub fn api_version(&self) -> String {
        match self.group.as_str() {
            "" => self.version.clone(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// The URL of the collection, in a namespace if it has any and one is given.
    pub fn url(&self, namespace: Option<&str>) -> String {
        let root = match self.group.as_str() {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        };
        match namespace.filter(|_| self.namespaced) {
            Some(ns) => format!("{root}/namespaces/{ns}/{}", self.plural),
            None => format!("{root}/{}", self.plural),
        }
    }

    fn answers_to(&self, name: &str) -> bool {
        let full = |text: &str| qualified(&self.group, text);
        let versioned = |text: &str| format!("{text}.{}.{}", self.version, self.group);
        name == self.plural
            || name == self.singular
            || name.eq_ignore_ascii_case(&self.kind)
            || self.short.iter().any(|s| s == name)
            || name == full(&self.plural)
            || name == full(&self.singular)
            || name == versioned(&self.plural)
    }
}

fn qualified(group: &str, name: &str) -> String {
    if group.is_empty() {
        name.to_string()
    } else {
        format!("{name}.{group}")
    }
}

/// `Accept` for tables, with objects as the second choice.
pub const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
/// `Accept` for objects.
pub const JSON: &str = "application/json";

impl Cluster {
    /// Connects and learns what is served.
    pub async fn connect(flags: &Flags) -> anyhow::Result<Cluster> {
        let options = ClientOptions {
            kubeconfig: flags.kubeconfig.clone(),
            context: flags.context.clone(),
        };
        let client = ambit_kube_api::client(&options).await?;
        let namespace = flags
            .namespace
            .clone()
            .unwrap_or_else(|| client.default_namespace().to_string());
        let mut cluster = Cluster {
            client,
            namespace,
            kinds: Vec::new(),
        };
        cluster.discover().await?;
        Ok(cluster)
    }

    /// The same cluster, for a command that may learn of new kinds on its way.
    pub fn again(&self) -> Cluster {
        Cluster {
            client: self.client.clone(),
            namespace: self.namespace.clone(),
            kinds: self.kinds.clone(),
        }
    }

    /// The client, for what is no plain request.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The namespace of the command.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Learns what is served; again after a CRD was created.
    pub async fn discover(&mut self) -> anyhow::Result<()> {
        self.kinds = self.served().await?;
        Ok(())
    }

    async fn served(&self) -> anyhow::Result<Vec<Kind>> {
        const ACCEPT: &str =
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
        let mut kinds = Vec::new();
        for path in ["/api", "/apis"] {
            let document = self.send("GET", path, ACCEPT, None).await?;
            for group in list(&document, "/items") {
                let name = text(group, "/metadata/name");
                for version in list(group, "/versions") {
                    kinds.extend(
                        list(version, "/resources")
                            .iter()
                            .map(|r| kind(name, version, r)),
                    );
                }
            }
        }
        if kinds.is_empty() {
            bail!(
                "error: the server does not serve aggregated discovery: Kubernetes 1.30 or newer is needed"
            );
        }
        Ok(kinds)
    }

    /// The resource that a user's word means.
    pub fn kind(&self, word: &str) -> anyhow::Result<Kind> {
        let found = self.kinds.iter().find(|k| k.answers_to(word));
        found
            .cloned()
            .with_context(|| format!("error: the server doesn't have a resource type {word:?}"))
    }

    /// The resources that a user's word means: one, or all of a category.
    pub fn kinds(&self, word: &str) -> anyhow::Result<Vec<Kind>> {
        let category: Vec<Kind> = self
            .kinds
            .iter()
            .filter(|k| k.categories.iter().any(|c| c == word))
            .cloned()
            .collect();
        if category.is_empty() {
            Ok(vec![self.kind(word)?])
        } else {
            Ok(category)
        }
    }

    /// The resource of an object; looked up anew if it is not known yet.
    pub async fn kind_of(&mut self, object: &Value) -> anyhow::Result<Kind> {
        if let Some(found) = self.find_kind(object) {
            return Ok(found);
        }
        self.discover().await?;
        self.find_kind(object).with_context(|| {
            format!(
                "error: resource mapping not found for name: {:?} namespace: {:?}: no matches for kind {:?} in version {:?}\nensure CRDs are installed first",
                text(object, "/metadata/name"),
                text(object, "/metadata/namespace"),
                text(object, "/kind"),
                text(object, "/apiVersion")
            )
        })
    }

    fn find_kind(&self, object: &Value) -> Option<Kind> {
        let (version, kind) = (text(object, "/apiVersion"), text(object, "/kind"));
        self.kinds
            .iter()
            .find(|k| k.kind == kind && k.api_version() == version)
            .cloned()
    }

    /// Sends a request and reads its answer. A body goes with its content type. Warnings of the
    /// server are printed.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        accept: &str,
        body: Option<(&str, &Value)>,
    ) -> anyhow::Result<Value> {
        use http_body_util::BodyExt;
        let mut request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("accept", accept);
        let mut bytes = Vec::new();
        if let Some((content_type, body)) = body {
            request = request.header("content-type", content_type);
            bytes = serde_json::to_vec(body)?;
        }
        let request = request.body(kube::client::Body::from(bytes))?;
        let response = self.client.send(request).await?;
        let (parts, body) = response.into_parts();
        for warning in parts.headers.get_all("warning") {
            let text = warning.to_str().unwrap_or_default();
            let text = text
                .trim_start_matches("299 - \"")
                .trim_end_matches('"')
                .replace("\\\"", "\"");
            eprintln!("Warning: {text}");
        }
        let bytes = body.collect().await?.to_bytes();
        if !parts.status.is_success() {
            return Err(ServerError::new(parts.status.as_u16(), &bytes).into());
        }
        serde_json::from_slice(&bytes).context("the server's answer is not JSON")
    }

    /// GET of one object; None if it does not exist.
    pub async fn find(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
    ) -> anyhow::Result<Option<Value>> {
        let path = format!("{}/{name}", kind.url(Some(namespace)));
        match self.send("GET", &path, JSON, None).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if super::error::is_not_found(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The lines of an answer that comes bit by bit.
    pub async fn lines(
        &self,
        path: &str,
        accept: &str,
    ) -> anyhow::Result<impl Stream<Item = std::io::Result<String>> + Unpin + use<>> {
        let request = http::Request::get(path)
            .header("accept", accept)
            .body(kube::client::Body::empty())?;
        let response = self.client.send(request).await?;
        let status = response.status();
        if !status.is_success() {
            use http_body_util::BodyExt;
            let bytes = response.into_body().collect().await?.to_bytes();
            return Err(ServerError::new(status.as_u16(), &bytes).into());
        }
        let body = http_body_util::BodyDataStream::new(response.into_body());
        let pieces = body.map(|piece| piece.map_err(std::io::Error::other));
        let reader = futures_util::TryStreamExt::into_async_read(Box::pin(pieces));
        Ok(reader.lines())
    }

    /// The events of a watch.
    pub async fn watch(
        &self,
        path: &str,
        accept: &str,
    ) -> anyhow::Result<impl Stream<Item = anyhow::Result<Value>> + Unpin + use<>> {
        let lines = self.lines(path, accept).await?;
        let events = lines.map(|line| Ok(serde_json::from_str::<Value>(&line?)?));
        Ok(Box::pin(events.filter_map(
            |event: anyhow::Result<Value>| async {
                match event {
                    Ok(event) if event["type"] == "ERROR" => {
                        let bytes = event["object"].to_string();
                        let code = event["object"]["code"].as_u64().unwrap_or(500);
                        Some(Err(ServerError::new(code as u16, bytes.as_bytes()).into()))
                    }
                    other => Some(other),
                }
            },
        )))
    }

    /// An object's states from now on: what it is, then every change; None when it is gone.
    pub async fn follow(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
    ) -> anyhow::Result<impl Stream<Item = anyhow::Result<Option<Value>>> + Unpin + use<>> {
        let selector = format!("fieldSelector=metadata.name%3D{name}");
        let url = kind.url(Some(namespace));
        let first = self
            .send("GET", &format!("{url}?{selector}"), JSON, None)
            .await?;
        let version = text(&first, "/metadata/resourceVersion");
        let path = format!("{url}?{selector}&watch=true&resourceVersion={version}");
        let now = first.pointer("/items/0").cloned();
        let now = now.map(|object| typed(object, kind));
        let changes = self.watch(&path, JSON).await?.map(|event| {
            event.map(|event| {
                let gone = event["type"] == "DELETED";
                (!gone).then(|| event["object"].clone())
            })
        });
        Ok(Box::pin(stream::iter([Ok(now)]).chain(changes)))
    }
}

/// Items of a list come without kind and version from some servers.
fn typed(mut object: Value, kind: &Kind) -> Value {
    if let Some(map) = object.as_object_mut() {
        map.entry("kind")
            .or_insert_with(|| kind.kind.clone().into());
        map.entry("apiVersion")
            .or_insert_with(|| kind.api_version().into());
    }
    object
}

fn kind(group: &str, version: &Value, resource: &Value) -> Kind {
    let strings = |pointer: &str| -> Vec<String> {
        list(resource, pointer)
            .iter()
            .filter_map(|s| s.as_str().map(str::to_string))
            .collect()
    };
    let kind = text(resource, "/responseKind/kind");
    let singular = match text(resource, "/singularResource") {
        "" => kind.to_lowercase(),
        name => name.to_string(),
    };
    Kind {
        group: group.to_string(),
        version: text(version, "/version").to_string(),
        kind: kind.to_string(),
        plural: text(resource, "/resource").to_string(),
        singular,
        short: strings("/shortNames"),
        categories: strings("/categories"),
        namespaced: text(resource, "/scope") == "Namespaced",
    }
}

/// The text at a JSON pointer, or "".
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// The list at a JSON pointer, or an empty one.
pub fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// What a command is about: resources, and names of their objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// All objects of a kind that a selector admits.
    All(Kind),
    /// One object.
    One(Kind, String),
}

impl Cluster {
    /// Reads `TYPE`, `TYPE,TYPE`, `TYPE NAME…`, `TYPE/NAME…`.
    pub fn targets(&self, words: &[String]) -> anyhow::Result<Vec<Target>> {
        if words.iter().any(|w| w.contains('/')) {
            return words
                .iter()
                .map(|word| match word.split_once('/') {
                    Some((kind, name)) if !name.is_empty() => {
                        Ok(Target::One(self.kind(kind)?, name.to_string()))
                    }
                    _ => bail!("error: there is no need to specify a resource type as a separate argument when passing arguments in resource/name form (e.g. 'kubectl get resource/<resource_name>' instead of 'kubectl get resource resource/<resource_name>'"),
                })
                .collect();
        }
        let Some((types, names)) = words.split_first() else {
            return Ok(Vec::new());
        };
        let mut targets = Vec::new();
        for word in types.split(',').filter(|w| !w.is_empty()) {
            if names.is_empty() {
                targets.extend(self.kinds(word)?.into_iter().map(Target::All));
                continue;
            }
            let kind = self.kind(word)?;
            targets.extend(
                names
                    .iter()
                    .map(|name| Target::One(kind.clone(), name.clone())),
            );
        }
        Ok(targets)
    }

    /// The objects of targets, whole.
    pub async fn objects(
        &self,
        targets: &[Target],
        selector: Option<&str>,
        all_namespaces: bool,
    ) -> anyhow::Result<Vec<(Kind, Value)>> {
        let mut objects = Vec::new();
        for target in targets {
            match target {
                Target::One(kind, name) => {
                    let path = format!("{}/{name}", kind.url(Some(&self.namespace)));
                    objects.push((kind.clone(), self.send("GET", &path, JSON, None).await?));
                }
                Target::All(kind) => {
                    let namespace = (!all_namespaces).then_some(self.namespace.as_str());
                    let mut path = kind.url(namespace);
                    if let Some(selector) = selector {
                        path.push_str(&format!("?labelSelector={}", escape(selector)));
                    }
                    let found = self.send("GET", &path, JSON, None).await?;
                    let items = list(&found, "/items").iter().cloned();
                    objects.extend(items.map(|o| (kind.clone(), typed(o, kind))));
                }
            }
        }
        Ok(objects)
    }
}

/// A value for a query.
pub fn escape(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}
