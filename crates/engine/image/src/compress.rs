//! A layer's tar as it leaves the machine: plain, or packed anew in the form that somebody asked for. The same tar always
//! gives the same bytes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use vocab::Digest;

use crate::error::{Context, Error, Result};
use crate::hash::{HashReader, HashWriter};
use crate::store::{Packing, Store, read_head};

/// Above it zstd takes windows of more than 8 MiB, which is all that a reader has to have room for.
const ZSTD_LEVEL_MAX: i32 = 19;
const BUFFER_BYTES: usize = 256 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    None,
    /// 0 to 9.
    Gzip(u32),
    /// 1 to 19.
    Zstd(i32),
}

impl std::fmt::Display for Compression {
    /// Forms that give the same bytes read the same.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => write!(f, "uncompressed"),
            Self::Gzip(level) => write!(f, "gzip-{level}"),
            Self::Zstd(level) => write!(f, "zstd-{level}"),
        }
    }
}

impl Compression {
    /// From the words of BuildKit's exporters; `level` in the numbers of the form that is asked for.
    pub fn parse(kind: &str, level: Option<i32>) -> std::result::Result<Self, String> {
        let within = |max: i32| match level {
            Some(level) if !(0..=max).contains(&level) => {
                Err(format!("compression level {level} of {kind} is not between 0 and {max}"))
            }
            level => Ok(level),
        };
        match kind {
            "uncompressed" => Ok(Self::None),
            "gzip" => Ok(Self::Gzip(within(9)?.unwrap_or(6) as u32)),
            // 0 asks for the usual level. A reader may refuse what the last three make.
            "zstd" => Ok(Self::Zstd(match within(22)?.unwrap_or(0) {
                0 => 3,
                level => level.min(ZSTD_LEVEL_MAX),
            })),
            "estargz" => Err("compression estargz is not supported: use gzip, zstd or uncompressed".into()),
            other => Err(format!("unsupported compression type {other:?}: gzip, zstd or uncompressed")),
        }
    }

    /// What a layer in this form says that it is.
    pub fn media_type(self) -> &'static str {
        self.packing().media_type()
    }

    /// Whether bytes that start so are in this form, at any level.
    pub fn is_form_of(self, head: &[u8]) -> bool {
        Packing::sniff(head) == Some(self.packing())
    }

    fn packing(self) -> Packing {
        match self {
            Self::None => Packing::Plain,
            Self::Gzip(_) => Packing::Gzip,
            Self::Zstd(_) => Packing::Zstd,
        }
    }

    /// Packs a tar; returns digest and length of what was written.
    fn pack(self, tar: &mut (dyn Read + Send), out: &mut (dyn Write + Send)) -> io::Result<(Digest, u64)> {
        let mut out = HashWriter::new(out);
        match self {
            Self::None => copy(tar, &mut out)?,
            Self::Gzip(level) => {
                let mut packed = flate2::write::GzEncoder::new(&mut out, flate2::Compression::new(level));
                copy(tar, &mut packed)?;
                packed.finish()?;
            }
            Self::Zstd(level) => {
                let mut packed = zstd::Encoder::new(&mut out, level)?;
                packed.include_checksum(true)?;
                copy(tar, &mut packed)?;
                packed.finish()?;
            }
        }
        out.flush()?;
        let (_, digest, bytes) = out.finish();
        Ok((digest, bytes))
    }
}

