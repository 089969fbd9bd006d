//! Install, upgrade and uninstall from the charts; later the Sail controllers.
//!
//! Everything is server-side apply with one field manager, so that installing twice changes
//! nothing and installing another version changes only what differs. Objects are found again by
//! their labels, never by a list kept elsewhere.

mod error;
mod install;
mod kinds;
mod readiness;
mod uninstall;

pub use error::OperatorError;
pub use install::{Event, InstallOptions, install};
pub use uninstall::{Removal, Scope, execute_removal, plan_removal};

/// Field manager of everything that is installed.
pub const FIELD_MANAGER: &str = "istio-operator";
