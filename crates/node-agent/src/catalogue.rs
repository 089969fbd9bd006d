//! What an image name means on a node that has no container images: a program of the host.
//!
//! A node of a local cluster does not pull anything. An image reference is looked up in this
//! catalogue and resolves to an entry point (a program and its leading arguments), links that the
//! container finds in its `PATH` (the tools the real image carries), files at fixed paths, and an
//! environment. Everything here is pure; the document comes from the node's configuration.
//!
//! What always holds: a reference matches at most one image (the first in document order), tag and
//! digest never take part in matching, and an unknown reference is an error that names what there is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Directory inside every container that holds the catalogue's programs; `bin` below it comes
/// first in `PATH` and has one link per applet.
pub const IMAGE_DIR: &str = "/usr/local/lib/image";

/// The search path of a container whose image sets none, with the applets first.
pub const DEFAULT_PATH: &str =
    "/usr/local/lib/image/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a catalogue document or an image reference was refused.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// The document is not YAML of the expected shape.
    #[error("image catalogue: {0}; correct the document named in the node's configuration")]
    Parse(String),
    /// An image uses a program that the node was not given a path for.
    #[error(
        "image catalogue: image {image:?} uses program {program:?}, which has no path; add it to `programs`"
    )]
    UnknownProgram {
        /// First pattern of the image.
        image: String,
        /// Name that has no entry in `programs`.
        program: String,
    },
    /// No pattern matches the reference.
    #[error("image {reference:?} is not in this node's catalogue, which has: {available}")]
    UnknownImage {
        /// The reference as the pod gave it.
        reference: String,
        /// Comma-separated patterns.
        available: String,
    },
    /// The reference is not a legal image name.
    #[error("couldn't parse image reference {0:?}: invalid reference format")]
    InvalidReference(String),
}

/// The document: a list of images and, optionally, paths of programs.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    programs: BTreeMap<String, PathBuf>,
    #[serde(default)]
    images: Vec<ImageEntry>,
}

/// One image of the document.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ImageEntry {
    /// Repository patterns without tag; `*` stands for any characters, slashes included.
    names: Vec<String>,
    /// Program and leading arguments; the program is a name in the container's `PATH` (an applet
    /// or a host program) or an absolute path.
    #[serde(default)]
    entrypoint: Vec<String>,
    /// Arguments used when the pod gives none.
    #[serde(default)]
    cmd: Vec<String>,
    /// The image's own environment.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// Working directory; `/` if absent.
    #[serde(default)]
    working_dir: Option<String>,
    /// Numeric `uid` or `uid:gid` that the image asks for.
    #[serde(default)]
    user: Option<String>,
    /// Link name → program name.
    #[serde(default)]
    applets: BTreeMap<String, String>,
    /// Path in the container → program name.
    #[serde(default)]
    files: BTreeMap<String, String>,
}

/// A resolved image: what a container runs and finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Name shown as `imageID`.
    pub id: String,
    /// Program and leading arguments; may be empty (then the pod must give a command).
    pub entrypoint: Vec<String>,
    /// Default arguments.
    pub cmd: Vec<String>,
    /// The image's environment, `PATH` not included unless the document sets it.
    pub env: BTreeMap<String, String>,
    /// Working directory.
    pub working_dir: String,
    /// User of the image.
    pub uid: u32,
    /// Group of the image.
    pub gid: u32,
    /// Programs to make visible under [`IMAGE_DIR`]: name → path on the node.
    pub programs: BTreeMap<String, PathBuf>,
    /// Links in `IMAGE_DIR/bin`: name → program name.
    pub applets: BTreeMap<String, String>,
    /// Files of the image: path in the container → path on the node.
    pub files: BTreeMap<String, PathBuf>,
}

/// A checked catalogue.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    images: Vec<(Vec<String>, Image)>,
}

impl Catalogue {
    /// Reads a YAML document. `programs` adds to, and wins over, the document's own paths.
    ///
    /// # Errors
    /// A malformed document, an unknown key, or an image whose program has no path.
    pub fn parse(yaml: &str, programs: &BTreeMap<String, PathBuf>) -> Result<Self, CatalogueError> {
        let document: Document = serde_saphyr::from_str(yaml)
            .map_err(|error| CatalogueError::Parse(error.to_string()))?;
        let mut paths = document.programs;
        paths.extend(programs.clone());
        let images = document
            .images
            .into_iter()
            .map(|entry| resolve(entry, &paths))
            .collect::<Result<_, _>>()?;
        Ok(Self { images })
    }

    /// Finds the image of a pod's reference.
    ///
    /// # Errors
    /// [`CatalogueError::UnknownImage`] naming what the catalogue has, or an invalid reference.
    pub fn lookup(&self, reference: &str) -> Result<&Image, CatalogueError> {
        let repository = repository(reference)?;
        let normal = normalize(repository);
        self.images
            .iter()
            .find(|(names, _)| {
                names
                    .iter()
                    .any(|pattern| glob(pattern, repository) || glob(pattern, &normal))
            })
            .map(|(_, image)| image)
            .ok_or_else(|| CatalogueError::UnknownImage {
                reference: reference.to_string(),
                available: self.available(),
            })
    }

    fn available(&self) -> String {
        let names: Vec<&str> = self
            .images
            .iter()
            .flat_map(|(names, _)| names.iter().map(String::as_str))
            .collect();
        if names.is_empty() {
            "nothing".to_string()
        } else {
            names.join(", ")
        }
    }
}

