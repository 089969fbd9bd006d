//! The user's kubeconfig: a context for each cluster comes and goes, nothing
//! else in the file is touched.
//!
//! Locked the way kubectl does it (a file `config.lock` beside it), replaced
//! by rename, so that no reader ever sees half a file.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::error::{LocalError, Result, file};

/// How long to wait for somebody else's lock.
const PATIENCE: Duration = Duration::from_secs(5);
/// The lists of named entries in a kubeconfig.
const LISTS: [&str; 3] = ["clusters", "contexts", "users"];

/// The file that kubectl would change: the first existing one of
/// `KUBECONFIG`, else its last, else `~/.kube/config`.
pub(crate) fn default_path() -> Option<PathBuf> {
    let listed = std::env::var_os("KUBECONFIG").unwrap_or_default();
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
    choose(&listed, home.as_deref())
}

fn choose(listed: &OsStr, home: Option<&OsStr>) -> Option<PathBuf> {
    let paths: Vec<PathBuf> = std::env::split_paths(listed)
        .filter(|path| !path.as_os_str().is_empty())
        .collect();
    let existing = paths.iter().find(|path| path.exists()).or(paths.last());
    existing
        .cloned()
        .or_else(|| Some(Path::new(home?).join(".kube").join("config")))
}

/// Adds (or replaces) the entries of `from`, a kubeconfig of ours in which all
/// entries have the name `context`, and makes that context the current one.
pub(crate) fn merge(path: &Path, from: &str, context: &str) -> Result<()> {
    change(path, |config| {
        let ours: Value = serde_saphyr::from_str(from).map_err(|error| error.to_string())?;
        for list in LISTS {
            let entries = entries_of(config, list)?;
            entries.retain(|entry| entry["name"] != context);
            entries.extend(ours[list].as_array().into_iter().flatten().cloned());
        }
        config.insert("current-context".to_owned(), json!(context));
        Ok(true)
    })
}

/// Removes the entries named `context`; if it was the current one, there is
/// none afterwards. A file that is not there is as good.
pub(crate) fn remove(path: &Path, context: &str) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    change(path, |config| {
        let mut changed = false;
        for list in LISTS {
            let entries = entries_of(config, list)?;
            let before = entries.len();
            entries.retain(|entry| entry["name"] != context);
            changed |= entries.len() != before;
        }
        if config
            .get("current-context")
            .is_some_and(|current| current == context)
        {
            config.insert("current-context".to_owned(), json!(""));
            changed = true;
        }
        Ok(changed)
    })
}

fn entries_of<'a>(
    config: &'a mut Map<String, Value>,
    list: &str,
) -> std::result::Result<&'a mut Vec<Value>, String> {
    let entries = config.entry(list).or_insert_with(|| json!([]));
    if entries.is_null() {
        *entries = json!([]);
    }
    entries
        .as_array_mut()
        .ok_or_else(|| format!("its field {list:?} is not a list"))
}

/// Whether a kubeconfig says nothing: then it is as good as no file, and was
/// most likely made by us.
fn is_empty(config: &Map<String, Value>) -> bool {
    config.iter().all(|(key, value)| match key.as_str() {
        "apiVersion" | "kind" => true,
        "current-context" => value == "",
        _ => match value {
            Value::Array(entries) => entries.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            other => other.is_null(),
        },
    })
}

/// Reads, changes and writes the file under its lock, or removes it if nothing
/// is left in it. `edit` says whether it changed anything.
fn change(
    path: &Path,
    edit: impl FnOnce(&mut Map<String, Value>) -> std::result::Result<bool, String>,
) -> Result<()> {
    // A link is followed: what is replaced is the file that it leads to.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let refuse = |reason: String| LocalError::Kubeconfig {
        path: path.clone(),
        reason,
    };
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        fs::create_dir_all(folder).map_err(file("making", folder))?;
    }
    let _lock = Lock::take(&path)?;
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => return Err(file("reading", &path)(error)),
    };
    let mut config = if text.trim().is_empty() {
        empty()
    } else {
        match serde_saphyr::from_str(&text) {
            Ok(Value::Object(config)) => config,
            Ok(Value::Null) => empty(),
            Ok(_) => return Err(refuse("it is not a mapping".to_owned())),
            Err(error) => return Err(refuse(format!("it is not valid YAML: {error}"))),
        }
    };
    if edit(&mut config).map_err(refuse)? {
        if is_empty(&config) {
            return std::fs::remove_file(&path).map_err(file("removing", &path));
        }
        let refuse = |error: String| LocalError::Kubeconfig {
            path: path.clone(),
            reason: error,
        };
        let text = serde_saphyr::to_string(&config).map_err(|error| refuse(error.to_string()))?;
        replace(&path, text.as_bytes())?;
    }
    Ok(())
}

fn empty() -> Map<String, Value> {
    let mut config = Map::new();
    config.insert("apiVersion".to_owned(), json!("v1"));
    config.insert("kind".to_owned(), json!("Config"));
    config
}

