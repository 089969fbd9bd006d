//! The whole mesh from one description: profile, files, `--set`.
//!
//! The description is the `spec` of Istio's `IstioOperator` file format; its keys below `values`
//! are those of the charts.

mod order;

use serde_json::{Value, json};

use crate::chart::{Chart, ChartError, Source};
use crate::profile::{self, UnknownProfile};
use crate::render::{self, Release, RenderError};
use crate::set::{self, SetError};
use crate::values::{at, merge, object, unknown_paths};

pub use order::apply_order;

/// Label: the component that an object belongs to.
pub const COMPONENT_LABEL: &str = "operator.istio.io/component";
/// Label: the object is managed by install and uninstall.
pub const MANAGED_LABEL: &str = "operator.istio.io/managed";
/// Label: version of the program that made the object.
pub const VERSION_LABEL: &str = "operator.istio.io/version";
/// Label: the installation that owns the object.
pub const OWNER_LABEL: &str = "install.operator.istio.io/owning-resource";
/// Label: namespace of that installation.
pub const OWNER_NAMESPACE_LABEL: &str = "install.operator.istio.io/owning-resource-namespace";
/// Label: control plane revision.
pub const REVISION_LABEL: &str = "istio.io/rev";
/// Value of [`OWNER_LABEL`] for installations without an object in the cluster.
pub const OWNER: &str = "unknown";

/// A part of the mesh, in the order of installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ComponentKind {
    /// Custom resource definitions.
    Base,
    /// The control plane.
    Pilot,
    /// The node agent.
    Cni,
    /// The node proxy.
    Ztunnel,
}

impl ComponentKind {
    /// All of them, in order.
    pub const ALL: [Self; 4] = [Self::Base, Self::Pilot, Self::Cni, Self::Ztunnel];

    /// Key below `components`.
    pub fn key(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Pilot => "pilot",
            Self::Cni => "cni",
            Self::Ztunnel => "ztunnel",
        }
    }

    /// Value of [`COMPONENT_LABEL`].
    pub fn label(self) -> &'static str {
        match self {
            Self::Base => "Base",
            Self::Pilot => "Pilot",
            Self::Cni => "Cni",
            Self::Ztunnel => "Ztunnel",
        }
    }

    fn chart(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Pilot => "istiod",
            Self::Cni => "cni",
            Self::Ztunnel => "ztunnel",
        }
    }

    fn release(self) -> &'static str {
        match self {
            Self::Base => "istio-base",
            Self::Pilot => "istiod",
            Self::Cni => "istio-cni",
            Self::Ztunnel => "ztunnel",
        }
    }
}

/// What the user asks for.
#[derive(Clone, Debug, Default)]
pub struct MeshOptions {
    /// Where the charts are.
    pub source: Source,
    /// `IstioOperator` documents, later ones on top.
    pub files: Vec<Value>,
    /// `--set` assignments, on top of the files.
    pub set: Vec<String>,
    /// Control plane revision; on top of the rest.
    pub revision: Option<String>,
    /// Go on although something in the description has no effect.
    pub force: bool,
}

/// The rendered mesh.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// The profile that was used.
    pub profile: String,
    /// Namespace of the control plane.
    pub namespace: String,
    /// Revision; `default` where none was named.
    pub revision: String,
    /// The enabled components, in order.
    pub components: Vec<Component>,
    /// What was ignored because of [`MeshOptions::force`].
    pub warnings: Vec<String>,
    /// Waypoints of the first release are understood (`compat.legacyWaypoint`).
    pub legacy_waypoint: bool,
}

/// The objects of one component.
#[derive(Clone, Debug)]
pub struct Component {
    /// Which one.
    pub kind: ComponentKind,
    /// The namespace of its namespaced objects.
    pub namespace: String,
    /// The objects, in the order in which they are applied.
    pub objects: Vec<Value>,
}

