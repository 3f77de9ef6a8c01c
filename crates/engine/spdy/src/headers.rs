//! Blocks of names and values. All blocks of one direction share a compressor, so that none can be left out.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use crate::dictionary::dictionary;
use crate::frame::Error;

/// Most bytes of a block once it is inflated. Kubernetes' take less than two hundred.
const BLOCK_BYTES_MAX: usize = 32 << 10;

/// Names in lower case, each with its value; a repeated name's values are apart by a zero byte.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    /// The first value; empty if there is none.
    pub fn get(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(have, _)| have == name);
        found.map_or("", |(_, value)| value.split('\0').next().unwrap_or_default())
    }

    fn encode(&self) -> Vec<u8> {
        let mut block = (self.0.len() as u32).to_be_bytes().to_vec();
        for text in self.0.iter().flat_map(|(name, value)| [name, value]) {
            block.extend_from_slice(&(text.len() as u32).to_be_bytes());
            block.extend_from_slice(text.as_bytes());
        }
        block
    }

    fn decode(mut block: &[u8]) -> Result<Self, Error> {
        fn number(block: &mut &[u8]) -> Result<usize, Error> {
            let (bytes, rest) = block.split_first_chunk::<4>().ok_or(Error::Headers)?;
            *block = rest;
            Ok(u32::from_be_bytes(*bytes) as usize)
        }
        fn text(block: &mut &[u8]) -> Result<String, Error> {
            let length = number(block)?;
            let (bytes, rest) = block.split_at_checked(length).ok_or(Error::Headers)?;
            *block = rest;
            String::from_utf8(bytes.to_vec()).map_err(|_| Error::Headers)
        }
        let count = number(&mut block)?;
        let mut headers = Self::default();
        for _ in 0..count {
            let name = text(&mut block)?.to_ascii_lowercase();
            headers.0.push((name, text(&mut block)?));
        }
        if block.is_empty() { Ok(headers) } else { Err(Error::Headers) }
    }
}

/// One direction's blocks on their way out.
pub struct Deflater(Compress);

impl Default for Deflater {
    fn default() -> Self {
        let mut compress = Compress::new(Compression::fast(), true);
        let known = compress.set_dictionary(&dictionary());
        debug_assert!(known.is_ok());
        Self(compress)
    }
}

impl Deflater {
    pub fn block(&mut self, headers: &Headers) -> Vec<u8> {
        let plain = headers.encode();
        let mut out = Vec::with_capacity(plain.len() + 64);
        let before = self.0.total_in();
        loop {
            let used = (self.0.total_in() - before) as usize;
            out.reserve(256);
            let room = out.capacity() - out.len();
            let written = out.len();
            // Compressing into memory fails only for a misused compressor.
            let status = self.0.compress_vec(&plain[used..], &mut out, FlushCompress::Sync);
            let all = (self.0.total_in() - before) as usize == plain.len();
            if status.is_err() || (all && out.len() - written < room) {
                return out;
            }
        }
    }
}

/// One direction's blocks on their way in.
pub struct Inflater(Decompress);

impl Default for Inflater {
    fn default() -> Self {
        Self(Decompress::new(true))
    }
}

impl Inflater {
    pub fn block(&mut self, mut input: &[u8]) -> Result<Headers, Error> {
        let mut out = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            let (read, written) = (self.0.total_in(), self.0.total_out());
            let status = self.0.decompress(input, &mut chunk, FlushDecompress::Sync);
            let (read, written) = ((self.0.total_in() - read) as usize, (self.0.total_out() - written) as usize);
            input = input.get(read..).ok_or(Error::Headers)?;
            out.extend_from_slice(&chunk[..written]);
            if out.len() > BLOCK_BYTES_MAX {
                return Err(Error::Headers);
            }
            match status {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(&dictionary()).map_err(|_| Error::Headers)?;
                    continue;
                }
                Err(_) | Ok(Status::StreamEnd) => return Err(Error::Headers),
                Ok(Status::Ok | Status::BufError) => {}
            }
            if written < chunk.len() && (input.is_empty() || read == 0 && written == 0) {
                break;
            }
        }
        if !input.is_empty() {
            return Err(Error::Headers);
        }
        Headers::decode(&out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        Headers(pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect())
    }

    #[test]
    fn the_dictionary_is_the_one_of_the_specification() {
        // Its Adler-32 stands in the first block of every SPDY/3 connection.
        let (mut a, mut b) = (1_u32, 0_u32);
        for byte in dictionary() {
            a = (a + u32::from(byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!(b << 16 | a, 0xe3c6_a7c2);
        let block = Deflater::default().block(&headers(&[("a", "b")]));
        assert_eq!(block[2..6], [0xe3, 0xc6, 0xa7, 0xc2]);
    }

    #[test]
    fn blocks_read_back_one_after_the_other() {
        let (mut out, mut back) = (Deflater::default(), Inflater::default());
        let long = "x".repeat(20_000);
        for pairs in [&[("streamtype", "data"), ("port", "80")][..], &[], &[("requestid", "1"), ("long", &long)]] {
            let headers = headers(pairs);
            assert_eq!(back.block(&out.block(&headers)), Ok(headers));
        }
    }

    #[test]
    fn a_block_that_grows_too_large_or_lies_about_lengths_is_refused() {
        let huge = "x".repeat(BLOCK_BYTES_MAX);
        let block = Deflater::default().block(&headers(&[("a", &huge)]));
        assert!(block.len() < 1000, "it is small on the wire");
        assert_eq!(Inflater::default().block(&block), Err(Error::Headers));
        for bad in [&[0, 0, 0, 1][..], &[0, 0, 0, 1, 255, 255, 255, 255], &[0, 0, 0, 0, 1], &[0, 0]] {
            assert_eq!(Headers::decode(bad), Err(Error::Headers), "{bad:?}");
        }
    }
}
