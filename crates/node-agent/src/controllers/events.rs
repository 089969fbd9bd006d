//! Events about objects, as `kubectl describe` shows them.

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};
use kube::{Client, Resource};

use super::meta;

/// Writes events. A failure to do so is logged and otherwise ignored: an
/// event is a hint for people, never part of a decision.
pub(crate) struct Recorder {
    client: Client,
}

impl Recorder {
    /// A recorder that writes with the rights of `client`.
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// An event that tells of normal operation.
    pub(crate) async fn normal<K: Resource<DynamicType = ()>>(
        &self,
        component: &str,
        object: &K,
        reason: &str,
        message: String,
    ) {
        self.write(component, object, "Normal", reason, message)
            .await;
    }

    /// An event that tells of a problem.
    pub(crate) async fn warning<K: Resource<DynamicType = ()>>(
        &self,
        component: &str,
        object: &K,
        reason: &str,
        message: String,
    ) {
        self.write(component, object, "Warning", reason, message)
            .await;
    }

    async fn write<K: Resource<DynamicType = ()>>(
        &self,
        component: &str,
        object: &K,
        type_: &str,
        reason: &str,
        message: String,
    ) {
        let about = object.meta();
        // Events about cluster-scoped objects live in "default", as everywhere.
        let namespace = about
            .namespace
            .clone()
            .unwrap_or_else(|| "default".to_owned());
        let name = about.name.clone().unwrap_or_default();
        let event = Event {
            metadata: ObjectMeta {
                name: Some(meta::generated_name(&format!("{name}."))),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some(K::api_version(&()).into_owned()),
                kind: Some(K::kind(&()).into_owned()),
                name: about.name.clone(),
                namespace: about.namespace.clone(),
                uid: about.uid.clone(),
                resource_version: about.resource_version.clone(),
                ..ObjectReference::default()
            },
            type_: Some(type_.to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(message),
            count: Some(1),
            first_timestamp: Some(meta::now()),
            last_timestamp: Some(meta::now()),
            source: Some(EventSource {
                component: Some(component.to_owned()),
                host: None,
            }),
            reporting_component: Some(component.to_owned()),
            ..Event::default()
        };
        let api = Api::<Event>::namespaced(self.client.clone(), &namespace);
        if let Err(error) = api.create(&PostParams::default(), &event).await {
            tracing::debug!("the event {reason} of {name} was not written: {error}");
        }
    }
}
