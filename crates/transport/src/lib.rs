//! The data path: sockets, original destination, network namespaces, SPIFFE TLS, HBONE, copy, PROXY header.
