//! The reader: a position in a chain of rotated files.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::record::parse_record;
use super::tail::tail_offset;
use crate::{LogEntry, LogOptions};

const BLOCK: usize = 128 << 10;
/// A record that does not end within this is not one: the keeper writes at most 16 KiB of output as one record.
const RECORD_MAX: usize = 1 << 20;

/// What one step of reading gave.
#[derive(Debug)]
pub(crate) enum Batch {
    Entries(Vec<LogEntry>),
    /// Nothing more for now.
    End,
    /// `until` has passed: nothing will follow.
    Finished,
}

/// Reads `path` and its rotated predecessors `path.1` (the newest of them), `path.2`, ...
#[derive(Debug)]
pub(crate) struct LogReader {
    path: PathBuf,
    options: LogOptions,
    /// `None` before anything was written.
    current: Option<Open>,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Open {
    file: File,
    inode: u64,
    /// The first byte that was not delivered.
    offset: u64,
}

impl Open {
    fn new(file: File) -> io::Result<Self> {
        let inode = file.metadata()?.ino();
        Ok(Self { file, inode, offset: 0 })
    }
}

impl LogReader {
    /// Finds where to begin. Touches the disk: for blocking threads.
    pub(crate) fn open(path: PathBuf, options: LogOptions) -> io::Result<Self> {
        let mut files = Vec::new();
        for file in chain(&path)? {
            files.push(Open::new(file)?);
        }
        let mut start = files.len().saturating_sub(1);
        match options.tail {
            None => start = 0,
            Some(mut wanted) => {
                // Newest first: take what this file has, then look in the one before it.
                for at in (0..files.len()).rev() {
                    let open = &mut files[at];
                    let end = complete_len(&open.file)?;
                    let (offset, found) = tail_offset(&open.file, end, wanted)?;
                    open.offset = offset;
                    start = at;
                    wanted -= found;
                    if wanted == 0 {
                        break;
                    }
                }
            }
        }
        let current = if files.is_empty() { None } else { Some(files.swap_remove(start)) };
        Ok(Self { path, options, current, buffer: Vec::new() })
    }

    /// The next records, or where it stands. Touches the disk: for blocking threads.
    pub(crate) fn next_batch(&mut self) -> io::Result<Batch> {
        loop {
            if self.current.is_none() {
                match chain(&self.path)?.into_iter().next() {
                    Some(file) => self.current = Some(Open::new(file)?),
                    None => return Ok(Batch::End),
                }
            }
            let mut entries = Vec::new();
            let mut finished = false;
            let consumed = self.read_block(&mut entries, &mut finished)?;
            if finished && entries.is_empty() {
                return Ok(Batch::Finished);
            }
            if !entries.is_empty() {
                return Ok(Batch::Entries(entries));
            }
            if consumed == 0 && !self.advance()? {
                return Ok(Batch::End);
            }
        }
    }

    /// Reads and parses whole lines from the current file. Returns how many bytes they took.
    fn read_block(&mut self, entries: &mut Vec<LogEntry>, finished: &mut bool) -> io::Result<usize> {
        let open = self.current.as_mut().expect("next_batch opens a file first");
        let mut size = BLOCK;
        loop {
            self.buffer.resize(size, 0);
            let count = read_full(&open.file, &mut self.buffer, open.offset)?;
            let block = &self.buffer[..count];
            let Some(end) = block.iter().rposition(|b| *b == b'\n') else {
                // A record longer than the block: look at more of it. At the end of the file it is not complete yet.
                if count == size && size < RECORD_MAX {
                    size *= 4;
                    continue;
                }
                let skipped = if count >= RECORD_MAX { count } else { 0 };
                open.offset += skipped as u64;
                return Ok(skipped);
            };
            let mut consumed = 0;
            for line in block[..=end].split_inclusive(|b| *b == b'\n') {
                let entry = parse_record(&line[..line.len() - 1], self.options.details);
                if let (Some(entry), Some(until)) = (&entry, self.options.until)
                    && entry.at > until
                {
                    *finished = true;
                    break;
                }
                consumed += line.len();
                let wanted = |entry: &LogEntry| self.options.since.is_none_or(|since| entry.at >= since);
                entries.extend(entry.filter(wanted));
            }
            open.offset += consumed as u64;
            return Ok(consumed);
        }
    }

