//! The node agent and its CNI plugin: plan the capture rules, apply them, feed ZDS.
//!
//! The agent enrols the pods of its node as their labels change and answers the plugin, which asks
//! before a new pod starts. The order is always: rules, announcement to the node proxy and its
//! acknowledgement, probe exemption, annotation. A pod that is annotated is captured.

pub mod agent;
pub mod apply;
mod cluster;
pub mod config;
pub mod conflist;
pub mod eligibility;
pub mod enroll;
pub mod finder;
mod informer;
pub mod install;
mod kernel;
mod link;
mod metrics;
pub mod netns;
mod plugin_server;
mod queue;
pub mod rules;
