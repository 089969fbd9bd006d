//! EndpointSlices of services with a selector. What they contain is decided
//! in `endpointslice_plan`.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};

use super::endpointslice_plan as plan;
use super::error::ControllerError;
use super::meta;
use super::slices::{self, MANAGED_BY, SERVICE_NAME, Wanted, is_managed_by};
use super::world::World;
use crate::informer::{ObjectKey, Queue};

const COMPONENT: &str = "endpointslice-controller";
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
    is_managed_by(labels, MANAGER)
}

async fn reconcile(world: &World, key: ObjectKey) -> Result<(), ControllerError> {
    let known = slices::of_service(world, &key, MANAGER);
    let service = world
        .services
        .get(&key)
        .filter(|service| plan::selector(service).is_some());
    let Some(service) = service.filter(|s| s.metadata.deletion_timestamp.is_none()) else {
        return slices::delete_all(world, known).await;
    };
    let wanted = Wanted {
        service: key.clone(),
        owner: meta::controller_ref(&*service),
        labels: labels(&service),
        annotations: None,
        contents: plan::slices(&service, &world.pods.in_namespace(&key.namespace)),
    };
    slices::apply(world, known, wanted).await
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
