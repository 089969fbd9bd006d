//! A chart: its description, default values, templates and CRDs, from the program or a directory.

use std::path::{Path, PathBuf};

use rust_embed::RustEmbed;
use serde::Deserialize;
use serde_json::Value;

/// The charts as they were when the program was built.
#[derive(RustEmbed)]
#[folder = "../../charts"]
struct Embedded;

/// Where charts come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// Built into the program.
    #[default]
    Embedded,
    /// A directory with one folder for each chart.
    Directory(PathBuf),
}

/// A chart, read but not rendered.
#[derive(Clone, Debug)]
pub struct Chart {
    /// Name, as in `Chart.yaml`.
    pub name: String,
    /// Version of the chart.
    pub version: String,
    /// Version of what it installs.
    pub app_version: String,
    /// `values.yaml`.
    pub values: Value,
    /// Files of `templates/`, by path within the chart, sorted.
    pub templates: Vec<(String, String)>,
    /// Files of `crds/`, by path within the chart, sorted.
    pub crds: Vec<(String, String)>,
}

/// Why a chart cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ChartError {
    /// There is no such chart.
    #[error("there is no chart {name} in {place}; it needs a folder {name} with Chart.yaml")]
    Missing {
        /// Name of the chart.
        name: String,
        /// Where it was looked for.
        place: String,
    },
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What happened.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{path} of chart {name}: {reason}")]
    Invalid {
        /// Name of the chart.
        name: String,
        /// Path within the chart.
        path: String,
        /// What is wrong.
        reason: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Description {
    name: String,
    version: String,
    #[serde(default)]
    app_version: String,
}

impl Chart {
    /// Reads a chart.
    ///
    /// # Errors
    /// When it is missing or broken.
    pub fn load(source: &Source, name: &str) -> Result<Self, ChartError> {
        let files = match source {
            Source::Embedded => embedded(name)?,
            Source::Directory(directory) => read_directory(&directory.join(name))?,
        };
        let text = |wanted: &str| {
            files
                .iter()
                .find(|(path, _)| path == wanted)
                .map(|(_, t)| t.as_str())
        };
        let invalid = |path: &str, reason: String| ChartError::Invalid {
            name: name.to_owned(),
            path: path.to_owned(),
            reason,
        };
        let description = text("Chart.yaml").ok_or_else(|| ChartError::Missing {
            name: name.to_owned(),
            place: match source {
                Source::Embedded => "this program".to_owned(),
                Source::Directory(directory) => directory.display().to_string(),
            },
        })?;
        let description: Description = serde_saphyr::from_str(description)
            .map_err(|e| invalid("Chart.yaml", e.to_string()))?;
        let values = match text("values.yaml") {
            Some(text) => {
                serde_saphyr::from_str(text).map_err(|e| invalid("values.yaml", e.to_string()))?
            }
            None => crate::values::object(),
        };
        let below = |folder: &str, extensions: &[&str]| -> Vec<(String, String)> {
            let wanted = |path: &str| {
                path.starts_with(folder) && extensions.iter().any(|e| path.ends_with(e))
            };
            files
                .iter()
                .filter(|(path, _)| wanted(path))
                .cloned()
                .collect()
        };
        Ok(Self {
            name: description.name,
            version: description.version,
            app_version: description.app_version,
            values,
            templates: below("templates/", &[".yaml", ".tpl"]),
            crds: below("crds/", &[".yaml"]),
        })
    }
}

/// The definitions of the Gateway API that are built into the program, for clusters without any.
///
/// # Errors
/// A file is broken.
pub fn gateway_api() -> Result<Vec<Value>, ChartError> {
    let files = embedded("base")?;
    let definitions = files
        .iter()
        .filter(|(path, _)| path.starts_with("files/gateway-api/"));
    definitions
        .map(|(path, text)| {
            serde_saphyr::from_str(text).map_err(|e| ChartError::Invalid {
                name: "base".to_owned(),
                path: path.clone(),
                reason: e.to_string(),
            })
        })
        .collect()
}

/// Lets the definition of `Gateway` take gateways as the first release of ambient mode had them: of
/// version `v1alpha2`, without listeners. False if it does so already.
pub fn take_legacy_gateways(definition: &mut Value) -> bool {
    const OLD: &str = "v1alpha2";
    let Some(versions) = definition["spec"]["versions"].as_array_mut() else {
        return false;
    };
    let before = versions.clone();
    for version in versions.iter_mut() {
        let spec = version.pointer_mut("/schema/openAPIV3Schema/properties/spec/required");
        if let Some(required) = spec.and_then(Value::as_array_mut) {
            required.retain(|field| field != "listeners");
        }
        if version["name"] == OLD {
            version["served"] = true.into();
        }
    }
    let stored = versions.iter().find(|version| version["storage"] == true);
    if let (false, Some(stored)) = (versions.iter().any(|v| v["name"] == OLD), stored) {
        let mut old = stored.clone();
        old["name"] = OLD.into();
        old["storage"] = false.into();
        versions.push(old);
    }
    *versions != before
}

/// All files of an embedded chart, sorted by path.
fn embedded(name: &str) -> Result<Vec<(String, String)>, ChartError> {
    let prefix = format!("{name}/");
    let mut files = Vec::new();
    for path in Embedded::iter() {
        let Some(inner) = path.strip_prefix(&prefix) else {
            continue;
        };
        let Some(file) = Embedded::get(&path) else {
            continue;
        };
        let text = String::from_utf8(file.data.into_owned()).map_err(|_| ChartError::Invalid {
            name: name.to_owned(),
            path: inner.to_owned(),
            reason: "not UTF-8".into(),
        })?;
        files.push((inner.to_owned(), text));
    }
    files.sort();
    Ok(files)
}

/// All files of a chart's folder, sorted by path; none when the folder does not exist.
fn read_directory(root: &Path) -> Result<Vec<(String, String)>, ChartError> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let fail = |source| ChartError::Read {
            path: folder.clone(),
            source,
        };
        let entries = match std::fs::read_dir(&folder) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && folder == root => {
                return Ok(files);
            }
            other => other.map_err(fail)?,
        };
        for entry in entries {
            let path = entry.map_err(fail)?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let Ok(inner) = path.strip_prefix(root) else {
                continue;
            };
            let name = inner.to_string_lossy().into_owned();
            if !(name.ends_with(".yaml") || name.ends_with(".tpl")) {
                continue;
            }
            let text = std::fs::read_to_string(&path).map_err(|source| ChartError::Read {
                path: path.clone(),
                source,
            })?;
            files.push((name, text));
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_charts_are_those_of_the_directory() {
        let directory =
            Source::Directory(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts"));
        for name in ["base", "istiod", "cni", "ztunnel", "ambient"] {
            let built_in = Chart::load(&Source::Embedded, name).expect(name);
            let read = Chart::load(&directory, name).expect(name);
            assert_eq!(built_in.name, name);
            assert_eq!(built_in.templates, read.templates, "{name}");
            assert_eq!(built_in.crds, read.crds, "{name}");
            assert_eq!(built_in.app_version, env!("CARGO_PKG_VERSION"), "{name}");
        }
    }

    #[test]
    fn gateways_of_the_first_release() {
        let all = gateway_api().unwrap();
        let name = "gateways.gateway.networking.k8s.io";
        let mut gateways = all.into_iter().filter(|d| d["metadata"]["name"] == name);
        let mut definition = gateways.next().unwrap();
        assert!(take_legacy_gateways(&mut definition));
        let versions = definition["spec"]["versions"].as_array().unwrap();
        let old = versions.iter().find(|v| v["name"] == "v1alpha2").unwrap();
        assert_eq!(
            (&old["served"], &old["storage"]),
            (&true.into(), &false.into())
        );
        for version in versions {
            let required = version.pointer("/schema/openAPIV3Schema/properties/spec/required");
            let required = required.unwrap().as_array().unwrap();
            assert!(!required.iter().any(|field| field == "listeners"));
        }
        assert!(!take_legacy_gateways(&mut definition));
    }

    #[test]
    fn a_chart_that_is_not_there_says_where_it_was_looked_for() {
        let error = Chart::load(&Source::Embedded, "nonesuch")
            .expect_err("missing")
            .to_string();
        assert!(
            error.contains("nonesuch") && error.contains("this program"),
            "{error}"
        );
        let dir = tempfile::tempdir().expect("dir");
        let source = Source::Directory(dir.path().into());
        let error = Chart::load(&source, "base")
            .expect_err("missing")
            .to_string();
        assert!(error.contains(&dir.path().display().to_string()), "{error}");
        std::fs::create_dir(dir.path().join("base")).expect("mkdir");
        std::fs::write(dir.path().join("base/Chart.yaml"), "name: [").expect("write");
        assert!(matches!(
            Chart::load(&source, "base"),
            Err(ChartError::Invalid { .. })
        ));
    }
}
