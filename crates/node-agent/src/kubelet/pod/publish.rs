//! Writes a pod's status to the API server from a task of its own, so that a slow or absent API
//! server never delays a restart. Only the newest status counts.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::kubelet::node::API_TIMEOUT;

/// First delay after a refused or unanswered write.
const RETRY: Duration = Duration::from_millis(500);

/// The writer of one pod's status.
pub(crate) struct Publisher {
    wanted: watch::Sender<Option<(u64, PodStatus)>>,
    written: watch::Receiver<u64>,
    published: u64,
    api: Api<Pod>,
}

impl Publisher {
    pub(crate) fn new(client: &kube::Client, pod: &Pod) -> Self {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        let (wanted, receiver) = watch::channel(None);
        let (done, written) = watch::channel(0);
        tokio::spawn(write_all(
            api.clone(),
            pod.metadata.name.clone().unwrap_or_default(),
            pod.metadata.uid.clone().unwrap_or_default(),
            receiver,
            done,
        ));
        Self {
            wanted,
            written,
            published: 0,
            api,
        }
    }

    /// Replaces the status to be written.
    pub(super) fn publish(&mut self, status: PodStatus) {
        self.published += 1;
        self.wanted.send_replace(Some((self.published, status)));
    }

    /// Waits for the last status and deletes the object. Keeps trying: nobody else would.
    pub(crate) async fn delete_object(&mut self, pod: &Pod) {
        let last = self.published;
        let flushed = self.written.wait_for(|written| *written >= last);
        let _ = tokio::time::timeout(API_TIMEOUT, flushed).await;
        let name = pod.metadata.name.clone().unwrap_or_default();
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: pod.metadata.uid.clone(),
                resource_version: None,
            }),
            ..Default::default()
        };
        let mut delay = RETRY;
        loop {
            match tokio::time::timeout(API_TIMEOUT, self.api.delete(&name, &params)).await {
                Ok(Ok(_)) => return,
                Ok(Err(kube::Error::Api(status))) if status.code == 404 => return,
                // Another pod has the name now; or this one was written at the same moment.
                Ok(Err(kube::Error::Api(status))) if status.code == 409 => {
                    if !self.is_there(pod).await {
                        return;
                    }
                }
                Ok(Err(error)) => {
                    tracing::warn!(pod = name, "object not deleted, trying again: {error}")
                }
                Err(_) => tracing::warn!(pod = name, "object not deleted: no answer, trying again"),
            }
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(Duration::from_secs(10));
        }
    }
}

impl Publisher {
    /// Whether the object is still there, as far as can be known.
    async fn is_there(&self, pod: &Pod) -> bool {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        match self.api.get_metadata_opt(name).await {
            Ok(Some(found)) => found.metadata.uid == pod.metadata.uid,
            Ok(None) => false,
            Err(_) => true,
        }
    }
}

async fn write_all(
    api: Api<Pod>,
    name: String,
    uid: String,
    mut wanted: watch::Receiver<Option<(u64, PodStatus)>>,
    done: watch::Sender<u64>,
) {
    let mut delay = RETRY;
    while wanted.changed().await.is_ok() {
        loop {
            let Some((number, status)) = wanted.borrow_and_update().clone() else {
                break;
            };
            match write(&api, &name, &uid, &status).await {
                Ok(()) => {
                    delay = RETRY;
                    done.send_replace(number);
                    break;
                }
                Err(error) => {
                    tracing::debug!(pod = name, "status not written, trying again: {error}");
                    tokio::time::sleep(delay).await;
                    delay = (delay * 2).min(Duration::from_secs(5));
                }
            }
        }
    }
}

/// A patch of the status, guarded by the uid. Conditions are merged, because others have theirs;
/// addresses are replaced as a whole; what a status or a condition no longer has is removed by
/// `null`.
fn patch(uid: &str, status: &PodStatus) -> Result<Value, serde_json::Error> {
    let mut status = serde_json::to_value(status)?;
    if let Some(object) = status.as_object_mut() {
        for key in ["reason", "message", "podIP", "podIPs"] {
            object.entry(key).or_insert(Value::Null);
        }
        for key in ["podIPs", "hostIPs"] {
            if let Some(list) = object.get_mut(key).and_then(Value::as_array_mut) {
                list.push(json!({"$patch": "replace"}));
            }
        }
        let conditions = object.get_mut("conditions").and_then(Value::as_array_mut);
        for condition in conditions.into_iter().flatten() {
            for key in ["reason", "message"] {
                if let Some(condition) = condition.as_object_mut() {
                    condition.entry(key).or_insert(Value::Null);
                }
            }
        }
    }
    Ok(json!({"metadata": {"uid": uid}, "status": status}))
}

async fn write(api: &Api<Pod>, name: &str, uid: &str, status: &PodStatus) -> Result<(), String> {
    let patch = patch(uid, status).map_err(|error| error.to_string())?;
    let (params, patch) = (PatchParams::default(), Patch::Strategic(patch));
    let request = api.patch_status(name, &params, &patch);
    match tokio::time::timeout(API_TIMEOUT, request).await {
        Ok(Ok(_)) => Ok(()),
        // Gone, or another pod of that name: nothing to write any more.
        Ok(Err(kube::Error::Api(status))) if status.code == 404 || status.code == 409 => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn why_a_pod_was_not_ready_goes_when_it_is() {
        let ready =
            json!({"conditions": [{"type": "Ready", "status": "True"}], "phase": "Running"});
        let status: PodStatus = serde_json::from_value(ready).unwrap();
        let patch = patch("u", &status).unwrap();
        let condition = &patch["status"]["conditions"][0];
        assert_eq!(condition.get("message"), Some(&Value::Null));
        assert_eq!(condition.get("reason"), Some(&Value::Null));
        assert_eq!(patch["metadata"]["uid"], "u");
    }

    /// An API server that answers so many deletions with a conflict, and knows a pod of this UID.
    fn server(conflicts: usize, uid: &'static str) -> (kube::Client, Arc<AtomicUsize>) {
        let deletions = Arc::new(AtomicUsize::new(0));
        let counted = deletions.clone();
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let deletes = request.method() == http::Method::DELETE;
            let before = counted.fetch_add(usize::from(deletes), Ordering::Relaxed);
            let (code, body) = match deletes && before < conflicts {
                true => (
                    409,
                    json!({"status": "Failure", "code": 409, "reason": "Conflict", "message": "modified"}),
                ),
                false => (200, json!({"metadata": {"name": "p", "uid": uid}})),
            };
            let mut response =
                http::Response::new(kube::client::Body::from(body.to_string().into_bytes()));
            *response.status_mut() = http::StatusCode::from_u16(code).unwrap();
            async move { Ok::<_, std::convert::Infallible>(response) }
        });
        (kube::Client::new(service, "default"), deletions)
    }

    #[tokio::test]
    async fn a_conflict_is_no_deletion() {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}})).unwrap();
        let (client, deletions) = server(1, "u");
        Publisher::new(&client, &pod).delete_object(&pod).await;
        assert_eq!(deletions.load(Ordering::Relaxed), 2);
        // Another pod has the name.
        let (client, deletions) = server(9, "v");
        Publisher::new(&client, &pod).delete_object(&pod).await;
        assert_eq!(deletions.load(Ordering::Relaxed), 1);
    }
}
