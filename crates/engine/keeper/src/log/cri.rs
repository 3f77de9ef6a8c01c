//! The CRI text format of container logs (kubernetes/design-proposals "kubelet-cri-logging"): time, stream, `F` for a whole
//! line or `P` for a part of one, and the bytes as they are.

use super::{Stream, records};

pub(super) fn encode(bytes: &[u8], stream: Stream, time: &str, out: &mut Vec<u8>) {
    for record in records(bytes) {
        let (content, tag) = match record.strip_suffix(b"\n") {
            Some(line) => (line, " F "),
            None => (record, " P "),
        };
        out.extend_from_slice(time.as_bytes());
        out.push(b' ');
        out.extend_from_slice(stream.name().as_bytes());
        out.extend_from_slice(tag.as_bytes());
        out.extend_from_slice(content);
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Format, Stream};

    #[test]
    fn whole_lines_are_f_and_parts_are_p() {
        let mut out = Vec::new();
        Format::Cri.encode(b"one\n\ntwo", Stream::Stderr, "2026-01-02T03:04:05.000000006Z", &mut out);
        expect_test::expect![[r#"
            2026-01-02T03:04:05.000000006Z stderr F one
            2026-01-02T03:04:05.000000006Z stderr F 
            2026-01-02T03:04:05.000000006Z stderr P two
        "#]]
        .assert_eq(std::str::from_utf8(&out).unwrap());
    }
}
