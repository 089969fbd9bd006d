//! Captured packets and what they prove.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail, ensure};

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// A sequence of Ethernet packets.
#[derive(Clone, Default)]
pub struct Packets {
    packets: Vec<(SystemTime, Arc<[u8]>)>,
    dropped: u32,
}

/// A TCP segment or UDP datagram.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'p> {
    /// Sender.
    pub source: SocketAddr,
    /// Receiver.
    pub destination: SocketAddr,
    /// TCP flags; 0 for UDP.
    pub flags: u8,
    /// TCP sequence number; 0 for UDP.
    pub sequence: u32,
    /// Whether it is TCP.
    pub tcp: bool,
    /// What it carries.
    pub payload: &'p [u8],
}

/// One direction of a TCP connection: what is put together, where it starts, what is still loose.
type Assembly<'p> = (Flow, Option<u32>, Vec<(u32, &'p [u8])>);

/// One direction of a TCP connection, put together.
#[derive(Debug, Default)]
struct Flow {
    bytes: Vec<u8>,
    /// The capture has its beginning.
    whole: bool,
}

impl Packets {
    pub(crate) fn add(&mut self, at: SystemTime, packet: Arc<[u8]>) {
        self.packets.push((at, packet));
    }

    pub(crate) fn set_dropped(&mut self, dropped: u32) {
        self.dropped = dropped;
    }

    /// Packets that the kernel could not keep for the capture.
    pub fn dropped(&self) -> u32 {
        self.dropped
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// The packets as they are on the link.
    pub fn raw(&self) -> impl Iterator<Item = &[u8]> {
        self.packets.iter().map(|(_, p)| &p[..])
    }

    /// The TCP segments and UDP datagrams among them.
    pub fn segments(&self) -> impl Iterator<Item = Segment<'_>> {
        self.raw().filter_map(parse)
    }

    /// Whether the text can be read in a packet, or in the bytes of a TCP connection.
    pub fn saw_plaintext(&self, text: impl AsRef<[u8]>) -> bool {
        let text = text.as_ref();
        let contains = |bytes: &[u8]| bytes.windows(text.len()).any(|w| w == text);
        self.raw().any(contains) || self.flows().values().any(|f| contains(&f.bytes))
    }

    /// Ports that somebody tried to connect to.
    pub fn syn_ports(&self) -> BTreeSet<u16> {
        let syn = |s: &Segment<'_>| s.tcp && s.flags & (SYN | ACK) == SYN;
        self.segments()
            .filter(syn)
            .map(|s| s.destination.port())
            .collect()
    }

    /// TCP payload to and from a port; retransmissions count again.
    pub fn tcp_payload_bytes(&self, port: u16) -> u64 {
        self.segments()
            .filter(|s| touches(s, port))
            .map(|s| s.payload.len() as u64)
            .sum()
    }

    /// Proves that what passed on a port was TLS records and nothing else. Fails too if nothing
    /// passed: silence proves nothing.
    pub fn only_tls_on_port(&self, port: u16) -> Result<()> {
        let mut seen = 0;
        for ((source, destination), flow) in self.flows() {
            if (source.port() != port && destination.port() != port) || flow.bytes.is_empty() {
                continue;
            }
            seen += 1;
            if !is_tls(&flow) {
                let start = &flow.bytes[..flow.bytes.len().min(48)];
                bail!(
                    "{source} to {destination} carries {} bytes that are no TLS records, beginning {:?}",
                    flow.bytes.len(),
                    String::from_utf8_lossy(start)
                );
            }
        }
        ensure!(seen > 0, "nothing was sent on port {port}");
        Ok(())
    }

    /// Writes a pcap file that tcpdump and Wireshark read.
    pub fn write_pcap(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let mut file = io::BufWriter::new(std::fs::File::create(path)?);
        // Magic of the form with nanoseconds, version 2.4, no snap length to speak of, Ethernet.
        for word in [0xa1b2_3c4d_u32, 0x0004_0002, 0, 0, 0x0004_0000, 1] {
            file.write_all(&word.to_ne_bytes())?;
        }
        for (at, packet) in &self.packets {
            let at = at.duration_since(UNIX_EPOCH).unwrap_or_default();
            let length = packet.len() as u32;
            for word in [at.as_secs() as u32, at.subsec_nanos(), length, length] {
                file.write_all(&word.to_ne_bytes())?;
            }
            file.write_all(packet)?;
        }
        file.flush()
    }