/// Replaces a file's content and keeps its owner and mode; a new one is 0600.
fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let before = fs::metadata(path).ok();
    let partial = path.with_extension("ambit");
    crate::state::write_private(&partial, content)?;
    let finished = (|| {
        if let Some(before) = before {
            std::os::unix::fs::chown(&partial, Some(before.uid()), Some(before.gid()))?;
            fs::set_permissions(&partial, fs::Permissions::from_mode(before.mode() & 0o777))?;
        }
        fs::rename(&partial, path)
    })();
    if finished.is_err() {
        let _ = fs::remove_file(&partial);
    }
    finished.map_err(file("writing", path))
}

/// kubectl's lock: a file that is made exclusively.
struct Lock(PathBuf);

impl Lock {
    fn take(path: &Path) -> Result<Self> {
        let mut name = path.as_os_str().to_owned();
        name.push(".lock");
        let lock = PathBuf::from(name);
        let start = Instant::now();
        loop {
            match fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(&lock)
            {
                Ok(_) => return Ok(Self(lock)),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    if start.elapsed() > PATIENCE {
                        let reason = format!(
                            "{} is held by somebody else; remove it if nobody is",
                            lock.display()
                        );
                        return Err(LocalError::Kubeconfig {
                            path: path.to_owned(),
                            reason,
                        });
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(error) => return Err(file("making", lock)(error)),
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = concat!(
        "clusters: [{name: ambit-x, cluster: {server: 'https://127.0.0.1:1'}}]\n",
        "contexts: [{name: ambit-x, context: {cluster: ambit-x, user: ambit-x}}]\n",
        "users: [{name: ambit-x, user: {token: t}}]\n",
    );
    const THEIRS: &str = concat!(
        "apiVersion: v1\nkind: Config\ncurrent-context: prod\n",
        "clusters:\n- name: prod\n  cluster:\n    server: https://prod\n",
        "contexts:\n- name: prod\n  context:\n    cluster: prod\n    user: me\n",
        "users:\n- name: me\n  user:\n    exec:\n      command: login\n      args: [\"-x\", 'a: b']\n",
        "preferences: {}\nextensions: null\n",
    );

    fn read(path: &Path) -> Value {
        serde_saphyr::from_str(&fs::read_to_string(path).expect("a file")).expect("YAML")
    }

    #[test]
    fn a_context_comes_and_goes_and_others_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("config");
        fs::write(&path, THEIRS).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("a mode");
        let before = read(&path);
        merge(&path, OURS, "ambit-x").expect("merged");
        merge(&path, OURS, "ambit-x").expect("merged again");
        let merged = read(&path);
        assert_eq!(merged["current-context"], "ambit-x");
        assert_eq!(merged["clusters"].as_array().map(Vec::len), Some(2));
        assert_eq!(merged["users"][0], before["users"][0]);
        assert_eq!(fs::metadata(&path).expect("metadata").mode() & 0o777, 0o640);
        remove(&path, "ambit-x").expect("removed");
        let mut expected = before;
        expected["current-context"] = json!("");
        assert_eq!(read(&path), expected);
        assert_eq!(
            fs::read_dir(folder.path()).expect("entries").count(),
            1,
            "nothing is left"
        );
    }

    #[test]
    fn a_new_file_is_private_and_a_link_stays_a_link() {
        let folder = tempfile::tempdir().expect("a folder");
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        merge(&real, OURS, "ambit-x").expect("merged");
        assert_eq!(fs::metadata(&real).expect("metadata").mode() & 0o777, 0o600);
        std::os::unix::fs::symlink(&real, &link).expect("a link");
        merge(&link, &OURS.replace("ambit-x", "ambit-y"), "ambit-y").expect("merged");
        remove(&link, "ambit-x").expect("removed");
        assert!(fs::symlink_metadata(&link).expect("metadata").is_symlink());
        assert_eq!(read(&real)["contexts"].as_array().map(Vec::len), Some(1));
        remove(&real, "ambit-y").expect("removed");
        assert!(!real.exists(), "a file that says nothing goes");
    }

    #[test]
    fn what_is_not_a_kubeconfig_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("config");
        for text in ["- a list", "clusters: 7", "{"] {
            fs::write(&path, text).expect("written");
            assert!(merge(&path, OURS, "ambit-x").is_err(), "{text}");
            assert_eq!(fs::read_to_string(&path).expect("a file"), text);
        }
        assert!(remove(&folder.path().join("none"), "ambit-x").is_ok());
    }

    #[test]
    fn the_file_is_the_one_that_kubectl_would_change() {
        let folder = tempfile::tempdir().expect("a folder");
        let there = folder.path().join("there");
        fs::write(&there, "").expect("written");
        let listed = std::env::join_paths([Path::new("/none/a"), &there]).expect("a list");
        assert_eq!(choose(&listed, None), Some(there));
        let listed = std::env::join_paths(["/none/a", "/none/b"]).expect("a list");
        assert_eq!(choose(&listed, None), Some("/none/b".into()));
        assert_eq!(
            choose(OsStr::new(""), Some(OsStr::new("/h"))),
            Some("/h/.kube/config".into())
        );
    }
}
