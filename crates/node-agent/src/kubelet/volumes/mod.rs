//! The volumes of one pod, made before its first container and kept up to date while it runs.
//!
//! A volume whose source is missing or of an unsupported kind stops the pod from starting, with the
//! reason in an event; it never silently becomes an empty directory.

pub(crate) mod atomic;
mod host_path;
mod payload;
mod token;

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Instant;

use k8s_openapi::api::core::v1::{
    ConfigMap, EmptyDirVolumeSource, Pod, ProjectedVolumeSource, Secret, Volume, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tokio::sync::Notify;

use super::fields::PodAddresses;
use super::objects::{Objects, Subscription};
use crate::quantity;
use atomic::{FileContent, Owner, Payload};
use payload::{DEFAULT_MODE, mode_of};
use token::Tokens;

/// What volumes need to know beside the pod.
pub(crate) struct VolumeContext<'a> {
    pub client: &'a kube::Client,
    pub objects: &'a Objects,
    pub addresses: &'a PodAddresses,
    /// The node's allocatable resources, for `resourceFieldRef`.
    pub allocatable: &'a BTreeMap<String, Quantity>,
}

/// The volumes of a pod on disk.
pub(crate) struct Volumes {
    root: PathBuf,
    config_maps: HashMap<String, Subscription<ConfigMap>>,
    secrets: HashMap<String, Subscription<Secret>>,
    tokens: Tokens,
    /// Raised when a watched object changed.
    changed: std::sync::Arc<Notify>,
    watchers: Vec<tokio::task::AbortHandle>,
    memory: Vec<PathBuf>,
}

impl Volumes {
    /// Volumes below `root`, none made yet.
    pub(crate) fn new(root: PathBuf, changed: std::sync::Arc<Notify>) -> Self {
        Self {
            root,
            config_maps: HashMap::new(),
            secrets: HashMap::new(),
            tokens: Tokens::default(),
            changed,
            watchers: Vec::new(),
            memory: Vec::new(),
        }
    }

    /// Where a volume lies on the node.
    pub(crate) fn path(&self, volume: &Volume) -> PathBuf {
        match &volume.host_path {
            Some(source) => PathBuf::from(&source.path),
            None => self.root.join(&volume.name),
        }
    }

