//! Making EndpointSlices be what they should be, for the controllers that
//! own some.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{DeleteParams, PostParams};

use super::endpointslice_plan::Slice;
use super::error::{ControllerError, Doing, is_status};
use super::meta;
use super::world::World;
use crate::informer::ObjectKey;

/// Label that names the service of a slice.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label that names the controller of a slice.
pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";

/// What the slices of one controller for one service should be.
pub(crate) struct Wanted {
    pub(crate) service: ObjectKey,
    pub(crate) owner: OwnerReference,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: Option<BTreeMap<String, String>>,
    pub(crate) contents: Vec<Slice>,
}

/// Whether the labels are those of a slice of this controller.
pub(crate) fn is_managed_by(labels: &BTreeMap<String, String>, manager: &str) -> bool {
    labels.get(MANAGED_BY).is_some_and(|known| known == manager)
}

/// The slices of a service that a controller owns.
pub(crate) fn of_service(world: &World, key: &ObjectKey, manager: &str) -> Vec<Arc<EndpointSlice>> {
    let mut slices = world.slices.in_namespace(&key.namespace);
    slices.retain(|slice| {
        slice.metadata.labels.as_ref().is_some_and(|labels| {
            is_managed_by(labels, manager) && labels.get(SERVICE_NAME) == Some(&key.name)
        })
    });
    slices
}

/// Turns the slices that are there into the wanted ones.
pub(crate) async fn apply(
    world: &World,
    mut known: Vec<Arc<EndpointSlice>>,
    mut wanted: Wanted,
) -> Result<(), ControllerError> {
    for content in std::mem::take(&mut wanted.contents) {
        let reusable = known.iter().position(|slice| fits(slice, &content));
        match reusable {
            Some(index) => update(world, &wanted, &known.remove(index), content).await?,
            None => create(world, &wanted, content).await?,
        }
    }
    delete_all(world, known).await
}

/// Removes slices.
pub(crate) async fn delete_all(
    world: &World,
    slices: Vec<Arc<EndpointSlice>>,
) -> Result<(), ControllerError> {
    for slice in slices {
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

async fn create(world: &World, wanted: &Wanted, content: Slice) -> Result<(), ControllerError> {
    let key = &wanted.service;
    let prefix = format!("{}-", key.name);
    let slice = EndpointSlice {
        metadata: ObjectMeta {
            name: Some(meta::generated_name(&prefix)),
            generate_name: Some(prefix),
            namespace: Some(key.namespace.clone()),
            labels: Some(wanted.labels.clone()),
            annotations: wanted.annotations.clone(),
            owner_references: Some(vec![wanted.owner.clone()]),
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
    wanted: &Wanted,
    slice: &EndpointSlice,
    content: Slice,
) -> Result<(), ControllerError> {
    let mut updated = slice.clone();
    updated.metadata.labels = Some(wanted.labels.clone());
    if wanted.annotations.is_some() {
        updated.metadata.annotations.clone_from(&wanted.annotations);
    }
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
