//! The archive: an OCI image layout in a tar file, which containerd, podman and skopeo read, with
//! the index that `docker load` reads beside it. The same input gives the same bytes.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::Context;
use oci_spec::image::{
    Arch, ConfigBuilder, Descriptor, DescriptorBuilder, ImageConfigurationBuilder,
    ImageIndexBuilder, ImageManifestBuilder, MediaType, Os, PlatformBuilder, RootFsBuilder,
    SCHEMA_VERSION, Sha256Digest,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use super::root::{Entry, Root};

/// The search path of a container whose image says nothing else.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A layer in the archive.
#[derive(Clone, Debug)]
pub(super) struct Layer(Descriptor);

/// An image's layers and what it runs.
pub(super) struct Packed {
    pub(super) layers: Vec<Layer>,
    pub(super) entrypoint: Vec<String>,
    pub(super) cmd: Vec<String>,
    pub(super) env: Vec<String>,
    pub(super) working_dir: String,
    /// `uid:gid`.
    pub(super) user: String,
}

/// An archive that is being written.
pub(super) struct Archive {
    tar: Builder<BufWriter<File>>,
    written: std::collections::BTreeSet<String>,
    images: Vec<(String, Descriptor)>,
    docker: Vec<Value>,
}

impl Archive {
    /// Starts a file, over what was there.
    pub(super) fn create(path: &Path) -> anyhow::Result<Self> {
        if let Some(above) = path.parent() {
            std::fs::create_dir_all(above)?;
        }
        let file =
            File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut tar = Builder::new(BufWriter::new(file));
        file_entry(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(Self {
            tar,
            written: Default::default(),
            images: Vec::new(),
            docker: Vec::new(),
        })
    }

    /// Adds files as a layer.
    pub(super) fn layer(&mut self, root: &Root) -> anyhow::Result<Layer> {
        let bytes = pack(root)?;
        self.blob(MediaType::ImageLayer, &bytes).map(Layer)
    }

    /// Adds an image under a full name.
    pub(super) fn image(&mut self, name: &str, image: &Packed) -> anyhow::Result<()> {
        let layers: Vec<Descriptor> = image.layers.iter().map(|layer| layer.0.clone()).collect();
        let ids: Vec<String> = layers.iter().map(|l| l.digest().to_string()).collect();
        let env: Vec<String> = std::iter::once(PATH.to_owned())
            .chain(image.env.clone())
            .collect();
        let config = ConfigBuilder::default()
            .entrypoint(image.entrypoint.clone())
            .cmd(image.cmd.clone())
            .env(env)
            .working_dir(image.working_dir.clone())
            .user(image.user.clone())
            .build()?;
        let configuration = ImageConfigurationBuilder::default()
            .architecture(Arch::default())
            .os(Os::Linux)
            .config(config)
            .rootfs(
                RootFsBuilder::default()
                    .typ("layers")
                    .diff_ids(ids)
                    .build()?,
            )
            .history(Vec::new())
            .build()?;
        let configuration = serde_json::to_vec(&configuration)?;
        let config = self.blob(MediaType::ImageConfig, &configuration)?;
        self.docker.push(json!({
            "Config": place(&config),
            "RepoTags": [name],
            "Layers": layers.iter().map(place).collect::<Vec<_>>(),
        }));
        let manifest = ImageManifestBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageManifest)
            .config(config)
            .layers(layers)
            .build()?;
        let mut manifest = self.blob(MediaType::ImageManifest, &serde_json::to_vec(&manifest)?)?;
        let platform = PlatformBuilder::default()
            .architecture(Arch::default())
            .os(Os::Linux);
        manifest.set_platform(Some(platform.build()?));
        self.images.push((name.to_owned(), manifest));
        Ok(())
    }

    /// Writes the indexes and closes the file.
    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        let (names, images): (Vec<String>, Vec<Descriptor>) = self.images.into_iter().unzip();
        let index = ImageIndexBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageIndex)
            .manifests(images)
            .build()?;
        // The library's annotations have no order, so they are put in behind it.
        let mut index = serde_json::to_value(&index)?;
        let manifests = index["manifests"].as_array_mut();
        for (image, name) in manifests.into_iter().flatten().zip(names) {
            image["annotations"] = json!({
                "io.containerd.image.name": name,
                "org.opencontainers.image.ref.name": name,
            });
        }
        file_entry(&mut self.tar, "index.json", &serde_json::to_vec(&index)?)?;
        file_entry(
            &mut self.tar,
            "manifest.json",
            &serde_json::to_vec(&self.docker)?,
        )?;
        self.tar.into_inner()?.flush()?;
        Ok(())
    }

    fn blob(&mut self, kind: MediaType, bytes: &[u8]) -> anyhow::Result<Descriptor> {
        let digest: String = Sha256::digest(bytes)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        let descriptor = DescriptorBuilder::default()
            .media_type(kind)
            .digest(digest.parse::<Sha256Digest>()?)
            .size(u64::try_from(bytes.len())?)
            .build()?;
        if self.written.insert(digest) {
            file_entry(&mut self.tar, &place(&descriptor), bytes)?;
        }
        Ok(descriptor)
    }
}

