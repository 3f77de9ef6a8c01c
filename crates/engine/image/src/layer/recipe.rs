//! What turns an unpacked layer into its tar again: every byte that is not a file's data, and for the data where to find it.
//!
//! A recipe is a zstd stream of records: `0 length bytes` for bytes as they are, `1 length path offset length` for a piece
//! of a file below the layer's directory, `2` for the end; numbers are LEB128. A tar may put several things at one path;
//! what a later member replaced is kept beside the layer ([`Moved`]), because its bytes are still part of the tar.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use linux::fs::{Mode, OFlags, Root};
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::tar::Observer;

/// Headers compress to a tenth at this level, faster than they arrive.
const ZSTD_LEVEL: i32 = 1;
/// Headers are gathered into records of about this size.
const GATHER_BYTES: usize = 16 << 10;

const BYTES: u8 = 0;
const FILE: u8 = 1;
const END: u8 = 2;

/// A member's place was taken by a later member; what was there is now below `moved/<number>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Path in the layer, of a file or of a directory with all below it.
    pub path: Vec<u8>,
    /// Pieces of files before this one in the recipe that lie at the path mean the moved thing.
    pub before_piece: u64,
    pub number: u32,
}

/// Writes a recipe while the tar is read. As the reader's observer it gets the bytes between the data.
pub(super) struct RecipeWriter {
    out: Option<zstd::Encoder<'static, File>>,
    gathered: Vec<u8>,
    pieces: u64,
}

impl RecipeWriter {
    /// `None`: no recipe is wanted, everything is dropped.
    pub(super) fn new(file: Option<File>) -> io::Result<Self> {
        let out = file.map(|file| zstd::Encoder::new(file, ZSTD_LEVEL)).transpose()?;
        Ok(Self { out, gathered: Vec::new(), pieces: 0 })
    }

    pub(super) fn wanted(&self) -> bool {
        self.out.is_some()
    }

    /// How many pieces of files there are so far.
    pub(super) fn pieces(&self) -> u64 {
        self.pieces
    }

    /// The next `len` bytes of the tar are those at `offset` of the file at `path`.
    pub(super) fn file(&mut self, path: &[u8], offset: u64, len: u64) -> io::Result<()> {
        if self.out.is_none() || len == 0 {
            return Ok(());
        }
        self.pieces += 1;
        self.write_gathered()?;
        let mut record = vec![FILE];
        leb128(&mut record, path.len() as u64);
        record.extend_from_slice(path);
        leb128(&mut record, offset);
        leb128(&mut record, len);
        self.write(&record)
    }

    /// Completes the recipe and returns its file.
    pub(super) fn finish(mut self) -> io::Result<Option<File>> {
        self.write_gathered()?;
        self.write(&[END])?;
        self.out.map(zstd::Encoder::finish).transpose()
    }

    fn write_gathered(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let mut record = vec![BYTES];
        leb128(&mut record, self.gathered.len() as u64);
        self.write(&record)?;
        let gathered = std::mem::take(&mut self.gathered);
        self.write(&gathered)?;
        self.gathered = gathered;
        self.gathered.clear();
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.as_mut().map_or(Ok(()), |out| out.write_all(bytes))
    }
}

impl Observer for RecipeWriter {
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.out.is_none() {
            return Ok(());
        }
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= GATHER_BYTES { self.write_gathered() } else { Ok(()) }
    }
}