/// Why there is no manifest.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    /// A chart cannot be read.
    #[error(transparent)]
    Chart(#[from] ChartError),
    /// A chart cannot be rendered.
    #[error(transparent)]
    Render(#[from] RenderError),
    /// There is no such profile.
    #[error(transparent)]
    Profile(#[from] UnknownProfile),
    /// A `--set` is not an assignment.
    #[error(transparent)]
    Set(#[from] SetError),
    /// A file is not an `IstioOperator`.
    #[error("{0}")]
    File(String),
    /// Keys that nothing reads.
    #[error(
        "unknown: {0}; correct the spelling (the values stand in values.yaml of the charts), or go on with --force"
    )]
    UnknownValues(String),
    /// A revision that cannot be part of a name.
    #[error(
        "revision {0:?} is not a DNS label: use lower-case letters, digits and dashes, at most 63"
    )]
    Revision(String),
}

/// Renders the mesh.
///
/// # Errors
/// See [`MeshError`].
pub fn render_mesh(options: &MeshOptions) -> Result<Manifest, MeshError> {
    let user = user_spec(options)?;
    let profile_name = at(&user, &["profile"])
        .and_then(Value::as_str)
        .filter(|p| !p.is_empty());
    let profile = profile::find(profile_name.unwrap_or(profile::DEFAULT))?;
    let mut spec = profile.spec();
    merge(&mut spec, user);

    let charts = ComponentKind::ALL.map(|kind| Chart::load(&options.source, kind.chart()));
    let charts = charts.into_iter().collect::<Result<Vec<_>, _>>()?;
    let unknown = unknown_paths(&spec, &known_spec(&charts));
    let mut warnings = Vec::new();
    if !unknown.is_empty() {
        if !options.force {
            return Err(MeshError::UnknownValues(unknown.join(", ")));
        }
        warnings.extend(
            unknown
                .iter()
                .map(|path| format!("{path} is unknown and has no effect")),
        );
    }

    let text = |path: &[&str]| {
        at(&spec, path)
            .and_then(Value::as_str)
            .filter(|t| !t.is_empty())
            .map(str::to_owned)
    };
    let namespace = text(&["namespace"])
        .or_else(|| text(&["values", "global", "istioNamespace"]))
        .unwrap_or_else(|| ambit_kube_api::names::SYSTEM_NAMESPACE.to_owned());
    let revision = text(&["revision"])
        .or_else(|| text(&["values", "revision"]))
        .unwrap_or_default();
    check_revision(&revision)?;
    let values = shared_values(&spec, &namespace, &revision);

    let mut components = Vec::new();
    for (kind, chart) in ComponentKind::ALL.into_iter().zip(&charts) {
        let setting = &spec["components"][kind.key()];
        if setting["enabled"] != true {
            continue;
        }
        let target = setting["namespace"]
            .as_str()
            .unwrap_or(&namespace)
            .to_owned();
        let release = Release {
            name: kind.release().to_owned(),
            namespace: target.clone(),
            service: "ambit".to_owned(),
        };
        let own = component_values(kind, &values, setting);
        let mut objects = render::render(chart, &release, &own)?;
        for object in &mut objects {
            add_labels(object, kind, &namespace, &revision, &chart.app_version);
        }
        objects.sort_by_key(apply_order);
        components.push(Component {
            kind,
            namespace: target,
            objects,
        });
    }
    let revision = if revision.is_empty() {
        "default".to_owned()
    } else {
        revision
    };
    Ok(Manifest {
        profile: profile.name.to_owned(),
        namespace,
        revision,
        components,
        warnings,
        legacy_waypoint: at(&values, &["compat", "legacyWaypoint"]) == Some(&Value::Bool(true)),
    })
}

/// Files, then assignments, then the revision flag.
fn user_spec(options: &MeshOptions) -> Result<Value, MeshError> {
    let mut spec = object();
    for file in &options.files {
        if file["kind"] != "IstioOperator" {
            return Err(MeshError::File(format!(
                "a file holds kind {}, but install reads IstioOperator (apiVersion install.istio.io/v1alpha1)",
                file["kind"]
            )));
        }
        if let Some(given) = file.get("spec").filter(|s| s.is_object()) {
            merge(&mut spec, given.clone());
        }
    }
    for assignment in &options.set {
        set::apply(&mut spec, assignment)?;
    }
    if let Some(revision) = &options.revision {
        spec["revision"] = json!(revision);
    }
    Ok(spec)
}

