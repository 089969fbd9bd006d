//! What is behind a route.

use ambit_kube_api::gateway_api::BackendRef;
use ambit_kube_api::gateway_api::filters::{Filter, FilteredBackendRef};
use ambit_model::Text;
use ambit_model::route::{Backend, Target};

use super::{Context, Unresolved, filters};
use crate::key::ObjectKey;
use crate::services::service_key;

/// All references to services.
pub(super) fn referred<'a>(
    backends: impl Iterator<Item = &'a FilteredBackendRef>,
    filters: impl Iterator<Item = &'a Filter>,
) -> Vec<&'a BackendRef> {
    let of_filter = |f: &'a Filter| f.request_mirror.as_ref().map(|m| &m.backend_ref);
    let (own, within): (Vec<_>, Vec<_>) = backends
        .map(|b| (&b.backend, b.filters.iter().filter_map(of_filter)))
        .unzip();
    own.into_iter()
        .chain(within.into_iter().flatten())
        .chain(filters.filter_map(of_filter))
        .filter(|b| is_service(b))
        .collect()
}

/// It names a service.
pub(super) fn is_service(backend: &BackendRef) -> bool {
    matches!(backend.group_kind(), ("" | "core", "Service"))
}

/// The object that a reference of this namespace names.
pub(super) fn key(backend: &BackendRef, own: &Text) -> ObjectKey {
    ObjectKey {
        namespace: backend
            .namespace
            .as_deref()
            .map_or_else(|| own.clone(), Text::from),
        name: backend.name.as_str().into(),
    }
}

/// Where a reference leads.
pub(super) fn target(context: &Context<'_>, backend: &BackendRef) -> Result<Target, Unresolved> {
    if !is_service(backend) {
        let (group, kind) = backend.group_kind();
        let message = format!("a backend of the kind {kind} of {group:?} is not supported");
        return Err(Unresolved::new("InvalidKind", message));
    }
    let key = key(backend, context.namespace);
    let Some(port) = backend.port.and_then(|port| u16::try_from(port).ok()) else {
        let message = format!("backend {key} has no port");
        return Err(Unresolved::new("InvalidDestination", message));
    };
    let Some(service) = context.world.services.get(&key) else {
        return Err(Unresolved::new(
            "BackendNotFound",
            format!("backend {key} not found"),
        ));
    };
    Ok(Target {
        service: service_key(context.world.mesh, service),
        port,
    })
}

/// The backends of a rule. One that leads nowhere keeps its share.
///
/// # Errors
/// A filter of a backend cannot be understood, for this reason.
pub(super) fn backends(
    context: &Context<'_>,
    references: &[FilteredBackendRef],
    unresolved: &mut Vec<Unresolved>,
) -> Result<Vec<Backend>, Unresolved> {
    let mut backends = Vec::with_capacity(references.len());
    for reference in references {
        let mut backend = Backend {
            weight: reference
                .backend
                .weight
                .map_or(1, |w| w.try_into().unwrap_or(0)),
            ..Backend::default()
        };
        for filter in &reference.filters {
            filters::of_backend(filter, &mut backend)?;
        }
        match target(context, &reference.backend) {
            Ok(target) => backend.target = Some(target),
            Err(why) => unresolved.push(why),
        }
        backends.push(backend);
    }
    Ok(backends)
}
