//! The control plane: watch, translate, push; the certificate authority; status.
