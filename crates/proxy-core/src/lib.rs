//! What both proxies share: workload store, certificate manager, DNS, the record of a connection.