    /// At the end of the current file: moves to its successor if it was rotated away. False: it is the newest.
    fn advance(&mut self) -> io::Result<bool> {
        let open = self.current.as_mut().expect("next_batch opens a file first");
        if open.file.metadata()?.len() < open.offset {
            // Emptied in place (`max-file=1`): what it holds now is new.
            open.offset = 0;
            return Ok(true);
        }
        let mut newer = Vec::new();
        let mut found = false;
        for file in chain(&self.path)? {
            let next = Open::new(file)?;
            if next.inode == open.inode {
                found = true;
                newer.clear();
            } else {
                newer.push(next);
            }
        }
        if newer.is_empty() {
            return Ok(false);
        }
        // Something may have been written between our read and the rotation.
        if found && open.file.metadata()?.len() > open.offset && complete_len(&open.file)? > open.offset {
            return Ok(true);
        }
        self.current = Some(newer.swap_remove(0));
        Ok(true)
    }
}

/// The files that exist, oldest first. Opened from the newest on, so that a rotation meanwhile doubles a file (seen by
/// its inode) rather than hiding one.
fn chain(path: &Path) -> io::Result<Vec<File>> {
    let mut files: Vec<(u64, File)> = Vec::new();
    for index in 0.. {
        let name = match index {
            0 => path.to_owned(),
            n => {
                let mut name = path.as_os_str().to_owned();
                name.push(format!(".{n}"));
                PathBuf::from(name)
            }
        };
        match linux::fs::open_regular(&name)? {
            Some(file) => {
                let inode = file.metadata()?.ino();
                if !files.iter().any(|(seen, _)| *seen == inode) {
                    files.push((inode, file));
                }
            }
            // Between a rename and the new file there is a moment without the newest.
            None if index == 0 => {}
            None => break,
        }
    }
    Ok(files.into_iter().rev().map(|(_, file)| file).collect())
}

/// The length up to and including the last newline.
fn complete_len(file: &File) -> io::Result<u64> {
    let mut position = file.metadata()?.len();
    let mut block = [0; 4096];
    while position > 0 {
        let count = position.min(block.len() as u64) as usize;
        let part = &mut block[..count];
        file.read_exact_at(part, position - count as u64)?;
        if let Some(at) = part.iter().rposition(|b| *b == b'\n') {
            return Ok(position - count as u64 + at as u64 + 1);
        }
        position -= count as u64;
    }
    Ok(0)
}

fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    struct Log {
        dir: tempfile::TempDir,
        next: u32,
    }

