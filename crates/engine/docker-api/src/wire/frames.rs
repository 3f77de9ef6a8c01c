//! Docker's multiplexed stream: stdout and stderr of a container without a terminal share one connection in frames of
//! an 8-byte header (`stream, 0, 0, 0, length` big-endian) and the bytes.

/// Bytes before each frame's payload.
pub(crate) const HEADER_BYTES: usize = 8;

/// Stream numbers of a frame. 0 (stdin) never occurs from an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Stream {
    Stdout = 1,
    Stderr = 2,
    /// An error of the engine's own in the middle of a stream; clients print it as such.
    SystemError = 3,
}

/// The header of a frame with a payload of `length` bytes.
pub(crate) const fn header(stream: Stream, length: u32) -> [u8; HEADER_BYTES] {
    let [a, b, c, d] = length.to_be_bytes();
    [stream as u8, 0, 0, 0, a, b, c, d]
}

/// Appends one frame. Payloads come from pipes and logs and are far below 4 GiB; a longer one is split.
pub(crate) fn append(out: &mut Vec<u8>, stream: Stream, payload: &[u8]) {
    for part in payload.chunks(u32::MAX as usize) {
        out.extend_from_slice(&header(stream, part.len() as u32));
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_a_header_and_the_bytes() {
        let mut out = Vec::new();
        append(&mut out, Stream::Stdout, b"hi\n");
        append(&mut out, Stream::Stderr, &[7; 300]);
        append(&mut out, Stream::SystemError, b"");
        assert_eq!(out[..11], [1, 0, 0, 0, 0, 0, 0, 3, b'h', b'i', b'\n']);
        assert_eq!(out[11..19], [2, 0, 0, 0, 0, 0, 1, 44]);
        assert_eq!(out.len(), 11 + 8 + 300);
    }
}
