//! Output on its way: which stream has its turn, and what happens when a stream or a subscriber ends.

use linux::Errno;
use linux::epoll::Interest;
use linux::pipe::{self, Splice};

use super::held::Held;
use super::pump::{PIPE_SIZE, Pumped};
use super::{Server, now_ms};
use crate::model::{Kind, Phase, Stream};

/// Batches of one stream before others have their turn.
const ROUNDS: usize = 4;

impl Server<'_> {
    pub(super) fn pump(&mut self, slot: usize, stream: Stream) {
        let mut closed = Vec::new();
        let mut outcome = Pumped::More;
        for _ in 0..ROUNDS {
            outcome = self.pump_once(slot, stream, &mut closed);
            if outcome != Pumped::More {
                break;
            }
        }
        match outcome {
            Pumped::More => self.mark_busy(slot, stream),
            // What an exec, or a container that is gone, has left running in the background does not keep its streams open.
            Pumped::Idle { .. } if self.is_ended_exec(slot) || self.is_leaving(slot) => {
                self.end_stream(slot, stream, &mut closed)
            }
            Pumped::Idle { tail: true } => self.want_timer(),
            // A subscriber's pipe reports room by itself.
            Pumped::Idle { tail: false } | Pumped::Blocked => {}
            Pumped::Ended => self.end_stream(slot, stream, &mut closed),
        }
        self.sinks_closed(slot, closed);
        if self.plumbing.is_big() {
            self.want_timer();
        }
        self.leave_if_done(slot);
    }

    pub(super) fn is_ended_exec(&self, slot: usize) -> bool {
        let held = self.slots.get(slot).and_then(Option::as_ref);
        held.is_some_and(|held| held.kind == Kind::Exec && matches!(held.phase, Phase::Ended(_)))
    }

    fn is_leaving(&self, slot: usize) -> bool {
        self.slots.get(slot).and_then(Option::as_ref).is_some_and(|held| held.leaving)
    }

    pub(super) fn pump_once(&mut self, slot: usize, stream: Stream, closed: &mut Vec<u64>) -> Pumped {
        let Some(held) = self.slots.get_mut(slot).and_then(Option::as_mut) else {
            return Pumped::Idle { tail: false };
        };
        let mut more = false;
        if let (Some(tty), Some(into), Stream::Stdout) = (&held.tty, &held.tty_pipe, stream) {
            // EIO: nobody has the terminal open right now.
            let moved = pipe::splice(tty, into, PIPE_SIZE, Splice::NONBLOCK);
            more = moved.as_ref().is_ok_and(|n| *n > 0);
            let empty = moved.is_err_and(|error| !error.is(Errno::AGAIN))
                || held.stdout.as_ref().is_some_and(|source| pipe::available(&source.fd).is_ok_and(|n| n == 0));
            if !more && empty && matches!(held.phase, Phase::Ended(_)) {
                // Nothing will come any more. (The engine's duplicate keeps the pipe behind the terminal from ending by itself.)
                let _ = self.epoll.delete(tty);
                held.tty = None;
                held.tty_pipe = None;
                held.stdout.iter_mut().for_each(|source| source.closing = true);
            }
        }
        let Held { log, stdout, stderr, .. } = held;
        let source = match stream {
            Stream::Stdout => stdout.as_mut(),
            Stream::Stderr => stderr.as_mut(),
        };
        let Some(source) = source else { return Pumped::Idle { tail: false } };
        match self.plumbing.pump(slot, source, log.as_mut(), now_ms(), closed) {
            Ok(Pumped::Idle { .. }) if more => Pumped::More,
            Ok(outcome) => outcome,
            Err(error) => {
                complain!("keeper: {} {}: {error}", held.id, stream.name());
                Pumped::Idle { tail: false }
            }
        }
    }

    /// Subscribers whose reader has gone. A container that writes nothing would never find out by writing.
    pub(super) fn drop_left_sinks(&mut self, slot: usize, stream: Stream) {
        let Some(source) = self.slots.get_mut(slot).and_then(Option::as_mut).and_then(|held| held.source(stream))
        else {
            return;
        };
        let mut closed = Vec::new();
        // Nothing is asked for: what a poll reports unasked is that the other end is gone.
        for sink in
            source.sinks.extract_if(.., |sink| linux::epoll::poll_one(&sink.fd, Interest::empty(), 0).unwrap_or(true))
        {
            let _ = self.epoll.delete(&sink.fd);
            closed.push(sink.key);
        }
        self.sinks_closed(slot, closed);
    }

    pub(super) fn end_stream(&mut self, slot: usize, stream: Stream, closed: &mut Vec<u64>) {
        let Some(held) = self.slots[slot].as_mut() else { return };
        let source = match stream {
            Stream::Stdout => held.stdout.take(),
            Stream::Stderr => held.stderr.take(),
        };
        if let Some(source) = source {
            let _ = self.epoll.delete(&source.fd);
            for sink in source.sinks {
                let _ = self.epoll.delete(&sink.fd);
                closed.push(sink.key);
            }
        }
    }
}
