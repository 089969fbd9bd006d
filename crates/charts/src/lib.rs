//! Renders the Helm charts of `charts/` from one values tree, without Helm.
//!
//! The charts are ordinary ones: `helm` renders them to the same objects. They are built into the
//! program, and can be read from a directory instead. What always holds: rendering is a pure
//! function of charts and values, and a value or profile that would have no effect is an error, not
//! something silently ignored.

pub mod chart;
pub mod mesh;
pub mod profile;
pub mod render;
pub mod set;
pub mod values;

pub use chart::{Chart, ChartError, Source, gateway_api, take_legacy_gateways};
pub use mesh::{ComponentKind, Manifest, MeshError, MeshOptions, render_mesh};
pub use render::{Release, RenderError};
