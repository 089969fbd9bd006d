//! Puts the plugin on the node and keeps it there: the program, and its entry in the node's CNI
//! configuration. Other software rewrites that directory; what it removes is put back.

use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::config::Args;
use crate::conflist::{self, ConflistError, PLUGIN};

/// The file that owned configurations use unless told otherwise.
const OWNED_FILE: &str = "02-istio-cni.conflist";
/// The file of a standalone plugin unless told otherwise.
const STANDALONE_FILE: &str = "YY-istio-cni.conf";

/// How the plugin gets into the node's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Last in the node's own list.
    Chained,
    /// In a list of ours (file name) that repeats the node's and sorts first.
    Owned(String),
    /// Alone in a file (name), for meta plugins.
    Standalone(String),
}

/// What to install and where.
#[derive(Clone, Debug)]
pub struct HostFiles {
    /// The plugin program in the agent's image.
    pub source: PathBuf,
    /// The node's CNI program directory.
    pub bin_dir: PathBuf,
    /// The node's CNI configuration directory.
    pub net_dir: PathBuf,
    /// How the entry is made.
    pub mode: Mode,
    /// The file to edit, when it is not simply the first.
    pub conf_name: Option<String>,
    /// The plugin's entry.
    pub entry: Value,
    /// Permissions of the configuration.
    pub file_mode: u32,
}

/// Why the plugin is not installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The agent's image lacks the plugin.
    #[error(
        "the plugin program is in none of {0}; the image is incomplete, or set CNI_PLUGIN_SOURCE"
    )]
    NoSource(String),
    /// The program could not be copied.
    #[error(
        "cannot copy the plugin to {path}: {source}; is the node's CNI program directory mounted and writable?"
    )]
    Copy {
        /// Where to.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// The configuration directory has no usable file yet.
    #[error("no CNI configuration in {0} yet; waiting for the node's network plugin to write one")]
    NoConfiguration(PathBuf),
    /// The configuration could not be read or written.
    #[error(
        "cannot change {path}: {source}; is the node's CNI configuration directory mounted and writable?"
    )]
    Configuration {
        /// Which file.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// The configuration is not one.
    #[error("{path} cannot be used: {source}")]
    Conflist {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: ConflistError,
    },
}

impl InstallError {
    /// The value of the `result` label of `istio_cni_installs_total`.
    pub fn result(&self) -> &'static str {
        match self {
            InstallError::NoSource(_) | InstallError::Copy { .. } => "COPY_BINARIES_FAILURE",
            _ => "CREATE_CNI_CONFIG_FAILURE",
        }
    }
}

impl HostFiles {
    /// What the settings describe.
    ///
    /// # Errors
    /// When the image has no plugin.
    pub fn new(args: &Args) -> Result<Self, InstallError> {
        let own_name = |name: &Option<String>, default: &str| {
            name.clone()
                .filter(|n| !n.is_empty())
                .unwrap_or_else(|| default.to_owned())
        };
        let mode = if !args.chained_cni_plugin {
            Mode::Standalone(own_name(&args.cni_conf_name, STANDALONE_FILE))
        } else if args.istio_owned_cni_config {
            Mode::Owned(own_name(&args.istio_owned_cni_conf_filename, OWNED_FILE))
        } else {
            Mode::Chained
        };
        let mut settings = Map::new();
        settings.insert("plugin_log_level".into(), json!(args.log_level));
        settings.insert("cni_agent_run_dir".into(), json!(args.cni_agent_run_dir));
        settings.insert("ambient_enabled".into(), json!(args.ambient_enabled));
        settings.insert("exclude_namespaces".into(), json!(args.excluded()));
        settings.insert("pod_namespace".into(), json!(args.pod_namespace));
        Ok(Self {
            source: source(args.cni_plugin_source.as_deref())?,
            bin_dir: args.mounted_cni_bin_dir.clone(),
            net_dir: args.mounted_cni_net_dir.clone(),
            mode,
            conf_name: args.cni_conf_name.clone().filter(|n| !n.is_empty()),
            entry: conflist::entry(&settings),
            file_mode: if args.cni_conf_group_read {
                0o640
            } else {
                0o600
            },
        })
    }

    /// Installs what is missing or different. `true` when something was written.
    ///
    /// # Errors
    /// See [`InstallError`].
    pub fn ensure(&self) -> Result<bool, InstallError> {
        let copied = self.copy_program()?;
        let configured = match &self.mode {
            Mode::Chained => self.chain()?,
            Mode::Owned(name) => self.own(name)?,
            Mode::Standalone(name) => {
                let path = self.net_dir.join(name);
                self.write_if_different(&path, &conflist::standalone(&self.entry))?
            }
        };
        Ok(copied || configured)
    }