    /// Each direction of each TCP connection. Two connections with the same four numbers are put
    /// one behind the other.
    fn flows(&self) -> BTreeMap<(SocketAddr, SocketAddr), Flow> {
        let mut flows: BTreeMap<_, Assembly<'_>> = BTreeMap::new();
        for segment in self.segments().filter(|s| s.tcp) {
            let entry = flows
                .entry((segment.source, segment.destination))
                .or_default();
            if segment.flags & SYN != 0 {
                settle(&mut entry.0, entry.1, &mut entry.2);
                entry.1 = Some(segment.sequence.wrapping_add(1));
                entry.0.whole |= entry.0.bytes.is_empty();
            }
            if !segment.payload.is_empty() {
                entry.2.push((segment.sequence, segment.payload));
            }
        }
        let finish = |(key, (mut flow, start, mut parts))| {
            settle(&mut flow, start, &mut parts);
            (key, flow)
        };
        flows.into_iter().map(finish).collect()
    }
}

/// Appends segments in sequence, each byte once.
fn settle(flow: &mut Flow, start: Option<u32>, parts: &mut Vec<(u32, &[u8])>) {
    let Some(start) = start.or(parts.first().map(|p| p.0)) else {
        return;
    };
    // Signed: a segment that was sent again may lie before the first one seen.
    let offset = |sequence: u32| i64::from(sequence.wrapping_sub(start).cast_signed());
    parts.sort_by_key(|p| offset(p.0));
    let mut next = 0i64;
    for (sequence, payload) in parts.drain(..) {
        let skip = (next - offset(sequence)).max(0) as usize;
        if let Some(fresh) = payload.get(skip..) {
            flow.bytes.extend_from_slice(fresh);
            next = offset(sequence) + payload.len() as i64;
        }
    }
}

fn touches(segment: &Segment<'_>, port: u16) -> bool {
    segment.tcp && (segment.source.port() == port || segment.destination.port() == port)
}

/// Whether the bytes are TLS records, the last perhaps cut off. If the capture began in the middle
/// of the connection, the first may be cut off as well.
fn is_tls(flow: &Flow) -> bool {
    const LONGEST_RECORD: usize = 5 + 16384 + 256;
    let starts = if flow.whole {
        1
    } else {
        LONGEST_RECORD.min(flow.bytes.len())
    };
    (0..starts).any(|start| are_records(&flow.bytes[start..]))
}

fn are_records(mut bytes: &[u8]) -> bool {
    let mut complete = 0;
    while let Some(([kind, major, minor, high, low], rest)) = bytes.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if !(20..=23).contains(kind) || *major != 3 || *minor > 4 || length > 16384 + 256 {
            return false;
        }
        let Some(next) = rest.get(length..) else {
            break;
        };
        bytes = next;
        complete += 1;
    }
    complete > 0
}

