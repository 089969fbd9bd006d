//! Columns of pods: the summary that `kubectl get pods` shows.

use super::{
    columns::{Column, age, at, name, text},
    text as t,
};
use crate::object;
use serde_json::Value;

/// Columns of pods.
pub fn columns() -> Vec<Column> {
    vec![
        name(),
        text("Ready", |pod| Summary::of(pod).ready),
        text("Status", |pod| Summary::of(pod).reason),
        text("Restarts", |pod| Summary::of(pod).restarts),
        age(),
        at("IP", "/status/podIP").wide(),
        at("Node", "/spec/nodeName").wide(),
        at("Nominated Node", "/status/nominatedNodeName").wide(),
        text("Readiness Gates", readiness_gates).wide(),
    ]
}

fn readiness_gates(pod: &Value) -> String {
    let gates = t::list(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return "<none>".into();
    }
    let fulfilled = gates
        .iter()
        .filter(|g| t::condition(pod, object::text(g, "/conditionType")) == "True")
        .count();
    format!("{fulfilled}/{}", gates.len())
}

/// What a pod's row says.
struct Summary {
    ready: String,
    reason: String,
    restarts: String,
}

impl Summary {
    fn of(pod: &Value) -> Summary {
        let mut count = Count::default();
        let mut reason = object::text(pod, "/status/phase").to_string();
        let own = object::text(pod, "/status/reason");
        if !own.is_empty() {
            reason = own.to_string();
        }
        let gated = t::list(pod, "/status/conditions").iter().any(|c| {
            object::text(c, "/type") == "PodScheduled"
                && object::text(c, "/reason") == "SchedulingGated"
        });
        if gated {
            reason = "SchedulingGated".into();
        }
        count.total = t::list(pod, "/spec/containers").len();
        let initializing = init_containers(pod, &mut count);
        match initializing {
            Some(text) => reason = text,
            None => containers(pod, &mut count, &mut reason),
        }
        if object::terminating(pod) {
            reason = match object::text(pod, "/status/reason") {
                "NodeLost" => "Unknown".into(),
                _ if matches!(object::text(pod, "/status/phase"), "Succeeded" | "Failed") => reason,
                _ => "Terminating".into(),
            };
        }
        Summary {
            ready: format!("{}/{}", count.ready, count.total),
            reason,
            restarts: count.restarts(),
        }
    }
}

#[derive(Default)]
struct Count {
    total: usize,
    ready: usize,
    restarts: i64,
    sidecar_restarts: i64,
    last_restart: Option<jiff::Timestamp>,
}

impl Count {
    fn see(&mut self, status: &Value) -> i64 {
        let end =
            object::text(status, "/lastState/terminated/finishedAt").parse::<jiff::Timestamp>();
        self.last_restart = self.last_restart.max(end.ok());
        t::number(status, "/restartCount")
    }

    fn restarts(&self) -> String {
        match (self.restarts, self.last_restart) {
            (n, Some(at)) if n > 0 => {
                let ago = jiff::Timestamp::now().as_second() - at.as_second();
                format!("{n} ({} ago)", t::duration(ago))
            }
            (n, _) => n.to_string(),
        }
    }
}

/// Whether an init container keeps running beside the others.
fn is_sidecar(pod: &Value, name: &str) -> bool {
    t::list(pod, "/spec/initContainers")
        .iter()
        .any(|c| object::text(c, "/name") == name && object::text(c, "/restartPolicy") == "Always")
}

/// What the init containers wait for, if they do.
fn init_containers(pod: &Value, count: &mut Count) -> Option<String> {
    let specs = t::list(pod, "/spec/initContainers");
    count.total += specs
        .iter()
        .filter(|c| object::text(c, "/restartPolicy") == "Always")
        .count();
    for (i, status) in t::list(pod, "/status/initContainerStatuses")
        .iter()
        .enumerate()
    {
        let sidecar = is_sidecar(pod, object::text(status, "/name"));
        let restarts = count.see(status);
        count.restarts += restarts;
        if sidecar {
            count.sidecar_restarts += restarts;
        }
        let terminated = status.pointer("/state/terminated");
        let code = terminated.map(|s| t::number(s, "/exitCode"));
        if code == Some(0) {
            continue;
        }
        if sidecar && status.get("started") == Some(&Value::Bool(true)) {
            if status.get("ready") == Some(&Value::Bool(true)) {
                count.ready += 1;
            }
            continue;
        }
        if let Some(state) = terminated {
            return Some(format!("Init:{}", ended(state)));
        }
        let waiting = object::text(status, "/state/waiting/reason");
        if !waiting.is_empty() && waiting != "PodInitializing" {
            return Some(format!("Init:{waiting}"));
        }
        return Some(format!("Init:{i}/{}", specs.len()));
    }
    None
}

/// How a container ended.
fn ended(state: &Value) -> String {
    let reason = object::text(state, "/reason");
    let (signal, code) = (t::number(state, "/signal"), t::number(state, "/exitCode"));
    match (reason, signal) {
        ("", 0) => format!("ExitCode:{code}"),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_string(),
    }
}

fn containers(pod: &Value, count: &mut Count, reason: &mut String) {
    // With init containers done, only the restarts of sidecars and containers count.
    count.restarts = count.sidecar_restarts;
    let mut has_running = false;
    for status in t::list(pod, "/status/containerStatuses").iter().rev() {
        count.restarts += count.see(status);
        let waiting = object::text(status, "/state/waiting/reason");
        let ready = status.get("ready") == Some(&Value::Bool(true));
        if !waiting.is_empty() {
            *reason = waiting.to_string();
        } else if let Some(state) = status.pointer("/state/terminated") {
            *reason = ended(state);
        } else if ready && status.pointer("/state/running").is_some() {
            has_running = true;
            count.ready += 1;
        }
    }
    if reason == "Completed" && has_running {
        *reason = if t::condition(pod, "Ready") == "True" {
            "Running"
        } else {
            "NotReady"
        }
        .into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(pod: Value) -> Vec<String> {
        columns()
            .iter()
            .take(4)
            .map(|c| c.cell(&pod).as_str().unwrap().to_string())
            .collect()
    }

    #[test]
    fn running_waiting_and_failed() {
        let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]},
            "status": {"phase": "Running", "containerStatuses": [
                {"name": "a", "ready": true, "restartCount": 0, "state": {"running": {}}},
                {"name": "b", "ready": false, "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}});
        assert_eq!(row(pod.clone()), ["p", "1/2", "CrashLoopBackOff", "2"]);
        pod["status"]["containerStatuses"][1] =
            json!({"ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": 3}}});
        assert_eq!(row(pod.clone())[2], "ExitCode:3");
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        assert_eq!(row(pod)[2], "Terminating");
        assert_eq!(
            row(json!({"metadata": {"name": "p"}, "status": {"phase": "Pending"}})),
            ["p", "0/0", "Pending", "0"]
        );
    }

    #[test]
    fn init_containers_come_first() {
        let pod = json!({"metadata": {"name": "p"},
            "spec": {"initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "a"}]},
            "status": {"phase": "Pending", "initContainerStatuses": [
                {"name": "i", "state": {"terminated": {"exitCode": 0}}}, {"name": "j", "state": {"running": {}}}]}});
        assert_eq!(row(pod)[1..3], ["0/1".to_string(), "Init:1/2".to_string()]);
    }
}
