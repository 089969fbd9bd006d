//! Which resources there are: the built-in ones, and those that CRDs add while the server runs.

pub mod builtin;

use crate::crd::CustomVersion;
use parking_lot::RwLock;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// Verbs of a resource that can be stored and listed.
pub const ALL_VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

/// Verbs of namespaces: nobody deletes all of them.
pub const VERBS_OF_NAMESPACES: &[&str] = &[
    "create", "delete", "get", "list", "patch", "update", "watch",
];

/// Verbs of custom resources, in the order in which Kubernetes names them.
pub const CUSTOM_VERBS: &[&str] = &[
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "create",
    "update",
    "watch",
];

/// One version of one resource, as it is served.
#[derive(Debug)]
pub struct Resource {
    /// API group, "" for core.
    pub group: Arc<str>,
    /// Served version.
    pub version: Arc<str>,
    /// Kind of one object.
    pub kind: Arc<str>,
    /// Kind of a list.
    pub list_kind: Arc<str>,
    /// Name in URLs.
    pub plural: Arc<str>,
    /// Name for people.
    pub singular: Arc<str>,
    /// Abbreviations that kubectl accepts.
    pub short_names: Vec<Arc<str>>,
    /// `all` and the like.
    pub categories: Vec<Arc<str>>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Storage name; the versions of a resource share it, and so do the two groups of events.
    pub storage: Arc<str>,
    /// What can be done with it.
    pub verbs: &'static [&'static str],
    /// Parts with a path of their own.
    pub subresources: Vec<Subresource>,
    /// What an object looks like.
    pub schema: Schema,
    /// Set where objects are stored, but nothing acts on them: what the user should know.
    pub inert: Option<&'static str>,
}

/// Where the fields of a kind are described.
#[derive(Debug, Clone)]
pub enum Schema {
    /// A type of the built-in table.
    Builtin(&'static str),
    /// A version of a CRD.
    Custom(Arc<CustomVersion>),
}

/// A part of an object with a path of its own.
#[derive(Debug, Clone)]
pub struct Subresource {
    /// Name in URLs.
    pub name: &'static str,
    /// Group and version of the kind if they are not the resource's own.
    pub group_version: Option<(&'static str, &'static str)>,
    /// Kind of its bodies; empty means the resource's kind.
    pub kind: &'static str,
    /// What can be done with it.
    pub verbs: &'static [&'static str],
}

impl Resource {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        match self.group.as_ref() {
            "" => self.version.to_string(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// `pods` or `deployments.apps`.
    pub fn qualified(&self) -> String {
        crate::status::qualified(&self.group, &self.plural)
    }

    /// Whether the subresource exists.
    pub fn has_subresource(&self, name: &str) -> bool {
        self.subresources.iter().any(|s| s.name == name)
    }

    /// What its definition says, for a custom resource.
    pub fn custom(&self) -> Option<&CustomVersion> {
        match &self.schema {
            Schema::Custom(version) => Some(version),
            Schema::Builtin(_) => None,
        }
    }

    /// Whether this is the given built-in kind of any version.
    pub fn is(&self, group: &str, kind: &str) -> bool {
        self.group.as_ref() == group && self.kind.as_ref() == kind
    }
}

/// Group, version and plural name.
type Place = (Arc<str>, Arc<str>, Arc<str>);

/// All resources that are served now.
#[derive(Debug)]
pub struct Registry {
    builtin: Vec<Arc<Resource>>,
    by_path: HashMap<Place, Arc<Resource>>,
    /// Resources of each CRD by the CRD's name.
    custom: RwLock<BTreeMap<String, Vec<Arc<Resource>>>>,
}

impl Default for Registry {
    fn default() -> Self {
        let builtin: Vec<_> = builtin::resources().into_iter().map(Arc::new).collect();
        let by_path = builtin
            .iter()
            .map(|r| {
                (
                    (r.group.clone(), r.version.clone(), r.plural.clone()),
                    r.clone(),
                )
            })
            .collect();
        Registry {
            builtin,
            by_path,
            custom: RwLock::default(),
        }
    }
}

impl Registry {
    /// The resource of a path.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        let key = (group.into(), version.into(), plural.into());
        if let Some(found) = self.by_path.get(&key) {
            return Some(found.clone());
        }
        let custom = self.custom.read();
        let versions = custom.get(&format!("{plural}.{group}"))?;
        versions
            .iter()
            .find(|r| r.version.as_ref() == version)
            .cloned()
    }

    /// The resource of a kind in a group and version.
    pub fn find_kind(&self, group: &str, version: &str, kind: &str) -> Option<Arc<Resource>> {
        self.all().into_iter().find(|r| {
            r.is(group, kind) && r.version.as_ref() == version && r.verbs.contains(&"get")
        })
    }

    /// The preferred version of a kind, whatever its version; used to follow owner references.
    pub fn find_group_kind(&self, group: &str, kind: &str) -> Option<Arc<Resource>> {
        self.all()
            .into_iter()
            .find(|r| r.is(group, kind) && r.verbs.contains(&"get"))
    }

    /// Every served resource, built-in ones first.
    pub fn all(&self) -> Vec<Arc<Resource>> {
        let custom = self.custom.read();
        self.builtin
            .iter()
            .chain(custom.values().flatten())
            .cloned()
            .collect()
    }

    /// One resource per storage name, to visit each stored object once.
    pub fn storages(&self) -> Vec<Arc<Resource>> {
        let mut seen = std::collections::HashSet::new();
        self.all()
            .into_iter()
            .filter(|r| r.verbs.contains(&"list") && seen.insert(r.storage.clone()))
            .collect()
    }

    /// Adds or replaces the resources of a CRD.
    pub fn set_custom(&self, crd: &str, resources: Vec<Arc<Resource>>) {
        self.custom.write().insert(crd.to_string(), resources);
    }

    /// Ends the service of a CRD's resources.
    pub fn remove_custom(&self, crd: &str) {
        self.custom.write().remove(crd);
    }

    /// The resources that a CRD has added.
    pub fn custom(&self, crd: &str) -> Vec<Arc<Resource>> {
        self.custom.read().get(crd).cloned().unwrap_or_default()
    }
}
