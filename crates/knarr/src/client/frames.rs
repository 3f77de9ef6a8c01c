//! Docker's framing of stdout and stderr on one connection: eight bytes of head (stream, zeros, length), then the bytes.

use std::io::{self, Read, Write};

/// A frame longer than this is not one; engines send what one read gave them.
const FRAME_BYTES_MAX: u32 = 1 << 30;

/// Copies frames to the two outputs until the connection ends. Answers whether it ended between frames.
pub fn copy(mut from: impl Read, stdout: &mut impl Write, stderr: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let mut head = [0; 8];
        if !read_head(&mut from, &mut head)? {
            return Ok(());
        }
        let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
        if length > FRAME_BYTES_MAX || head[1..4] != [0; 3] {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the engine's stream is not in frames"));
        }
        let mut left = length as usize;
        let mut message = Vec::new();
        while left > 0 {
            let want = left.min(buffer.len());
            let count = from.read(&mut buffer[..want])?;
            if count == 0 {
                return Ok(());
            }
            match head[0] {
                2 => stderr.write_all(&buffer[..count])?,
                3 => message.extend_from_slice(&buffer[..count]),
                _ => stdout.write_all(&buffer[..count])?,
            }
            left -= count;
        }
        match head[0] {
            2 => stderr.flush()?,
            // An error of the engine in the middle of a stream.
            3 => {
                let text = String::from_utf8_lossy(&message).into_owned();
                return Err(io::Error::other(format!("error from daemon in stream: {text}")));
            }
            _ => stdout.flush()?,
        }
    }
}

/// Fills the head; false if the connection ended before its first byte or inside it.
fn read_head(from: &mut impl Read, head: &mut [u8; 8]) -> io::Result<bool> {
    let mut filled = 0;
    while filled < head.len() {
        match from.read(&mut head[filled..]) {
            Ok(0) => return Ok(false),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(stream: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![stream, 0, 0, 0];
        out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        out.extend_from_slice(bytes);
        out
    }

    #[test]
    fn frames_are_sorted_by_stream() {
        let input = [frame(1, b"out"), frame(2, b"err"), frame(1, b""), frame(1, b"more")].concat();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        copy(&input[..], &mut out, &mut err).unwrap();
        assert_eq!((out.as_slice(), err.as_slice()), (&b"outmore"[..], &b"err"[..]));
    }

    #[test]
    fn a_stream_that_is_not_in_frames_is_refused() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        assert!(copy(&b"hello world, no frames"[..], &mut out, &mut err).is_err());
        assert!(copy(&frame(3, b"it broke")[..], &mut out, &mut err).unwrap_err().to_string().contains("it broke"));
    }
}
