//! Rules about security contexts.

use super::fields::{list, within};
use crate::status::Cause;
use serde_json::Value;

/// User and group ids are positive 32-bit numbers to the kernel's callers.
const MOST: i64 = i32::MAX as i64;

/// The security context of a pod.
pub fn of_pod(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    let Some(context) = spec.get("securityContext") else {
        return;
    };
    let path = format!("{path}.securityContext");
    for key in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(context, key, &path, causes);
    }
    for (i, group) in list(context, "supplementalGroups").iter().enumerate() {
        within(
            group,
            0,
            MOST,
            &format!("{path}.supplementalGroups[{i}]"),
            causes,
        );
    }
}

/// The security context of a container.
pub fn of_container(container: &Value, path: &str, causes: &mut Vec<Cause>) {
    let Some(context) = container.get("securityContext") else {
        return;
    };
    let path = format!("{path}.securityContext");
    for key in ["runAsUser", "runAsGroup"] {
        id(context, key, &path, causes);
    }
    if context.get("allowPrivilegeEscalation") != Some(&Value::Bool(false)) {
        return;
    }
    if context.get("privileged") == Some(&Value::Bool(true)) {
        let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
        causes.push(Cause::invalid(path.clone(), context, why));
    }
    let added = context.get("capabilities").unwrap_or(&Value::Null);
    if list(added, "add").iter().any(|c| c == "CAP_SYS_ADMIN") {
        let why =
            "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
        causes.push(Cause::invalid(path, context, why));
    }
}

fn id(context: &Value, key: &str, path: &str, causes: &mut Vec<Cause>) {
    if let Some(id) = context.get(key) {
        within(id, 0, MOST, &format!("{path}.{key}"), causes);
    }
}