fn parse(packet: &[u8]) -> Option<Segment<'_>> {
    let ethertype = u16::from_be_bytes(packet.get(12..14)?.try_into().ok()?);
    let ip = &packet[14..];
    let (source, destination, protocol, body) = match ethertype {
        0x0800 => {
            let header = usize::from(ip.first()? & 0x0f) * 4;
            // Zero means more than fits: a segment for the hardware to cut up.
            let total = match u16::from_be_bytes(ip.get(2..4)?.try_into().ok()?) {
                0 => ip.len(),
                n => usize::from(n),
            };
            let address = |at: usize| -> Option<IpAddr> {
                let octets: [u8; 4] = ip.get(at..at + 4)?.try_into().ok()?;
                Some(octets.into())
            };
            (
                address(12)?,
                address(16)?,
                *ip.get(9)?,
                ip.get(header..total)?,
            )
        }
        0x86dd => {
            let address = |at: usize| -> Option<IpAddr> {
                let octets: [u8; 16] = ip.get(at..at + 16)?.try_into().ok()?;
                Some(octets.into())
            };
            (address(8)?, address(24)?, *ip.get(6)?, ip.get(40..)?)
        }
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes(body.get(at..at + 2)?.try_into().ok()?));
    let source = SocketAddr::new(source, port(0)?);
    let destination = SocketAddr::new(destination, port(2)?);
    match protocol {
        6 => {
            let sequence = u32::from_be_bytes(body.get(4..8)?.try_into().ok()?);
            let header = usize::from(body.get(12)? >> 4) * 4;
            let (flags, payload) = (*body.get(13)?, body.get(header..)?);
            Some(Segment {
                source,
                destination,
                flags,
                sequence,
                tcp: true,
                payload,
            })
        }
        17 => {
            let payload = body.get(8..)?;
            Some(Segment {
                source,
                destination,
                flags: 0,
                sequence: 0,
                tcp: false,
                payload,
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An IPv4 TCP packet.
    fn packet(ports: (u16, u16), flags: u8, sequence: u32, payload: &[u8]) -> Arc<[u8]> {
        let mut p = vec![0; 12];
        p.extend([0x08, 0x00, 0x45, 0]);
        p.extend((40 + payload.len() as u16).to_be_bytes());
        p.extend([0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        p.extend(ports.0.to_be_bytes());
        p.extend(ports.1.to_be_bytes());
        p.extend(sequence.to_be_bytes());
        p.extend([0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
        p.extend(payload);
        p.into()
    }

    fn packets(list: impl IntoIterator<Item = Arc<[u8]>>) -> Packets {
        let mut packets = Packets::default();
        list.into_iter()
            .for_each(|p| packets.add(SystemTime::now(), p));
        packets
    }

    #[test]
    fn text_is_found_across_segments_out_of_order_and_sent_again() {
        let p = packets([
            packet((4000, 80), SYN, 99, b""),
            packet((4000, 80), ACK, 104, b"et word"),
            packet((4000, 80), ACK, 100, b"sec"),
            packet((4000, 80), ACK, 100, b"secr"),
        ]);
        assert!(p.saw_plaintext("secret word"));
        assert_eq!(p.syn_ports(), [80].into());
        assert_eq!(p.tcp_payload_bytes(80), 14);
    }

    #[test]
    fn records_are_told_from_other_bytes() {
        let record = |kind: u8, n: u8| [&[kind, 3, 3, 0, n][..], &vec![0xAB; n.into()]].concat();
        let syn = packet((4000, 15008), SYN, u32::MAX, b"");
        let tls = [record(22, 40), record(23, 100)].concat();
        let whole = packets([syn.clone(), packet((4000, 15008), ACK, 0, &tls)]);
        whole.only_tls_on_port(15008).unwrap();
        assert!(
            whole.only_tls_on_port(80).is_err(),
            "silence proves nothing"
        );
        let middle = packets([packet((4000, 15008), ACK, 7, &tls[10..])]);
        middle.only_tls_on_port(15008).unwrap();
        let plain = packets([
            syn.clone(),
            packet((4000, 15008), ACK, 0, b"GET / HTTP/1.1\r\n"),
        ]);
        assert!(plain.only_tls_on_port(15008).is_err());
        let mixed = [&tls[..], b"GET / HTTP/1.1\r\n"].concat();
        let mixed = packets([syn, packet((4000, 15008), ACK, 0, &mixed)]);
        assert!(mixed.only_tls_on_port(15008).is_err());
    }

    #[test]
    fn a_pcap_file_has_the_packets() {
        let p = packets([packet((1, 2), ACK, 0, b"x")]);
        let file = tempfile::NamedTempFile::new().unwrap();
        p.write_pcap(file.path()).unwrap();
        let bytes = std::fs::read(file.path()).unwrap();
        assert_eq!(bytes.len(), 24 + 16 + 55);
        assert_eq!(bytes[..4], 0xa1b2_3c4d_u32.to_ne_bytes());
    }
}
