//! Frames: cut out of what arrives in pieces, and written.

use bytes::{Buf, Bytes, BytesMut};

use crate::headers::{Deflater, Headers, Inflater};

/// Longest control frame that is taken.
const CONTROL_BYTES_MAX: usize = 64 << 10;
/// Longest piece of data that is sent in one frame, so that no stream holds up the others for long.
pub const DATA_BYTES_MAX: usize = 32 << 10;
const FIN: u8 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("a SPDY frame of version {0}: only version 3 is spoken")]
    Version(u16),
    #[error("a SPDY control frame of {0} bytes is too long")]
    Long(usize),
    #[error("a SPDY control frame is too short for what it is")]
    Short,
    #[error("a block of SPDY headers cannot be read")]
    Headers,
}

/// What the other side says. Settings and window updates say nothing to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    Open {
        stream: u32,
        /// The opener sends no data.
        fin: bool,
        headers: Headers,
    },
    Reply {
        stream: u32,
        fin: bool,
        headers: Headers,
    },
    /// Or a part of a frame's; `fin` is with the last one.
    Data {
        stream: u32,
        bytes: Bytes,
        fin: bool,
    },
    Headers {
        stream: u32,
        fin: bool,
    },
    Reset {
        stream: u32,
        status: u32,
    },
    Ping(u32),
    GoAway,
}

/// Cuts a byte stream into frames. After an error there are no more.
#[derive(Default)]
pub struct Decoder {
    pending: BytesMut,
    inflater: Inflater,
    /// A data frame that has not arrived whole: its stream, what is missing, whether it is the last.
    rest: Option<(u32, usize, bool)>,
}

impl Decoder {
    pub fn feed(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// The next frame; `None` until more arrives.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, Error> {
        loop {
            if let Some((stream, left, fin)) = self.rest {
                let here = left.min(self.pending.len());
                if here == 0 && left > 0 {
                    return Ok(None);
                }
                let bytes = self.pending.split_to(here).freeze();
                self.rest = (here < left).then_some((stream, left - here, fin));
                return Ok(Some(Frame::Data { stream, bytes, fin: fin && here == left }));
            }
            let Some(head) = self.pending.first_chunk::<8>() else { return Ok(None) };
            let (first, flags) = (u32::from_be_bytes([head[0], head[1], head[2], head[3]]), head[4]);
            let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
            if first >> 31 == 0 {
                self.pending.advance(8);
                self.rest = Some((first, length, flags & FIN != 0));
                continue;
            }
            let (version, kind) = ((first >> 16) as u16 & 0x7fff, first as u16);
            if version != 3 {
                return Err(Error::Version(version));
            }
            if length > CONTROL_BYTES_MAX {
                return Err(Error::Long(length));
            }
            if self.pending.len() < 8 + length {
                return Ok(None);
            }
            self.pending.advance(8);
            let body = self.pending.split_to(length);
            if let Some(frame) = self.control(kind, flags & FIN != 0, &body)? {
                return Ok(Some(frame));
            }
        }
    }

    fn control(&mut self, kind: u16, fin: bool, mut body: &[u8]) -> Result<Option<Frame>, Error> {
        let mut number = || {
            let (bytes, rest) = body.split_first_chunk::<4>().ok_or(Error::Short)?;
            body = rest;
            Ok(u32::from_be_bytes(*bytes))
        };
        const STREAM: u32 = 0x7fff_ffff;
        Ok(Some(match kind {
            1 => {
                let stream = number()? & STREAM;
                // The stream that it belongs to; then priority and slot.
                number()?;
                let block = body.get(2..).ok_or(Error::Short)?;
                Frame::Open { stream, fin, headers: self.inflater.block(block)? }
            }
            2 => Frame::Reply { stream: number()? & STREAM, fin, headers: self.inflater.block(body)? },
            3 => Frame::Reset { stream: number()? & STREAM, status: number()? },
            6 => Frame::Ping(number()?),
            7 => Frame::GoAway,
            8 => {
                let stream = number()? & STREAM;
                // Nobody asks for them, but the next block builds on this one.
                self.inflater.block(body)?;
                Frame::Headers { stream, fin }
            }
            _ => return Ok(None),
        }))
    }
}

/// Writes frames.
#[derive(Default)]
pub struct Encoder {
    deflater: Deflater,
}