fn resolve(
    entry: ImageEntry,
    paths: &BTreeMap<String, PathBuf>,
) -> Result<(Vec<String>, Image), CatalogueError> {
    let label = entry.names.first().cloned().unwrap_or_default();
    if entry.names.is_empty() {
        return Err(CatalogueError::Parse("an image has no names".to_string()));
    }
    let path_of = |program: &String| {
        paths
            .get(program)
            .cloned()
            .ok_or_else(|| CatalogueError::UnknownProgram {
                image: label.clone(),
                program: program.clone(),
            })
    };
    let mut programs = BTreeMap::new();
    for program in entry.applets.values() {
        programs.insert(program.clone(), path_of(program)?);
    }
    let files = entry
        .files
        .iter()
        .map(|(target, program)| {
            if !Path::new(target).is_absolute() {
                return Err(CatalogueError::Parse(format!(
                    "file {target:?} of image {label:?} is not absolute"
                )));
            }
            Ok((target.clone(), path_of(program)?))
        })
        .collect::<Result<_, _>>()?;
    let (uid, gid) = parse_user(entry.user.as_deref(), &label)?;
    let image = Image {
        id: format!("catalogue://{label}"),
        entrypoint: entry.entrypoint,
        cmd: entry.cmd,
        env: entry.env,
        working_dir: entry.working_dir.unwrap_or_else(|| "/".to_string()),
        uid,
        gid,
        programs,
        applets: entry.applets,
        files,
    };
    Ok((entry.names, image))
}

fn parse_user(user: Option<&str>, image: &str) -> Result<(u32, u32), CatalogueError> {
    let Some(user) = user else { return Ok((0, 0)) };
    let bad = || {
        CatalogueError::Parse(format!(
            "user {user:?} of image {image:?} is not uid or uid:gid"
        ))
    };
    let (uid, gid) = user.split_once(':').unwrap_or((user, "0"));
    Ok((
        uid.parse().map_err(|_| bad())?,
        gid.parse().map_err(|_| bad())?,
    ))
}

/// The reference without digest and tag.
fn repository(reference: &str) -> Result<&str, CatalogueError> {
    let invalid = || CatalogueError::InvalidReference(reference.to_string());
    let without_digest = reference.split('@').next().unwrap_or_default();
    let name_start = without_digest.rfind('/').map_or(0, |slash| slash + 1);
    let name = match without_digest[name_start..].find(':') {
        Some(colon) => &without_digest[..name_start + colon],
        None => without_digest,
    };
    let legal = |c: char| c.is_ascii_alphanumeric() || "._-/:".contains(c);
    if name.is_empty() || name.ends_with('/') || !name.chars().all(legal) {
        return Err(invalid());
    }
    Ok(name)
}

/// The full name of a short one: `curlimages/curl` is `docker.io/curlimages/curl`, `nginx` is
/// `docker.io/library/nginx`.
fn normalize(repository: &str) -> String {
    match repository.split_once('/') {
        None => format!("docker.io/library/{repository}"),
        Some((first, _)) if first.contains('.') || first.contains(':') || first == "localhost" => {
            repository.to_string()
        }
        Some(_) => format!("docker.io/{repository}"),
    }
}

/// Matches `text` against a pattern in which `*` stands for any characters.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(first) = parts.next() else {
        return false;
    };
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = r#"
images:
- names: [host]
- names: ["docker.io/shop/cart", "*/cart-debug"]
  entrypoint: [cart]
  applets: {cart: tool, curl: tool}
  files: {/opt/bin/plugin: plugin}
  env: {A: b}
  user: "1337:5"
- names: ["docker.io/curlimages/curl"]
  entrypoint: [curl]
  applets: {curl: tool}
"#;

    fn programs() -> BTreeMap<String, PathBuf> {
        [
            ("tool".to_string(), PathBuf::from("/x/tool")),
            ("plugin".to_string(), PathBuf::from("/x/plugin")),
        ]
        .into()
    }

    fn catalogue() -> Catalogue {
        Catalogue::parse(YAML, &programs()).unwrap()
    }

    #[test]
    fn tag_digest_and_registry_do_not_matter() {
        let catalogue = catalogue();
        for reference in [
            "docker.io/shop/cart:1.24.0",
            "shop/cart",
            "shop/cart:x@sha256:0011",
            "localhost:5000/a/cart-debug:1",
        ] {
            let image = catalogue.lookup(reference).unwrap();
            assert_eq!(image.entrypoint, ["cart"], "{reference}");
            assert_eq!((image.uid, image.gid), (1337, 5));
            assert_eq!(image.files["/opt/bin/plugin"], PathBuf::from("/x/plugin"));
        }
        assert_eq!(
            catalogue
                .lookup("curlimages/curl:8.16.0")
                .unwrap()
                .entrypoint,
            ["curl"]
        );
        assert!(catalogue.lookup("host").unwrap().entrypoint.is_empty());
    }

    #[test]
    fn an_unknown_image_names_what_there_is() {
        let message = catalogue().lookup("nginx:1").unwrap_err().to_string();
        assert!(
            message.contains("\"nginx:1\"") && message.contains("docker.io/curlimages/curl"),
            "{message}"
        );
    }

    #[test]
    fn bad_documents_and_references_are_refused() {
        assert!(Catalogue::parse("images: [{names: [a], typo: 1}]", &programs()).is_err());
        assert!(
            Catalogue::parse("images: [{names: [a], applets: {x: nothing}}]", &programs()).is_err()
        );
        assert!(Catalogue::parse("images: [{names: [a], user: root}]", &programs()).is_err());
        for reference in ["", "a b", "a/", ":tag", "@sha256:00"] {
            assert!(catalogue().lookup(reference).is_err(), "{reference:?}");
        }
    }

    #[test]
    fn globs() {
        assert!(glob("*/a-*-v1", "r.io/x/a-b-v1"));
        assert!(glob("a*", "a"));
        assert!(!glob("a*b", "ab/c"));
        assert!(!glob("a*ab", "ab"));
        assert!(!glob("a", "ab"));
    }
}
