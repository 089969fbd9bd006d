//! Frames of SPDY/3.1 (section 2.2 and 2.6 of SPDY/3). Header blocks stay compressed here. Pure.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// A frame larger than this is refused; clients send far smaller ones.
const LARGEST: usize = 4 * 1024 * 1024;
const VERSION: u16 = 3;

/// Last frame of its direction.
pub(super) const FLAG_FIN: u8 = 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;

/// A frame that ends the connection.
#[derive(Debug, thiserror::Error)]
#[error("malformed SPDY frame: {0}")]
pub(crate) struct FrameError(&'static str);

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    SynStream {
        id: u32,
        fin: bool,
        block: Bytes,
    },
    SynReply {
        id: u32,
        fin: bool,
        block: Bytes,
    },
    Reset {
        id: u32,
        status: u32,
    },
    Ping {
        id: u32,
    },
    GoAway {
        last: u32,
        status: u32,
    },
    /// Its block must be decoded to keep the zlib stream in step.
    Headers {
        id: u32,
        fin: bool,
        block: Bytes,
    },
    Data {
        id: u32,
        fin: bool,
        data: Bytes,
    },
    /// Settings, window updates, unknown types.
    Ignored,
}

impl Frame {
    /// Takes one frame off the buffer; `None` if it is not complete yet.
    pub(super) fn take(buffer: &mut BytesMut) -> Result<Option<Self>, FrameError> {
        if buffer.len() < 8 {
            return Ok(None);
        }
        let length =
            usize::from(buffer[5]) << 16 | usize::from(buffer[6]) << 8 | usize::from(buffer[7]);
        if length > LARGEST {
            return Err(FrameError("too large"));
        }
        if buffer.len() < 8 + length {
            return Ok(None);
        }
        let mut head = buffer.split_to(8);
        let body = buffer.split_to(length).freeze();
        let first = head.get_u32();
        let flags = head.get_u8();
        if first & 0x8000_0000 == 0 {
            return Ok(Some(Self::Data {
                id: first,
                fin: flags & FLAG_FIN != 0,
                data: body,
            }));
        }
        if (first >> 16) as u16 & 0x7fff != VERSION {
            return Err(FrameError("not version 3"));
        }
        Self::control(first as u16, flags, body).map(Some)
    }

    fn control(kind: u16, flags: u8, mut body: Bytes) -> Result<Self, FrameError> {
        let fin = flags & FLAG_FIN != 0;
        let mut number = || {
            if body.len() < 4 {
                Err(FrameError("truncated"))
            } else {
                Ok(body.get_u32() & 0x7fff_ffff)
            }
        };
        Ok(match kind {
            SYN_STREAM => {
                let id = number()?;
                let _associated = number()?;
                if body.len() < 2 {
                    return Err(FrameError("truncated"));
                }
                body.advance(2);
                Self::SynStream {
                    id,
                    fin,
                    block: body,
                }
            }
            SYN_REPLY => Self::SynReply {
                id: number()?,
                fin,
                block: body,
            },
            HEADERS => Self::Headers {
                id: number()?,
                fin,
                block: body,
            },
            RST_STREAM => Self::Reset {
                id: number()?,
                status: number()?,
            },
            // A ping's number uses all 32 bits; clients count from 1, so the top bit is never set.
            PING => Self::Ping { id: number()? },
            GOAWAY => Self::GoAway {
                last: number()?,
                status: number()?,
            },
            _ => Self::Ignored,
        })
    }

    /// The frame's bytes.
    pub(super) fn put(&self, output: &mut BytesMut) {
        match self {
            Self::SynStream { id, fin, block } => {
                put_control(output, SYN_STREAM, *fin, 10 + block.len());
                output.put_u32(*id);
                output.put_u32(0);
                output.put_u16(0);
                output.put_slice(block);
            }
            Self::SynReply { id, fin, block } => put_block(output, SYN_REPLY, *id, *fin, block),
            Self::Headers { id, fin, block } => put_block(output, HEADERS, *id, *fin, block),
            Self::Reset { id, status } => put_pair(output, RST_STREAM, *id, *status),
            Self::GoAway { last, status } => put_pair(output, GOAWAY, *last, *status),
            Self::Ping { id } => {
                put_control(output, PING, false, 4);
                output.put_u32(*id);
            }
            Self::Data { id, fin, data } => {
                output.put_u32(*id);
                put_flags(output, *fin, data.len());
                output.put_slice(data);
            }
            Self::Ignored => {}
        }
    }
}

fn put_control(output: &mut BytesMut, kind: u16, fin: bool, length: usize) {
    output.put_u16(0x8000 | VERSION);
    output.put_u16(kind);
    put_flags(output, fin, length);
}

fn put_flags(output: &mut BytesMut, fin: bool, length: usize) {
    output.put_u32(u32::from(if fin { FLAG_FIN } else { 0 }) << 24 | length as u32 & 0x00ff_ffff);
}

fn put_block(output: &mut BytesMut, kind: u16, id: u32, fin: bool, block: &[u8]) {
    put_control(output, kind, fin, 4 + block.len());
    output.put_u32(id);
    output.put_slice(block);
}

fn put_pair(output: &mut BytesMut, kind: u16, first: u32, second: u32) {
    put_control(output, kind, false, 8);
    output.put_u32(first);
    output.put_u32(second);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_survives_its_bytes() {
        let block = Bytes::from("block");
        let frames = [
            Frame::SynStream {
                id: 1,
                fin: false,
                block: block.clone(),
            },
            Frame::SynReply {
                id: 1,
                fin: true,
                block: block.clone(),
            },
            Frame::Headers {
                id: 1,
                fin: false,
                block,
            },
            Frame::Reset { id: 3, status: 5 },
            Frame::Ping { id: 7 },
            Frame::GoAway { last: 9, status: 0 },
            Frame::Data {
                id: 5,
                fin: true,
                data: Bytes::from(vec![7; 70_000]),
            },
        ];
        let mut buffer = BytesMut::new();
        frames.iter().for_each(|frame| frame.put(&mut buffer));
        for frame in frames {
            // Byte by byte: an incomplete frame is not an error.
            let mut part = BytesMut::new();
            let got = loop {
                match Frame::take(&mut part).unwrap() {
                    Some(got) => break got,
                    None => part.extend_from_slice(&buffer.split_to(1)),
                }
            };
            assert_eq!(got, frame);
            assert!(part.is_empty());
        }
    }

    #[test]
    fn garbage_is_refused() {
        let take = |bytes: &[u8]| Frame::take(&mut BytesMut::from(bytes));
        assert!(take(&[0x80, 9, 0, 1, 0, 0, 0, 0]).is_err());
        assert!(take(&[0x80, 3, 0, 1, 0, 0, 0, 3, 0, 0, 0]).is_err());
        assert!(take(&[0, 0, 0, 1, 0, 0xff, 0xff, 0xff]).is_err());
        assert_eq!(
            take(&[0x80, 3, 0, 4, 0, 0, 0, 1, 0]).unwrap(),
            Some(Frame::Ignored)
        );
    }
}