/// Every key that has an effect. Null and empty objects take anything.
fn known_spec(charts: &[Chart]) -> Value {
    let defaults = |i: usize| charts[i].values["_internal_defaults_do_not_set"].clone();
    let component = json!({"enabled": null, "namespace": null, "hub": null, "tag": null});
    let mut global = json!({"profile": null});
    for i in 0..charts.len() {
        merge(&mut global, defaults(i)["global"].clone());
    }
    let without_global = |i: usize| {
        let mut tree = defaults(i);
        if let Some(map) = tree.as_object_mut() {
            map.remove("global");
        }
        tree
    };
    json!({
        "profile": null, "hub": null, "tag": null, "namespace": null, "revision": null,
        "meshConfig": {}, "compat": {"legacyWaypoint": null},
        "components": {"base": component, "pilot": component, "cni": component, "ztunnel": component},
        "values": {
            "global": global, "meshConfig": {}, "profile": null, "platform": null, "revision": null,
            "pilot": without_global(1), "cni": without_global(2), "ztunnel": without_global(3),
        },
    })
}

/// The values tree that all charts get.
fn shared_values(spec: &Value, namespace: &str, revision: &str) -> Value {
    let mut values = spec.get("values").cloned().unwrap_or_else(object);
    let mut top = json!({"global": {"istioNamespace": namespace}});
    for key in ["hub", "tag"] {
        if let Some(value) = spec.get(key).filter(|v| !v.is_null()) {
            top["global"][key] = value.clone();
        }
    }
    if !revision.is_empty() {
        top["revision"] = json!(revision);
    }
    if let Some(compat) = spec.get("compat").filter(|c| c.is_object()) {
        top["compat"] = compat.clone();
    }
    if let Some(mesh) = spec.get("meshConfig").filter(|m| m.is_object()) {
        top["meshConfig"] = mesh.clone();
    }
    merge(&mut values, top);
    values
}

/// What one chart gets: its own hub and tag, and for the node proxy its keys at the top.
fn component_values(kind: ComponentKind, values: &Value, setting: &Value) -> Value {
    let mut own = values.clone();
    if kind == ComponentKind::Ztunnel
        && let Some(below) = values.get("ztunnel").filter(|z| z.is_object())
    {
        merge(&mut own, below.clone());
    }
    for key in ["hub", "tag"] {
        if let Some(value) = setting.get(key).filter(|v| !v.is_null()) {
            match kind {
                ComponentKind::Ztunnel => own[key] = value.clone(),
                _ => own[kind.key()][key] = value.clone(),
            }
        }
    }
    own
}

fn check_revision(revision: &str) -> Result<(), MeshError> {
    let ok = revision.len() <= 63
        && revision
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        && !revision.starts_with('-')
        && !revision.ends_with('-');
    if ok {
        Ok(())
    } else {
        Err(MeshError::Revision(revision.to_owned()))
    }
}

fn add_labels(
    object: &mut Value,
    kind: ComponentKind,
    namespace: &str,
    revision: &str,
    version: &str,
) {
    let revision = if revision.is_empty() {
        "default"
    } else {
        revision
    };
    let labels = json!({
        MANAGED_LABEL: "Reconcile",
        VERSION_LABEL: version,
        COMPONENT_LABEL: kind.label(),
        OWNER_LABEL: OWNER,
        OWNER_NAMESPACE_LABEL: namespace,
        REVISION_LABEL: revision,
    });
    merge(object, json!({"metadata": {"labels": labels}}));
}

/// An object as YAML, ending in a line break.
pub fn to_yaml(object: &Value) -> String {
    format!("{}\n", crate::render::write_yaml(object))
}

#[cfg(test)]
mod tests;
