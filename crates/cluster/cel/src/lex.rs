//! From text to tokens.

#[derive(Debug, Clone, PartialEq)]
pub enum Token {
    Ident(String),
    Int(i64),
    /// 9223372036854775808, which only a minus in front makes an integer.
    IntEdge,
    Uint(u64),
    Double(f64),
    Text(String),
    Bytes(Vec<u8>),
    Sign(&'static str),
}

const SIGNS: [&str; 27] = [
    "&&", "||", "==", "!=", "<=", ">=", "[?", ".?", "<", ">", "!", "+", "-", "*", "/", "%", "?", ":", ".", ",", "(",
    ")", "[", "]", "{", "}", "=",
];

type Fault = (usize, String);

/// Tokens with the offsets at which they begin.
pub fn tokens(source: &str) -> Result<Vec<(usize, Token)>, Fault> {
    let bytes = source.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0c => at += 1,
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                at += bytes[at..].iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len() - at);
            }
            b'0'..=b'9' => {
                let (token, end) = number(source, at)?;
                out.push((at, token));
                at = end;
            }
            b'.' if bytes.get(at + 1).is_some_and(u8::is_ascii_digit) => {
                let (token, end) = number(source, at)?;
                out.push((at, token));
                at = end;
            }
            b'"' | b'\'' => {
                let (text, end) = text(source, at, false, false)?;
                out.push((at, Token::Text(String::from_utf8(text).map_err(|_| (at, "invalid UTF-8".to_owned()))?)));
                at = end;
            }
            b'`' => {
                let end = source[at + 1..].find('`').ok_or((at, "unterminated identifier".to_owned()))? + at + 1;
                out.push((at, Token::Ident(source[at + 1..end].to_owned())));
                at = end + 1;
            }
            b'_' | b'a'..=b'z' | b'A'..=b'Z' => {
                let end = at + bytes[at..].iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
                let word = &source[at..end];
                let quoted = matches!(bytes.get(end), Some(b'"' | b'\''));
                let prefix = word.to_ascii_lowercase();
                if quoted && matches!(prefix.as_str(), "r" | "b" | "rb" | "br") {
                    let (content, next) = text(source, end, prefix.contains('r'), prefix.contains('b'))?;
                    let token = match prefix.contains('b') {
                        true => Token::Bytes(content),
                        false => Token::Text(String::from_utf8(content).map_err(|_| (at, "invalid UTF-8".to_owned()))?),
                    };
                    out.push((at, token));
                    at = next;
                } else {
                    out.push((at, Token::Ident(word.to_owned())));
                    at = end;
                }
            }
            _ => {
                let sign = SIGNS.iter().find(|sign| source[at..].starts_with(**sign));
                // A question mark behind a bracket may also begin a conditional: `[?` only counts where an index can be.
                let sign = sign.ok_or_else(|| {
                    let found = source[at..].chars().next().unwrap_or_default();
                    (at, format!("Syntax error: token recognition error at: '{found}'"))
                })?;
                out.push((at, Token::Sign(sign)));
                at += sign.len();
            }
        }
    }
    Ok(out)
}

fn number(source: &str, at: usize) -> Result<(Token, usize), Fault> {
    let bytes = source.as_bytes();
    let fault = |end: usize| (at, format!("invalid number {:?}", &source[at..end]));
    if source[at..].starts_with("0x") || source[at..].starts_with("0X") {
        let end = at + 2 + bytes[at + 2..].iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let value = u64::from_str_radix(&source[at + 2..end], 16).map_err(|_| fault(end))?;
        return match bytes.get(end) {
            Some(b'u' | b'U') => Ok((Token::Uint(value), end + 1)),
            _ => i64::try_from(value).map(|value| (Token::Int(value), end)).map_err(|_| fault(end)),
        };
    }
    let digits = |from: usize| from + bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut end = digits(at);
    let mut whole = true;
    if bytes.get(end) == Some(&b'.') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit) {
        whole = false;
        end = digits(end + 1);
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let exponent = digits(end + 1 + sign);
        if exponent > end + 1 + sign {
            whole = false;
            end = exponent;
        }
    }
    if !whole {
        return source[at..end].parse().map(|value| (Token::Double(value), end)).map_err(|_| fault(end));
    }
    if matches!(bytes.get(end), Some(b'u' | b'U')) {
        return source[at..end].parse().map(|value| (Token::Uint(value), end + 1)).map_err(|_| fault(end));
    }
    match source[at..end].parse::<u64>() {
        Ok(value) if value == 1 << 63 => Ok((Token::IntEdge, end)),
        Ok(value) => i64::try_from(value).map(|value| (Token::Int(value), end)).map_err(|_| fault(end)),
        Err(_) => Err(fault(end)),
    }
}

/// A quoted text that begins at `at`; answers its content and where it ends.
fn text(source: &str, at: usize, raw: bool, binary: bool) -> Result<(Vec<u8>, usize), Fault> {
    let bytes = source.as_bytes();
    let quote = bytes[at];
    let triple = bytes[at..].starts_with(&[quote; 3]);
    let open = if triple { 3 } else { 1 };
    let mut here = at + open;
    let mut out = Vec::new();
    let unterminated = || (at, "Syntax error: unterminated string".to_owned());
    loop {
        let byte = *bytes.get(here).ok_or_else(unterminated)?;
        if byte == quote && (!triple || bytes[here..].starts_with(&[quote; 3])) {
            return Ok((out, here + open));
        }
        if !triple && byte == b'\n' {
            return Err(unterminated());
        }
        if byte != b'\\' || raw {
            out.push(byte);
            here += 1;
            continue;
        }
        let escape = *bytes.get(here + 1).ok_or_else(unterminated)?;
        here += 2;
        let mut hex = |count: usize, radix: u32| -> Result<u32, Fault> {
            let digits = source.get(here..here + count).ok_or_else(unterminated)?;
            here += count;
            u32::from_str_radix(digits, radix).map_err(|_| (at, format!("invalid escape {digits:?}")))
        };
        let code = match escape {
            b'n' => u32::from(b'\n'),
            b't' => u32::from(b'\t'),
            b'r' => u32::from(b'\r'),
            b'a' => 7,
            b'b' => 8,
            b'f' => 12,
            b'v' => 11,
            b'\\' | b'\'' | b'"' | b'`' | b'?' => u32::from(escape),
            b'x' | b'X' => hex(2, 16)?,
            b'u' => hex(4, 16)?,
            b'U' => hex(8, 16)?,
            b'0'..=b'3' => {
                here -= 1;
                let digits = source.get(here..here + 3).ok_or_else(unterminated)?;
                here += 3;
                u32::from_str_radix(digits, 8).map_err(|_| (at, format!("invalid escape {digits:?}")))?
            }
            other => return Err((at, format!("invalid escape \\{}", char::from(other)))),
        };
        if binary && matches!(escape, b'x' | b'X' | b'0'..=b'3') {
            out.push(code as u8);
        } else {
            let c = char::from_u32(code).ok_or_else(|| (at, "invalid escape".to_owned()))?;
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
}