    /// Makes all volumes, or brings their contents up to date. Can be called again after a failure.
    ///
    /// # Errors
    /// The first volume that cannot be made, by name.
    pub(crate) async fn sync(
        &mut self,
        pod: &Pod,
        context: &VolumeContext<'_>,
    ) -> Result<(), String> {
        let volumes = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.volumes.clone())
            .unwrap_or_default();
        for volume in &volumes {
            self.sync_one(pod, volume, context).await.map_err(|error| {
                format!(
                    "MountVolume.SetUp failed for volume {:?} : {error}",
                    volume.name
                )
            })?;
        }
        Ok(())
    }

    /// When a token must be renewed.
    pub(crate) fn next_renewal(&self) -> Option<Instant> {
        self.tokens.next_renewal()
    }

    async fn sync_one(
        &mut self,
        pod: &Pod,
        volume: &Volume,
        context: &VolumeContext<'_>,
    ) -> Result<(), String> {
        if let Some(source) = &volume.host_path {
            return host_path::prepare(
                Path::new(&source.path),
                source.type_.as_deref().unwrap_or_default(),
            );
        }
        if let Some(source) = &volume.empty_dir {
            return self
                .make_empty(pod, &volume.name, source)
                .map_err(|error| error.to_string());
        }
        let files = self.gather(pod, volume, context).await?;
        let directory = self.root.join(&volume.name);
        let (files, owner) = with_ownership(pod, volume, files);
        atomic::write(&directory, &files, owner).map_err(|error| error.to_string())
    }

    fn make_empty(
        &mut self,
        pod: &Pod,
        name: &str,
        source: &EmptyDirVolumeSource,
    ) -> std::io::Result<()> {
        let path = self.root.join(name);
        if path.exists() {
            return Ok(());
        }
        std::fs::create_dir_all(&path)?;
        if source.medium.as_deref() == Some("Memory") {
            let limit = source
                .size_limit
                .as_ref()
                .and_then(|limit| quantity::in_units(limit, None));
            let data = limit
                .filter(|limit| *limit > 0)
                .map(|limit| format!("size={limit}"))
                .unwrap_or_default();
            mount(
                Some("tmpfs"),
                &path,
                Some("tmpfs"),
                MsFlags::empty(),
                Some(data.as_str()),
            )?;
            self.memory.push(path.clone());
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777))?;
        if let Some(gid) = fs_group(pod) {
            chown(&path, None, Some(gid))?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o2777))?;
        }
        Ok(())
    }

    async fn gather(
        &mut self,
        pod: &Pod,
        volume: &Volume,
        context: &VolumeContext<'_>,
    ) -> Result<Payload, String> {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        if let Some(source) = &volume.config_map {
            let mode = mode_of(source.default_mode, DEFAULT_MODE);
            let optional = source.optional == Some(true);
            let data = self
                .config_map(&namespace, &source.name, optional, context)
                .await?;
            return payload::select(&data, source.items.as_deref(), mode, optional);
        }
        if let Some(source) = &volume.secret {
            let mode = mode_of(source.default_mode, DEFAULT_MODE);
            let optional = source.optional == Some(true);
            let name = source.secret_name.clone().unwrap_or_default();
            let data = self.secret(&namespace, &name, optional, context).await?;
            return payload::select(&data, source.items.as_deref(), mode, optional);
        }
        if let Some(source) = &volume.downward_api {
            let mode = mode_of(source.default_mode, DEFAULT_MODE);
            return payload::downward(
                pod,
                source.items.as_deref(),
                mode,
                context.addresses,
                context.allocatable,
            );
        }
        if let Some(source) = &volume.projected {
            return self.projected(pod, &namespace, source, context).await;
        }
        Err(format!(
            "volumes of kind {} are not supported on this node",
            kind(volume)
        ))
    }

    async fn projected(
        &mut self,
        pod: &Pod,
        namespace: &str,
        source: &ProjectedVolumeSource,
        context: &VolumeContext<'_>,
    ) -> Result<Payload, String> {
        let mode = mode_of(source.default_mode, DEFAULT_MODE);
        let mut all = Payload::new();
        for projection in source.sources.iter().flatten() {
            all.extend(
                self.projection(pod, namespace, projection, mode, context)
                    .await?,
            );
        }
        Ok(all)
    }

    async fn projection(
        &mut self,
        pod: &Pod,
        namespace: &str,
        projection: &VolumeProjection,
        mode: u32,
        context: &VolumeContext<'_>,
    ) -> Result<Payload, String> {
        if let Some(source) = &projection.config_map {
            let optional = source.optional == Some(true);
            let data = self
                .config_map(namespace, &source.name, optional, context)
                .await?;
            return payload::select(&data, source.items.as_deref(), mode, optional);
        }
        if let Some(source) = &projection.secret {
            let optional = source.optional == Some(true);
            let data = self
                .secret(namespace, &source.name, optional, context)
                .await?;
            return payload::select(&data, source.items.as_deref(), mode, optional);
        }
        if let Some(source) = &projection.downward_api {
            return payload::downward(
                pod,
                source.items.as_deref(),
                mode,
                context.addresses,
                context.allocatable,
            );
        }
        if let Some(source) = &projection.service_account_token {
            let token = self.tokens.get(context.client, pod, source).await?;
            let file = FileContent {
                data: token.into_bytes(),
                mode: 0o600,
            };
            return Ok([(source.path.clone(), file)].into());
        }
        Err("the projection has a source that is not supported on this node".to_string())
    }

    async fn config_map(
        &mut self,
        namespace: &str,
        name: &str,
        optional: bool,
        context: &VolumeContext<'_>,
    ) -> Result<BTreeMap<String, Vec<u8>>, String> {
        let subscription = self.config_maps.entry(name.to_string()).or_insert_with(|| {
            let subscription = context.objects.config_map(namespace, name);
            self.watchers
                .push(notify_on_change(&subscription, self.changed.clone()));
            subscription
        });
        match subscription.get().await? {
            Some(object) => Ok(payload::config_map_data(&object)),
            None if optional => Ok(BTreeMap::new()),
            None => Err(format!("configmap {name:?} not found")),
        }
    }

    async fn secret(
        &mut self,
        namespace: &str,
        name: &str,
        optional: bool,
        context: &VolumeContext<'_>,
    ) -> Result<BTreeMap<String, Vec<u8>>, String> {
        let subscription = self.secrets.entry(name.to_string()).or_insert_with(|| {
            let subscription = context.objects.secret(namespace, name);
            self.watchers
                .push(notify_on_change(&subscription, self.changed.clone()));
            subscription
        });
        match subscription.get().await? {
            Some(object) => Ok(payload::secret_data(&object)),
            None if optional => Ok(BTreeMap::new()),
            None => Err(format!("secret {name:?} not found")),
        }
    }
}

