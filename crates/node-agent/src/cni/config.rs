//! Network configurations on disk.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// A configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The directory holds none.
    #[error("no networks found in {0}; a CNI configuration must be installed there")]
    NoNetwork(PathBuf),
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// File or directory.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A file is not a valid configuration.
    #[error("{path}: {problem}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// An ordered list of plugins.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkList {
    /// Network name.
    pub name: String,
    /// Version of the specification that all plugins of the list speak.
    pub cni_version: String,
    /// Plugin configurations as written, each an object with a `type`.
    pub plugins: Vec<Map<String, Value>>,
}

impl NetworkList {
    /// Reads the text of a `.conflist`, or of a `.conf`/`.json` with a single plugin.
    ///
    /// # Errors
    /// A description of what is missing or malformed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let Value::Object(object) = value else {
            return Err("not a JSON object".to_string());
        };
        let name = string(&object, "name").ok_or("network has no name")?;
        let cni_version = string(&object, "cniVersion").unwrap_or_else(|| "0.3.1".to_string());
        let plugins = match object.get("plugins") {
            Some(Value::Array(list)) => list
                .iter()
                .map(|plugin| {
                    plugin
                        .as_object()
                        .cloned()
                        .ok_or("a plugin is not an object".to_string())
                })
                .collect::<Result<Vec<_>, _>>()?,
            Some(_) => return Err("plugins is not a list".to_string()),
            None => vec![object],
        };
        if plugins.is_empty() {
            return Err("the list has no plugins".to_string());
        }
        match plugins
            .iter()
            .find(|plugin| string(plugin, "type").is_none())
        {
            Some(_) => Err("a plugin has no type".to_string()),
            None => Ok(Self {
                name,
                cni_version,
                plugins,
            }),
        }
    }

    /// The list as written by [`parse`](Self::parse)'s inverse; kept beside a pod for its removal.
    pub fn to_value(&self) -> Value {
        serde_json::json!({"name": self.name, "cniVersion": self.cni_version, "plugins": self.plugins})
    }

    /// Whether a plugin declares a capability, such as `portMappings`.
    pub fn has_capability(&self, name: &str) -> bool {
        self.plugins.iter().any(|plugin| {
            plugin
                .get("capabilities")
                .and_then(|c| c.get(name))
                .and_then(Value::as_bool)
                == Some(true)
        })
    }
}

fn string(object: &Map<String, Value>, key: &str) -> Option<String> {
    object
        .get(key)
        .and_then(Value::as_str)
        .filter(|text| !text.is_empty())
        .map(str::to_string)
}

/// The first valid configuration of a directory in lexical order. Invalid files are skipped with a
/// warning, as runtimes do; if nothing else is there, the first problem is the error.
///
/// # Errors
/// No configuration, or only invalid ones.
pub fn load(directory: &Path) -> Result<NetworkList, ConfigError> {
    let mut first_problem = None;
    for path in candidates(directory)? {
        let text = std::fs::read_to_string(&path).map_err(|source| ConfigError::Read {
            path: path.clone(),
            source,
        })?;
        match NetworkList::parse(&text) {
            Ok(list) => return Ok(list),
            Err(problem) => {
                tracing::warn!(file = %path.display(), problem, "CNI configuration skipped");
                first_problem.get_or_insert(ConfigError::Invalid { path, problem });
            }
        }
    }
    Err(first_problem.unwrap_or_else(|| ConfigError::NoNetwork(directory.to_path_buf())))
}

fn candidates(directory: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => {
            return Err(ConfigError::Read {
                path: directory.to_path_buf(),
                source,
            });
        }
    };
    let wanted = |path: &PathBuf| {
        path.extension()
            .is_some_and(|ext| ext == "conflist" || ext == "conf" || ext == "json")
            && path.is_file()
    };
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(wanted)
        .collect();
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_valid_file_counts() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(load(dir.path()), Err(ConfigError::NoNetwork(_))));
        std::fs::write(dir.path().join("00-bad.conflist"), "{").unwrap();
        assert!(matches!(load(dir.path()), Err(ConfigError::Invalid { .. })));
        std::fs::write(dir.path().join("20.conf"), r#"{"name":"b","type":"x"}"#).unwrap();
        std::fs::write(
            dir.path().join("10.conflist"),
            r#"{"name":"a","cniVersion":"1.0.0","plugins":[{"type":"p","capabilities":{"portMappings":true}}]}"#,
        )
        .unwrap();
        std::fs::write(dir.path().join("05.txt"), "ignored").unwrap();
        let list = load(dir.path()).unwrap();
        assert_eq!(
            (list.name.as_str(), list.cni_version.as_str()),
            ("a", "1.0.0")
        );
        assert!(list.has_capability("portMappings") && !list.has_capability("bandwidth"));
        assert_eq!(
            NetworkList::parse(&list.to_value().to_string()).unwrap(),
            list
        );
    }

    #[test]
    fn malformed_lists_are_refused() {
        for text in [
            "[]",
            "{}",
            r#"{"name":"a","plugins":[]}"#,
            r#"{"name":"a","plugins":[{}]}"#,
            r#"{"name":"a","plugins":3}"#,
        ] {
            assert!(NetworkList::parse(text).is_err(), "{text}");
        }
    }
}
