//! Small text helpers that several rooms share: quoting, cutting ids, terminal-safe output.

/// A string in double quotes as Go's `%q` prints it for plain text.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The twelve characters by which people call a container or an image; `sha256:` is left out.
pub fn short_id(id: &str) -> &str {
    let id = id.strip_prefix("sha256:").unwrap_or(id);
    match id.char_indices().nth(12) {
        Some((end, _)) => &id[..end],
        None => id,
    }
}

/// At most `width` characters, the last one an ellipsis where something was cut.
pub fn ellipsis(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// What other people's data may print on a terminal: no escape sequences, no cursor movement. Tabs and line ends stay.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// JSON text without control characters that a terminal may obey: the standard escapes only those below U+0020.
pub fn printable_json(text: String) -> String {
    const ABOVE: std::ops::RangeInclusive<char> = '\u{7f}'..='\u{9f}';
    if !text.contains(|c| ABOVE.contains(&c)) {
        return text;
    }
    // They only ever occur inside strings.
    text.chars().fold(String::with_capacity(text.len() + 16), |mut out, c| {
        if ABOVE.contains(&c) {
            out.push_str(&format!("\\u{:04x}", c as u32))
        } else {
            out.push(c)
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_cut_to_twelve() {
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(short_id("abc"), "abc");
    }

    #[test]
    fn long_text_ends_in_an_ellipsis() {
        assert_eq!(ellipsis("\"sleep 600\"", 20), "\"sleep 600\"");
        assert_eq!(ellipsis("abcdefgh", 4), "abc…");
    }

    #[test]
    fn control_bytes_do_not_reach_a_terminal() {
        assert_eq!(printable("a\x1b[31mb"), "a\u{fffd}[31mb");
        assert_eq!(printable_json("{\"a\":\"\u{9b}é\"}".into()), "{\"a\":\"\\u009bé\"}");
    }
}
