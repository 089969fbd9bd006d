//! The name that a client of TLS asks for, read without answering.

use rustls::server::Acceptor;

/// What the first bytes of a connection say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// A client of TLS, with the name that it asks for, in lower case.
    Tls(Option<String>),
    /// It takes more bytes.
    More,
    /// No TLS.
    Other,
}

/// Looks at the first bytes of a connection.
pub fn hello(bytes: &[u8]) -> Hello {
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        match acceptor.read_tls(&mut rest) {
            Ok(0) | Err(_) => return Hello::Other,
            Ok(_) => {}
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                let name = hello.server_name().map(str::to_ascii_lowercase);
                return Hello::Tls(name);
            }
            Err(_) => return Hello::Other,
        }
    }
    Hello::More
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use proptest::prelude::*;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    /// What a client says first.
    fn client(name: &'static str) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let name = name.try_into().unwrap();
        let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        connection.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn names() {
        let bytes = client("Shop.Example.com");
        assert_eq!(hello(&bytes), Hello::Tls(Some("shop.example.com".into())));
        assert_eq!(hello(&client("10.0.0.1")), Hello::Tls(None));
        assert_eq!(hello(&bytes[..bytes.len() - 1]), Hello::More);
        assert_eq!(hello(b""), Hello::More);
        assert_eq!(hello(b"GET / HTTP/1.1"), Hello::Other);
    }

    proptest! {
        #[test]
        fn any_bytes_have_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            hello(&bytes);
        }

        #[test]
        fn so_have_those_of_a_client_that_were_changed(at in 0usize..200, to: u8) {
            let mut bytes = client("shop.example.com");
            bytes[at] = to;
            hello(&bytes);
        }
    }
}
