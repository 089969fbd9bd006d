//! Pure: Kubernetes objects to the model, and the findings about them.
