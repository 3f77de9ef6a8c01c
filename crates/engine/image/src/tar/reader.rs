//! The streaming reader. Where formats or readers disagree about what an archive says, the archive is refused: a member
//! that one reader sees and another does not is how things are smuggled in.

use std::io::{self, Read};

use super::header::{self, BLOCK, Format, Header, decimal_time};
use super::pax::{self, Records};
use super::sparse::{self, InData};
use super::{Entry, Extent, FileData, Kind, TarError, Time};
use crate::chunk::{Chunk, Source};

/// Extended headers and long names are read into memory: GNU's and Go's readers stop here too.
const SPECIAL_BYTES_MAX: u64 = 1 << 20;
const XATTR_BYTES_MAX: usize = 64 << 10;

/// Sees every byte of the archive that [`Reader::data`] does not hand out: headers, padding, the end.
pub trait Observer {
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()>;
}

impl Observer for () {
    fn bytes(&mut self, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

pub struct Reader<S, O = ()> {
    source: S,
    observer: O,
    current: Option<Chunk>,
    /// Bytes taken so far.
    offset: u64,
    /// Payload of the current member that has not been taken yet, and the padding after it.
    payload: u64,
    padding: usize,
    globals: Records,
    ended: bool,
}

type Result<T> = std::result::Result<T, TarError>;

impl<S: Source> Reader<S> {
    pub fn new(source: S) -> Self {
        Self::with_observer(source, ())
    }
}

impl<S: Source, O: Observer> Reader<S, O> {
    pub fn with_observer(source: S, observer: O) -> Self {
        Self {
            source,
            observer,
            current: None,
            offset: 0,
            payload: 0,
            padding: 0,
            globals: Records::default(),
            ended: false,
        }
    }

    pub fn observer(&mut self) -> &mut O {
        &mut self.observer
    }

    pub fn into_observer(self) -> O {
        self.observer
    }

    /// Bytes of the archive taken so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next member, or `None` at the end, with everything after the end read and found to be zeros.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        self.skip_payload()?;
        if self.ended {
            return Ok(None);
        }
        let mut special = Special::default();
        loop {
            let at = self.offset;
            let bad = |detail: String| TarError::Header { offset: at, detail };
            let Some(block) = self.block()? else {
                // GNU and Go take a tar without its two blocks of zeros as well.
                return if special.any() { Err(TarError::Truncated("an extended header")) } else { self.end(None) };
            };
            let Some(header) = header::parse(&block).map_err(bad)? else {
                return if special.any() {
                    Err(bad("an extended header has no member".into()))
                } else {
                    self.end(Some(at))
                };
            };
            match header.flag {
                b'x' => {
                    if special.pax.is_some() {
                        return Err(bad("two extended headers for one member".into()));
                    }
                    let bytes = self.special(&header, at)?;
                    special.pax = Some(pax::parse(&bytes).map_err(bad)?);
                }
                b'g' => {
                    if special.any() {
                        return Err(bad("a global header between a member and its extended header".into()));
                    }
                    let bytes = self.special(&header, at)?;
                    let records = pax::parse(&bytes).map_err(bad)?;
                    self.merge_globals(records).map_err(bad)?;
                }
                b'L' | b'K' => {
                    let mut bytes = self.special(&header, at)?;
                    // The name ends at its first NUL.
                    if let Some(end) = bytes.iter().position(|b| *b == 0) {
                        bytes.truncate(end);
                    }
                    let slot = if header.flag == b'L' { &mut special.name } else { &mut special.link };
                    if slot.replace(bytes).is_some() {
                        return Err(bad("two long names for one member".into()));
                    }
                }
                _ => return self.member(header, &block, special, at).map(Some),
            }
        }
    }

    /// The next piece of the current member's payload; `None` when it is complete.
    pub fn data(&mut self) -> Result<Option<Chunk>> {
        if self.payload == 0 {
            return Ok(None);
        }
        let chunk = self.chunk(self.payload)?.ok_or(TarError::Truncated("a member's data"))?;
        self.payload -= chunk.len() as u64;
        Ok(Some(chunk))
    }

    /// The rest of the current member's payload as a reader.
    pub fn reader(&mut self) -> EntryReader<'_, S, O> {
        EntryReader { tar: self, left: None }
    }

    fn skip_payload(&mut self) -> Result<()> {
        let mut left = self.payload + self.padding as u64;
        (self.payload, self.padding) = (0, 0);
        while left > 0 {
            let chunk = self.chunk(left)?.ok_or(TarError::Truncated("a member's data"))?;
            left -= chunk.len() as u64;
            self.observe(&chunk)?;
        }
        Ok(())
    }

