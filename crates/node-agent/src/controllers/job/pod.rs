//! The pods of a job.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};

use super::plan::NewPod;
use crate::controllers::meta;
use crate::controllers::pods;

/// Finalizer of a pod whose end has not been counted yet.
pub(crate) const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// Label and annotation: the completion index.
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Annotation: how often the index failed before this pod.
const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// The variable that tells a container its completion index.
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";

/// Whether the pod's end has still to be counted.
pub(crate) fn is_tracked(pod: &Pod) -> bool {
    let finalizers = pod.metadata.finalizers.as_ref();
    finalizers.is_some_and(|finalizers| finalizers.iter().any(|name| name == TRACKING))
}

/// The pod's completion index.
pub(crate) fn index_of(pod: &Pod) -> Option<i32> {
    number(pod, INDEX)
}

/// How often the pod's index failed before it.
pub(crate) fn failures_of(pod: &Pod) -> i32 {
    number(pod, FAILURES).unwrap_or(0)
}

fn number(pod: &Pod, key: &str) -> Option<i32> {
    pod.metadata.annotations.as_ref()?.get(key)?.parse().ok()
}

/// A pod of the job's template.
pub(crate) fn new(job: &Job, wanted: NewPod) -> Pod {
    let spec = job.spec.clone().unwrap_or_default();
    let mut pod = pods::from_template(job, &spec.template);
    let finalizers = pod.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|name| name == TRACKING) {
        finalizers.push(TRACKING.to_owned());
    }
    let Some(index) = wanted.index else {
        return pod;
    };
    let job_name = job.metadata.name.as_deref().unwrap_or_default();
    let prefix = format!("{job_name}-{index}-");
    pod.metadata.name = Some(meta::generated_name(&prefix));
    pod.metadata.generate_name = Some(prefix);
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(INDEX.to_owned(), index.to_string());
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(INDEX.to_owned(), index.to_string());
    if spec.backoff_limit_per_index.is_some() {
        annotations.insert(FAILURES.to_owned(), wanted.failures.to_string());
    }
    let pod_spec = pod.spec.get_or_insert_default();
    pod_spec.hostname = Some(format!("{job_name}-{index}"));
    let init = pod_spec.init_containers.iter_mut().flatten();
    for container in init.chain(&mut pod_spec.containers) {
        let env = container.env.get_or_insert_default();
        if !env.iter().any(|variable| variable.name == INDEX_VARIABLE) {
            env.push(index_variable());
        }
    }
    pod
}

fn index_variable() -> EnvVar {
    EnvVar {
        name: INDEX_VARIABLE.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: None,
                field_path: format!("metadata.labels['{INDEX}']"),
            }),
            ..EnvVarSource::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_indexed_pod_knows_its_index() {
        let job: Job = serde_json::from_value(json!({
            "metadata": {"name": "sum", "namespace": "ns", "uid": "u"},
            "spec": {"completions": 3, "completionMode": "Indexed", "backoffLimitPerIndex": 1,
                "template": {"spec": {"containers": [{"name": "c"}]}}}}))
        .unwrap();
        let pod = new(
            &job,
            NewPod {
                index: Some(2),
                failures: 1,
            },
        );
        assert!(pod.metadata.name.as_ref().unwrap().starts_with("sum-2-"));
        assert_eq!((index_of(&pod), failures_of(&pod)), (Some(2), 1));
        assert!(is_tracked(&pod));
        let spec = pod.spec.unwrap();
        assert_eq!(spec.hostname.as_deref(), Some("sum-2"));
        assert_eq!(
            spec.containers[0].env.as_ref().unwrap()[0].name,
            INDEX_VARIABLE
        );
    }
}
