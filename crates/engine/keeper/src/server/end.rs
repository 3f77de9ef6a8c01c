//! Ends: how a process ended, its last words, the exit that is on disk before anybody is told, and letting go.

use std::path::Path;

use linux::{pidfd, proc, process};
use runtime::RefusedKind;
use vocab::crash;

use super::args::exit_path;
use super::held::Held;
use super::pump::Pumped;
use super::{Server, now_ms};
use crate::model::{Exited, Phase, Stream};
use crate::protocol::ToClient;

/// How long to wait for somebody else to reap what ended after its keeper had died.
const REAP_WAIT_MS: u64 = 2000;

impl Server<'_> {
    pub(super) fn process_ended(&mut self, slot: usize) {
        let Some(held) = self.slots.get_mut(slot).and_then(Option::as_mut) else { return };
        if matches!(held.phase, Phase::Ended(_)) {
            return;
        }
        if held.launch.is_some() {
            // The report says why; without one more word it ended before it got anywhere.
            self.launch_news(slot);
            let Some(held) = self.slots.get_mut(slot).and_then(Option::as_mut) else { return };
            if held.launch.is_some() {
                let cause = runtime::Cause::refused(RefusedKind::Internal, "the child ended without a word");
                return self.launch_failed(slot, cause.at("launch".into()));
            }
            return self.process_ended(slot);
        }
        let now = now_ms();
        if !std::mem::replace(&mut held.ending, true) {
            held.ending_since_ms = now;
            let _ = self.epoll.delete(&held.pidfd);
        }
        let exit = match how_it_ended(held) {
            Some(exit) => Some(exit),
            None if now - held.ending_since_ms < REAP_WAIT_MS => return self.want_timer_soon(),
            None => None,
        };
        held.ending = false;
        let exited = Exited { exit, at: process::wall_clock() };
        let id = held.id.clone();
        // Its last words come before its end.
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.drain(slot, stream);
        }
        if let Some(held) = self.slots[slot].as_mut() {
            held.stdin = None;
            held.phase = Phase::Ended(exited);
            if let Some(names) = &mut held.names {
                // They would keep its network namespace.
                names.sockets = None;
            }
        }
        self.settle_names();
        // Now that it has ended, streams may end.
        self.mark_busy(slot, Stream::Stdout);
        self.mark_busy(slot, Stream::Stderr);
        crash::point("keeper.exit.before_record");
        if let Err(error) = write_exit(&self.args.run, &id, &exited) {
            complain!("keeper: exit of {id}: {error}");
        }
        crash::point("keeper.exit.recorded");
        self.tell_all(&ToClient::Exited { id, exited });
    }

    /// Moves what is there now, as far as subscribers take it.
    pub(super) fn drain(&mut self, slot: usize, stream: Stream) {
        let mut closed = Vec::new();
        // A writer that outlives the process must not hold up its end.
        for _ in 0..1000 {
            match self.pump_once(slot, stream, &mut closed) {
                Pumped::More => {}
                Pumped::Ended => {
                    self.end_stream(slot, stream, &mut closed);
                    break;
                }
                _ => break,
            }
        }
        self.sinks_closed(slot, closed);
    }

    /// Forgets what has ended. Its id is free at once; its slot when its subscribers have taken what it said: the engine forgets a process
    /// as soon as it hears of its end, and whoever reads slowly would lose the rest.
    pub(super) fn leave(&mut self, slot: usize) {
        let Some(held) = self.slots[slot].as_mut() else { return };
        held.leaving = true;
        self.by_id.remove(&held.id);
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.pump(slot, stream);
        }
        self.leave_if_done(slot);
    }

    /// Lets go of what was forgotten and whose streams have ended.
    pub(super) fn leave_if_done(&mut self, slot: usize) {
        let held = self.slots.get(slot).and_then(Option::as_ref);
        if held.is_some_and(|held| held.leaving && held.stdout.is_none() && held.stderr.is_none()) {
            self.let_go(slot);
        }
    }

    /// Closes everything of a slot.
    pub(super) fn let_go(&mut self, slot: usize) {
        let mut closed = Vec::new();
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.end_stream(slot, stream, &mut closed);
        }
        self.sinks_closed(slot, closed);
        if let Some(held) = self.slots[slot].take() {
            let _ = self.epoll.delete(&held.pidfd);
            if let Some(tty) = &held.tty {
                let _ = self.epoll.delete(tty);
            }
            // What was forgotten has given up its id, and another may hold it by now.
            if self.by_id.get(&held.id) == Some(&slot) {
                self.by_id.remove(&held.id);
            }
        }
        self.busy.retain(|(busy, _)| *busy != slot);
        self.idle_since_ms = now_ms();
        self.want_timer();
    }
}

/// Our own children are reaped; what was adopted is reaped by init, and the kernel (6.15) or, if we are quick, `/proc` tells.
fn how_it_ended(held: &Held) -> Option<process::Exit> {
    match pidfd::wait(&held.pidfd, false) {
        Ok(exit) => exit,
        Err(_) => {
            let zombie = || {
                let stat = proc::stat(held.pid).ok()?;
                let same = stat.start_time == held.start_time && stat.state == 'Z';
                same.then(|| process::Exit::from_wait_status(stat.exit_status))
            };
            pidfd::info(&held.pidfd).ok().and_then(|info| info.exit).or_else(zombie)
        }
    }
}

fn write_exit(run: &Path, id: &str, exited: &Exited) -> std::io::Result<()> {
    let path = exit_path(run, id);
    let temporary = path.with_extension("exit.new");
    std::fs::write(&temporary, serde_json::to_vec(exited)?)?;
    std::fs::rename(temporary, path)
}
