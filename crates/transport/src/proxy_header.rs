//! The PROXY protocol, version 2: how an application behind the proxy learns who its client is.
//!
//! One header goes before the first byte of the connection: the client's and the destination's
//! address, and in TLV 0xD0 the client's SPIFFE identity, if TLS has proven one.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ambit_model::Identity;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const VERSION_2_PROXY: u8 = 0x21;
const VERSION_2_LOCAL: u8 = 0x20;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;
const FIXED: usize = 16;
/// TLV type with the client's identity.
pub const TLV_IDENTITY: u8 = 0xD0;

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// The client.
    pub source: SocketAddr,
    /// Where it wanted to go.
    pub destination: SocketAddr,
    /// Who it is.
    pub identity: Option<Identity>,
}

/// Why bytes are not a header that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyHeaderError {
    /// More bytes are needed to tell.
    #[error("the PROXY header is not complete yet")]
    Incomplete,
    /// Not the protocol's signature.
    #[error("the connection does not begin with a PROXY v2 header")]
    NotProxy,
    /// Another version or command than version 2, PROXY.
    #[error("unsupported PROXY version and command {0:#04x}")]
    Command(u8),
    /// Neither TCP over IPv4 nor TCP over IPv6.
    #[error("unsupported PROXY address family and protocol {0:#04x}")]
    Family(u8),
    /// Lengths that contradict each other, or an identity that is none.
    #[error("malformed PROXY header")]
    Malformed,
}

impl ProxyHeader {
    /// The header's bytes. Mixed families are written as IPv6, the IPv4 one mapped.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(160);
        let family = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                body.extend(source.octets());
                body.extend(destination.octets());
                TCP_OVER_IPV4
            }
            (source, destination) => {
                body.extend(as_v6(source).octets());
                body.extend(as_v6(destination).octets());
                TCP_OVER_IPV6
            }
        };
        body.extend(self.source.port().to_be_bytes());
        body.extend(self.destination.port().to_be_bytes());
        let identity = self.identity.as_ref().map(ToString::to_string);
        // Kubernetes names are far from this limit; a longer one could not be written at all.
        if let Some((text, length)) = identity
            .as_ref()
            .and_then(|t| Some((t, u16::try_from(t.len()).ok()?)))
            && body.len() + 3 + text.len() <= usize::from(u16::MAX)
        {
            body.push(TLV_IDENTITY);
            body.extend(length.to_be_bytes());
            body.extend(text.as_bytes());
        }
        let mut header = Vec::with_capacity(FIXED + body.len());
        header.extend(SIGNATURE);
        header.extend([VERSION_2_PROXY, family]);
        header.extend((body.len() as u16).to_be_bytes());
        header.extend(body);
        header
    }

    /// Reads a header from the beginning of `bytes`, and tells how many bytes it takes. Unknown
    /// TLVs are skipped.
    pub fn parse(bytes: &[u8]) -> Result<(Self, usize), ProxyHeaderError> {
        use ProxyHeaderError::{Command, Family, Incomplete, Malformed, NotProxy};
        let signature = bytes.len().min(SIGNATURE.len());
        if bytes[..signature] != SIGNATURE[..signature] {
            return Err(NotProxy);
        }
        let fixed: &[u8; FIXED] = bytes.first_chunk().ok_or(Incomplete)?;
        match fixed[12] {
            VERSION_2_PROXY => {}
            // A health check of the balancer itself; nobody sends these inside the mesh.
            other @ VERSION_2_LOCAL => return Err(Command(other)),
            other => return Err(Command(other)),
        }
        let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
        let mut body = bytes.get(FIXED..FIXED + length).ok_or(Incomplete)?;
        let (source, destination) = match fixed[13] {
            TCP_OVER_IPV4 => {
                let s: [u8; 4] = take(&mut body).ok_or(Malformed)?;
                let d: [u8; 4] = take(&mut body).ok_or(Malformed)?;
                (IpAddr::from(s), IpAddr::from(d))
            }
            TCP_OVER_IPV6 => {
                let s: [u8; 16] = take(&mut body).ok_or(Malformed)?;
                let d: [u8; 16] = take(&mut body).ok_or(Malformed)?;
                (
                    IpAddr::from(s).to_canonical(),
                    IpAddr::from(d).to_canonical(),
                )
            }
            other => return Err(Family(other)),
        };
        let source_port = u16::from_be_bytes(take(&mut body).ok_or(Malformed)?);
        let destination_port = u16::from_be_bytes(take(&mut body).ok_or(Malformed)?);
        let header = Self {
            source: SocketAddr::new(source, source_port),
            destination: SocketAddr::new(destination, destination_port),
            identity: identity(body)?,
        };
        Ok((header, FIXED + length))
    }
}

