//! Query strings as Docker's daemon reads them (Go's `url.Values` and its own idea of a boolean).

use super::error::{ApiError, ApiResult};

/// Decoded `name=value` pairs in the order they came. Few enough that a list beats a map.
#[derive(Debug, Default, Clone)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(text: &str) -> ApiResult<Self> {
        let pairs = text.split('&').filter(|part| !part.is_empty());
        pairs
            .map(|part| {
                let (name, value) = part.split_once('=').unwrap_or((part, ""));
                Ok((decode(name, Plus::IsSpace)?, decode(value, Plus::IsSpace)?))
            })
            .collect::<ApiResult<Vec<_>>>()
            .map(Self)
    }

    /// The first value of a name; a name that is absent and a name without value are told apart.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The first value unless it is empty: most of Docker's parameters treat `name=` as not given.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Anything but an empty value, `0`, `no`, `false` and `none` is true; an absent name is false.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.flag_or(name, false)
    }

    pub(crate) fn flag_or(&self, name: &str, default: bool) -> bool {
        self.get(name).map_or(default, is_true)
    }

    /// A whole number, or an error that names the parameter as Go's `strconv` would.
    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> ApiResult<Option<T>> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let parsed = text.trim().parse();
        parsed
            .map(Some)
            .map_err(|_| ApiError::invalid(format!("invalid value for {name}: {text:?} is not a number in range")))
    }
}

fn is_true(value: &str) -> bool {
    !matches!(value.trim().to_ascii_lowercase().as_str(), "" | "0" | "no" | "false" | "none")
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plus {
    IsSpace,
    IsPlus,
}

/// Undoes percent-encoding. The result must be UTF-8: every name that reaches the engine is text.
pub(crate) fn decode(text: &str, plus: Plus) -> ApiResult<String> {
    if !text.bytes().any(|b| b == b'%' || b == b'+') {
        return Ok(text.to_owned());
    }
    let malformed = || ApiError::invalid(format!("invalid URL escape in {text:?}"));
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'%' => {
                let digits = bytes.get(at + 1..at + 3).ok_or_else(malformed)?;
                let digit = |b: u8| char::from(b).to_digit(16);
                let (Some(high), Some(low)) = (digit(digits[0]), digit(digits[1])) else { return Err(malformed()) };
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            b'+' if plus == Plus::IsSpace => {
                out.push(b' ');
                at += 1;
            }
            byte => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).map_err(|_| malformed())
}

/// Percent-encodes as Go's `url.QueryEscape` does.
pub(crate) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte.into()),
            b' ' => out.push('+'),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_are_read_as_docker_reads_them() {
        for (text, expected) in [
            ("", false),
            ("f", false),
            ("f=", false),
            ("f=0", false),
            ("f=no", false),
            ("f=False", false),
            ("f=none", false),
            ("f=%20", false),
            ("f=1", true),
            ("f=true", true),
            ("f=yes", true),
            ("f=anything", true),
        ] {
            assert_eq!(Query::parse(text).unwrap().flag("f"), expected, "{text:?}");
        }
        assert!(Query::parse("").unwrap().flag_or("f", true));
    }

    #[test]
    fn values_are_decoded() {
        let query = Query::parse("name=a%2Fb&x=1+2&x=%C3%A5&empty=").unwrap();
        assert_eq!(query.get("name"), Some("a/b"));
        assert_eq!(query.all("x").collect::<Vec<_>>(), ["1 2", "å"]);
        assert_eq!((query.get("empty"), query.text("empty"), query.get("none")), (Some(""), None, None));
    }

    #[test]
    fn bad_escapes_and_numbers_are_refused() {
        for bad in ["a=%", "a=%4", "a=%zz", "a=%ff"] {
            assert!(Query::parse(bad).is_err(), "{bad}");
        }
        for bad in ["t=x", "t=1e400", "t=99999999999999999999", "t=-9223372036854775809", "t=NaN"] {
            assert!(Query::parse(bad).unwrap().number::<i64>("t").is_err(), "{bad}");
        }
        assert_eq!(Query::parse("t=-1").unwrap().number::<i64>("t"), Ok(Some(-1)));
    }
}