impl Drop for Volumes {
    fn drop(&mut self) {
        for watcher in &self.watchers {
            watcher.abort();
        }
        for path in &self.memory {
            let _ = umount2(path, MntFlags::MNT_DETACH);
        }
    }
}

fn notify_on_change<K: Send + Sync + 'static>(
    subscription: &Subscription<K>,
    changed: std::sync::Arc<Notify>,
) -> tokio::task::AbortHandle {
    let mut changes = subscription.changes();
    let task = tokio::spawn(async move {
        while changes.next().await {
            changed.notify_one();
        }
    });
    task.abort_handle()
}

/// Adapts modes and owner to the pod's users: files of a pod with `fsGroup` belong to that group and
/// are readable by it; a token belongs to the one user of all containers, else all may read it.
fn with_ownership(pod: &Pod, volume: &Volume, mut files: Payload) -> (Payload, Owner) {
    let mut owner = Owner {
        uid: None,
        gid: fs_group(pod),
    };
    let has_token = volume
        .projected
        .iter()
        .flat_map(|source| source.sources.iter().flatten())
        .any(|source| source.service_account_token.is_some());
    if owner.gid.is_some() {
        files.values_mut().for_each(|file| file.mode |= 0o440);
    } else if has_token {
        match single_user(pod) {
            Some(uid) => owner.uid = Some(uid),
            None => files.values_mut().for_each(|file| file.mode |= 0o044),
        }
    }
    (files, owner)
}

fn fs_group(pod: &Pod) -> Option<u32> {
    let group = pod.spec.as_ref()?.security_context.as_ref()?.fs_group?;
    u32::try_from(group).ok()
}

/// The user of all containers, if the pod names one and the same for each.
fn single_user(pod: &Pod) -> Option<u32> {
    let spec = pod.spec.as_ref()?;
    let default = spec
        .security_context
        .as_ref()
        .and_then(|context| context.run_as_user);
    let mut users = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .map(|container| {
            container
                .security_context
                .as_ref()
                .and_then(|context| context.run_as_user)
                .or(default)
        });
    let first = users.next()??;
    users
        .all(|user| user == Some(first))
        .then_some(first)
        .and_then(|uid| u32::try_from(uid).ok())
}

/// The API's name of a volume's source, for messages.
fn kind(volume: &Volume) -> String {
    serde_json::to_value(volume)
        .ok()
        .and_then(|value| {
            value
                .as_object()
                .map(|object| object.keys().find(|key| *key != "name").cloned())
        })
        .flatten()
        .unwrap_or_else(|| "unknown".to_string())
}
