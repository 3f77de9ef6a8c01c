//! The tar reader and writer: what they agree on, and what the reader refuses because readers disagree about it.

mod common;

use common::*;
use image::tar::{Entry, Extent, FileData, Kind, TarError, Time};
use proptest::prelude::*;

/// A header block as a test wants it: the checksum is made right at the end.
struct Raw([u8; 512]);

impl Raw {
    fn new(name: &str, flag: u8, size: &str) -> Self {
        let mut block = [0; 512];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[100..108].copy_from_slice(b"0000644\0");
        block[108..116].copy_from_slice(b"0000000\0");
        block[116..124].copy_from_slice(b"0000000\0");
        block[124..124 + size.len()].copy_from_slice(size.as_bytes());
        block[136..148].copy_from_slice(b"00000000000\0");
        block[156] = flag;
        block[257..265].copy_from_slice(b"ustar\x0000");
        Self(block)
    }

    fn set(mut self, at: usize, bytes: &[u8]) -> Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn done(mut self) -> Vec<u8> {
        self.0[148..156].fill(b' ');
        let sum: u32 = self.0.iter().map(|b| u32::from(*b)).sum();
        self.0[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.to_vec()
    }
}

fn pad(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// An extended header of this type with these records.
fn pax(flag: u8, records: &[(&str, &str)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (key, value) in records {
        let mut len = key.len() + value.len() + 3;
        while len != key.len() + value.len() + 3 + len.to_string().len() {
            len = key.len() + value.len() + 3 + len.to_string().len();
        }
        body.extend_from_slice(format!("{len} {key}={value}\n").as_bytes());
    }
    let size = format!("{:011o}", body.len());
    [Raw::new("PaxHeaders/x", flag, &size).done(), pad(&body)].concat()
}

fn long(flag: u8, name: &[u8]) -> Vec<u8> {
    let body = [name, b"\0"].concat();
    [Raw::new("././@LongLink", flag, &format!("{:011o}", body.len())).set(257, b"ustar  \0").done(), pad(&body)]
        .concat()
}

fn plain_file(name: &str) -> Vec<u8> {
    [Raw::new(name, b'0', "00000000003").done(), pad(b"abc")].concat()
}

fn show(bytes: &[u8]) -> String {
    match read_all(bytes) {
        Ok(members) => members
            .iter()
            .map(|(e, data)| {
                let kind = match &e.kind {
                    Kind::File(f) if f.sparse.is_some() => format!(
                        "sparse {} {:?}",
                        f.size,
                        f.sparse.as_ref().unwrap().iter().map(|e| (e.offset, e.len)).collect::<Vec<_>>()
                    ),
                    Kind::File(f) => format!("file {}", f.size),
                    Kind::Symlink(to) => format!("-> {}", to.escape_ascii()),
                    Kind::HardLink(to) => format!("=> {}", to.escape_ascii()),
                    other => format!("{other:?}"),
                };
                format!(
                    "{} {kind} {:o} {}:{} {} {}",
                    e.path.escape_ascii(),
                    e.mode,
                    e.uid,
                    e.gid,
                    e.mtime.secs,
                    data.escape_ascii()
                )
            })
            .collect::<Vec<_>>()
            .join("; "),
        Err(e) => format!("error: {e}"),
    }
}

#[test]
fn what_the_formats_say_is_read() {
    let file = |extra: &[u8]| [extra, &plain_file("f"), &[0; 1024]].concat();
    for (what, bytes, expected) in [
        ("plain", file(&[]), "f file 3 644 0:0 0 abc"),
        ("no end marker", plain_file("f"), "f file 3 644 0:0 0 abc"),
        ("one zero block", [plain_file("f"), vec![0; 512]].concat(), "f file 3 644 0:0 0 abc"),
        ("pax path", file(&pax(b'x', &[("path", "a/long/name")])), "a/long/name file 3 644 0:0 0 abc"),
        (
            "pax owner and time",
            file(&pax(b'x', &[("uid", "70000"), ("gid", "4000000000"), ("mtime", "-1.5")])),
            "f file 3 644 70000:4000000000 -2 abc",
        ),
        (
            "pax size, header zero",
            [pax(b'x', &[("size", "3")]), Raw::new("f", b'0', "00000000000").done(), pad(b"abc"), vec![0; 1024]]
                .concat(),
            "f file 3 644 0:0 0 abc",
        ),
        ("pax size, header equal", file(&pax(b'x', &[("size", "3")])), "f file 3 644 0:0 0 abc"),
        ("empty pax value", file(&pax(b'x', &[("path", "")])), "f file 3 644 0:0 0 abc"),
        ("global comment", file(&pax(b'g', &[("comment", "0123")])), "f file 3 644 0:0 0 abc"),
        ("global owner", file(&pax(b'g', &[("uid", "7")])), "f file 3 644 7:0 0 abc"),
        (
            "global owner, own owner",
            file(&[pax(b'g', &[("uid", "7")]), pax(b'x', &[("uid", "8")])].concat()),
            "f file 3 644 8:0 0 abc",
        ),
        ("gnu long name", file(&long(b'L', b"long/name")), "long/name file 3 644 0:0 0 abc"),
        (
            "gnu long link",
            [long(b'K', b"a/target"), Raw::new("l", b'2', "00000000000").done()].concat(),
            "l -> a/target 644 0:0 0 ",
        ),
        ("prefix", Raw::new("f", b'0', "").set(345, b"dir/sub").done(), "dir/sub/f file 0 644 0:0 0 "),
        (
            "no prefix in gnu",
            Raw::new("f", b'0', "").set(345, b"junk").set(257, b"ustar  \0").done(),
            "f file 0 644 0:0 0 ",
        ),
        ("seventh edition directory", Raw::new("d/", 0, "").set(257, &[0; 8]).done(), "d/ Dir 644 0:0 0 "),
        (
            "base 256 size",
            [Raw::new("f", b'0', "").set(124, b"\x80\0\0\0\0\0\0\0\0\0\0\x03").done(), pad(b"abc")].concat(),
            "f file 3 644 0:0 0 abc",
        ),
        ("contiguous", [Raw::new("f", b'7', "3").done(), pad(b"abc")].concat(), "f file 3 644 0:0 0 abc"),
        (
            "device",
            Raw::new("c", b'3', "").set(329, b"0000001\0").set(337, b"0000003\0").done(),
            "c Char { major: 1, minor: 3 } 644 0:0 0 ",
        ),
        (
            "sparse 0.1",
            [
                pax(
                    b'x',
                    &[
                        ("GNU.sparse.size", "10"),
                        ("GNU.sparse.numblocks", "2"),
                        ("GNU.sparse.map", "2,1,5,2"),
                        ("GNU.sparse.name", "s"),
                    ],
                ),
                plain_file("GNUSparseFile.0/s"),
            ]
            .concat(),
            "s sparse 10 [(2, 1), (5, 2)] 644 0:0 0 abc",
        ),
        (
            "sparse 1.0",
            [
                pax(
                    b'x',
                    &[
                        ("GNU.sparse.major", "1"),
                        ("GNU.sparse.minor", "0"),
                        ("GNU.sparse.realsize", "10"),
                        ("GNU.sparse.name", "s"),
                    ],
                ),
                Raw::new("GNUSparseFile.0/s", b'0', &format!("{:011o}", 515)).done(),
                pad(b"1\n4\n3\n"),
                pad(b"abc"),
            ]
            .concat(),
            "s sparse 10 [(4, 3)] 644 0:0 0 abc",
        ),
    ] {
        assert_eq!(show(&bytes), expected, "{what}");
    }
}

#[test]
fn what_readers_disagree_about_is_refused() {
    let file = |extra: &[u8]| [extra, &plain_file("f"), &[0; 1024]].concat();
    let hidden = tar(&[common::file("hidden", "x")]);
    for (what, bytes, says) in [
        (
            "checksum",
            {
                let mut b = file(&[]);
                b[0] ^= 1;
                b
            },
            "checksum",
        ),
        // The header says 0, PAX says how long: a reader that takes the header sees an archive in the data.
        (
            "hidden archive",
            [pax(b'x', &[("size", "1024")]), Raw::new("f", b'0', "00000000001").done(), hidden.clone()].concat(),
            "PAX size and header size disagree",
        ),
        (
            "two pax headers",
            file(&[pax(b'x', &[("uid", "1")]), pax(b'x', &[("uid", "2")])].concat()),
            "two extended headers",
        ),
        ("key twice", file(&pax(b'x', &[("path", "a"), ("path", "b")])), "appears twice"),
        (
            "long name and pax",
            file(&[long(b'L', b"a"), pax(b'x', &[("path", "b")])].concat()),
            "both a GNU long name and a PAX one",
        ),
        ("two long names", file(&[long(b'L', b"a"), long(b'L', b"b")].concat()), "two long names"),
        ("global path", file(&pax(b'g', &[("path", "x")])), "would apply to every member"),
        ("global size", file(&pax(b'g', &[("size", "9")])), "would apply to every member"),
        (
            "global between",
            file(&[pax(b'x', &[("uid", "1")]), pax(b'g', &[("gid", "2")])].concat()),
            "between a member and its extended header",
        ),
        ("pax without member", pax(b'x', &[("path", "a")]), "the tar ends in the middle of"),
        ("pax before the end", [pax(b'x', &[("path", "a")]), vec![0; 1024]].concat(), "has no member"),
        ("pax nul", file(&pax(b'x', &[("path", "a\0b")])), "NUL in a PAX name"),
        ("pax too long", [Raw::new("x", b'x', "77777777777").done()].concat(), "may have 1048576 bytes"),
        ("negative size", Raw::new("f", b'0', "").set(124, &[0xff; 12]).done(), "negative size"),
        (
            "huge size",
            Raw::new("f", b'0', "").set(124, b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff").done(),
            "size is out of range",
        ),
        ("minus one as owner", file(&pax(b'x', &[("uid", "4294967295")])), "out of range"),
        ("negative owner", Raw::new("f", b'0', "").set(108, &[0xff; 8]).done(), "negative uid"),
        ("junk in a number", Raw::new("f", b'0', "0x000000003").done(), "size is no number"),
        (
            "directory with data",
            [Raw::new("d/", b'5', "00000001000").done(), vec![1; 512]].concat(),
            "has 512 bytes of data",
        ),
        (
            "link with data",
            [Raw::new("l", b'1', "00000001000").set(157, b"f").done(), vec![1; 512]].concat(),
            "has 512 bytes of data",
        ),
        ("file with a slash", Raw::new("f/", b'0', "").done(), "ends with a slash"),
        ("link to nothing", Raw::new("l", b'2', "").done(), "bad link target"),
        ("unknown type", Raw::new("f", b'V', "").done(), "unsupported entry type 'V'"),
        ("solaris header", Raw::new("f", b'X', "").done(), "unsupported entry type 'X'"),
        ("lone zero block", [vec![0; 512], plain_file("f")].concat(), "data after the end"),
        ("after the end", [file(&[]), hidden.clone()].concat(), "data after the end of the tar at byte 2048"),
        ("cut in a header", file(&[])[..300].to_vec(), "the tar ends in the middle of a header"),
        ("cut in data", file(&[])[..514].to_vec(), "the tar ends in the middle of a member's data"),
        (
            "sparse map out of order",
            [pax(b'x', &[("GNU.sparse.size", "10"), ("GNU.sparse.map", "5,2,2,1")]), plain_file("s")].concat(),
            "sparse map is not in order",
        ),
        (
            "sparse map beyond the file",
            [pax(b'x', &[("GNU.sparse.size", "10"), ("GNU.sparse.map", "9,3")]), plain_file("s")].concat(),
            "sparse map reaches to 12",
        ),
        (
            "sparse map of other data",
            [pax(b'x', &[("GNU.sparse.size", "10"), ("GNU.sparse.map", "1,2")]), plain_file("s")].concat(),
            "sparse map tells of 2 bytes",
        ),
        (
            "sparse map without end",
            [
                pax(b'x', &[("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "9")]),
                Raw::new("s", b'0', "00000001000").done(),
                pad(b"9\n1\n1\n"),
            ]
            .concat(),
            "",
        ),
        (
            "2^31 pieces",
            [
                pax(b'x', &[("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "9")]),
                Raw::new("s", b'0', "00000001000").done(),
                pad(b"2147483648\n"),
            ]
            .concat(),
            "sparse map is too long",
        ),
    ] {
        let text = show(&bytes);
        assert!(text.starts_with("error: ") && text.contains(says), "{what}: {text}");
    }
}

fn names() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(
        prop::collection::vec(any::<u8>().prop_filter("name", |b| *b != 0 && *b != b'/'), 1..130),
        1..4,
    )
    .prop_map(|parts| parts.join(&b'/'))
}

fn entries() -> impl Strategy<Value = (Entry, Vec<u8>)> {
    let kinds = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..2000)
            .prop_map(|data| (Kind::File(FileData::plain(data.len() as u64)), data)),
        Just((Kind::Dir, vec![])),
        names().prop_map(|to| (Kind::Symlink(to), vec![])),
        names().prop_map(|to| (Kind::HardLink(to), vec![])),
        (any::<u32>(), any::<u32>()).prop_map(|(major, minor)| (Kind::Char { major, minor }, vec![])),
        Just((Kind::Fifo, vec![])),
        (0..5u64, 1..9u64).prop_map(|(gap, len)| {
            let sparse = Some(vec![Extent { offset: gap, len }, Extent { offset: gap + len + 1, len: 1 }]);
            (Kind::File(FileData { size: gap + len + 9, stored: len + 1, sparse }), vec![7; len as usize + 1])
        }),
    ];
    let xattr = (
        names().prop_map(|n| n[..n.len().min(200)].iter().copied().filter(|b| *b != b'=').collect::<Vec<u8>>()),
        prop::collection::vec(any::<u8>(), 0..300),
    );
    (
        names(),
        kinds,
        0..0o10000u32,
        0..u32::MAX,
        0..u32::MAX,
        -(1i64 << 40)..1i64 << 40,
        0..1_000_000_000u32,
        prop::collection::vec(xattr, 0..3),
    )
        .prop_map(|(path, (kind, data), mode, uid, gid, secs, nanos, xattrs)| {
            let mut seen = std::collections::BTreeSet::new();
            let xattrs = xattrs.into_iter().filter(|(name, _)| !name.is_empty() && seen.insert(name.clone())).collect();
            (Entry { path, kind, mode, uid, gid, mtime: Time { secs, nanos }, xattrs }, data)
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_written_reads_back(members in prop::collection::vec(entries(), 0..6)) {
        let bytes = tar(&members);
        let mut read = read_all(&bytes).unwrap();
        for (entry, _) in &mut read {
            if entry.kind == Kind::Dir {
                entry.path.pop();
            }
        }
        prop_assert_eq!(read, members);
    }

    #[test]
    fn a_damaged_tar_never_panics(members in prop::collection::vec(entries(), 1..4), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut bytes = tar(&members);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = read_all(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        let result: Result<_, TarError> = read_all(&bytes);
        let _ = result;
    }
}

/// What our writer makes, GNU tar lists the same.
#[test]
fn gnu_tar_agrees_about_names_and_sizes() {
    let deep = format!("{}/{}", "d".repeat(90), "f".repeat(150));
    let members = vec![
        common::file("short", "abc"),
        common::file(&deep, "deep"),
        dir("a/b"),
        other("link", Kind::Symlink("x".repeat(200).into())),
        common::file("tail", "t"),
    ];
    let temp = tempfile::tempdir().unwrap();
    std::fs::write(temp.path().join("t.tar"), tar(&members)).unwrap();
    let listed = String::from_utf8(run("tar", &["--quoting-style=literal", "-tf", "t.tar"], temp.path())).unwrap();
    let expected = format!("short\n{deep}\na/b/\nlink\ntail\n");
    assert_eq!(listed, expected);
}