    /// Takes the plugin out of the configuration, then removes the program.
    ///
    /// # Errors
    /// See [`InstallError`]. What could be removed is.
    pub fn remove(&self) -> Result<(), InstallError> {
        let configuration = self.remove_configuration();
        let program = self.bin_dir.join(PLUGIN);
        match std::fs::remove_file(&program) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(InstallError::Copy {
                    path: program,
                    source: e,
                });
            }
            _ => {}
        }
        configuration
    }

    fn copy_program(&self) -> Result<bool, InstallError> {
        let path = self.bin_dir.join(PLUGIN);
        let fail = |source| InstallError::Copy {
            path: path.clone(),
            source,
        };
        let wanted = std::fs::read(&self.source).map_err(fail)?;
        let executable = |m: std::fs::Metadata| m.permissions().mode() & 0o111 == 0o111;
        if std::fs::read(&path).is_ok_and(|present| present == wanted)
            && std::fs::metadata(&path).is_ok_and(executable)
        {
            return Ok(false);
        }
        write_atomically(&path, &wanted, 0o755).map_err(fail)?;
        Ok(true)
    }

    fn chain(&self) -> Result<bool, InstallError> {
        let path = self.configuration()?;
        let text = read(&path)?;
        if conflist::is_inserted(&text, &self.entry) {
            return Ok(false);
        }
        let config = self.insert(&path, &text)?;
        let list = path.with_extension("conflist");
        self.write_if_different(&list, &config)?;
        if list != path {
            std::fs::remove_file(&path)
                .map_err(|source| InstallError::Configuration { path, source })?;
        }
        Ok(true)
    }

    fn own(&self, name: &str) -> Result<bool, InstallError> {
        let primary = self.configuration()?;
        let config = self.insert(&primary, &read(&primary)?)?;
        self.write_if_different(&self.net_dir.join(name), &config)
    }

    fn insert(&self, path: &Path, text: &str) -> Result<Value, InstallError> {
        conflist::insert(text, &self.entry).map_err(|source| InstallError::Conflist {
            path: path.to_owned(),
            source,
        })
    }

    /// The node's configuration: the named file, or the first valid one that is not ours.
    fn configuration(&self) -> Result<PathBuf, InstallError> {
        let none = || InstallError::NoConfiguration(self.net_dir.clone());
        if let Some(name) = &self.conf_name {
            let path = self.net_dir.join(name);
            let list = path.with_extension("conflist");
            return [path, list]
                .into_iter()
                .find(|p| p.is_file())
                .ok_or_else(none);
        }
        let mut files: Vec<PathBuf> = std::fs::read_dir(&self.net_dir)
            .map_err(|source| InstallError::Configuration {
                path: self.net_dir.clone(),
                source,
            })?
            .flatten()
            .map(|entry| entry.path())
            .filter(|p| {
                p.extension()
                    .is_some_and(|e| e == "conf" || e == "conflist" || e == "json")
            })
            .filter(|p| !matches!(&self.mode, Mode::Owned(own) if p.ends_with(own)))
            .collect();
        files.sort();
        let valid = |p: &PathBuf| std::fs::read_to_string(p).is_ok_and(|t| conflist::is_valid(&t));
        files.into_iter().find(valid).ok_or_else(none)
    }

    fn remove_configuration(&self) -> Result<(), InstallError> {
        if let Mode::Owned(name) | Mode::Standalone(name) = &self.mode {
            let path = self.net_dir.join(name);
            return match std::fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    Err(InstallError::Configuration { path, source })
                }
                _ => Ok(()),
            };
        }
        let path = match self.configuration() {
            Err(InstallError::NoConfiguration(_)) => return Ok(()),
            other => other?,
        };
        let rest = conflist::remove(&read(&path)?).map_err(|source| InstallError::Conflist {
            path: path.clone(),
            source,
        })?;
        match rest {
            Some(config) => self.write_if_different(&path, &config).map(|_| ()),
            None => std::fs::remove_file(&path)
                .map_err(|source| InstallError::Configuration { path, source }),
        }
    }

    fn write_if_different(&self, path: &Path, config: &Value) -> Result<bool, InstallError> {
        let text = format!("{config:#}\n");
        if std::fs::read_to_string(path).is_ok_and(|present| present == text) {
            return Ok(false);
        }
        write_atomically(path, text.as_bytes(), self.file_mode).map_err(|source| {
            InstallError::Configuration {
                path: path.to_owned(),
                source,
            }
        })?;
        Ok(true)
    }
}

/// The plugin in the image.
fn source(configured: Option<&Path>) -> Result<PathBuf, InstallError> {
    let mut places: Vec<PathBuf> = Vec::new();
    if let Some(path) = configured {
        places.push(path.to_owned());
    } else {
        places.push(Path::new("/opt/cni/bin").join(PLUGIN));
        if let Ok(program) = std::env::current_exe() {
            places.push(program.with_file_name(PLUGIN));
        }
    }
    let tried = places
        .iter()
        .map(|p| p.display().to_string())
        .collect::<Vec<_>>()
        .join(", ");
    places
        .into_iter()
        .find(|p| p.is_file())
        .ok_or(InstallError::NoSource(tried))
}

fn read(path: &Path) -> Result<String, InstallError> {
    std::fs::read_to_string(path).map_err(|source| InstallError::Configuration {
        path: path.to_owned(),
        source,
    })
}