impl Encoder {
    /// Appends a frame. Data must not be longer than 24 bits can say.
    pub fn write(&mut self, frame: &Frame, out: &mut Vec<u8>) {
        let bit = |fin: &bool| if *fin { FIN } else { 0 };
        match frame {
            Frame::Data { stream, bytes, fin } => {
                debug_assert!(bytes.len() < 1 << 24);
                out.extend_from_slice(&stream.to_be_bytes());
                out.extend_from_slice(&(u32::from(bit(fin)) << 24 | bytes.len() as u32).to_be_bytes());
                out.extend_from_slice(bytes);
            }
            Frame::Open { stream, fin, headers } => {
                let block = self.deflater.block(headers);
                let body = [&stream.to_be_bytes()[..], &[0; 6], &block].concat();
                control(1, bit(fin), &body, out);
            }
            Frame::Reply { stream, fin, headers } => {
                let body = [&stream.to_be_bytes()[..], &self.deflater.block(headers)].concat();
                control(2, bit(fin), &body, out);
            }
            Frame::Headers { stream, fin } => {
                let body = [&stream.to_be_bytes()[..], &self.deflater.block(&Headers::default())].concat();
                control(8, bit(fin), &body, out);
            }
            Frame::Reset { stream, status } => {
                control(3, 0, &[stream.to_be_bytes(), status.to_be_bytes()].concat(), out);
            }
            Frame::Ping(id) => control(6, 0, &id.to_be_bytes(), out),
            Frame::GoAway => control(7, 0, &[0; 8], out),
        }
    }
}

fn control(kind: u16, flags: u8, body: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(0x8003_0000 | u32::from(kind)).to_be_bytes());
    out.extend_from_slice(&(u32::from(flags) << 24 | body.len() as u32).to_be_bytes());
    out.extend_from_slice(body);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames() -> Vec<Frame> {
        let headers = Headers(vec![("streamtype".into(), "error".into()), ("port".into(), "8080".into())]);
        vec![
            Frame::Open { stream: 1, fin: true, headers: headers.clone() },
            Frame::Open { stream: 3, fin: false, headers },
            Frame::Reply { stream: 1, fin: false, headers: Headers::default() },
            Frame::Data { stream: 3, bytes: Bytes::from_static(b"hello"), fin: false },
            Frame::Data { stream: 3, bytes: Bytes::new(), fin: true },
            Frame::Headers { stream: 3, fin: true },
            Frame::Reset { stream: 3, status: 1 },
            Frame::Ping(7),
            Frame::GoAway,
        ]
    }

    #[test]
    fn frames_read_back_however_they_arrive() {
        let (mut encoder, mut bytes) = (Encoder::default(), Vec::new());
        frames().iter().for_each(|frame| encoder.write(frame, &mut bytes));
        let mut whole = Decoder::default();
        whole.feed(&bytes);
        let mut read = Vec::new();
        while let Some(frame) = whole.next_frame().unwrap() {
            read.push(frame);
        }
        assert_eq!(read, frames());
        let (mut slow, mut count, mut data) = (Decoder::default(), 0, Vec::new());
        for byte in bytes {
            slow.feed(&[byte]);
            while let Some(frame) = slow.next_frame().unwrap() {
                if let Frame::Data { bytes, .. } = &frame {
                    data.extend_from_slice(bytes);
                }
                count += 1;
            }
        }
        assert_eq!((count, data.as_slice()), (frames().len() + 4, &b"hello"[..]), "data comes in pieces");
    }

    #[test]
    fn what_is_not_spdy_3_is_refused() {
        let check = |bytes: &[u8]| {
            let mut decoder = Decoder::default();
            decoder.feed(bytes);
            decoder.next_frame().err()
        };
        assert_eq!(check(&[0x80, 2, 0, 1, 0, 0, 0, 0]), Some(Error::Version(2)));
        assert_eq!(check(&[0x80, 3, 0, 1, 0, 255, 255, 255]), Some(Error::Long(0xff_ffff)));
        assert_eq!(check(&[0x80, 3, 0, 3, 0, 0, 0, 2, 0, 1]), Some(Error::Short));
        assert_eq!(check(&[0x80, 3, 0, 2, 0, 0, 0, 6, 0, 0, 0, 1, 1, 2]), Some(Error::Headers));
        // Settings and window updates are read over.
        assert_eq!(check(&[0x80, 3, 0, 9, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 1, 0]), None);
    }
}