fn as_v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

fn take<const N: usize>(body: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = body.split_first_chunk()?;
    *body = rest;
    Some(*head)
}

fn identity(mut tlvs: &[u8]) -> Result<Option<Identity>, ProxyHeaderError> {
    let malformed = ProxyHeaderError::Malformed;
    let mut found = None;
    while !tlvs.is_empty() {
        let [kind, high, low] = take(&mut tlvs).ok_or(malformed.clone())?;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let value = tlvs.get(..length).ok_or(malformed.clone())?;
        tlvs = &tlvs[length..];
        if kind == TLV_IDENTITY {
            let text = std::str::from_utf8(value).map_err(|_| malformed.clone())?;
            found = Some(text.parse().map_err(|_| malformed.clone())?);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bytes_of_an_ipv4_header() {
        let header = ProxyHeader {
            source: "10.1.0.2:40000".parse().unwrap(),
            destination: "10.1.0.3:80".parse().unwrap(),
            identity: None,
        };
        let mut expected = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
        expected.extend([10, 1, 0, 2, 10, 1, 0, 3, 0x9c, 0x40, 0, 80]);
        assert_eq!(header.encode(), expected);
    }

    #[test]
    fn broken_headers_are_named() {
        use ProxyHeaderError::*;
        let good = ProxyHeader {
            source: "10.1.0.2:40000".parse().unwrap(),
            destination: "10.1.0.3:80".parse().unwrap(),
            identity: Some(Identity::new("td", "ns", "sa")),
        }
        .encode();
        let error = |bytes: &[u8]| ProxyHeader::parse(bytes).unwrap_err();
        for n in 0..good.len() {
            assert_eq!(error(&good[..n]), Incomplete, "{n} bytes");
        }
        assert_eq!(error(b"GET / HTTP/1.1\r\n"), NotProxy);
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            error(&bytes)
        };
        assert_eq!(with(12, 0x20), Command(0x20));
        assert_eq!(with(13, 0x12), Family(0x12));
        assert_eq!(with(15, 4), Malformed);
        assert_eq!(with(15, 13), Malformed);
        assert_eq!(with(FIXED + 12 + 3, b'x'), Malformed);
    }

    fn addresses() -> impl Strategy<Value = SocketAddr> {
        (any::<IpAddr>(), any::<u16>())
            .prop_map(|(ip, port)| SocketAddr::new(ip.to_canonical(), port))
    }

    proptest! {
        #[test]
        fn survives_the_wire(
            source in addresses(),
            destination in addresses(),
            names in proptest::option::of(("[a-z.]{1,30}", "[a-z-]{1,63}", "[a-z-]{1,63}")),
            rest in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let identity = names.map(|(td, ns, sa)| Identity::new(td, ns, sa));
            let header = ProxyHeader { source, destination, identity };
            let mut bytes = header.encode();
            let length = bytes.len();
            bytes.extend(rest);
            prop_assert_eq!(ProxyHeader::parse(&bytes), Ok((header, length)));
        }

        #[test]
        fn takes_any_bytes(tail in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = ProxyHeader::parse(&tail);
            let mut bytes = SIGNATURE.to_vec();
            bytes.extend(tail);
            let _ = ProxyHeader::parse(&bytes);
        }
    }
}
