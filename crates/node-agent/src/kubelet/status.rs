//! A pod's status from the state of its containers. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::process::Exit;
use super::restart::RestartPolicy;

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ended {
    pub exit: Exit,
    pub reason: String,
    pub message: Option<String>,
    pub started_at: Option<Timestamp>,
    pub finished_at: Timestamp,
    pub container_id: Option<String>,
}

/// A container's present state.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum State {
    Waiting {
        reason: String,
        message: Option<String>,
    },
    Running {
        started_at: Timestamp,
    },
    Terminated(Ended),
}

/// What the status says about one container.
#[derive(Debug, Clone)]
pub(crate) struct ContainerView {
    pub name: String,
    pub image: String,
    pub image_id: String,
    pub state: State,
    pub last: Option<Ended>,
    pub restarts: i32,
    pub ready: bool,
    pub started: bool,
    pub container_id: Option<String>,
    /// An init container that keeps running (native sidecar).
    pub sidecar: bool,
}

/// Everything a status is made of.
pub(crate) struct StatusInput<'a> {
    pub pod: &'a Pod,
    /// The status built last, whose transition times go on.
    pub previous: Option<&'a PodStatus>,
    pub init: &'a [ContainerView],
    pub containers: &'a [ContainerView],
    pub ephemeral: &'a [ContainerView],
    pub pod_ips: Vec<String>,
    pub host_ips: Vec<String>,
    pub start_time: Timestamp,
    pub qos: &'static str,
    /// The sandbox exists and is connected.
    pub sandbox_ready: bool,
    /// All init containers have done their part.
    pub initialized: bool,
    /// Set for a pod that the node ended as a whole: reason and message.
    pub verdict: Option<(String, String)>,
    /// No container runs again, whatever the restart policy says.
    pub over: bool,
    pub now: Timestamp,
}

/// Builds the status.
pub(crate) fn build(input: &StatusInput<'_>) -> PodStatus {
    let policy = match input.over {
        true => RestartPolicy::Never,
        false => RestartPolicy::parse(
            input
                .pod
                .spec
                .as_ref()
                .and_then(|spec| spec.restart_policy.as_deref()),
        ),
    };
    let phase = match input.verdict {
        Some(_) => "Failed",
        None => phase(input, policy),
    };
    let (reason, message) = input.verdict.clone().unzip();
    PodStatus {
        phase: Some(phase.to_string()),
        reason,
        message,
        conditions: Some(conditions(input, phase)),
        host_ip: input.host_ips.first().cloned(),
        host_ips: Some(
            input
                .host_ips
                .iter()
                .map(|ip| HostIP { ip: ip.clone() })
                .collect(),
        ),
        pod_ip: input.pod_ips.first().cloned(),
        pod_ips: (!input.pod_ips.is_empty()).then(|| {
            input
                .pod_ips
                .iter()
                .map(|ip| PodIP { ip: ip.clone() })
                .collect()
        }),
        start_time: Some(Time(input.start_time)),
        qos_class: Some(input.qos.to_string()),
        init_container_statuses: (!input.init.is_empty())
            .then(|| input.init.iter().map(container_status).collect()),
        container_statuses: Some(input.containers.iter().map(container_status).collect()),
        ephemeral_container_statuses: (!input.ephemeral.is_empty())
            .then(|| input.ephemeral.iter().map(container_status).collect()),
        observed_generation: input.pod.metadata.generation,
        ..Default::default()
    }
}