    /// Between one byte and `max` bytes; `None` at the end of the stream.
    fn chunk(&mut self, max: u64) -> Result<Option<Chunk>> {
        loop {
            if let Some(current) = &mut self.current
                && !current.is_empty()
            {
                let part = current.split_to(usize::try_from(max).unwrap_or(usize::MAX));
                self.offset += part.len() as u64;
                return Ok(Some(part));
            }
            self.current = self.source.next_chunk().map_err(|e| TarError::Read(e.to_string()))?;
            if self.current.is_none() {
                return Ok(None);
            }
        }
    }

    fn observe(&mut self, bytes: &[u8]) -> Result<()> {
        self.observer.bytes(bytes).map_err(|e| TarError::Read(e.to_string()))
    }

    /// One block that belongs to no payload; `None` at a clean end of the stream.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let Some(part) = self.chunk((BLOCK - filled) as u64)? else {
                return if filled == 0 { Ok(None) } else { Err(TarError::Truncated("a header")) };
            };
            block[filled..filled + part.len()].copy_from_slice(&part);
            filled += part.len();
        }
        self.observe(&block)?;
        Ok(Some(block))
    }

    /// The payload of an extended header or long name.
    fn special(&mut self, header: &Header, at: u64) -> Result<Vec<u8>> {
        let bad = |detail: String| TarError::Header { offset: at, detail };
        let size = header.size.clone().map_err(bad)?;
        let size = u64::try_from(size).ok().filter(|size| *size <= SPECIAL_BYTES_MAX);
        let size = size.ok_or_else(|| bad(format!("an extended header may have {SPECIAL_BYTES_MAX} bytes")))?;
        let mut bytes = Vec::with_capacity(size as usize);
        while bytes.len() < size as usize {
            let block = self.block()?.ok_or(TarError::Truncated("an extended header"))?;
            let wanted = (size as usize - bytes.len()).min(BLOCK);
            bytes.extend_from_slice(&block[..wanted]);
        }
        Ok(bytes)
    }

    fn merge_globals(&mut self, records: Records) -> std::result::Result<(), String> {
        for (key, value) in records.map {
            let structural = key == b"path" || key == b"linkpath" || key == b"size" || key.starts_with(b"GNU.sparse.");
            if structural || key.starts_with(pax::XATTR_PREFIX) {
                let key = String::from_utf8_lossy(&key).into_owned();
                return Err(format!("{key} in a global header would apply to every member"));
            }
            self.globals.map.insert(key, value);
        }
        if records.sparse.is_empty() { Ok(()) } else { Err("a sparse map in a global header".into()) }
    }

    fn end(&mut self, zeros_at: Option<u64>) -> Result<Option<Entry>> {
        self.ended = true;
        if zeros_at.is_some() {
            while let Some(chunk) = self.chunk(u64::MAX)? {
                if let Some(at) = chunk.iter().position(|b| *b != 0).filter(|_| !vocab::weak::without("trailing")) {
                    return Err(TarError::Trailing(self.offset - chunk.len() as u64 + at as u64));
                }
                self.observe(&chunk)?;
            }
        }
        Ok(None)
    }

    fn member(&mut self, header: Header, block: &[u8; BLOCK], special: Special, at: u64) -> Result<Entry> {
        let bad = |detail: String| TarError::Header { offset: at, detail };
        let pax = special.pax.unwrap_or_default();
        let globals = std::mem::take(&mut self.globals);
        // An empty value takes a record back.
        let get = |key: &str| {
            let value = pax.map.get(key.as_bytes()).or_else(|| globals.map.get(key.as_bytes()));
            value.map(Vec::as_slice).filter(|value| !value.is_empty())
        };
        let path = text(special.name, get("GNU.sparse.name").or(get("path")), &header.name, "name").map_err(bad)?;
        let path = match vocab::weak::without("names") {
            true => String::from_utf8_lossy(&path).into_owned().into_bytes(),
            false => path,
        };
        let link = text(special.link, get("linkpath"), &header.link, "link").map_err(bad)?;
        let refuse = |detail: String| TarError::entry(&path, detail);

        let size = size(get("size"), header.size).map_err(refuse)?;
        let file = match header.flag {
            b'0' | b'7' | b'S' => !path.ends_with(b"/"),
            // Before there was a type for directories, the slash was it.
            0 => !(path.ends_with(b"/") && size == 0),
            _ => false,
        };
        if matches!(header.flag, b'0' | b'7' | b'S') && !file || header.flag == 0 && file && path.ends_with(b"/") {
            return Err(refuse("a file's name ends with a slash".into()));
        }
        if !file && size != 0 {
            return Err(refuse(format!("an entry of type {:?} has {size} bytes of data", header.flag as char)));
        }
        let device = |major: header::Number, minor: header::Number| -> Result<(u32, u32)> {
            let number = |n: header::Number, pax: Option<&[u8]>| match pax {
                Some(text) => {
                    sparse::decimal(text).and_then(|n| u32::try_from(n).ok()).ok_or("bad device number".into())
                }
                None => n.and_then(|n| u32::try_from(n).map_err(|_| format!("device number {n}"))),
            };
            let major = number(major, get("SCHILY.devmajor")).map_err(refuse)?;
            let minor = number(minor, get("SCHILY.devminor")).map_err(refuse)?;
            Ok((major, minor))
        };
        let mut stored = size;
        let kind = match header.flag {
            _ if file => {
                let mut data = FileData::plain(size);
                if header.flag == b'S' {
                    if header.format != Format::Gnu {
                        return Err(refuse("a GNU sparse entry in another format".into()));
                    }
                    let extents = self.old_sparse(block).map_err(|e| e.at(&path))?;
                    let real = header::number(&block[483..495], "real size").map_err(refuse)?;
                    data.size = u64::try_from(real).map_err(|_| refuse(format!("real size {real}")))?;
                    data.sparse = Some(extents);
                } else if let Some((real, extents)) = pax_sparse(&pax, &get).map_err(refuse)? {
                    data.size = real;
                    let extents = match extents {
                        Some(extents) => extents,
                        None => {
                            let (extents, used) = self.map_in_data(size).map_err(|e| e.at(&path))?;
                            stored -= used;
                            data.stored = stored;
                            extents
                        }
                    };
                    data.sparse = Some(extents);
                }
                if let Some(extents) = &data.sparse {
                    sparse::check(extents, data.size, data.stored).map_err(refuse)?;
                }
                Kind::File(data)
            }
            0 | b'5' => Kind::Dir,
            b'1' | b'2' if link.is_empty() || link.contains(&0) || link.len() > super::path::PATH_BYTES_MAX => {
                return Err(refuse("bad link target".into()));
            }
            b'1' => Kind::HardLink(link),
            b'2' => Kind::Symlink(link),
            b'3' => device(header.major, header.minor).map(|(major, minor)| Kind::Char { major, minor })?,
            b'4' => device(header.major, header.minor).map(|(major, minor)| Kind::Block { major, minor })?,
            b'6' => Kind::Fifo,
            other => return Err(refuse(format!("unsupported entry type {:?}", other as char))),
        };
        let mut xattrs = Vec::with_capacity(pax.xattrs.len());
        for key in &pax.xattrs {
            let value = &pax.map[key];
            let name = &key[pax::XATTR_PREFIX.len()..];
            if name.is_empty() || name.len() > super::path::NAME_BYTES_MAX || value.len() > XATTR_BYTES_MAX {
                return Err(refuse("an extended attribute is too long".into()));
            }
            xattrs.push((name.to_vec(), value.clone()));
        }
        let entry = Entry {
            kind,
            mode: header.mode,
            uid: owner(get("uid"), header.uid, "uid").map_err(refuse)?,
            gid: owner(get("gid"), header.gid, "gid").map_err(refuse)?,
            mtime: match get("mtime") {
                Some(text) => decimal_time(text).ok_or_else(|| refuse("mtime is no number".into()))?,
                None => Time { secs: header.mtime.map_err(refuse)?, nanos: 0 },
            },
            xattrs,
            path,
        };
        self.globals = globals;
        self.payload = stored;
        self.padding = (size.next_multiple_of(BLOCK as u64) - size) as usize;
        Ok(entry)
    }

    fn old_sparse(&mut self, block: &[u8; BLOCK]) -> std::result::Result<Vec<Extent>, Trouble> {
        let mut extents = Vec::new();
        let mut more = sparse::old_gnu(block, true, &mut extents)?;
        while more {
            let block = self.block()?.ok_or(TarError::Truncated("a sparse map"))?;
            more = sparse::old_gnu(&block, false, &mut extents)?;
        }
        // A final piece of no length marks the end of a file that ends with a hole.
        if extents.last().is_some_and(|last| last.len == 0) {
            extents.pop();
        }
        Ok(extents)
    }

    /// The map of format 1.0 and the bytes of payload that it took.
    fn map_in_data(&mut self, size: u64) -> std::result::Result<(Vec<Extent>, u64), Trouble> {
        let mut map = InData::default();
        let mut used = 0;
        loop {
            if used + BLOCK as u64 > size {
                return Err("the sparse map is longer than the data".to_owned().into());
            }
            let block = self.block()?.ok_or(TarError::Truncated("a sparse map"))?;
            used += BLOCK as u64;
            if map.block(&block)? {
                return Ok((map.extents().into_iter().filter(|extent| extent.len > 0).collect(), used));
            }
        }
    }
}

