//! Joining a container's streams, and its input from the outside.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;

use bytes::BytesMut;
use keeper::client::{Sink, Streams};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::container::Stage;
use super::{Container, Inner};
use crate::stream::{Attached, InputPipe, InputSink, OutputStream};
use crate::{AttachOptions, Chunk, ConsoleSize, Error, ExecId, LogOptions, Result, Status, Stream};

const READ_SIZE: usize = 32 << 10;
/// What a pipe that polls writable takes without blocking.
const WRITE_SIZE: usize = 4096;

impl Inner {
    pub(crate) async fn attach(
        self: &Arc<Self>,
        container: &Arc<Container>,
        options: AttachOptions,
    ) -> Result<Attached> {
        let record = container.record();
        match container.status() {
            Status::Paused => {
                return Err(Error::Conflict(format!(
                    "Container {} is paused, unpause the container before attach.",
                    container.id
                )));
            }
            Status::Restarting => {
                return Err(Error::Conflict(format!(
                    "Container {} is restarting, wait until the container is running",
                    container.id
                )));
            }
            _ => {}
        }
        let tty = record.config.tty;
        let mut streams = None;
        if options.stream && (options.stdout || options.stderr) {
            let (sink, ends) = Sink::new(options.stdout || tty, options.stderr && !tty)
                .map_err(|e| Error::internal("open attach streams", e))?;
            self.subscribe(container, sink).await?;
            streams = Some(ends);
        }
        // After the subscription, so that nothing falls between.
        let replay = match self.log_path(container.id, &record.host).filter(|_| options.logs) {
            Some(path) => {
                let log = LogOptions { stdout: options.stdout, stderr: options.stderr, ..Default::default() };
                super::inner::blocking(move || super::follow::read_all(path, log)).await?
            }
            None => Vec::new(),
        };
        let input = (options.stdin && options.stream && record.config.open_stdin)
            .then(|| Input::container(self.clone(), container.clone(), record.config.stdin_once && !tty));
        self.container_event(container, "attach", &[]);
        Ok(self.attached(tty, streams, replay, input))
    }

    /// To a running container at once; else to its next start.
    async fn subscribe(&self, container: &Container, sink: Sink) -> Result<()> {
        {
            let mut live = container.live();
            let runs = matches!(live.saved.state.status, Status::Running | Status::Paused);
            if !runs && !live.starting {
                live.pending_sinks.push(sink);
                return Ok(());
            }
        }
        match self.keeper.subscribe(&container.id.to_string(), sink).await {
            // It has ended: an empty stream says so.
            Ok(()) | Err(keeper::client::Error::NotHeld(_)) => Ok(()),
            Err(error) => Err(Error::internal("attach", error)),
        }
    }

    /// Reads the streams in one task and puts them in front of the caller.
    pub(crate) fn attached(
        &self,
        tty: bool,
        streams: Option<Streams>,
        replay: Vec<Chunk>,
        input: Option<InputSink>,
    ) -> Attached {
        let (sender, output) = OutputStream::channel(16);
        tokio::spawn(async move {
            for chunk in replay {
                if sender.send(Ok(chunk)).await.is_err() {
                    return;
                }
            }
            let Some(streams) = streams else { return };
            let one = forward(streams.stdout, Stream::Stdout, &sender);
            let two = forward(streams.stderr, Stream::Stderr, &sender);
            tokio::select! {
                _ = async { tokio::join!(one, two) } => {}
                // The reader has gone: closing the pipes unsubscribes.
                () = sender.closed() => {}
            }
        });
        Attached { tty, output, input }
    }

    /// The terminal's size, now or at the next start.
    pub(crate) fn resize(&self, container: &Container, size: ConsoleSize) -> Result<()> {
        let running = {
            let mut live = container.live();
            live.saved.console = Some(size);
            matches!(live.saved.state.status, Status::Running | Status::Paused)
        };
        if !running {
            return Err(container.not_running());
        }
        let resized = self.keeper.resize(&container.id.to_string(), size.rows, size.cols);
        resized.map_err(|e| Error::internal("resize", e))?;
        let sides = [("height", size.rows.to_string()), ("width", size.cols.to_string())];
        self.container_event(container, "resize", &sides);
        Ok(())
    }
}