/// The pod's phase, by the kubelet's counting rules.
fn phase(input: &StatusInput<'_>, policy: RestartPolicy) -> &'static str {
    if !input.initialized {
        let failed = |view: &ContainerView| match &view.state {
            State::Terminated(ended) => ended.exit.code != 0,
            _ => false,
        };
        let hopeless = policy == RestartPolicy::Never
            && input.init.iter().any(|view| !view.sidecar && failed(view));
        return if hopeless || input.over {
            "Failed"
        } else {
            "Pending"
        };
    }
    let (mut running, mut waiting, mut ok, mut failed) = (0, 0, 0, 0);
    for view in input.containers {
        match &view.state {
            State::Running { .. } => running += 1,
            State::Terminated(ended) if ended.exit.code == 0 => ok += 1,
            State::Terminated(_) => failed += 1,
            // A container that ran before and waits for its next start counts as ended.
            State::Waiting { .. } => match &view.last {
                Some(ended) if ended.exit.code == 0 => ok += 1,
                Some(_) => failed += 1,
                None => waiting += 1,
            },
        }
    }
    match (policy, running, waiting, ok, failed) {
        (_, _, waiting, ..) if waiting > 0 => "Pending",
        (_, running, ..) if running > 0 => "Running",
        (RestartPolicy::Always, ..) => "Running",
        (_, _, _, _, 0) => "Succeeded",
        (RestartPolicy::Never, ..) => "Failed",
        _ => "Running",
    }
}

/// Whether the API server shows a condition of this pod otherwise than its kubelet does. Others write
/// conditions too: a node that seemed lost has its pods marked as not ready.
pub(crate) fn is_overridden(shown: &PodStatus, wanted: &PodStatus) -> bool {
    let shown = shown.conditions.as_deref().unwrap_or_default();
    let wanted = wanted.conditions.as_deref().unwrap_or_default();
    shown.iter().any(|shown| {
        wanted
            .iter()
            .any(|wanted| wanted.type_ == shown.type_ && wanted.status != shown.status)
    })
}

/// Whether a phase is final.
pub(crate) fn is_final(phase: Option<&str>) -> bool {
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn conditions(input: &StatusInput<'_>, phase: &str) -> Vec<PodCondition> {
    let is_final = is_final(Some(phase));
    let unready: Vec<&str> = input
        .containers
        .iter()
        .filter(|view| !view.ready)
        .map(|view| view.name.as_str())
        .collect();
    let containers_ready =
        input.initialized && unready.is_empty() && !is_final && !input.containers.is_empty();
    let not_ready = if is_final {
        let reason = match phase {
            "Succeeded" => "PodCompleted",
            _ => "PodFailed",
        };
        Some((reason.to_string(), None))
    } else if containers_ready {
        None
    } else {
        Some((
            "ContainersNotReady".to_string(),
            Some(format!(
                "containers with unready status: [{}]",
                unready.join(" ")
            )),
        ))
    };
    let gates = missing_gates(input.pod);
    let pod_not_ready = not_ready.clone().or_else(|| {
        (!gates.is_empty()).then(|| {
            ("ReadinessGatesNotReady".to_string(), Some(format!("corresponding condition of pod readiness gate {:?} does not exist or is not \"True\".", gates.join(", "))))
        })
    });
    let not_initialized = (!input.initialized).then(|| {
        let names: Vec<&str> = input
            .init
            .iter()
            .filter(|view| match &view.state {
                State::Terminated(ended) => ended.exit.code != 0,
                _ => !(view.sidecar && view.started),
            })
            .map(|view| view.name.as_str())
            .collect();
        (
            "ContainersNotInitialized".to_string(),
            Some(format!(
                "containers with incomplete status: [{}]",
                names.join(" ")
            )),
        )
    });
    let sandbox = (!input.sandbox_ready).then(|| (String::new(), None));
    let mut list = vec![
        condition(input, "PodReadyToStartContainers", sandbox),
        condition(input, "Initialized", not_initialized),
        condition(input, "Ready", pod_not_ready),
        condition(input, "ContainersReady", not_ready),
        condition(input, "PodScheduled", None),
    ];
    // Conditions of other controllers (readiness gates) stay as they are.
    for other in existing(input.pod) {
        if !list.iter().any(|own| own.type_ == other.type_) {
            list.push(other.clone());
        }
    }
    list
}

/// A condition that is true unless a reason against it is given. Keeps the transition time while the
/// answer stays the same.
fn condition(
    input: &StatusInput<'_>,
    name: &str,
    against: Option<(String, Option<String>)>,
) -> PodCondition {
    let status = if against.is_none() { "True" } else { "False" };
    let (reason, message) = against.unwrap_or_default();
    let own = input
        .previous
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or(existing(input.pod));
    let before = own
        .iter()
        .find(|condition| condition.type_ == name && condition.status == status);
    PodCondition {
        type_: name.to_string(),
        status: status.to_string(),
        reason: (!reason.is_empty()).then_some(reason),
        message,
        last_transition_time: before
            .and_then(|condition| condition.last_transition_time.clone())
            .or(Some(Time(input.now))),
        observed_generation: input.pod.metadata.generation,
        ..Default::default()
    }
}

fn existing(pod: &Pod) -> &[PodCondition] {
    pod.status
        .as_ref()
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default()
}

fn missing_gates(pod: &Pod) -> Vec<String> {
    let gates = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.readiness_gates.clone())
        .unwrap_or_default();
    gates
        .into_iter()
        .map(|gate| gate.condition_type)
        .filter(|gate| {
            !existing(pod)
                .iter()
                .any(|c| c.type_ == *gate && c.status == "True")
        })
        .collect()
}

fn container_status(view: &ContainerView) -> ContainerStatus {
    ContainerStatus {
        name: view.name.clone(),
        image: view.image.clone(),
        image_id: view.image_id.clone(),
        container_id: view.container_id.as_deref().map(container_uri),
        ready: view.ready,
        started: Some(view.started),
        restart_count: view.restarts,
        state: Some(match &view.state {
            State::Waiting { reason, message } => ContainerState {
                waiting: Some(ContainerStateWaiting {
                    reason: Some(reason.clone()),
                    message: message.clone(),
                }),
                ..Default::default()
            },
            State::Running { started_at } => ContainerState {
                running: Some(ContainerStateRunning {
                    started_at: Some(Time(*started_at)),
                }),
                ..Default::default()
            },
            State::Terminated(ended) => terminated(ended),
        }),
        last_state: Some(view.last.as_ref().map(terminated).unwrap_or_default()),
        ..Default::default()
    }
}

fn terminated(ended: &Ended) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: ended.container_id.as_deref().map(container_uri),
            exit_code: ended.exit.code,
            signal: (ended.exit.signal != 0).then_some(ended.exit.signal),
            reason: Some(ended.reason.clone()),
            message: ended.message.clone(),
            started_at: ended.started_at.map(Time),
            finished_at: Some(Time(ended.finished_at)),
        }),
        ..Default::default()
    }
}

