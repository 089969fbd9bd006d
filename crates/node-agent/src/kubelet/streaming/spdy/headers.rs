//! Header blocks of SPDY/3.1: name/value lists in one zlib stream per direction, primed with a
//! dictionary (SPDY/3, section 2.6.10).

use std::sync::LazyLock;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

/// A header block larger than this is refused.
const LARGEST_BLOCK: usize = 64 * 1024;

/// The words of the dictionary, each stored after its 32-bit length.
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
content-length content-location content-md5 content-range content-type date etag expect expires from host if-match \
if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie \
keep-alive origin";

/// The end of the dictionary, plain text.
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden\
404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable\
Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT\
chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,\
publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut bytes = Vec::with_capacity(1423);
    for word in WORDS.split_whitespace() {
        let word = word.replace('_', " ");
        bytes.extend_from_slice(&(word.len() as u32).to_be_bytes());
        bytes.extend_from_slice(word.as_bytes());
    }
    bytes.extend_from_slice(TAIL.as_bytes());
    bytes
});

/// A list of headers; names are lower case.
pub(crate) type Headers = Vec<(String, String)>;

/// The value of a header.
pub(crate) fn get<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
}

/// A malformed header block; the connection cannot go on, because the zlib stream is out of step.
#[derive(Debug, thiserror::Error)]
#[error("malformed SPDY header block: {0}")]
pub(crate) struct HeaderError(&'static str);

/// Compressor of one direction.
pub(super) struct Encoder(Compress);

impl Encoder {
    pub(super) fn new() -> Result<Self, HeaderError> {
        let mut compress = Compress::new(Compression::best(), true);
        compress
            .set_dictionary(&DICTIONARY)
            .map_err(|_| HeaderError("dictionary refused"))?;
        Ok(Self(compress))
    }

    /// One block, ended so that the peer can read it at once.
    pub(super) fn encode(&mut self, headers: &Headers) -> Result<Vec<u8>, HeaderError> {
        let plain = serialize(headers);
        let mut output = Vec::with_capacity(plain.len() + 64);
        let start = self.0.total_in();
        loop {
            let done = (self.0.total_in() - start) as usize;
            output.reserve(256);
            self.0
                .compress_vec(&plain[done..], &mut output, FlushCompress::Sync)
                .map_err(|_| HeaderError("compression failed"))?;
            let consumed = (self.0.total_in() - start) as usize == plain.len();
            // Room left in the output means that the flush is complete.
            if consumed && output.len() < output.capacity() {
                return Ok(output);
            }
        }
    }
}

/// Decompressor of one direction.
pub(super) struct Decoder(Decompress);

impl Decoder {
    pub(super) fn new() -> Self {
        Self(Decompress::new(true))
    }

    pub(super) fn decode(&mut self, block: &[u8]) -> Result<Headers, HeaderError> {
        let mut plain = Vec::with_capacity(1024);
        let start = self.0.total_in();
        loop {
            let done = (self.0.total_in() - start) as usize;
            if plain.len() > LARGEST_BLOCK {
                return Err(HeaderError("too large"));
            }
            plain.reserve(1024);
            let before = (plain.len(), done);
            match self
                .0
                .decompress_vec(&block[done..], &mut plain, FlushDecompress::Sync)
            {
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0
                        .set_dictionary(&DICTIONARY)
                        .map_err(|_| HeaderError("another dictionary is needed"))?;
                    continue;
                }
                Err(_) => return Err(HeaderError("not a zlib stream")),
            }
            let done = (self.0.total_in() - start) as usize;
            let full = plain.len() == plain.capacity();
            if done == block.len() && !full {
                return parse(&plain);
            }
            if (plain.len(), done) == before && !full {
                return Err(HeaderError("truncated zlib stream"));
            }
        }
    }
}

fn serialize(headers: &Headers) -> Vec<u8> {
    let mut bytes = (headers.len() as u32).to_be_bytes().to_vec();
    for text in headers.iter().flat_map(|(name, value)| [name, value]) {
        bytes.extend_from_slice(&(text.len() as u32).to_be_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

fn parse(mut bytes: &[u8]) -> Result<Headers, HeaderError> {
    let count = take_number(&mut bytes)?;
    let mut headers = Headers::new();
    for _ in 0..count {
        let name = take_text(&mut bytes)?.to_ascii_lowercase();
        let value = take_text(&mut bytes)?;
        headers.push((name, value));
    }
    Ok(headers)
}

fn take_number(bytes: &mut &[u8]) -> Result<usize, HeaderError> {
    let (number, rest) = bytes
        .split_first_chunk::<4>()
        .ok_or(HeaderError("truncated number"))?;
    *bytes = rest;
    Ok(u32::from_be_bytes(*number) as usize)
}

fn take_text(bytes: &mut &[u8]) -> Result<String, HeaderError> {
    let length = take_number(bytes)?;
    let (text, rest) = bytes
        .split_at_checked(length)
        .ok_or(HeaderError("truncated text"))?;
    *bytes = rest;
    Ok(String::from_utf8_lossy(text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(pairs: &[(&str, &str)]) -> Headers {
        pairs
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect()
    }

    #[test]
    fn the_dictionary_is_the_one_of_the_protocol() {
        assert_eq!(DICTIONARY.len(), 1423);
        // The zlib header names the dictionary by its Adler-32 sum.
        let block = Encoder::new().unwrap().encode(&list(&[])).unwrap();
        assert_eq!(&block[2..6], [0xe3, 0xc6, 0xa7, 0xc2]);
    }

    #[test]
    fn blocks_share_one_stream() {
        let (mut encoder, mut decoder) = (Encoder::new().unwrap(), Decoder::new());
        for n in 0..50 {
            let headers = list(&[
                ("streamtype", "data"),
                ("port", "8080"),
                ("requestid", &n.to_string()),
            ]);
            let block = encoder.encode(&headers).unwrap();
            assert_eq!(decoder.decode(&block).unwrap(), headers);
        }
        let long = list(&[("x", &"long value ".repeat(900))]);
        assert_eq!(
            decoder.decode(&encoder.encode(&long).unwrap()).unwrap(),
            long
        );
    }

    #[test]
    fn garbage_is_refused() {
        assert!(Decoder::new().decode(b"garbage").is_err());
        let block = Encoder::new()
            .unwrap()
            .encode(&list(&[("a", "b")]))
            .unwrap();
        assert!(Decoder::new().decode(&block[..block.len() / 2]).is_err());
        assert!(parse(&[0, 0, 0, 1, 0, 0, 0, 9]).is_err());
        assert!(parse(&[255, 255, 255, 255]).is_err());
        assert!(parse(&[]).is_err());
    }
}
