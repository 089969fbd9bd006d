//! Where a redirected connection was going.

use std::io;
use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::TcpStream;

use super::canonical;

/// The destination that the client asked for, before the capture rules redirected the connection to
/// us; of a connection that was not redirected, the local address. In canonical form.
pub fn original_destination(stream: &TcpStream) -> io::Result<SocketAddr> {
    let local = canonical(stream.local_addr()?);
    let socket = SockRef::from(stream);
    // Conntrack keeps the two families apart, and a dual-stack socket carries either; asking for the
    // family that the connection really has avoids a wrong answer as well as a useless call.
    let found = match local {
        SocketAddr::V4(_) => socket.original_dst_v4(),
        SocketAddr::V6(_) => socket.original_dst_v6(),
    };
    Ok(found
        .ok()
        .and_then(|a| a.as_socket())
        .map_or(local, canonical))
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn a_connection_that_was_not_redirected_went_to_us() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let _client = TcpStream::connect(address).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        assert_eq!(original_destination(&accepted).unwrap(), address);
    }
}
