//! Renders the Helm charts of charts/ from one values tree.
