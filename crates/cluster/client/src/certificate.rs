//! Just enough of X.509 to know whose a certificate is, what a request asks for, and when a certificate ends.

use base64::Engine as _;
use jiff::Timestamp;

use crate::User;

/// The subject of a certificate that TLS has verified: common name is the user, organizations are the groups.
pub fn certificate_user(der: &[u8]) -> Option<User> {
    let (_, certificate, _) = tlv(der)?;
    let (_, tbs, _) = tlv(certificate)?;
    let mut rest = tbs;
    // [0] version (optional), serial, algorithm, issuer, validity, subject.
    let (tag, _, after) = tlv(rest)?;
    if tag == 0xa0 {
        rest = after;
    }
    for _ in 0..4 {
        rest = tlv(rest)?.2;
    }
    let (_, subject, _) = tlv(rest)?;
    let user = subject_user(subject)?;
    (!user.name.is_empty()).then(|| user.authenticated())
}

/// The organizations that a certificate request (base64 of PEM) asks for; `None` if it cannot be read.
pub fn request_groups(request: &str) -> Option<Vec<String>> {
    use base64::engine::general_purpose::STANDARD;
    let pem = String::from_utf8(STANDARD.decode(request).ok()?).ok()?;
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).map(str::trim).collect();
    let der = STANDARD.decode(body).ok()?;
    let (_, whole, _) = tlv(&der)?;
    let (_, info, _) = tlv(whole)?;
    let (_, _, rest) = tlv(info)?;
    let (_, subject, _) = tlv(rest)?;
    subject_user(subject).map(|user| user.groups)
}

/// Common name and organizations of a subject.
fn subject_user(mut subject: &[u8]) -> Option<User> {
    let mut user = User::default();
    while !subject.is_empty() {
        let (_, mut set, after) = tlv(subject)?;
        subject = after;
        while !set.is_empty() {
            let (_, attribute, after) = tlv(set)?;
            set = after;
            let (_, oid, value) = tlv(attribute)?;
            let text = std::str::from_utf8(tlv(value)?.1).ok()?.to_owned();
            match oid {
                [0x55, 0x04, 0x03] => user.name = text,
                [0x55, 0x04, 0x0a] => user.groups.push(text),
                _ => {}
            }
        }
    }
    Some(user)
}

/// One DER element: tag, content, what follows.
fn tlv(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first >= 0x80 {
        let count = usize::from(first & 0x7f);
        if count == 0 || count > 4 {
            return None;
        }
        length = 0;
        for byte in rest.get(..count)? {
            length = length << 8 | usize::from(*byte);
        }
        rest = &rest[count..];
    }
    Some((tag, rest.get(..length)?, &rest[length..]))
}

/// From when until when a certificate (DER) is good.
pub fn validity(der: &[u8]) -> Option<(Timestamp, Timestamp)> {
    let (_, certificate, _) = tlv(der)?;
    let (_, tbs, _) = tlv(certificate)?;
    let mut rest = tbs;
    let (tag, _, after) = tlv(rest)?;
    if tag == 0xa0 {
        rest = after;
    }
    // Serial, algorithm, issuer; validity is next.
    for _ in 0..3 {
        rest = tlv(rest)?.2;
    }
    let (_, validity, _) = tlv(rest)?;
    let (tag, begin, rest) = tlv(validity)?;
    let (end_tag, end, _) = tlv(rest)?;
    Some((time(tag, begin)?, time(end_tag, end)?))
}

/// UTCTime (two digits of the year, the century pivots at 50) or GeneralizedTime, both in UTC.
fn time(tag: u8, text: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let text = match (tag, text.len()) {
        (0x17, 12) => format!("{}{text}", if text < "50" { "20" } else { "19" }),
        (0x18, 14) => text.to_owned(),
        _ => return None,
    };
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let part = |from: usize, to: usize| &text[from..to];
    format!("{}-{}-{}T{}:{}:{}Z", part(0, 4), part(4, 6), part(6, 8), part(8, 10), part(10, 12), part(12, 14))
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_certificates_are_read() {
        let at = |tag, text: &str| time(tag, text.as_bytes()).map(|time| time.to_string());
        assert_eq!(at(0x17, "260102030405Z").as_deref(), Some("2026-01-02T03:04:05Z"));
        assert_eq!(at(0x17, "991231235959Z").as_deref(), Some("1999-12-31T23:59:59Z"));
        assert_eq!(at(0x18, "20530102030405Z").as_deref(), Some("2053-01-02T03:04:05Z"));
        for (tag, bad) in [(0x17, "260102030405"), (0x17, "2601020304é5Z"), (0x18, "20261302030405Z"), (0x04, "x")] {
            assert_eq!(at(tag, bad), None, "{bad}");
        }
        assert!(validity(b"\x30\x03\x30\x01\x00").is_none());
        assert!(certificate_user(b"\x30\x82\xff\xff").is_none());
    }
}
