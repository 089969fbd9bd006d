//! What both proxies share: workload store, certificate manager, DNS, the record of a connection.

pub mod certs;
pub mod dns;
pub mod dump;
pub mod metrics;
pub mod record;
pub mod settings;
pub mod store;
