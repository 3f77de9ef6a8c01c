//! Logs to a caller: the reader on the blocking pool, a wake-up from inotify, and no thread in between.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::container::Stage;
use super::inner::blocking;
use super::{Container, Inner};
use crate::logs::{Batch, LogReader};
use crate::{Chunk, Error, LogOptions, LogStream, Result, Stream};

impl Inner {
    pub(crate) async fn logs(self: &Arc<Self>, container: &Arc<Container>, options: LogOptions) -> Result<LogStream> {
        let record = container.record();
        let Some(path) = self.log_path(container.id, &record.host) else {
            return Err(Error::Unsupported("configured logging driver does not support reading".into()));
        };
        if !options.stdout && !options.stderr {
            return Err(Error::Invalid("Bad parameters: you must choose at least one stream".into()));
        }
        // Before the first read, so that what is written meanwhile wakes us.
        let woken = if options.follow {
            let directory = path.parent().unwrap_or(&path).to_owned();
            std::fs::create_dir_all(&directory).map_err(|e| Error::internal("follow logs", e))?;
            Some(self.log_watch.watch(directory)?)
        } else {
            None
        };
        let stages = container.stages();
        let until = options.until;
        let opening = options.clone();
        let reader = blocking(move || LogReader::open(path, opening)).await;
        let reader = reader.map_err(|e| Error::internal(format_args!("read the log of {}", container.id), e))?;
        let (sender, stream) = LogStream::channel(256);
        tokio::spawn(follow(reader, options, woken, stages, until, sender));
        Ok(stream)
    }
}

async fn follow(
    mut reader: LogReader,
    options: LogOptions,
    mut woken: Option<Woken>,
    mut stages: watch::Receiver<Stage>,
    until: Option<jiff::Timestamp>,
    sender: tokio::sync::mpsc::Sender<Result<crate::LogEntry>>,
) {
    let mut last_look = false;
    loop {
        let (back, batch) = blocking(move || {
            let batch = reader.next_batch();
            (reader, batch)
        })
        .await;
        reader = back;
        match batch {
            Ok(Batch::Entries(entries)) => {
                for entry in entries {
                    let wanted = match entry.stream {
                        Stream::Stderr => options.stderr,
                        _ => options.stdout,
                    };
                    if wanted && sender.send(Ok(entry)).await.is_err() {
                        return;
                    }
                }
                continue;
            }
            Ok(Batch::Finished) => return,
            Ok(Batch::End) => {}
            Err(error) => {
                let _ = sender.send(Err(Error::internal("read the log", error))).await;
                return;
            }
        }
        let Some(woken) = &mut woken else { return };
        let running = matches!(*stages.borrow_and_update(), Stage::Running | Stage::Between);
        if !running {
            // It has ended since: everything that it wrote is in the file now. Look once more.
            if last_look {
                return;
            }
            last_look = true;
            continue;
        }
        last_look = false;
        let patience = async {
            match until {
                Some(until) => {
                    let left = until.duration_since(jiff::Timestamp::now());
                    tokio::time::sleep(left.try_into().unwrap_or_default()).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = woken.changes.changed() => {}
            _ = stages.changed() => {}
            () = sender.closed() => return,
            () = patience => return,
        }
    }
}

/// Everything that a log holds now, as output.
pub(crate) fn read_all(path: PathBuf, options: LogOptions) -> Result<Vec<Chunk>> {
    let failed = |e: io::Error| Error::internal("read the log", e);
    let mut reader = LogReader::open(path, options.clone()).map_err(failed)?;
    let mut chunks = Vec::new();
    while let Batch::Entries(entries) = reader.next_batch().map_err(failed)? {
        let wanted = entries.into_iter().filter(|e| match e.stream {
            Stream::Stderr => options.stderr,
            _ => options.stdout,
        });
        chunks.extend(wanted.map(|e| Chunk { stream: e.stream, bytes: e.line }));
    }
    Ok(chunks)
}

/// One inotify instance for all followers.
#[derive(Debug)]
pub(crate) struct LogWatch {
    fd: Arc<AsyncFd<OwnedFd>>,
    dirs: Arc<Mutex<HashMap<i32, Watched>>>,
}

#[derive(Debug)]
struct Watched {
    changes: watch::Sender<u64>,
    followers: usize,
}

/// A follower's subscription to one directory.
pub(crate) struct Woken {
    changes: watch::Receiver<u64>,
    number: i32,
    fd: Arc<AsyncFd<OwnedFd>>,
    dirs: Arc<Mutex<HashMap<i32, Watched>>>,
}

impl LogWatch {
    /// Must be called inside the runtime.
    pub(crate) fn new() -> Result<Self> {
        let fd = linux::inotify::init()?;
        let fd = crate::stream::register(fd, Interest::READABLE).map_err(|e| Error::internal("watch logs", e))?;
        let (fd, dirs) = (Arc::new(fd), Arc::new(Mutex::new(HashMap::<i32, Watched>::new())));
        let (reading, known) = (fd.clone(), Arc::downgrade(&dirs));
        tokio::spawn(async move {
            while let Ok(mut guard) = reading.readable().await {
                let Some(known) = known.upgrade() else { return };
                let news = linux::inotify::read(reading.get_ref());
                guard.clear_ready();
                let known = known.lock().unwrap_or_else(|e| e.into_inner());
                match news {
                    Ok(linux::inotify::News::Changed(numbers)) => {
                        for watched in numbers.iter().filter_map(|n| known.get(n)) {
                            watched.changes.send_modify(|n| *n += 1);
                        }
                    }
                    Ok(linux::inotify::News::Overflow) | Err(_) => {
                        for watched in known.values() {
                            watched.changes.send_modify(|n| *n += 1);
                        }
                    }
                }
            }
        });
        Ok(Self { fd, dirs })
    }

    fn watch(&self, dir: PathBuf) -> Result<Woken> {
        let mut dirs = self.dirs.lock().unwrap_or_else(|e| e.into_inner());
        let number = linux::inotify::watch_dir(self.fd.get_ref(), &dir)?;
        let watched = dirs.entry(number).or_insert_with(|| Watched { changes: watch::channel(0).0, followers: 0 });
        watched.followers += 1;
        Ok(Woken { changes: watched.changes.subscribe(), number, fd: self.fd.clone(), dirs: self.dirs.clone() })
    }
}

impl Drop for Woken {
    fn drop(&mut self) {
        let mut dirs = self.dirs.lock().unwrap_or_else(|e| e.into_inner());
        let Some(watched) = dirs.get_mut(&self.number) else { return };
        watched.followers -= 1;
        if watched.followers == 0 {
            dirs.remove(&self.number);
            // Gone already if the directory was removed.
            let _ = linux::inotify::unwatch(self.fd.get_ref(), self.number);
        }
    }
}
