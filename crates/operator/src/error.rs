//! What can go wrong between us and the cluster, with what to do about it.

use std::time::Duration;

/// Why an installation or removal stopped.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// The API server refused or did not answer.
    #[error("{action} {object}: {reason}{hint}")]
    Api {
        /// What was tried.
        action: &'static str,
        /// With what, `Kind/namespace/name`.
        object: String,
        /// What the server said.
        reason: String,
        /// What to do next, starting with a semicolon; may be empty.
        hint: &'static str,
    },
    /// A chart has a kind of object that is not managed.
    #[error(
        "kind {kind} ({api_version}) is not one that install manages; apply {name} with kubectl instead"
    )]
    Kind {
        /// The kind.
        kind: String,
        /// Its API version.
        api_version: String,
        /// Name of the object.
        name: String,
    },
    /// Definitions that are built in cannot be read.
    #[error(transparent)]
    Chart(#[from] ambit_charts::ChartError),
    /// Something did not become ready.
    #[error("resources not ready after {}: {}", go_duration(.after), .pending.join("; "))]
    NotReady {
        /// How long was waited.
        after: Duration,
        /// What is missing, each with a reason where one was found.
        pending: Vec<String>,
    },
}

impl OperatorError {
    /// Wraps an error of the client.
    pub(crate) fn api(action: &'static str, object: impl Into<String>, error: kube::Error) -> Self {
        let (reason, hint) = match &error {
            kube::Error::Api(status) => {
                let hint = match status.code {
                    401 => "; log in again, or name another kubeconfig with --kubeconfig",
                    403 => "; this needs a user with the cluster-admin role",
                    409 => "; somebody else is changing it, try again",
                    _ => "",
                };
                (status.message.clone(), hint)
            }
            kube::Error::Service(_) | kube::Error::HyperError(_) => (
                chain(&error),
                "; is the cluster running, and is it the one that the kubeconfig names?",
            ),
            _ => (chain(&error), ""),
        };
        OperatorError::Api {
            action,
            object: object.into(),
            reason,
            hint,
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// As Go prints durations: `5m0s`, `30s`.
fn go_duration(duration: &Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_look_like_istioctl() {
        let error = OperatorError::NotReady {
            after: Duration::from_secs(300),
            pending: vec!["Deployment/istio-system/istiod".into()],
        };
        assert_eq!(
            error.to_string(),
            "resources not ready after 5m0s: Deployment/istio-system/istiod"
        );
        assert_eq!(go_duration(&Duration::from_secs(45)), "45s");
        assert_eq!(go_duration(&Duration::from_secs(3661)), "1h1m1s");
    }

    #[test]
    fn refusals_say_what_to_do() {
        let status = kube::core::Status {
            code: 403,
            message: "no".into(),
            ..Default::default()
        };
        let error = OperatorError::api(
            "applying",
            "ClusterRole/x",
            kube::Error::Api(Box::new(status)),
        );
        assert_eq!(
            error.to_string(),
            "applying ClusterRole/x: no; this needs a user with the cluster-admin role"
        );
    }
}
