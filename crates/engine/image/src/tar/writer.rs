//! The writer: ustar, with a PAX header where ustar has no room. The same entry always gives the same bytes.

use std::io::{self, Write};

use super::header::BLOCK;
use super::{Entry, Kind, Time, pax};

pub struct Writer<W> {
    out: W,
    /// Payload still owed for the current member, and the padding after it.
    owed: u64,
    padding: usize,
}

impl<W: Write> Writer<W> {
    pub fn new(out: W) -> Self {
        Self { out, owed: 0, padding: 0 }
    }

    /// Starts a member. For a file, exactly `stored` bytes must follow through [`Writer::data`].
    pub fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        self.close_member()?;
        let mut records = Vec::new();
        let mut map = Vec::new();
        let mut header = Header::new(entry);
        let mut path = entry.path.clone();
        if entry.kind == Kind::Dir && !path.ends_with(b"/") {
            path.push(b'/');
        }
        let mut size = 0;
        if let Kind::File(data) = &entry.kind {
            size = data.stored;
            if let Some(extents) = &data.sparse {
                // GNU's sparse format 1.0: the map precedes the data.
                map = extents
                    .iter()
                    .fold(format!("{}\n", extents.len()), |map, e| map + &format!("{}\n{}\n", e.offset, e.len))
                    .into_bytes();
                map.resize(map.len().next_multiple_of(BLOCK), 0);
                size += map.len() as u64;
                pax::render(&mut records, b"GNU.sparse.major", b"1");
                pax::render(&mut records, b"GNU.sparse.minor", b"0");
                pax::render(&mut records, b"GNU.sparse.name", &path);
                pax::render(&mut records, b"GNU.sparse.realsize", data.size.to_string().as_bytes());
                path = b"GNUSparseFile.0".to_vec();
            }
        }
        if !header.set_path(&path) {
            pax::render(&mut records, b"path", &path);
        }
        if let Kind::Symlink(link) | Kind::HardLink(link) = &entry.kind
            && !header.set_text(157..257, link)
        {
            pax::render(&mut records, b"linkpath", link);
        }
        if !header.set_number(124..136, size) {
            pax::render(&mut records, b"size", size.to_string().as_bytes());
        }
        if !header.set_number(108..116, u64::from(entry.uid)) {
            pax::render(&mut records, b"uid", entry.uid.to_string().as_bytes());
        }
        if !header.set_number(116..124, u64::from(entry.gid)) {
            pax::render(&mut records, b"gid", entry.gid.to_string().as_bytes());
        }
        let whole = u64::try_from(entry.mtime.secs).ok().filter(|_| entry.mtime.nanos == 0);
        if !whole.is_some_and(|secs| header.set_number(136..148, secs)) {
            pax::render(&mut records, b"mtime", time_text(entry.mtime).as_bytes());
        }
        if let Kind::Char { major, minor } | Kind::Block { major, minor } = entry.kind {
            for (field, key, n) in [(329..337, "SCHILY.devmajor", major), (337..345, "SCHILY.devminor", minor)] {
                if !header.set_number(field, u64::from(n)) {
                    pax::render(&mut records, key.as_bytes(), n.to_string().as_bytes());
                }
            }
        }
        for (name, value) in &entry.xattrs {
            pax::render(&mut records, &[pax::XATTR_PREFIX, name].concat(), value);
        }
        if !records.is_empty() {
            self.extended(&records)?;
        }
        self.out.write_all(&header.finish())?;
        self.out.write_all(&map)?;
        self.owed = size - map.len() as u64;
        self.padding = (size.next_multiple_of(BLOCK as u64) - size) as usize;
        Ok(())
    }

    /// The next bytes of the current member's payload.
    pub fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        let n = bytes.len() as u64;
        if n > self.owed {
            return Err(io::Error::other("a file grew while it was written to a tar"));
        }
        self.out.write_all(bytes)?;
        self.owed -= n;
        Ok(())
    }

    /// Ends the archive and gives the stream back.
    pub fn finish(mut self) -> io::Result<W> {
        self.close_member()?;
        self.out.write_all(&[0; 2 * BLOCK])?;
        Ok(self.out)
    }

    fn close_member(&mut self) -> io::Result<()> {
        if self.owed > 0 {
            return Err(io::Error::other("a file shrank while it was written to a tar"));
        }
        self.out.write_all(&[0; BLOCK][..self.padding])?;
        self.padding = 0;
        Ok(())
    }

    fn extended(&mut self, records: &[u8]) -> io::Result<()> {
        let mut header = Header([0; BLOCK]);
        header.set_text(0..100, b"PaxHeaders.0/entry");
        header.set_number(100..108, 0o644);
        header.set_number(108..116, 0);
        header.set_number(116..124, 0);
        header.set_number(124..136, records.len() as u64);
        header.set_number(136..148, 0);
        header.0[156] = b'x';
        self.out.write_all(&header.finish())?;
        self.out.write_all(records)?;
        let padding = records.len().next_multiple_of(BLOCK) - records.len();
        self.out.write_all(&[0; BLOCK][..padding])
    }
}