/// Readers see the old file or the new one. The temporary name has an extension that no container
/// runtime reads.
fn write_atomically(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    let result = (|| {
        let mut file = std::fs::File::create(&temporary)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    })();
    if result.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    struct Node {
        dir: tempfile::TempDir,
        files: HostFiles,
    }

    fn node(mode: Mode) -> Node {
        let dir = tempfile::tempdir().expect("dir");
        for name in ["bin", "net.d"] {
            fs::create_dir(dir.path().join(name)).expect("mkdir");
        }
        fs::write(dir.path().join("istio-cni"), b"program").expect("write");
        let files = HostFiles {
            source: dir.path().join("istio-cni"),
            bin_dir: dir.path().join("bin"),
            net_dir: dir.path().join("net.d"),
            mode,
            conf_name: None,
            entry: conflist::entry(&Map::new()),
            file_mode: 0o600,
        };
        Node { dir, files }
    }

    impl Node {
        fn conf(&self, name: &str) -> PathBuf {
            self.dir.path().join("net.d").join(name)
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.conf(name), text).expect("write");
        }

        fn types(&self, name: &str) -> Vec<String> {
            let text = fs::read_to_string(self.conf(name)).expect("read");
            let config: Value = serde_json::from_str(&text).expect("JSON");
            let plugins = config["plugins"].as_array().expect("plugins");
            plugins
                .iter()
                .map(|p| p["type"].as_str().expect("type").to_owned())
                .collect()
        }
    }

    const PTP: &str = r#"{"cniVersion":"0.3.1","name":"n","plugins":[{"type":"ptp"}]}"#;

    #[test]
    fn chained_into_the_first_valid_file_and_out_again() {
        let node = node(Mode::Chained);
        assert!(matches!(
            node.files.ensure(),
            Err(InstallError::NoConfiguration(_))
        ));
        node.write("00-broken.conflist", "{");
        node.write("10-ptp.conflist", PTP);
        node.write("20-other.conflist", PTP);
        assert!(node.files.ensure().expect("install"));
        assert!(!node.files.ensure().expect("nothing to do"));
        assert_eq!(node.types("10-ptp.conflist"), ["ptp", "istio-cni"]);
        assert_eq!(node.types("20-other.conflist"), ["ptp"]);
        let mode = |p: PathBuf| fs::metadata(p).expect("metadata").permissions().mode() & 0o777;
        assert_eq!(mode(node.conf("10-ptp.conflist")), 0o600);
        assert_eq!(mode(node.dir.path().join("bin/istio-cni")), 0o755);

        node.write("10-ptp.conflist", PTP);
        fs::remove_file(node.dir.path().join("bin/istio-cni")).expect("rm");
        assert!(node.files.ensure().expect("put back"));
        assert_eq!(node.types("10-ptp.conflist"), ["ptp", "istio-cni"]);

        node.files.remove().expect("remove");
        assert_eq!(node.types("10-ptp.conflist"), ["ptp"]);
        assert!(!node.dir.path().join("bin/istio-cni").exists());
        node.files.remove().expect("remove twice");
    }

    #[test]
    fn a_single_plugin_becomes_a_list() {
        let node = node(Mode::Chained);
        node.write(
            "10-bridge.conf",
            r#"{"cniVersion":"0.3.1","type":"bridge"}"#,
        );
        node.files.ensure().expect("install");
        assert!(!node.conf("10-bridge.conf").exists());
        assert_eq!(node.types("10-bridge.conflist"), ["bridge", "istio-cni"]);
    }

    #[test]
    fn an_owned_file_follows_the_primary() {
        let node = node(Mode::Owned(OWNED_FILE.into()));
        node.write("10-ptp.conflist", PTP);
        node.files.ensure().expect("install");
        assert_eq!(node.types(OWNED_FILE), ["ptp", "istio-cni"]);
        assert_eq!(node.types("10-ptp.conflist"), ["ptp"]);
        node.write("10-ptp.conflist", &PTP.replace("ptp", "calico"));
        assert!(node.files.ensure().expect("follow"));
        assert_eq!(node.types(OWNED_FILE), ["calico", "istio-cni"]);
        node.files.remove().expect("remove");
        assert!(!node.conf(OWNED_FILE).exists());
    }

    #[test]
    fn a_standalone_file_needs_no_primary() {
        let node = node(Mode::Standalone(STANDALONE_FILE.into()));
        node.files.ensure().expect("install");
        let text = fs::read_to_string(node.conf(STANDALONE_FILE)).expect("read");
        assert!(text.contains("\"type\": \"istio-cni\""), "{text}");
        node.files.remove().expect("remove");
        assert!(!node.conf(STANDALONE_FILE).exists());
    }

    #[test]
    fn a_directory_that_is_not_there_says_what_to_check() {
        let mut node = node(Mode::Chained);
        node.files.bin_dir = "/nonexistent".into();
        let error = node.files.ensure().expect_err("no directory");
        assert_eq!(error.result(), "COPY_BINARIES_FAILURE");
        assert!(error.to_string().contains("mounted"), "{error}");
    }
}