/// A fault whose entry is yet to be named, or one that names its place itself.
enum Trouble {
    Detail(String),
    Tar(TarError),
}

impl Trouble {
    fn at(self, path: &[u8]) -> TarError {
        match self {
            Trouble::Detail(detail) => TarError::entry(path, detail),
            Trouble::Tar(error) => error,
        }
    }
}

impl From<String> for Trouble {
    fn from(detail: String) -> Self {
        Trouble::Detail(detail)
    }
}

impl From<TarError> for Trouble {
    fn from(error: TarError) -> Self {
        Trouble::Tar(error)
    }
}

/// What precedes a member: its extended header and its long names.
#[derive(Default)]
struct Special {
    pax: Option<Records>,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl Special {
    fn any(&self) -> bool {
        self.pax.is_some() || self.name.is_some() || self.link.is_some()
    }
}

/// A name from the one place that has it: GNU's long name or the PAX record in place of the header's.
fn text(long: Option<Vec<u8>>, pax: Option<&[u8]>, header: &[u8], what: &str) -> std::result::Result<Vec<u8>, String> {
    match (long, pax) {
        (Some(_), Some(_)) => Err(format!("both a GNU long {what} and a PAX one")),
        (Some(long), None) => Ok(long),
        (None, Some(pax)) if pax.contains(&0) => Err(format!("NUL in a PAX {what}")),
        (None, Some(pax)) => Ok(pax.to_vec()),
        (None, None) => Ok(header.to_vec()),
    }
}

/// The PAX record counts; writers leave the header's field zero or correct, and anything else hides a member from readers
/// that take the other one.
fn size(pax: Option<&[u8]>, header: header::Number) -> std::result::Result<u64, String> {
    let positive = |n: i64| u64::try_from(n).map_err(|_| format!("negative size {n}"));
    let Some(pax) = pax else { return positive(header?) };
    let size = sparse::decimal(pax).ok_or("PAX size is no number")?;
    match header {
        Ok(0) => Ok(size),
        Ok(n) if positive(n) == Ok(size) => Ok(size),
        _ => Err("PAX size and header size disagree".into()),
    }
}

/// `-1` would mean "leave as it is" to the kernel.
fn owner(pax: Option<&[u8]>, header: header::Number, what: &str) -> std::result::Result<u32, String> {
    let id = match pax {
        Some(text) => sparse::decimal(text).ok_or_else(|| format!("PAX {what} is no number"))?,
        None => header.and_then(|n| u64::try_from(n).map_err(|_| format!("negative {what} {n}")))?,
    };
    u32::try_from(id).ok().filter(|id| *id != u32::MAX).ok_or_else(|| format!("{what} {id} is out of range"))
}

/// The file's real size and its map, unless the map is in the data (format 1.0); `None` for a file that is not sparse.
#[allow(clippy::type_complexity)]
fn pax_sparse<'a>(
    pax: &Records,
    get: &impl Fn(&str) -> Option<&'a [u8]>,
) -> std::result::Result<Option<(u64, Option<Vec<Extent>>)>, String> {
    let number = |key: &str| match get(key) {
        Some(text) => sparse::decimal(text).map(Some).ok_or_else(|| format!("{key} is no number")),
        None => Ok(None),
    };
    let version = (number("GNU.sparse.major")?, number("GNU.sparse.minor")?);
    if version == (Some(1), Some(0)) {
        let real = number("GNU.sparse.realsize")?.ok_or("sparse file without its real size")?;
        return Ok(Some((real, None)));
    }
    let Some(real) = number("GNU.sparse.size")? else {
        return if version == (None, None) && pax.sparse.is_empty() && get("GNU.sparse.map").is_none() {
            Ok(None)
        } else {
            Err("unknown sparse format".into())
        };
    };
    let count = number("GNU.sparse.numblocks")?;
    let extents = match get("GNU.sparse.map") {
        Some(_) if !pax.sparse.is_empty() => return Err("two sparse maps".into()),
        Some(text) => sparse::list(text, count)?,
        None => sparse::pairs(pax.sparse.iter().map(Vec::as_slice), count)?,
    };
    Ok(Some((real, Some(extents.into_iter().filter(|extent| extent.len > 0).collect()))))
}

/// The payload of one member.
pub struct EntryReader<'a, S, O> {
    tar: &'a mut Reader<S, O>,
    left: Option<Chunk>,
}

impl<S: Source, O: Observer> Read for EntryReader<'_, S, O> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.left.as_ref().is_none_or(|left| left.is_empty()) {
            self.left = self.next_chunk()?;
        }
        let Some(left) = &mut self.left else { return Ok(0) };
        let part = left.split_to(out.len());
        out[..part.len()].copy_from_slice(&part);
        Ok(part.len())
    }
}

impl<S: Source, O: Observer> Source for EntryReader<'_, S, O> {
    fn next_chunk(&mut self) -> io::Result<Option<Chunk>> {
        self.tar.data().map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }
}
