//! The client's terminal: its size, raw mode, and the keys that leave a container without ending it.

use std::io::{self, Read};

/// Rows and columns, if standard output is a terminal.
pub fn size() -> Option<(u16, u16)> {
    let size = linux::pty::size(io::stdout()).ok()?;
    (size.rows > 0 || size.cols > 0).then_some((size.rows, size.cols))
}

pub fn is_terminal(fd: impl std::os::fd::AsFd) -> bool {
    linux::pty::is_tty(fd)
}

/// The default of docker: ctrl-p, then ctrl-q.
const DEFAULT_KEYS: [u8; 2] = [16, 17];

/// `ctrl-p,ctrl-q`, `a,b`: the bytes that these keys send.
pub fn detach_keys(text: Option<&str>) -> Result<Vec<u8>, String> {
    let Some(text) = text else { return Ok(DEFAULT_KEYS.to_vec()) };
    if text.is_empty() {
        return Ok(DEFAULT_KEYS.to_vec());
    }
    text.split(',')
        .map(|key| {
            let unknown = || format!("invalid detach keys ({text}): Unknown character: '{key}'");
            match key.to_ascii_lowercase().strip_prefix("ctrl-") {
                Some(control) => match control.as_bytes() {
                    [letter @ b'a'..=b'z'] => Ok(letter - b'a' + 1),
                    b"@" => Ok(0),
                    b"[" => Ok(27),
                    b"\\" => Ok(28),
                    b"]" => Ok(29),
                    b"^" => Ok(30),
                    b"_" => Ok(31),
                    _ => Err(unknown()),
                },
                None => match key.as_bytes() {
                    [byte] => Ok(*byte),
                    _ => Err(unknown()),
                },
            }
        })
        .collect()
}

/// Passes input on and looks for the detach keys in it. Keys that began the sequence and did not finish it are passed on too.
#[derive(Debug)]
pub struct Escape<R> {
    inner: R,
    keys: Vec<u8>,
    matched: usize,
    /// Input that is decided and not yet handed out.
    ready: Vec<u8>,
    pub detached: bool,
}

impl<R: Read> Escape<R> {
    pub fn new(inner: R, keys: Vec<u8>) -> Self {
        Self { inner, keys, matched: 0, ready: Vec::new(), detached: false }
    }

    fn take_in(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    self.detached = true;
                    return;
                }
                continue;
            }
            self.ready.extend_from_slice(&self.keys[..self.matched]);
            self.matched = 0;
            if byte == self.keys[0] {
                self.matched = 1;
            } else {
                self.ready.push(byte);
            }
        }
    }
}

impl<R: Read> Read for Escape<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.keys.is_empty() {
            return self.inner.read(buffer);
        }
        while self.ready.is_empty() && !self.detached {
            let mut input = [0; 4096];
            let count = self.inner.read(&mut input)?;
            if count == 0 {
                self.ready.extend_from_slice(&self.keys[..self.matched]);
                self.matched = 0;
                break;
            }
            self.take_in(&input[..count]);
        }
        let count = self.ready.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.ready[..count]);
        self.ready.drain(..count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(input: &[u8]) -> (Vec<u8>, bool) {
        let mut escape = Escape::new(input, vec![16, 17]);
        let mut out = Vec::new();
        escape.read_to_end(&mut out).unwrap();
        (out, escape.detached)
    }

    #[test]
    fn the_keys_detach_and_everything_else_passes() {
        assert_eq!(pass(b"ls\n"), (b"ls\n".to_vec(), false));
        assert_eq!(pass(b"ls\x10\x11rest"), (b"ls".to_vec(), true));
        assert_eq!(pass(b"a\x10b\x10\x10\x11"), (b"a\x10b\x10".to_vec(), true));
        assert_eq!(pass(b"end\x10"), (b"end\x10".to_vec(), false));
    }

    #[test]
    fn keys_are_named_as_docker_names_them() {
        assert_eq!(detach_keys(Some("ctrl-a,x")), Ok(vec![1, b'x']));
        assert_eq!(detach_keys(Some("ctrl-@,ctrl-[")), Ok(vec![0, 27]));
        assert_eq!(detach_keys(None), Ok(vec![16, 17]));
        assert!(detach_keys(Some("ctrl-")).is_err() && detach_keys(Some("shift-a")).is_err());
    }
}
