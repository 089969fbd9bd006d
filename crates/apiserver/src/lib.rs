//! The Kubernetes API in a process: storage, watch, patch, CRDs, RBAC. Knows nothing of the mesh.
