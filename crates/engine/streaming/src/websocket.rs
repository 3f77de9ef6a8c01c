//! As much of WebSocket (RFC 6455) as streams of bytes need: the handshake's key, messages to the client, messages from it.

use base64::Engine as _;

/// Longest frame taken from a client, bytes. Keyboards and pipes send far less at a time.
const FRAME_BYTES_MAX: u64 = 1 << 20;

/// What closing messages say: status 1000, and 1002 for a client that breaks the protocol.
pub const NORMAL_CLOSURE: [u8; 2] = 1000_u16.to_be_bytes();
pub const PROTOCOL_ERROR: [u8; 2] = 1002_u16.to_be_bytes();

/// Kinds of message to the client, by their opcode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Binary = 2,
    Close = 8,
    Pong = 10,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    /// Text or binary, or a fragment of one: to a byte stream they are the same.
    Data(Vec<u8>),
    Ping(Vec<u8>),
    Close,
}

/// The client broke the protocol; the connection must end.
#[derive(Debug, PartialEq, Eq)]
pub struct ProtocolError;

/// What answers the key of a handshake.
pub fn accept_key(key: &[u8]) -> String {
    let mut text = key.to_vec();
    text.extend_from_slice(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    base64::engine::general_purpose::STANDARD.encode(sha1(&text))
}

/// The header of a whole, unmasked message of `length` bytes.
pub fn header(kind: Kind, length: usize) -> Vec<u8> {
    let mut header = vec![0x80 | kind as u8];
    match length {
        0..=125 => header.push(length as u8),
        126..=0xffff => {
            header.push(126);
            header.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            header.push(127);
            header.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    header
}

/// Cuts what a client sends into messages, however the bytes arrive.
#[derive(Debug, Default)]
pub struct Decoder {
    pending: Vec<u8>,
    broken: bool,
}

impl Decoder {
    /// Takes the next bytes and gives the messages that are complete. After an error there are no more.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Result<Message, ProtocolError>> {
        self.pending.extend_from_slice(bytes);
        let mut messages = Vec::new();
        while !self.broken {
            match self.next() {
                Ok(Some(message)) => messages.extend(message.map(Ok)),
                Ok(None) => break,
                Err(error) => {
                    self.broken = true;
                    messages.push(Err(error));
                }
            }
        }
        messages
    }

    /// One frame: `None` if it is not complete, `Some(None)` if it says nothing to us (a pong).
    fn next(&mut self) -> Result<Option<Option<Message>>, ProtocolError> {
        let [first, second, rest @ ..] = self.pending.as_slice() else { return Ok(None) };
        let (opcode, is_final, reserved) = (first & 0x0f, first & 0x80 != 0, first & 0x70);
        // Clients must mask, so that no proxy takes what they send for HTTP.
        if reserved != 0 || second & 0x80 == 0 {
            return Err(ProtocolError);
        }
        let (length, rest) = match (second & 0x7f, rest) {
            (126, [a, b, rest @ ..]) => (u64::from(u16::from_be_bytes([*a, *b])), rest),
            (127, [a, b, c, d, e, f, g, h, rest @ ..]) => (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), rest),
            (126 | 127, _) => return Ok(None),
            (short, rest) => (u64::from(short), rest),
        };
        let is_control = opcode >= 8;
        if length > FRAME_BYTES_MAX || is_control && (length > 125 || !is_final) {
            return Err(ProtocolError);
        }
        let length = length as usize;
        let [m0, m1, m2, m3, rest @ ..] = rest else { return Ok(None) };
        let mask = [*m0, *m1, *m2, *m3];
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        let data: Vec<u8> = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        let used = self.pending.len() - rest.len() + length;
        self.pending.drain(..used);
        match opcode {
            0..=2 => Ok(Some(Some(Message::Data(data)))),
            8 => Ok(Some(Some(Message::Close))),
            9 => Ok(Some(Some(Message::Ping(data)))),
            10 => Ok(Some(None)),
            _ => Err(ProtocolError),
        }
    }
}

/// SHA-1 (RFC 3174), which the handshake prescribes. It protects nothing: both sides merely show that they mean
/// WebSocket, so a dependency on a broken hash is not worth having.
fn sha1(data: &[u8]) -> [u8; 20] {
    let mut state: [u32; 5] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];
    let mut message = data.to_vec();
    message.push(0x80);
    while message.len() % 64 != 56 {
        message.push(0);
    }
    message.extend_from_slice(&(data.len() as u64 * 8).to_be_bytes());
    for block in message.chunks_exact(64) {
        let mut words = [0_u32; 80];
        for (word, bytes) in words.iter_mut().zip(block.chunks_exact(4)) {
            *word = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        for at in 16..80 {
            words[at] = (words[at - 3] ^ words[at - 8] ^ words[at - 14] ^ words[at - 16]).rotate_left(1);
        }
        let [mut a, mut b, mut c, mut d, mut e] = state;
        for (at, word) in words.iter().enumerate() {
            let (mix, constant) = match at / 20 {
                0 => (b & c | !b & d, 0x5a82_7999),
                1 => (b ^ c ^ d, 0x6ed9_eba1),
                2 => (b & c | b & d | c & d, 0x8f1b_bcdc),
                _ => (b ^ c ^ d, 0xca62_c1d6),
            };
            let next = a.rotate_left(5).wrapping_add(mix).wrapping_add(e).wrapping_add(constant).wrapping_add(*word);
            (e, d, c, b, a) = (d, c, b.rotate_left(30), a, next);
        }
        for (sum, value) in state.iter_mut().zip([a, b, c, d, e]) {
            *sum = sum.wrapping_add(value);
        }
    }
    let mut digest = [0; 20];
    for (out, word) in digest.chunks_exact_mut(4).zip(state) {
        out.copy_from_slice(&word.to_be_bytes());
    }
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha1_gives_the_known_digests() {
        assert_eq!(hex(&sha1(b"abc")), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(hex(&sha1(b"")), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
        assert_eq!(hex(&sha1(&[b'a'; 119])), "ee971065aaa017e0632a8ca6c77bb3bf8b1dfc56");
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_key_of_the_rfc_is_answered_as_in_the_rfc() {
        assert_eq!(accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let mut frame = vec![first, 0x80 | payload.len() as u8];
        frame.extend(mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    #[test]
    fn messages_arrive_whole_however_they_are_cut() {
        let mut bytes = frame(0x82, b"hello");
        bytes.extend(frame(0x8a, b"pong"));
        bytes.extend(frame(0x89, b"p"));
        bytes.extend(frame(0x01, b"wor"));
        bytes.extend(frame(0x80, b"ld"));
        bytes.extend(frame(0x88, b""));
        let expected = [
            Message::Data(b"hello".to_vec()),
            Message::Ping(b"p".to_vec()),
            Message::Data(b"wor".to_vec()),
            Message::Data(b"ld".to_vec()),
            Message::Close,
        ];
        for size in 1..=bytes.len() {
            let mut decoder = Decoder::default();
            let messages: Vec<_> =
                bytes.chunks(size).flat_map(|piece| decoder.feed(piece)).map(Result::unwrap).collect();
            assert_eq!(messages, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn clients_that_break_the_protocol_are_cut_off() {
        for (name, bytes) in [
            ("unmasked", vec![0x82, 0x01, b'x']),
            ("reserved bits", frame(0xc2, b"x")),
            ("unknown opcode", frame(0x83, b"x")),
            ("a ping in fragments", frame(0x09, b"x")),
            ("too long", vec![0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0]),
            ("longer than anything", vec![0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ] {
            let mut decoder = Decoder::default();
            assert_eq!(decoder.feed(&bytes), [Err(ProtocolError)], "{name}");
            assert_eq!(decoder.feed(&frame(0x82, b"x")), [], "{name}");
        }
    }

    #[test]
    fn headers_say_the_length() {
        assert_eq!(header(Kind::Binary, 5), [0x82, 5]);
        assert_eq!(header(Kind::Binary, 300), [0x82, 126, 1, 44]);
        assert_eq!(header(Kind::Close, 70_000), [0x88, 127, 0, 0, 0, 0, 0, 1, 0x11, 0x70]);
    }
}
