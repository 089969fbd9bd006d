//! Messages of gRPC within HTTP: five bytes in front of each, a status behind the last.

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderMap;
use prost::Message;

/// A flag for compression, and the length of the message.
const PREFIX: usize = 5;

/// A message as it stands in a body.
///
/// # Errors
/// It is too long for gRPC.
pub(crate) fn framed(message: &impl Message) -> Result<Bytes, String> {
    let mut framed = BytesMut::with_capacity(PREFIX + message.encoded_len());
    framed.put_u8(0);
    let length = u32::try_from(message.encoded_len()).map_err(|e| e.to_string())?;
    framed.put_u32(length);
    message.encode(&mut framed).map_err(|e| e.to_string())?;
    Ok(framed.freeze())
}

/// The first message of a body.
///
/// # Errors
/// There is none, or it cannot be read.
pub(crate) fn message<M: Message + Default>(body: &Bytes) -> Result<M, String> {
    let message = match body.first_chunk::<PREFIX>() {
        Some([0, length @ ..]) => {
            let length = u32::from_be_bytes(*length) as usize;
            body.get(PREFIX..PREFIX + length)
        }
        _ => None,
    };
    let message = message.ok_or("its answer is no message")?;
    M::decode(message).map_err(|e| format!("its answer cannot be read: {e}"))
}

/// The status of a call, which must be 0.
///
/// # Errors
/// It is another, or there is none.
pub(crate) fn status(trailers: &HeaderMap) -> Result<(), String> {
    let text = |name: &str| trailers.get(name).and_then(|value| value.to_str().ok());
    match text("grpc-status") {
        Some("0") => Ok(()),
        Some(code) => {
            let message = text("grpc-message").unwrap_or_default();
            Err(format!("the call ended with status {code}: {message}"))
        }
        None => Err("the call ended without a status".to_owned()),
    }
}

/// Counts the messages of a body that passes in pieces.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    /// What has been read of the five bytes.
    prefix: [u8; PREFIX],
    read: usize,
    /// Bytes of the message that have not passed yet.
    left: usize,
    /// Messages that have begun.
    pub(crate) messages: u64,
}

impl Counter {
    /// A piece has passed.
    pub(crate) fn passed(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            let skipped = self.left.min(piece.len());
            self.left -= skipped;
            piece = &piece[skipped..];
            if self.left > 0 || piece.is_empty() {
                return;
            }
            let taken = (PREFIX - self.read).min(piece.len());
            self.prefix[self.read..self.read + taken].copy_from_slice(&piece[..taken]);
            self.read += taken;
            piece = &piece[taken..];
            if self.read == PREFIX {
                let [_, length @ ..] = self.prefix;
                self.left = u32::from_be_bytes(length) as usize;
                self.read = 0;
                self.messages += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_wherever_a_body_is_cut() {
        let mut body = Vec::new();
        for length in [0, 1, 300, 0, 7] {
            let message = prost_types::Any {
                type_url: "x".repeat(length),
                ..prost_types::Any::default()
            };
            body.extend_from_slice(&framed(&message).unwrap());
        }
        for size in 1..body.len() {
            let mut counter = Counter::default();
            body.chunks(size).for_each(|piece| counter.passed(piece));
            assert_eq!(counter.messages, 5, "{size}");
        }
    }

    #[test]
    fn what_is_framed_is_read_again() {
        let sent = prost_types::Any {
            type_url: "x".into(),
            ..prost_types::Any::default()
        };
        let body = framed(&sent).unwrap();
        assert_eq!(message::<prost_types::Any>(&body), Ok(sent));
        for bad in [
            &b""[..],
            b"\x01\0\0\0\0",
            b"\0\0\0\0\x09x",
            b"\0\xff\xff\xff\xff",
        ] {
            let bad = Bytes::copy_from_slice(bad);
            assert!(message::<prost_types::Any>(&bad).is_err());
        }
    }
}
