//! EndpointSlices of services with a selector. What they contain is decided
//! in `endpointslice_plan`.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams};

use super::endpointslice_plan::{self as plan, Slice};
use super::error::{ControllerError, Doing, is_status};
use super::meta;
use super::world::World;
use crate::informer::{ObjectKey, Queue};

const COMPONENT: &str = "endpointslice-controller";
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";

/// Subscribes to what matters for endpoints and keeps the slices true.
pub(crate) fn start(world: Arc<World>) -> impl Future<Output = ()> + Send {
    let queue = Queue::new();
    subscribe(&world, &queue);
    let slices = queue.clone();
    world.slices.on_change(move |old, new| {
        let labels = old.or(new).and_then(|slice| slice.metadata.labels.as_ref());
        if let Some(service) = labels
            .filter(|l| is_ours(l))
            .and_then(|l| l.get(SERVICE_NAME))
        {
            let any = old
                .or(new)
                .and_then(|slice| slice.metadata.namespace.clone());
            slices.add(ObjectKey::new(any.unwrap_or_default(), service.clone()));
        }
    });
    async move {
        super::synced(&world).await;
        queue.work(COMPONENT, |key| reconcile(&world, key)).await;
    }
}

/// Queues every service whose endpoints may change with a service or a pod.
pub(crate) fn subscribe(world: &Arc<World>, queue: &Arc<Queue<ObjectKey>>) {
    let services = queue.clone();
    world.services.on_change(move |old, new| {
        if let Some(service) = new.or(old) {
            services.add(ObjectKey::of(service));
        }
    });
    let (pods, cache) = (queue.clone(), Arc::downgrade(&world.services));
    world.pods.on_change(move |old, new| {
        let Some(services) = cache.upgrade().filter(|_| !same_endpoint(old, new)) else {
            return;
        };
        let Some(any) = old.or(new) else { return };
        for service in services.in_namespace(any.metadata.namespace.as_deref().unwrap_or_default())
        {
            if [old, new]
                .into_iter()
                .flatten()
                .any(|pod| plan::selects(&service, pod))
            {
                pods.add(ObjectKey::of(&*service));
            }
        }
    });
}

/// Whether a change of a pod leaves every endpoint as it was.
fn same_endpoint(old: Option<&Pod>, new: Option<&Pod>) -> bool {
    let (Some(old), Some(new)) = (old, new) else {
        return false;
    };
    let facts = |pod: &Pod| {
        let status = pod.status.as_ref();
        (
            pod.metadata.labels.clone(),
            pod.metadata.deletion_timestamp.is_some(),
            meta::ready_since(pod).is_some(),
            meta::is_finished(pod),
            status.and_then(|s| s.pod_ips.clone()),
            status.and_then(|s| s.pod_ip.clone()),
            meta::node_of(pod).map(str::to_owned),
        )
    };
    facts(old) == facts(new)
}

fn is_ours(labels: &BTreeMap<String, String>) -> bool {
    labels
        .get(MANAGED_BY)
        .is_some_and(|manager| manager == MANAGER)
}

fn slices_of(world: &World, key: &ObjectKey) -> Vec<Arc<EndpointSlice>> {
    let mut slices = world.slices.in_namespace(&key.namespace);
    slices.retain(|slice| {
        slice
            .metadata
            .labels
            .as_ref()
            .is_some_and(|labels| is_ours(labels) && labels.get(SERVICE_NAME) == Some(&key.name))
    });
    slices
}

async fn reconcile(world: &World, key: ObjectKey) -> Result<(), ControllerError> {
    let mut known = slices_of(world, &key);
    let service = world
        .services
        .get(&key)
        .filter(|service| plan::selector(service).is_some());
    if let Some(service) = service.filter(|s| s.metadata.deletion_timestamp.is_none()) {
        for content in plan::slices(&service, &world.pods.in_namespace(&key.namespace)) {
            let reusable = known.iter().position(|slice| fits(slice, &content));
            match reusable {
                Some(index) => {
                    let slice = known.remove(index);
                    update(world, &service, &slice, content).await?;
                }
                None => create(world, &service, content).await?,
            }
        }
    }
    for slice in known {
        delete(world, &slice).await?;
    }
    Ok(())
}

/// Whether an existing slice can take over this content: the address type of
/// a slice cannot change, and ports should not where it can be avoided.
fn fits(slice: &EndpointSlice, content: &Slice) -> bool {
    let ports = slice.ports.as_deref().unwrap_or_default();
    slice.address_type == content.family
        && (ports == content.ports || ports.is_empty() || content.ports.is_empty())
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(
        SERVICE_NAME.to_owned(),
        service.metadata.name.clone().unwrap_or_default(),
    );
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if plan::is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    } else {
        labels.remove(HEADLESS);
    }
    labels
}

async fn create(world: &World, service: &Service, content: Slice) -> Result<(), ControllerError> {
    let key = ObjectKey::of(service);
    let prefix = format!("{}-", key.name);
    let slice = EndpointSlice {
        metadata: ObjectMeta {
            name: Some(meta::generated_name(&prefix)),
            generate_name: Some(prefix),
            namespace: Some(key.namespace.clone()),
            labels: Some(labels(service)),
            owner_references: Some(vec![meta::controller_ref(service)]),
            ..ObjectMeta::default()
        },
        address_type: content.family.to_owned(),
        endpoints: content.endpoints,
        ports: Some(content.ports),
    };
    let api = world.api::<EndpointSlice>(&key.namespace);
    let created = api
        .create(&PostParams::default(), &slice)
        .await
        .doing(|| format!("creating an endpoint slice of {key}"))?;
    world.slices.observe(created);
    Ok(())
}

async fn update(
    world: &World,
    service: &Service,
    slice: &EndpointSlice,
    content: Slice,
) -> Result<(), ControllerError> {
    let mut updated = slice.clone();
    updated.metadata.labels = Some(labels(service));
    updated.endpoints = content.endpoints;
    updated.ports = Some(content.ports);
    if updated == *slice {
        return Ok(());
    }
    let key = ObjectKey::of(slice);
    let api = world.api::<EndpointSlice>(&key.namespace);
    let written = api
        .replace(&key.name, &PostParams::default(), &updated)
        .await
        .doing(|| format!("updating the endpoint slice {key}"))?;
    world.slices.observe(written);
    Ok(())
}

async fn delete(world: &World, slice: &EndpointSlice) -> Result<(), ControllerError> {
    let key = ObjectKey::of(slice);
    let api = world.api::<EndpointSlice>(&key.namespace);
    match api.delete(&key.name, &DeleteParams::default()).await {
        Ok(_) => {}
        Err(error) if is_status(&error, 404) => {}
        Err(error) => return Err(error).doing(|| format!("deleting the endpoint slice {key}")),
    }
    world
        .slices
        .forget(&key, slice.metadata.uid.as_deref().unwrap_or_default());
    Ok(())
}
