//! The commands of the command line that talk to a cluster. Each has its arguments and a function
//! that runs it and gives the exit code; what a cluster is told or asked is decided in libraries.

pub mod install;
pub mod kube_flags;
pub mod manifest;
pub mod output;
pub mod portforward;
pub mod proxy_config;
pub mod uninstall;
pub mod version;
pub mod waypoint;
pub mod ztunnel_config;
