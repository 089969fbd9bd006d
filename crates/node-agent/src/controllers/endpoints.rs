//! The older `Endpoints` object of each service with a selector, for clients
//! that still read it. Same content as the slices, in the older shape.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service,
};
use k8s_openapi::api::discovery::v1::Endpoint;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams};

use super::endpointslice::subscribe;
use super::endpointslice_plan::{self as plan, Slice};
use super::error::{ControllerError, Doing, is_status};
use super::meta;
use super::world::World;
use crate::informer::{ObjectKey, Queue};

const COMPONENT: &str = "endpoints-controller";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";

/// Subscribes to what matters for endpoints and keeps the objects true.
pub(crate) fn start(world: Arc<World>) -> impl Future<Output = ()> + Send {
    let queue = Queue::new();
    subscribe(&world, &queue);
    async move {
        super::synced(&world).await;
        queue.work(COMPONENT, |key| reconcile(&world, key)).await;
    }
}

async fn reconcile(world: &World, key: ObjectKey) -> Result<(), ControllerError> {
    let known = world.endpoints.get(&key);
    let service = world
        .services
        .get(&key)
        .filter(|service| plan::selector(service).is_some());
    let Some(service) = service.filter(|s| s.metadata.deletion_timestamp.is_none()) else {
        return match known.filter(|known| is_ours(known)) {
            Some(stale) => delete(world, &stale).await,
            None => Ok(()),
        };
    };
    let slices = plan::slices(&service, &world.pods.in_namespace(&key.namespace));
    let wanted = endpoints(&service, &slices, known.as_deref());
    let api = world.api::<Endpoints>(&key.namespace);
    let params = PostParams::default();
    let written = match &known {
        Some(known) if **known == wanted => return Ok(()),
        Some(_) => api.replace(&key.name, &params, &wanted).await,
        None => api.create(&params, &wanted).await,
    };
    world
        .endpoints
        .observe(written.doing(|| format!("writing the endpoints {key}"))?);
    Ok(())
}

fn is_ours(endpoints: &Endpoints) -> bool {
    let labels = endpoints.metadata.labels.as_ref();
    labels
        .and_then(|labels| labels.get(MANAGED_BY))
        .is_some_and(|manager| manager == MANAGER)
}

fn endpoints(service: &Service, slices: &[Slice], known: Option<&Endpoints>) -> Endpoints {
    let labels = service.metadata.labels.as_ref();
    let mut metadata = known
        .map(|known| known.metadata.clone())
        .unwrap_or_else(|| ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        });
    metadata.labels = Some(meta::with_label(labels, MANAGED_BY, MANAGER));
    // This form has room for one family: the service's first.
    let family = plan::families(service).into_iter().next();
    let subsets: Vec<_> = slices
        .iter()
        .filter(|slice| Some(&slice.family) == family.as_ref() && !slice.endpoints.is_empty())
        .map(subset)
        .collect();
    Endpoints {
        metadata,
        subsets: (!subsets.is_empty()).then_some(subsets),
    }
}

fn subset(slice: &Slice) -> EndpointSubset {
    let is_ready = |e: &&Endpoint| e.conditions.as_ref().and_then(|c| c.ready) == Some(true);
    let is_leaving = |e: &Endpoint| e.conditions.as_ref().and_then(|c| c.terminating) == Some(true);
    let ready: Vec<_> = slice
        .endpoints
        .iter()
        .filter(is_ready)
        .map(address)
        .collect();
    let others: Vec<_> = slice
        .endpoints
        .iter()
        .filter(|endpoint| !is_ready(endpoint) && !is_leaving(endpoint))
        .map(address)
        .collect();
    let ports: Vec<_> = slice
        .ports
        .iter()
        .map(|port| EndpointPort {
            name: port.name.clone().filter(|name| !name.is_empty()),
            port: port.port.unwrap_or_default(),
            protocol: port.protocol.clone(),
            app_protocol: port.app_protocol.clone(),
        })
        .collect();
    EndpointSubset {
        addresses: (!ready.is_empty()).then_some(ready),
        not_ready_addresses: (!others.is_empty()).then_some(others),
        ports: (!ports.is_empty()).then_some(ports),
    }
}

fn address(endpoint: &Endpoint) -> EndpointAddress {
    EndpointAddress {
        ip: endpoint.addresses.first().cloned().unwrap_or_default(),
        hostname: endpoint.hostname.clone(),
        node_name: endpoint.node_name.clone(),
        target_ref: endpoint.target_ref.clone(),
    }
}

async fn delete(world: &World, endpoints: &Endpoints) -> Result<(), ControllerError> {
    let key = ObjectKey::of(endpoints);
    match world
        .api::<Endpoints>(&key.namespace)
        .delete(&key.name, &DeleteParams::default())
        .await
    {
        Ok(_) => {}
        Err(error) if is_status(&error, 404) => {}
        Err(error) => return Err(error).doing(|| format!("deleting the endpoints {key}")),
    }
    world
        .endpoints
        .forget(&key, endpoints.metadata.uid.as_deref().unwrap_or_default());
    Ok(())
}
