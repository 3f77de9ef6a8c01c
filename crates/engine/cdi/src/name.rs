//! `vendor.com/class=name`.

use std::fmt;

/// A device's qualified name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// `vendor.com/class`.
    pub kind: String,
    pub device: String,
}

impl Name {
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, device) = text.split_once('=')?;
        (is_kind(kind) && is_device(device)).then(|| Self { kind: kind.to_owned(), device: device.to_owned() })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.kind, self.device)
    }
}

/// `vendor/class`: both begin with a letter and end with a letter or digit.
pub(crate) fn is_kind(text: &str) -> bool {
    let Some((vendor, class)) = text.split_once('/') else { return false };
    let is =
        |part: &str, more: &[u8]| part.bytes().next().is_some_and(|b| b.is_ascii_alphabetic()) && is_word(part, more);
    is(vendor, b"_-.") && is(class, b"_-.")
}

/// Begins and ends with a letter or digit.
pub(crate) fn is_device(text: &str) -> bool {
    text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric()) && is_word(text, b"_-.:")
}

fn is_word(text: &str, more: &[u8]) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || more.contains(&b))
        && text.bytes().last().is_some_and(|b| b.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_specifications() {
        for good in ["vendor.com/net=0", "nvidia.com/gpu=GPU-1:0", "v/c=all", "a_b.c/d-e=x.y_z"] {
            assert_eq!(Name::parse(good).map(|name| name.to_string()).as_deref(), Some(good));
        }
        for bad in
            ["", "v=c", "v/c", "v/c=", "/c=a", "v/=a", "1v/c=a", "v/c=-a", "v/c=a-", "v/c=a b", "v./c=a", "v/c=a=b"]
        {
            assert_eq!(Name::parse(bad), None, "{bad}");
        }
    }
}
