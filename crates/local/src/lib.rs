//! The local cluster: the API server and node agents in namespaces, in one process tree.
