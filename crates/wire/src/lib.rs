//! Both ends of the control channels: delta xDS, the certificate authority, ZDS with file descriptor passing.
