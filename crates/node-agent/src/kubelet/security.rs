//! Who a container's process is and what it may do. Pure.

use k8s_openapi::api::core::v1::{Container, PodSpec};

use crate::catalogue::Image;

/// Capability names in numerical order (linux/capability.h), without `CAP_`.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container has without asking, as with any container runtime.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// The decided identity of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    /// `None` for a privileged container.
    pub capabilities: Option<Vec<u8>>,
    pub privileged: bool,
    pub no_new_privileges: bool,
    pub read_only_root: bool,
}

/// Decides from the container's context over the pod's over the image.
///
/// # Errors
/// A message for `CreateContainerConfigError`.
pub(crate) fn identity(
    pod: &PodSpec,
    container: &Container,
    image: &Image,
) -> Result<Identity, String> {
    let pod_context = pod.security_context.as_ref();
    let context = container.security_context.as_ref();
    let id = |value: Option<i64>, name: &str| {
        value
            .map(|value| {
                u32::try_from(value).map_err(|_| format!("{name} {value} is out of range"))
            })
            .transpose()
    };
    let own_uid = context
        .and_then(|c| c.run_as_user)
        .or(pod_context.and_then(|c| c.run_as_user));
    let own_gid = context
        .and_then(|c| c.run_as_group)
        .or(pod_context.and_then(|c| c.run_as_group));
    let uid = id(own_uid, "runAsUser")?.unwrap_or(image.uid);
    let gid = id(own_gid, "runAsGroup")?.unwrap_or(if own_uid.is_some() { 0 } else { image.gid });
    let non_root = context
        .and_then(|c| c.run_as_non_root)
        .or(pod_context.and_then(|c| c.run_as_non_root));
    if non_root == Some(true) && uid == 0 {
        return Err("container has runAsNonRoot and image will run as root".to_string());
    }
    let mut groups = Vec::new();
    let extra = pod_context
        .and_then(|c| c.supplemental_groups.clone())
        .unwrap_or_default();
    for group in extra
        .into_iter()
        .chain(pod_context.and_then(|c| c.fs_group))
    {
        groups.extend(id(Some(group), "group")?);
    }
    let privileged = context.and_then(|c| c.privileged) == Some(true);
    let capabilities = if privileged {
        None
    } else {
        Some(capabilities(container)?)
    };
    Ok(Identity {
        uid,
        gid,
        groups,
        capabilities,
        privileged,
        no_new_privileges: context.and_then(|c| c.allow_privilege_escalation) == Some(false)
            && !privileged,
        read_only_root: context.and_then(|c| c.read_only_root_filesystem) == Some(true),
    })
}

/// The default set, minus `drop`, plus `add`. `ALL` may stand in both lists; what is added wins.
fn capabilities(container: &Container) -> Result<Vec<u8>, String> {
    let lists = container
        .security_context
        .as_ref()
        .and_then(|c| c.capabilities.clone())
        .unwrap_or_default();
    let (add, drop) = (
        lists.add.unwrap_or_default(),
        lists.drop.unwrap_or_default(),
    );
    let mut set: Vec<u8> = if has_all(&drop) {
        Vec::new()
    } else {
        numbers(&DEFAULT.map(str::to_string))?
    };
    if has_all(&add) {
        set = (0..NAMES.len() as u8).collect();
    }
    for number in numbers(&drop)? {
        set.retain(|existing| *existing != number);
    }
    set.extend(numbers(&add)?);
    set.sort_unstable();
    set.dedup();
    Ok(set)
}

fn has_all(list: &[String]) -> bool {
    list.iter().any(|name| name.eq_ignore_ascii_case("ALL"))
}

fn numbers(list: &[String]) -> Result<Vec<u8>, String> {
    list.iter()
        .filter(|name| !name.eq_ignore_ascii_case("ALL"))
        .map(|name| {
            let upper = name.to_ascii_uppercase();
            let plain = upper.strip_prefix("CAP_").unwrap_or(&upper);
            NAMES
                .iter()
                .position(|known| *known == plain)
                .map(|at| at as u8)
                .ok_or_else(|| format!("unknown capability {name:?}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Catalogue;

    fn decide(pod: serde_json::Value, container: serde_json::Value) -> Result<Identity, String> {
        let catalogue = Catalogue::parse("images: [{names: [host]}]", &Default::default()).unwrap();
        let spec: PodSpec =
            serde_json::from_value(serde_json::json!({"securityContext": pod, "containers": []}))
                .unwrap();
        let container: Container =
            serde_json::from_value(serde_json::json!({"name": "c", "securityContext": container}))
                .unwrap();
        identity(&spec, &container, catalogue.lookup("host").unwrap())
    }

    #[test]
    fn container_over_pod_over_image() {
        let got = decide(
            serde_json::json!({"runAsUser": 5, "runAsGroup": 6, "fsGroup": 7, "supplementalGroups": [8]}),
            serde_json::json!({"runAsUser": 9, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true}),
        )
        .unwrap();
        assert_eq!((got.uid, got.gid, got.groups.clone()), (9, 6, vec![8, 7]));
        assert!(got.no_new_privileges && got.read_only_root && !got.privileged);
        assert_eq!(got.capabilities.unwrap().len(), DEFAULT.len());
    }

    #[test]
    fn drop_all_add_some() {
        let got = decide(
            serde_json::json!({}),
            serde_json::json!({"capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "CAP_SYS_ADMIN", "net_raw"]}}),
        )
        .unwrap();
        assert_eq!(got.capabilities, Some(vec![12, 13, 21]));
        assert!(
            decide(
                serde_json::json!({}),
                serde_json::json!({"capabilities": {"add": ["FLY"]}})
            )
            .is_err()
        );
    }

    #[test]
    fn root_is_refused_when_asked() {
        assert!(
            decide(
                serde_json::json!({"runAsNonRoot": true}),
                serde_json::json!({})
            )
            .is_err()
        );
        assert!(
            decide(
                serde_json::json!({"runAsNonRoot": true, "runAsUser": 1}),
                serde_json::json!({})
            )
            .is_ok()
        );
        assert!(decide(serde_json::json!({"runAsUser": -1}), serde_json::json!({})).is_err());
    }
}