fn leb128(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// The tar of a layer, made from its recipe and its directory. The caller compares its digest with the layer's diff id:
/// a file that somebody changed shows there.
pub struct RecipeReader {
    recipe: BufReader<zstd::Decoder<'static, BufReader<File>>>,
    diff: Root,
    moved_dir: OwnedFd,
    moved: Vec<Moved>,
    piece: u64,
    /// The last file opened: its pieces follow one another.
    open: Option<(Vec<u8>, File)>,
    now: Now,
}

enum Now {
    Between,
    Bytes(u64),
    File { file: File, left: u64 },
    End,
}

impl RecipeReader {
    /// `layer` is the folder that holds `diff`, `recipe` and, if anything was moved, `moved`.
    pub fn open(layer: &Path) -> Result<Self> {
        let path = layer.join("recipe");
        let file = File::open(&path).context(|| format!("open {}", path.display()))?;
        let recipe = zstd::Decoder::new(file).context(|| format!("read {}", path.display()))?;
        let diff = Root::open(layer.join("diff")).context(|| "open a layer")?;
        let moved = match std::fs::read(layer.join("moved.json")) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|e| Error::Damaged(format!("{}: {e}", layer.join("moved.json").display())))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(e).context(|| format!("read {}", layer.join("moved.json").display())),
        };
        let moved_dir = Root::open(layer).context(|| "open a layer")?.into_fd();
        let recipe = BufReader::new(recipe);
        Ok(Self { recipe, diff, moved_dir, moved, piece: 0, open: None, now: Now::Between })
    }

    fn next(&mut self) -> io::Result<Now> {
        let mut tag = [0];
        self.recipe.read_exact(&mut tag)?;
        match tag[0] {
            BYTES => Ok(Now::Bytes(self.number()?)),
            FILE => {
                let mut path = vec![0; usize::try_from(self.number()?.min(1 << 16)).unwrap_or(0)];
                self.recipe.read_exact(&mut path)?;
                let (offset, left) = (self.number()?, self.number()?);
                let mut file = self.file(&path)?;
                io::Seek::seek(&mut file, io::SeekFrom::Start(offset))?;
                Ok(Now::File { file, left })
            }
            END => Ok(Now::End),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a layer's recipe is damaged")),
        }
    }

    fn file(&mut self, path: &[u8]) -> io::Result<File> {
        let piece = self.piece;
        self.piece += 1;
        if let Some((open, file)) = &self.open
            && open == path
            && self.moved.is_empty()
        {
            return file.try_clone();
        }
        // The first replacement after this piece is the one that moved it away.
        let moved = self.moved.iter().find_map(|moved| {
            let rest = path.strip_prefix(&moved.path[..])?;
            (piece < moved.before_piece && (rest.is_empty() || rest[0] == b'/')).then_some((moved.number, rest))
        });
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW;
        let fd = match moved {
            Some((number, rest)) => {
                let path = [format!("moved/{number}").as_bytes(), rest].concat();
                let root = Root::from_fd(self.moved_dir.try_clone()?);
                root.open_file(Path::new(std::ffi::OsStr::from_bytes(&path)), flags, Mode::empty())?
            }
            None => self.diff.open_file(Path::new(std::ffi::OsStr::from_bytes(path)), flags, Mode::empty())?,
        };
        let file = File::from(fd);
        self.open = Some((path.to_vec(), file.try_clone()?));
        Ok(file)
    }

    fn number(&mut self) -> io::Result<u64> {
        let mut n = 0;
        for shift in (0..64).step_by(7) {
            let mut byte = [0];
            self.recipe.read_exact(&mut byte)?;
            n |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                break;
            }
        }
        Ok(n)
    }
}

impl Read for RecipeReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let n = match &mut self.now {
                Now::End => return Ok(0),
                Now::Bytes(left) if *left > 0 => {
                    let n = self.recipe.by_ref().take(*left).read(out)?;
                    *left -= n as u64;
                    n
                }
                Now::File { file, left } if *left > 0 => {
                    let n = file.take(*left).read(out)?;
                    *left -= n as u64;
                    n
                }
                _ => {
                    self.now = self.next()?;
                    continue;
                }
            };
            if n == 0 && !out.is_empty() {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a layer's file is shorter than it was"));
            }
            return Ok(n);
        }
    }
}

pub(super) fn save_moved(layer: impl AsFd, moved: &[Moved]) -> Result<()> {
    let bytes = serde_json::to_vec(moved).map_err(|e| Error::Damaged(e.to_string()))?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let fd =
        linux::fs::openat(layer, "moved.json", flags, Mode::from_raw_mode(0o600)).context(|| "note moved files")?;
    File::from(fd).write_all(&bytes).context(|| "note moved files")
}
