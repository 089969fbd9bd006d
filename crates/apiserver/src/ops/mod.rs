//! What a write does, from a decoded body to the store: one pipeline for clients and for the
//! server's own controllers.
//!
//! Everything here is synchronous: decide on values, then commit by compare-and-swap.

mod admit;
mod create;
mod delete;
pub(crate) mod update;

pub use admit::{FieldValidation, reform, shape, shape_applied, shape_patched};
pub use create::{create, create_own, create_shaped, generate_name};
pub use delete::{DeleteOptions, delete, delete_own, finalize};
pub use update::{Part, update, update_own};

use crate::{
    api::Api,
    authn::User,
    registry::Resource,
    status::{ApiError, Result},
    store::Key,
};
use std::sync::Arc;

/// Who writes, and how.
#[derive(Debug)]
pub struct Writer<'a> {
    /// The authenticated user.
    pub user: &'a User,
    /// Name under which fields are owned (`fieldManager`).
    pub manager: String,
    /// Run everything, commit nothing.
    pub dry_run: bool,
    /// What to do about unknown and duplicate fields.
    pub validation: FieldValidation,
    /// Whether this is a server-side apply, which keeps its own record of managers.
    pub applying: bool,
    /// Texts for the client that are no errors.
    pub warnings: Vec<String>,
}

impl<'a> Writer<'a> {
    /// The server's own controllers.
    pub fn internal(user: &'a User, manager: &str) -> Self {
        Writer {
            user,
            manager: manager.to_string(),
            dry_run: false,
            validation: FieldValidation::Ignore,
            applying: false,
            warnings: Vec::new(),
        }
    }

    /// Adds a warning, once.
    pub fn warn(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.warnings.contains(&text) {
            self.warnings.push(text);
        }
    }
}

/// The key of an object of a resource.
pub fn key(resource: &Resource, namespace: &str, name: &str) -> Key {
    Key::new(
        &resource.storage,
        if resource.namespaced { namespace } else { "" },
        name,
    )
}

/// Reads an object or says that it does not exist.
pub fn get(
    api: &Api,
    resource: &Resource,
    namespace: &str,
    name: &str,
) -> Result<Arc<crate::object::Object>> {
    api.store
        .get(&key(resource, namespace, name))
        .ok_or_else(|| ApiError::not_found(&resource.group, &resource.plural, name))
}