struct Header([u8; BLOCK]);

impl Header {
    fn new(entry: &Entry) -> Self {
        let mut header = Self([0; BLOCK]);
        header.set_number(100..108, u64::from(entry.mode & 0o7777));
        for field in [108..116, 116..124, 124..136, 136..148, 329..337, 337..345] {
            header.set_number(field, 0);
        }
        header.0[156] = match entry.kind {
            Kind::File(_) => b'0',
            Kind::HardLink(_) => b'1',
            Kind::Symlink(_) => b'2',
            Kind::Char { .. } => b'3',
            Kind::Block { .. } => b'4',
            Kind::Dir => b'5',
            Kind::Fifo => b'6',
        };
        header
    }

    /// Whole in the name, or cut at a slash between prefix and name. If it does not fit, the name holds its beginning.
    fn set_path(&mut self, path: &[u8]) -> bool {
        if self.set_text(0..100, path) {
            return true;
        }
        // A trailing slash belongs to the name.
        let cut = (1..path.len().saturating_sub(1)).find(|at| path[*at] == b'/' && path.len() - at - 1 <= 100);
        match cut {
            Some(at) if at <= 155 => self.set_text(345..500, &path[..at]) && self.set_text(0..100, &path[at + 1..]),
            _ => false,
        }
    }

    fn set_text(&mut self, field: std::ops::Range<usize>, text: &[u8]) -> bool {
        let field = &mut self.0[field];
        field.fill(0);
        let n = text.len().min(field.len());
        field[..n].copy_from_slice(&text[..n]);
        n == text.len()
    }

    /// Octal digits and a NUL. If it does not fit, the field says zero.
    fn set_number(&mut self, field: std::ops::Range<usize>, n: u64) -> bool {
        let width = field.len() - 1;
        let fits = n < 1 << (3 * width);
        let text = format!("{:0width$o}\0", if fits { n } else { 0 });
        self.0[field].copy_from_slice(text.as_bytes());
        fits
    }

    fn finish(mut self) -> [u8; BLOCK] {
        self.0[257..265].copy_from_slice(b"ustar\x0000");
        self.0[148..156].fill(b' ');
        let sum: u32 = self.0.iter().map(|b| u32::from(*b)).sum();
        self.0[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0
    }
}

fn time_text(time: Time) -> String {
    let (negative, secs, nanos) = match time {
        Time { secs, nanos } if secs < 0 && nanos > 0 => (true, (secs + 1).unsigned_abs(), 1_000_000_000 - nanos),
        Time { secs, nanos } => (secs < 0, secs.unsigned_abs(), nanos),
    };
    let sign = if negative { "-" } else { "" };
    let fraction = if nanos == 0 { String::new() } else { format!(".{nanos:09}") };
    let fraction = fraction.trim_end_matches('0');
    format!("{sign}{secs}{fraction}")
}