/// A container id with the runtime's scheme in front, as clients expect it.
fn container_uri(id: &str) -> String {
    format!("process://{id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(name: &str, state: State) -> ContainerView {
        let running = matches!(state, State::Running { .. });
        ContainerView {
            name: name.into(),
            image: "i".into(),
            image_id: "i".into(),
            state,
            last: None,
            restarts: 0,
            ready: running,
            started: running,
            container_id: None,
            sidecar: false,
        }
    }

    fn running() -> State {
        State::Running {
            started_at: Timestamp::UNIX_EPOCH,
        }
    }

    fn ended(code: i32) -> State {
        State::Terminated(Ended {
            exit: Exit { code, signal: 0 },
            reason: "x".into(),
            message: None,
            started_at: None,
            finished_at: Timestamp::UNIX_EPOCH,
            container_id: None,
        })
    }

    fn waiting() -> State {
        State::Waiting {
            reason: "ContainerCreating".into(),
            message: None,
        }
    }

    fn status(policy: &str, init: Vec<State>, states: Vec<State>) -> PodStatus {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {}, "spec": {"restartPolicy": policy, "containers": []},
            "status": {"conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"},
                {"type": "x.io/gate", "status": "False"}]}
        }))
        .unwrap();
        let initialized = init
            .iter()
            .all(|state| matches!(state, State::Terminated(e) if e.exit.code == 0));
        let views = |states: Vec<State>| {
            states
                .into_iter()
                .map(|state| view("c", state))
                .collect::<Vec<_>>()
        };
        build(&StatusInput {
            pod: &pod,
            previous: None,
            init: &views(init),
            containers: &views(states),
            ephemeral: &[],
            pod_ips: vec!["10.0.0.1".into()],
            host_ips: vec!["172.30.0.1".into()],
            start_time: Timestamp::UNIX_EPOCH,
            qos: "BestEffort",
            sandbox_ready: true,
            initialized,
            verdict: None,
            over: false,
            now: Timestamp::now(),
        })
    }

    fn phase_of(policy: &str, init: Vec<State>, states: Vec<State>) -> String {
        status(policy, init, states).phase.unwrap()
    }

    #[test]
    fn phases() {
        assert_eq!(phase_of("Always", vec![], vec![waiting()]), "Pending");
        assert_eq!(
            phase_of("Always", vec![running()], vec![waiting()]),
            "Pending"
        );
        assert_eq!(
            phase_of("Always", vec![], vec![running(), waiting()]),
            "Pending"
        );
        assert_eq!(
            phase_of("Always", vec![ended(0)], vec![running()]),
            "Running"
        );
        assert_eq!(phase_of("Always", vec![], vec![ended(0)]), "Running");
        assert_eq!(
            phase_of("Never", vec![], vec![ended(0), running()]),
            "Running"
        );
        assert_eq!(
            phase_of("Never", vec![], vec![ended(0), ended(0)]),
            "Succeeded"
        );
        assert_eq!(
            phase_of("Never", vec![], vec![ended(0), ended(1)]),
            "Failed"
        );
        assert_eq!(phase_of("Never", vec![ended(1)], vec![waiting()]), "Failed");
        assert_eq!(phase_of("OnFailure", vec![], vec![ended(1)]), "Running");
        assert_eq!(phase_of("OnFailure", vec![], vec![ended(0)]), "Succeeded");
    }

    #[test]
    fn a_condition_that_others_changed_is_noticed() {
        let wanted = status("Always", vec![], vec![running()]);
        let mut shown = wanted.clone();
        assert!(!is_overridden(&shown, &wanted));
        assert!(!is_overridden(&PodStatus::default(), &wanted));
        for condition in shown.conditions.iter_mut().flatten() {
            if condition.type_ == "Ready" {
                condition.status = "False".into();
            }
        }
        assert!(is_overridden(&shown, &wanted));
    }

    #[test]
    fn conditions_keep_times_and_foreign_entries() {
        let ready = status("Always", vec![], vec![running()]);
        let get = |status: &PodStatus, name: &str| {
            status
                .conditions
                .as_ref()
                .unwrap()
                .iter()
                .find(|c| c.type_ == name)
                .unwrap()
                .clone()
        };
        assert_eq!(get(&ready, "Ready").status, "True");
        assert_eq!(
            get(&ready, "Ready")
                .last_transition_time
                .unwrap()
                .0
                .to_string(),
            "2020-01-01T00:00:00Z"
        );
        assert_eq!(get(&ready, "x.io/gate").status, "False");
        let unready = status("Always", vec![], vec![waiting()]);
        assert_eq!(
            get(&unready, "Ready").reason.as_deref(),
            Some("ContainersNotReady")
        );
        assert!(get(&unready, "Ready").last_transition_time.unwrap().0 > Timestamp::UNIX_EPOCH);
        let done = status("Never", vec![], vec![ended(0)]);
        assert_eq!(get(&done, "Ready").reason.as_deref(), Some("PodCompleted"));
    }
}
