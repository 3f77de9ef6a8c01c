//! Shell patterns as Go's `path.Match` has them: `*` and `?` stay within one part of a path, `[a-z]` is a set, `[^a]` its
//! opposite, `\` takes the next character as it is.

/// Whether all of `text` matches. A malformed pattern matches nothing.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    // Positions to come back to: after the last star, and the text that it has swallowed so far.
    let (mut p, mut t, mut star) = (0, 0, None);
    loop {
        if p < pattern.len() && pattern[p] == '*' {
            star = Some((p, t));
            p += 1;
            continue;
        }
        if t < text.len()
            && let Some(width) = one(&pattern[p..], text[t])
        {
            p += width;
            t += 1;
            continue;
        }
        if p == pattern.len() && t == text.len() {
            return true;
        }
        match star {
            Some((at, swallowed)) if swallowed < text.len() && text[swallowed] != '/' => {
                star = Some((at, swallowed + 1));
                (p, t) = (at + 1, swallowed + 1);
            }
            _ => return false,
        }
    }
}

/// How many characters of the pattern match this one character.
fn one(pattern: &[char], c: char) -> Option<usize> {
    match pattern {
        [] => None,
        ['?', ..] => (c != '/').then_some(1),
        ['\\', literal, ..] => (*literal == c).then_some(2),
        ['[', rest @ ..] => {
            let (negated, mut at) = if rest.first() == Some(&'^') { (true, 1) } else { (false, 0) };
            let mut found = false;
            let mut first = true;
            while first || rest.get(at)? != &']' {
                first = false;
                let low = *rest.get(at)?;
                let high = if rest.get(at + 1) == Some(&'-') {
                    at += 2;
                    *rest.get(at)?
                } else {
                    low
                };
                found |= (low..=high).contains(&c);
                at += 1;
            }
            (found != negated && c != '/').then_some(at + 2)
        }
        [literal, ..] => (*literal == c).then_some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_as_in_go() {
        for (pattern, text, expected) in [
            ("busybox", "busybox", true),
            ("busy*", "busybox", true),
            ("busy*", "busybox/x", false),
            ("*", "busybox:1", true),
            ("*/*", "me/app", true),
            ("*/app:*", "me/app:1.2", true),
            ("b?sy*x", "busybox", true),
            ("[a-c]*", "busybox", true),
            ("[^a-c]*", "busybox", false),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("a*b*c", "axxbxxbxc", true),
            ("a*b*c", "axxbxxbx", false),
            ("", "", true),
            ("[", "[", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