async fn forward(from: Option<OwnedFd>, stream: Stream, to: &mpsc::Sender<Result<Chunk>>) {
    let Some(fd) = from else { return };
    let Ok(pipe) = crate::stream::register(fd, Interest::READABLE) else { return };
    let mut buffer = BytesMut::new();
    loop {
        buffer.resize(READ_SIZE, 0);
        let count = pipe.async_io(Interest::READABLE, |fd| linux::pipe::read(fd, &mut buffer).map_err(io_error)).await;
        match count {
            Ok(0) | Err(_) => return,
            Ok(count) => {
                let bytes = buffer.split_to(count).freeze();
                if to.send(Ok(Chunk { stream, bytes })).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Input that finds its pipe when there is one: a client may write before the container is started.
pub(crate) struct Input {
    inner: Arc<Inner>,
    target: Target,
    pipe: Option<AsyncFd<OwnedFd>>,
}

enum Target {
    /// `once`: the end of this input ends the container's.
    Container {
        container: Arc<Container>,
        once: bool,
    },
    Exec(ExecId),
}

impl Input {
    pub(crate) fn container(inner: Arc<Inner>, container: Arc<Container>, once: bool) -> InputSink {
        InputSink { inner: Box::new(Self { inner, target: Target::Container { container, once }, pipe: None }) }
    }

    pub(crate) fn exec(inner: Arc<Inner>, id: ExecId) -> InputSink {
        InputSink { inner: Box::new(Self { inner, target: Target::Exec(id), pipe: None }) }
    }

    async fn open(&mut self) -> io::Result<()> {
        if self.pipe.is_some() {
            return Ok(());
        }
        let key = match &self.target {
            Target::Container { container, .. } => {
                let mut stages = container.stages();
                let wanted = |stage: &Stage| matches!(stage, Stage::Running | Stage::Removed);
                let stage = *stages.wait_for(wanted).await.map_err(io::Error::other)?;
                if stage == Stage::Removed {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                container.id.to_string()
            }
            Target::Exec(id) => id.to_string(),
        };
        let fd = self.inner.keeper.stdin(&key).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        let fd = fd.ok_or(io::ErrorKind::BrokenPipe)?;
        self.pipe = Some(crate::stream::register(fd, Interest::WRITABLE)?);
        Ok(())
    }

    async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        self.open().await?;
        let pipe = self.pipe.as_ref().expect("opened above");
        while !bytes.is_empty() {
            let mut guard = pipe.writable().await?;
            // The descriptor blocks (the process has the same one), so ask before each write.
            let ready = linux::epoll::poll_one(pipe.get_ref().as_fd(), linux::epoll::Interest::OUT, 0)
                .map_err(io::Error::other)?;
            if !ready {
                guard.clear_ready();
                continue;
            }
            let piece = &bytes[..bytes.len().min(WRITE_SIZE)];
            let count = linux::pipe::write(pipe.get_ref(), piece).map_err(io_error)?;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    async fn end(mut self) {
        let key = match &self.target {
            Target::Container { once: false, .. } => return,
            Target::Container { container, once: true } => {
                let key = container.id.to_string();
                // Nothing may have been written, and the container may start only now.
                if self.open().await.is_err() {
                    return;
                }
                key
            }
            Target::Exec(id) => id.to_string(),
        };
        drop(self.pipe.take());
        if let Err(error) = self.inner.keeper.close_stdin(&key).await {
            tracing::debug!(id = key, %error, "close standard input");
        }
    }
}

impl InputPipe for Input {
    fn write<'a>(&'a mut self, bytes: &'a [u8]) -> Pin<Box<dyn Future<Output = io::Result<()>> + Send + 'a>> {
        Box::pin(self.write_all(bytes))
    }

    fn close(self: Box<Self>) {
        tokio::spawn(self.end());
    }
}

fn io_error(error: linux::Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno().raw_os_error())
}