    impl Log {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap(), next: 0 }
        }

        fn path(&self) -> PathBuf {
            self.dir.path().join("c-json.log")
        }

        fn write(&mut self, count: u32) {
            let mut file = fs::OpenOptions::new().create(true).append(true).open(self.path()).unwrap();
            for _ in 0..count {
                let n = self.next;
                let time = jiff::Timestamp::from_second(1_000_000 + i64::from(n)).unwrap();
                let stream = if n.is_multiple_of(2) { "stdout" } else { "stderr" };
                writeln!(file, "{{\"log\":\"{n}\\n\",\"stream\":\"{stream}\",\"time\":\"{time}\"}}").unwrap();
                self.next += 1;
            }
        }

        fn rotate(&self, keep: u32) {
            let name = |n| if n == 0 { self.path() } else { PathBuf::from(format!("{}.{n}", self.path().display())) };
            for n in (0..keep).rev() {
                if name(n).exists() {
                    fs::rename(name(n), name(n + 1)).unwrap();
                }
            }
        }

        fn open(&self, options: LogOptions) -> LogReader {
            LogReader::open(self.path(), options).unwrap()
        }
    }

    fn drain(reader: &mut LogReader) -> Vec<u32> {
        let mut seen = Vec::new();
        while let Batch::Entries(entries) = reader.next_batch().unwrap() {
            seen.extend(entries.iter().map(|e| std::str::from_utf8(&e.line).unwrap().trim().parse::<u32>().unwrap()));
        }
        seen
    }

    #[test]
    fn everything_is_read_across_rotations_and_the_tail_from_the_end() {
        let mut log = Log::new();
        log.write(5);
        log.rotate(3);
        log.write(5);
        log.rotate(3);
        log.write(5);
        assert_eq!(drain(&mut log.open(LogOptions::default())), (0..15).collect::<Vec<_>>());
        for tail in 0..=16 {
            let options = LogOptions { tail: Some(tail), ..Default::default() };
            let first = 15u32.saturating_sub(tail as u32);
            assert_eq!(drain(&mut log.open(options)), (first..15).collect::<Vec<_>>(), "tail {tail}");
        }
    }

    #[test]
    fn following_through_rotations_neither_loses_nor_doubles() {
        let mut log = Log::new();
        let mut reader = log.open(LogOptions::default());
        let mut seen = Vec::new();
        for step in 0..200 {
            log.write(step % 7);
            if step % 3 == 0 {
                log.rotate(4);
            }
            if step % 4 == 0 {
                seen.extend(drain(&mut reader));
            }
        }
        seen.extend(drain(&mut reader));
        assert_eq!(seen, (0..log.next).collect::<Vec<_>>());
    }

    #[test]
    fn an_unfinished_record_waits_for_its_end() {
        let mut log = Log::new();
        log.write(1);
        let mut reader = log.open(LogOptions::default());
        assert_eq!(drain(&mut reader), [0]);
        let record = br#"{"log":"1\n","stream":"stdout","time":"2026-01-01T00:00:00Z"}"#;
        let mut file = fs::OpenOptions::new().append(true).open(log.path()).unwrap();
        file.write_all(&record[..20]).unwrap();
        assert_eq!(drain(&mut reader), [0u32; 0]);
        assert_eq!(drain(&mut log.open(LogOptions { tail: Some(1), ..Default::default() })), [0]);
        file.write_all(&record[20..]).unwrap();
        file.write_all(b"\n").unwrap();
        assert_eq!(drain(&mut reader), [1]);
    }

    #[test]
    fn since_and_until_bound_what_is_read() {
        let mut log = Log::new();
        log.write(10);
        let at = |n: i64| Some(jiff::Timestamp::from_second(1_000_000 + n).unwrap());
        let mut reader = log.open(LogOptions { since: at(3), until: at(6), ..Default::default() });
        assert_eq!(drain(&mut reader), [3, 4, 5, 6]);
        assert!(matches!(reader.next_batch().unwrap(), Batch::Finished));
    }

    #[test]
    fn damage_is_skipped_and_long_records_are_read() {
        let log = Log::new();
        let long = "x".repeat(300_000);
        let time = "2026-01-01T00:00:00Z";
        let good = |text: &str| format!("{{\"log\":\"{text}\",\"stream\":\"stdout\",\"time\":\"{time}\"}}\n");
        fs::write(log.path(), format!("garbage\n{}\0\0\n{}", good(&long), good("end"))).unwrap();
        let mut reader = log.open(LogOptions::default());
        let mut lengths = Vec::new();
        while let Batch::Entries(entries) = reader.next_batch().unwrap() {
            lengths.extend(entries.iter().map(|e| e.line.len()));
        }
        assert_eq!(lengths, [300_000, 3]);
    }

    #[test]
    fn a_log_that_does_not_exist_yet_is_empty_and_then_appears() {
        let mut log = Log::new();
        let mut reader = log.open(LogOptions { tail: Some(3), ..Default::default() });
        assert!(matches!(reader.next_batch().unwrap(), Batch::End));
        log.write(5);
        assert_eq!(drain(&mut reader), [0, 1, 2, 3, 4]);
    }
}
