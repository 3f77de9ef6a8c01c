//! JSON read from front to back, one value after the other: what [`super::encode`] needs, and nothing is made of it.
//!
//! Half of the time that a general reader takes goes into checking what this server has written itself. Text that is no
//! JSON ends in an error or in nonsense, never in a panic.

use std::borrow::Cow;

use super::ProtoError;

/// As deep as any reader of JSON follows.
const DEPTH_MAX: usize = 128;

pub(super) struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    depth: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0, depth: 0 }
    }

    /// The first byte of what comes next.
    #[inline]
    pub(super) fn peek(&mut self) -> Result<u8, ProtoError> {
        while let Some(byte) = self.text.get(self.at) {
            // Most of it has no space at all.
            if *byte > b' ' || !byte.is_ascii_whitespace() {
                return Ok(*byte);
            }
            self.at += 1;
        }
        Err(ProtoError::Malformed)
    }

    #[inline]
    fn expect(&mut self, byte: u8) -> Result<(), ProtoError> {
        if self.peek()? != byte {
            return Err(ProtoError::Malformed);
        }
        self.at += 1;
        Ok(())
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    /// What was read since the reader was there.
    pub(super) fn since(&self, at: usize) -> &'a [u8] {
        &self.text[at..self.at]
    }

    /// Goes behind this text, if it comes next.
    #[inline]
    pub(super) fn skip(&mut self, text: &[u8]) -> bool {
        let comes = self.text.get(self.at..).is_some_and(|rest| rest.starts_with(text));
        if comes {
            self.at += text.len();
        }
        comes
    }

    /// Nothing but space is left.
    pub(super) fn end(&mut self) -> Result<(), ProtoError> {
        self.peek().map_or(Ok(()), |_| Err(ProtoError::Malformed))
    }

    /// Begins an object or a list.
    pub(super) fn open(&mut self, bracket: u8) -> Result<(), ProtoError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(ProtoError::Depth);
        }
        self.expect(bracket)
    }

    /// Whether another item comes; takes the comma before it, or the bracket that ends the list.
    #[inline]
    pub(super) fn item(&mut self, first: &mut bool, bracket: u8) -> Result<bool, ProtoError> {
        let next = self.peek()?;
        let first = std::mem::replace(first, false);
        match next {
            end if end == bracket => {
                self.at += 1;
                self.depth -= 1;
                Ok(false)
            }
            b',' if !first => {
                self.at += 1;
                Ok(true)
            }
            _ if first => Ok(true),
            _ => Err(ProtoError::Malformed),
        }
    }

    /// The next key of an object, or its end.
    #[inline]
    pub(super) fn key(&mut self, first: &mut bool) -> Result<Option<Cow<'a, [u8]>>, ProtoError> {
        if !self.item(first, b'}')? {
            return Ok(None);
        }
        let key = self.string()?;
        self.expect(b':')?;
        Ok(Some(key))
    }

    /// A string, borrowed where it has no escapes.
    #[inline]
    pub(super) fn string(&mut self) -> Result<Cow<'a, [u8]>, ProtoError> {
        self.expect(b'"')?;
        let begin = self.at;
        let escaped = self.skip_string()?;
        let raw = &self.text[begin..self.at - 1];
        if !escaped {
            return Ok(Cow::Borrowed(raw));
        }
        let quoted = &self.text[begin - 1..self.at];
        let text: String = serde_json::from_slice(quoted).map_err(|_| ProtoError::Malformed)?;
        Ok(Cow::Owned(text.into_bytes()))
    }

    /// Goes behind the quote that ends the string; answers whether there are escapes in it.
    #[inline]
    fn skip_string(&mut self) -> Result<bool, ProtoError> {
        let mut escaped = false;
        loop {
            let rest = self.text.get(self.at..).ok_or(ProtoError::Malformed)?;
            let found = quote_or_escape(rest).ok_or(ProtoError::Malformed)?;
            self.at += found + 1;
            if rest[found] == b'"' {
                return Ok(escaped);
            }
            escaped = true;
            self.at += 1;
        }
    }

    /// A number, `true`, `false` or `null`, as it is written.
    #[inline]
    pub(super) fn word(&mut self) -> Result<&'a str, ProtoError> {
        self.peek()?;
        let rest = &self.text[self.at..];
        let ends = |byte: &u8| matches!(byte, b',' | b'}' | b']') || byte.is_ascii_whitespace();
        let word = &rest[..rest.iter().position(ends).unwrap_or(rest.len())];
        self.at += word.len();
        std::str::from_utf8(word).map_err(|_| ProtoError::Malformed)
    }

    /// A value of any kind, as it is written.
    pub(super) fn raw(&mut self) -> Result<&'a [u8], ProtoError> {
        let first = self.peek()?;
        let begin = self.at;
        match first {
            b'"' => {
                self.at += 1;
                self.skip_string()?;
            }
            b'{' | b'[' => {
                let mut open = 0_usize;
                loop {
                    let byte = *self.text.get(self.at).ok_or(ProtoError::Malformed)?;
                    self.at += 1;
                    match byte {
                        b'"' => drop(self.skip_string()?),
                        b'{' | b'[' => open += 1,
                        b'}' | b']' => open -= 1,
                        _ => {}
                    }
                    if open == 0 {
                        break;
                    }
                }
            }
            _ => drop(self.word()?),
        }
        Ok(&self.text[begin..self.at])
    }
}

/// Where the first quote or backslash stands; looks at eight bytes at a time.
#[inline]
fn quote_or_escape(text: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    // The high bit of each byte that is zero; of bytes above the lowest such one it may be wrong.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & HIGH;
    let (words, rest) = text.as_chunks::<8>();
    for (number, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let found = zeros(word ^ (ONES * u64::from(b'"'))) | zeros(word ^ (ONES * u64::from(b'\\')));
        if found != 0 {
            return Some(number * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    let at = rest.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
    Some(words.len() * 8 + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_end_where_they_end() {
        for length in 0..40 {
            for rest in ["", "x", "\"", "\\", "\"\\\"", "yyyyyyyyyyyyyyyy\""] {
                let plain = format!("\"{}\"{rest}", "a".repeat(length));
                assert_eq!(Reader::new(plain.as_bytes()).string().unwrap().len(), length, "{plain}");
                let escaped = format!("\"{}\\\"\\n\\\\\"{rest}", "ü".repeat(length));
                let read = Reader::new(escaped.as_bytes()).string().unwrap().into_owned();
                assert_eq!(String::from_utf8(read).unwrap(), format!("{}\"\n\\", "ü".repeat(length)), "{escaped}");
            }
        }
    }

    #[test]
    fn values_are_skipped_whole() {
        for value in [r#""a\"]}""#, "12.5e3", "true", "null", r#"{"a":[{"b":"}"},[]],"c":"\\"}"#, "[ ]"] {
            for rest in [",1", "]", "}", " }"] {
                let text = format!(" {value}{rest}");
                assert_eq!(Reader::new(text.as_bytes()).raw().unwrap(), value.as_bytes(), "{text}");
            }
        }
        for cut in ["", "{", "\"a", "\"a\\", "{\"a\":[1}", "[\"", "   "] {
            assert!(Reader::new(cut.as_bytes()).raw().is_err(), "{cut}");
        }
    }
}