fn copy(from: &mut (dyn Read + Send), to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => to.write_all(&buffer[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

impl Store {
    /// Packs a layer of the store anew; returns digest and length of what was written. The tar is held against its diff id.
    pub fn pack_layer(&self, chain: &Digest, form: Compression, out: &mut (dyn Write + Send)) -> Result<(Digest, u64)> {
        let layer = self.layer(chain)?.ok_or(Error::NoSuchLayer(*chain))?;
        let kept = layer.compressed.map_or(layer.diff_id, |(digest, _)| digest);
        let mut kept = self.blob(&kept)?.ok_or(Error::NoSuchBlob(kept))?.reader(0)?;
        let what = || format!("pack layer {}", layer.diff_id);
        let head = read_head(&mut *kept).context(what)?;
        let tar = crate::inflate::inflate(head, kept).context(what)?;
        let mut tar = HashReader::new(tar.ok_or_else(|| Error::Damaged(format!("layer {} is no tar", layer.diff_id)))?);
        let packed = form.pack(&mut tar, out).context(what)?;
        let (diff_id, _) = tar.finish();
        if diff_id != layer.diff_id {
            return Err(Error::Damaged(format!("layer {} has become {diff_id}", layer.diff_id)));
        }
        Ok(packed)
    }
}

/// Reads a file that others read too, each from a place of its own.
#[derive(Debug)]
pub struct SharedFile {
    file: Arc<File>,
    at: u64,
}

impl SharedFile {
    pub fn new(file: Arc<File>, at: u64) -> Self {
        Self { file, at }
    }
}

impl SharedFile {
    /// As [`Read::read`], if that needs no disk.
    pub fn read_cached(&mut self, out: &mut [u8]) -> Option<usize> {
        let count = linux::fs::read_cached(&*self.file, out, self.at)?;
        self.at += count as u64;
        Some(count)
    }
}

impl Read for SharedFile {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(out, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_and_levels_are_read() {
        use Compression::{Gzip, Zstd};
        for (kind, level, expected) in [
            ("uncompressed", None, Ok(Compression::None)),
            ("gzip", None, Ok(Gzip(6))),
            ("gzip", Some(0), Ok(Gzip(0))),
            ("gzip", Some(9), Ok(Gzip(9))),
            ("gzip", Some(10), Err("not between 0 and 9")),
            ("zstd", None, Ok(Zstd(3))),
            ("zstd", Some(0), Ok(Zstd(3))),
            ("zstd", Some(22), Ok(Zstd(19))),
            ("zstd", Some(-1), Err("not between 0 and 22")),
            ("estargz", None, Err("estargz is not supported")),
            ("brotli", None, Err("unsupported compression type \"brotli\"")),
        ] {
            match (Compression::parse(kind, level), expected) {
                (Ok(read), Ok(expected)) => assert_eq!(read, expected),
                (Err(said), Err(expected)) => assert!(said.contains(expected), "{said}"),
                (read, expected) => panic!("{kind} {level:?}: {read:?}, not {expected:?}"),
            }
        }
    }

    #[test]
    fn what_is_packed_is_the_tar_again() {
        // Nothing but zeros at its beginning is a tar of nothing.
        let mut tar = vec![0; 1024];
        tar.extend((0..200_000u32).flat_map(|n| (n % 977).to_le_bytes()));
        let mut sizes = Vec::new();
        for form in [Compression::None, Compression::Gzip(0), Compression::Gzip(9), Compression::Zstd(19)] {
            let (mut out, mut again) = (Vec::new(), Vec::new());
            let (digest, bytes) = form.pack(&mut &tar[..], &mut out).unwrap();
            assert_eq!((digest, bytes), (crate::hash::sha256(&out), out.len() as u64));
            form.pack(&mut &tar[..], &mut again).unwrap();
            assert!(out == again, "{form:?} differs from time to time");
            let mut inflated = Vec::new();
            let (head, rest) = out.split_at(512);
            assert!(form.is_form_of(head), "{form:?}");
            crate::inflate::inflate(head.to_vec(), rest).unwrap().unwrap().read_to_end(&mut inflated).unwrap();
            assert!(inflated == tar, "{form:?}");
            sizes.push(bytes);
        }
        assert!(sizes[1] > sizes[0] && sizes[2] < sizes[0] / 4 && sizes[3] < sizes[2], "{sizes:?}");
    }
}
