//! `WWW-Authenticate`: what a registry asks for. Pure.

/// How to prove who one is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer { realm: String, service: String, scope: String },
}

/// The strongest challenge of one header; bearer before basic.
pub(crate) fn parse(header: &str) -> Option<Challenge> {
    let mut best = None;
    for (scheme, parameters) in split(header) {
        let get = |name: &str| {
            let found = parameters.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.clone()).unwrap_or_default()
        };
        if scheme.eq_ignore_ascii_case("bearer") && !get("realm").is_empty() {
            return Some(Challenge::Bearer { realm: get("realm"), service: get("service"), scope: get("scope") });
        }
        if scheme.eq_ignore_ascii_case("basic") {
            best = Some(Challenge::Basic);
        }
    }
    best
}

type Parameters = Vec<(String, String)>;

/// Schemes with their parameters: `Bearer realm="x",scope="a,b", Basic realm="y"`.
fn split(header: &str) -> Vec<(String, Parameters)> {
    let mut found: Vec<(String, Parameters)> = Vec::new();
    let mut rest = header.trim();
    while !rest.is_empty() {
        let end = rest.find([' ', '=', ',']).unwrap_or(rest.len());
        let word = &rest[..end];
        rest = rest[end..].trim_start();
        if let Some(value) = rest.strip_prefix('=') {
            let (text, after) = token_or_quoted(value.trim_start());
            if let Some((_, parameters)) = found.last_mut() {
                parameters.push((word.to_owned(), text));
            }
            rest = after;
        } else if !word.is_empty() {
            found.push((word.to_owned(), Vec::new()));
        }
        rest = rest.trim_start_matches([',', ' ', '\t']);
    }
    found
}

fn token_or_quoted(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut out = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return (out, &quoted[at + 1..]),
            '\\' => out.extend(characters.next().map(|(_, c)| c)),
            c => out.push(c),
        }
    }
    (out, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_read_in_every_order() {
        let bearer = |realm: &str, service: &str, scope: &str| {
            Some(Challenge::Bearer { realm: realm.into(), service: service.into(), scope: scope.into() })
        };
        for (header, expected) in [
            (r#"Basic realm="x""#, Some(Challenge::Basic)),
            ("Basic", Some(Challenge::Basic)),
            (
                r#"Bearer realm="https://a/token",service="a",scope="repository:x:pull,push""#,
                bearer("https://a/token", "a", "repository:x:pull,push"),
            ),
            (r#"Basic realm="x", Bearer realm="https://a/t", service=b"#, bearer("https://a/t", "b", "")),
            (r#"bearer realm="a\"b" , error="invalid_token""#, bearer("a\"b", "", "")),
            ("Bearer", None),
            ("Negotiate abc==", None),
            ("", None),
            (r#"Bearer realm="unended"#, bearer("unended", "", "")),
            ("= , =", None),
        ] {
            assert_eq!(parse(header), expected, "{header}");
        }
    }
}