/// Where a blob is in the archive.
fn place(blob: &Descriptor) -> String {
    format!("blobs/sha256/{}", blob.digest().digest())
}

/// A layer's own tar. Folders come before what is in them.
fn pack(root: &Root) -> anyhow::Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    let mut folders = std::collections::BTreeSet::new();
    for (path, entry) in &root.0 {
        let above: Vec<&Path> = path
            .ancestors()
            .skip(1)
            .filter(|p| !p.as_os_str().is_empty())
            .collect();
        for folder in above.into_iter().rev() {
            if folders.insert(folder.to_owned()) {
                let mut header = header(EntryType::Directory, 0o755, 0);
                tar.append_data(&mut header, folder, std::io::empty())?;
            }
        }
        match entry {
            Entry::Folder(mode) => {
                let mut header = header(EntryType::Directory, *mode, 0);
                tar.append_data(&mut header, path, std::io::empty())?;
            }
            Entry::Program(from) => {
                let bytes = std::fs::read(from)
                    .with_context(|| format!("cannot read {}", from.display()))?;
                let mut header = header(EntryType::Regular, 0o755, bytes.len() as u64);
                tar.append_data(&mut header, path, bytes.as_slice())?;
            }
            Entry::Text(text) => {
                let mut header = header(EntryType::Regular, 0o644, text.len() as u64);
                tar.append_data(&mut header, path, text.as_bytes())?;
            }
            Entry::Link(target) => {
                let mut header = header(EntryType::Symlink, 0o777, 0);
                tar.append_link(&mut header, path, target)?;
            }
        }
    }
    Ok(tar.into_inner()?)
}

/// Owner root, no time: the same files give the same bytes.
fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn file_entry(tar: &mut Builder<BufWriter<File>>, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
    let mut header = header(EntryType::Regular, 0o644, bytes.len() as u64);
    Ok(tar.append_data(&mut header, name, bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::path::PathBuf;

    fn write(path: &Path) {
        let mut root = Root::default();
        root.0.insert("tmp".into(), Entry::Folder(0o1777));
        root.0
            .insert("etc/group".into(), Entry::Text("root:x:0:\n"));
        root.0
            .insert("usr/bin/x".into(), Entry::Link("/usr/bin/y".into()));
        let mut archive = Archive::create(path).unwrap();
        let layer = archive.layer(&root).unwrap();
        for name in ["localhost/a:1", "localhost/b:1"] {
            let image = Packed {
                layers: vec![layer.clone()],
                entrypoint: vec!["x".into()],
                cmd: vec![],
                env: vec!["A=b".into()],
                working_dir: "/".into(),
                user: "1:2".into(),
            };
            archive.image(name, &image).unwrap();
        }
        archive.finish().unwrap();
    }

    #[test]
    fn an_archive_is_whole_and_always_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("1.tar"), folder.path().join("2.tar"));
        write(&one);
        write(&two);
        assert!(
            std::fs::read(&one).unwrap() == std::fs::read(&two).unwrap(),
            "the same input gave other bytes"
        );

        let mut files = std::collections::BTreeMap::new();
        let mut tar = tar::Archive::new(File::open(&one).unwrap());
        for entry in tar.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            files.insert(entry.path().unwrap().into_owned(), bytes);
        }
        let index: Value = serde_json::from_slice(&files[&PathBuf::from("index.json")]).unwrap();
        assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap().replace(':', "/");
            let bytes = &files[&Path::new("blobs").join(digest)];
            assert_eq!(descriptor["size"], bytes.len());
            bytes.clone()
        };
        for image in index["manifests"].as_array().unwrap() {
            let manifest: Value = serde_json::from_slice(&blob(image)).unwrap();
            let config: Value = serde_json::from_slice(&blob(&manifest["config"])).unwrap();
            assert_eq!(config["config"]["User"], "1:2");
            assert_eq!(
                config["rootfs"]["diff_ids"][0],
                manifest["layers"][0]["digest"]
            );
            let layer = blob(&manifest["layers"][0]);
            let mut layer = tar::Archive::new(layer.as_slice());
            let paths: Vec<PathBuf> = layer
                .entries()
                .unwrap()
                .map(|e| e.unwrap().path().unwrap().into_owned())
                .collect();
            let wanted =
                ["etc", "etc/group", "tmp", "usr", "usr/bin", "usr/bin/x"].map(PathBuf::from);
            assert_eq!(paths, wanted);
        }
        let docker: Value =
            serde_json::from_slice(&files[&PathBuf::from("manifest.json")]).unwrap();
        assert_eq!(docker[1]["RepoTags"][0], "localhost/b:1");
    }
}
