//! `telemetry.istio.io`: what is told about traffic.

mod object;

pub use object::{
    AccessLogging, CustomTag, Filter, Formatter, Literal, Match, MetricOverride, MetricSelector,
    Metrics, ProviderRef, TagOverride, Telemetry, TelemetrySpec, Tracing, WithDefault,
};

/// API group of this kind.
pub const GROUP: &str = "telemetry.istio.io";
