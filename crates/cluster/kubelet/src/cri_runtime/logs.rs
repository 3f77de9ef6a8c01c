//! Files of log lines in the interface's format: `TIME STREAM F|P TEXT`, where `P` is a piece whose line goes on. The kubelet rotates
//! them: `0.log` becomes `0.log.1`, and so on.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pods::{LogLine, LogQuery};
use tokio::sync::mpsc;

/// When a log is rotated, and how many files are kept: upstream's defaults.
pub const FILE_BYTES_MAX: u64 = 10 << 20;
const FILES_MAX: u32 = 5;
/// How often a log that is followed is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A longer line is no line of a runtime's: they cut theirs at 16 KiB.
const LINE_BYTES_MAX: usize = 1 << 20;

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// Gives the file another name, and the older ones theirs. Who writes it has to be told.
pub fn rotate(path: &Path) -> std::io::Result<()> {
    for number in (1..FILES_MAX - 1).rev() {
        match fs::rename(numbered(path, number), numbered(path, number + 1)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::rename(path, numbered(path, 1))
}

/// A file that is read as it grows.
struct Tail {
    reader: BufReader<File>,
    inode: u64,
    /// The beginning of a line whose end has not been written.
    pending: Vec<u8>,
}

impl Tail {
    fn open(path: &Path) -> Option<Self> {
        let file = File::open(path).ok()?;
        let inode = file.metadata().ok()?.ino();
        Some(Self { reader: BufReader::new(file), inode, pending: Vec::new() })
    }

    /// The next whole line; `None`: there is no more now.
    fn next(&mut self) -> Option<LogLine> {
        loop {
            let mut room = (&mut self.reader).take(LINE_BYTES_MAX as u64);
            room.read_until(b'\n', &mut self.pending).ok()?;
            let Some(line) = self.pending.strip_suffix(b"\n") else {
                if self.pending.len() >= LINE_BYTES_MAX {
                    self.pending.clear();
                    continue;
                }
                return None;
            };
            let line = LogLine::parse(line);
            self.pending.clear();
            if line.is_some() {
                return line;
            }
        }
    }
}

/// The lines that a query asks for. `runs`: whether more may come.
pub fn read<F, A>(path: PathBuf, query: LogQuery, runs: F) -> mpsc::Receiver<LogLine>
where
    F: Fn() -> A + Send + 'static,
    A: Future<Output = bool> + Send,
{
    let (sender, receiver) = mpsc::channel(256);
    tokio::spawn(async move {
        let (first, since) = (path.clone(), query.since);
        let wanted = move |line: &LogLine| since.is_none_or(|since| line.at >= since);
        let tail = query.tail.map(|count| usize::try_from(count).unwrap_or(usize::MAX));
        let (told, filter) = (sender.clone(), wanted);
        let opened = tokio::task::spawn_blocking(move || older(&first, tail, filter, &told)).await;
        let Ok(mut file) = opened else { return };
        while query.follow && !sender.is_closed() {
            let going = runs().await;
            let (place, told) = (path.clone(), sender.clone());
            let read = tokio::task::spawn_blocking(move || follow(&place, file, wanted, &told)).await;
            let Ok(next) = read else { return };
            file = next;
            // What was written before it ended has been read after that.
            if !going {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    });
    receiver
}

/// What is there: the older files first. The newest one as far as it was read.
fn older(
    path: &Path,
    tail: Option<usize>,
    wanted: impl Fn(&LogLine) -> bool,
    sender: &mpsc::Sender<LogLine>,
) -> Option<Tail> {
    let mut last = VecDeque::new();
    let mut newest = None;
    let files = (1..FILES_MAX).rev().map(|number| numbered(path, number)).chain([path.to_owned()]);
    for file in files {
        let Some(mut open) = Tail::open(&file) else { continue };
        while let Some(line) = open.next() {
            if !wanted(&line) {
                continue;
            }
            match tail {
                Some(count) => {
                    last.push_back(line);
                    if last.len() > count {
                        last.pop_front();
                    }
                }
                None => {
                    if sender.blocking_send(line).is_err() {
                        return None;
                    }
                }
            }
        }
        newest = (file == path).then_some(open);
    }
    for line in last {
        if sender.blocking_send(line).is_err() {
            return None;
        }
    }
    newest
}

/// What has been written since, also into a file that has taken the name meanwhile.
fn follow(
    path: &Path,
    file: Option<Tail>,
    wanted: impl Fn(&LogLine) -> bool,
    sender: &mpsc::Sender<LogLine>,
) -> Option<Tail> {
    let mut file = file.or_else(|| Tail::open(path))?;
    loop {
        while let Some(line) = file.next() {
            if wanted(&line) && sender.blocking_send(line).is_err() {
                return Some(file);
            }
        }
        match fs::metadata(path) {
            Ok(now) if now.ino() != file.inode => file = Tail::open(path)?,
            _ => return Some(file),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(lines: &[LogLine]) -> String {
        lines.iter().map(|line| String::from_utf8_lossy(&line.line).into_owned()).collect()
    }

    async fn all(mut lines: mpsc::Receiver<LogLine>) -> String {
        let mut seen = Vec::new();
        while let Some(line) = lines.recv().await {
            seen.push(line);
        }
        text(&seen)
    }

    fn write(path: &Path, lines: &[&str]) {
        let text: String = lines.iter().map(|line| format!("2026-11-30T01:02:03Z stdout F {line}\n")).collect();
        fs::write(path, text).unwrap();
    }

    #[tokio::test]
    async fn older_files_come_first_and_the_last_lines_are_of_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        write(&path, &["a", "b"]);
        rotate(&path).unwrap();
        write(&path, &["c"]);
        rotate(&path).unwrap();
        write(&path, &["d", "e"]);
        let ended = || async { false };
        assert_eq!(all(read(path.clone(), LogQuery::default(), ended)).await, "a\nb\nc\nd\ne\n");
        assert_eq!(
            all(read(path.clone(), LogQuery { tail: Some(3), ..LogQuery::default() }, ended)).await,
            "c\nd\ne\n"
        );
        let later = "2027-01-01T00:00:00Z".parse().ok();
        assert_eq!(all(read(path.clone(), LogQuery { since: later, ..LogQuery::default() }, ended)).await, "");
    }

    #[tokio::test]
    async fn a_log_is_followed_over_its_rotation_until_its_writer_ends() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        write(&path, &["a"]);
        let (runs, watched) = tokio::sync::watch::channel(true);
        let follow = LogQuery { follow: true, ..LogQuery::default() };
        let mut lines = read(path.clone(), follow, move || {
            let runs = *watched.borrow();
            async move { runs }
        });
        assert_eq!(text(&[lines.recv().await.unwrap()]), "a\n");
        rotate(&path).unwrap();
        write(&path, &["b"]);
        assert_eq!(text(&[lines.recv().await.unwrap()]), "b\n");
        runs.send(false).unwrap();
        assert_eq!(lines.recv().await, None);
    }
}
