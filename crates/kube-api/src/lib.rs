//! The Kubernetes side of the contract: CRD types, labels, annotations, client set-up.
