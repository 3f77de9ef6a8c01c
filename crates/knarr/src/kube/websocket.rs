//! The client's side of WebSocket (RFC 6455): frames out, masked, and frames in. Pure.

/// Kinds of frame that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// Text counts as binary, fragments as frames of their own: the payload is a byte stream.
    Binary,
    Close,
    Ping,
    Pong,
}

/// The longest frame taken from a server, bytes.
const FRAME_BYTES_MAX: u64 = 16 << 20;

/// A whole frame. A client has to mask; over TLS a mask of zeros protects as well as any other.
pub fn frame(kind: Frame, payload: &[u8]) -> Vec<u8> {
    let opcode = match kind {
        Frame::Binary => 2,
        Frame::Close => 8,
        Frame::Ping => 9,
        Frame::Pong => 10,
    };
    let mut out = vec![0x80 | opcode];
    match payload.len() {
        length @ 0..=125 => out.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
    out
}

/// Cuts what a server sends into frames, however the bytes arrive.
#[derive(Debug, Default)]
pub struct Reader {
    pending: Vec<u8>,
}

impl Reader {
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Vec<(Frame, Vec<u8>)>, String> {
        self.pending.extend_from_slice(bytes);
        let mut frames = Vec::new();
        while let [first, second, rest @ ..] = self.pending.as_slice() {
            if second & 0x80 != 0 {
                return Err("the server masks its frames, which RFC 6455 forbids".into());
            }
            let (length, head) = match (second & 0x7f, rest) {
                (126, [a, b, ..]) => (u64::from(u16::from_be_bytes([*a, *b])), 4),
                (127, [a, b, c, d, e, f, g, h, ..]) => (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), 10),
                (126 | 127, _) => break,
                (short, _) => (u64::from(short), 2),
            };
            if length > FRAME_BYTES_MAX {
                return Err(format!("a frame of {length} bytes is too long"));
            }
            let end = head + length as usize;
            let Some(payload) = self.pending.get(head..end) else { break };
            let kind = match first & 0x0f {
                0..=2 => Frame::Binary,
                8 => Frame::Close,
                9 => Frame::Ping,
                10 => Frame::Pong,
                other => return Err(format!("a frame of the unknown kind {other}")),
            };
            frames.push((kind, payload.to_vec()));
            self.pending.drain(..end);
        }
        Ok(frames)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_cut_however_they_arrive() {
        let mut bytes = vec![0x82, 3, 1, b'h', b'i', 0x89, 0];
        bytes.extend([0x82, 126, 1, 0]);
        bytes.extend([7; 256]);
        let wanted = [(Frame::Binary, b"\x01hi".to_vec()), (Frame::Ping, vec![]), (Frame::Binary, vec![7; 256])];
        for size in [1, 2, 5, bytes.len()] {
            let mut reader = Reader::default();
            let frames: Vec<_> = bytes.chunks(size).flat_map(|chunk| reader.feed(chunk).unwrap()).collect();
            assert_eq!(frames, wanted, "{size}");
        }
        assert!(Reader::default().feed(&[0x82, 0x81, 0, 0, 0, 0, 1]).is_err());
        assert!(Reader::default().feed(&[0x82, 127, 1, 0, 0, 0, 0, 0, 0, 0]).is_err());
    }

    #[test]
    fn what_is_sent_is_masked() {
        assert_eq!(frame(Frame::Binary, b"hi"), [0x82, 0x82, 0, 0, 0, 0, b'h', b'i']);
        assert_eq!(frame(Frame::Pong, &[1; 300])[..4], [0x8a, 0xfe, 1, 44]);
    }
}
