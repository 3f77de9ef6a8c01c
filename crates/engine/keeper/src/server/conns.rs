//! Engines and what they ask: connections, messages in both directions, and who is told what.

use std::os::fd::{AsFd, OwnedFd};

use linux::epoll::Interest;
use linux::{Errno, socket};
use runtime::RefusedKind;

use super::args::exit_path;
use super::conn::{Conn, OUTBOX_MAX, Out, Sent};
use super::held::Asker;
use super::pump::Plumbing;
use super::start::open_gate;
use super::{Server, free_place, now_ms, refuse, token};
use crate::model::Phase;
use crate::protocol::{Fault, FromClient, Hello, PROTOCOL, Request, ToClient, encode};

impl Server<'_> {
    pub(super) fn accept(&mut self) {
        while let Ok(Some(fd)) = socket::accept(&self.listener) {
            // The directory is closed to others; this is the second lock.
            let allowed = socket::peer(&fd).is_ok_and(|peer| peer.uid == linux::cred::effective_ids().0);
            if !allowed {
                continue;
            }
            let index = free_place(&mut self.conns);
            if self.epoll.add(&fd, token::new(token::CONN, index), Interest::IN).is_ok() {
                self.conns[index] = Some(Conn::new(fd));
            }
        }
    }

    pub(super) fn serve_conn(&mut self, index: usize, events: Interest) {
        if events.intersects(Interest::OUT) {
            self.flush(index);
        }
        if !events.intersects(Interest::IN | Interest::HUP | Interest::ERR) {
            return;
        }
        loop {
            let Some(conn) = self.conns.get(index).and_then(Option::as_ref) else { return };
            let mut fds = Vec::new();
            match socket::recv(&conn.fd, &mut self.buf, &mut fds) {
                Ok(received) if received.len == 0 || received.truncated => return self.drop_conn(index),
                Ok(received) => {
                    let bytes = self.buf[..received.len].to_vec();
                    self.message(index, &bytes, fds);
                }
                Err(error) if error.is(Errno::AGAIN) => return,
                Err(error) if error.is(Errno::INTR) => {}
                Err(_) => return self.drop_conn(index),
            }
        }
    }

    pub(super) fn drop_conn(&mut self, index: usize) {
        if let Some(conn) = self.conns[index].take() {
            let _ = self.epoll.delete(&conn.fd);
        }
        for held in self.slots.iter_mut().flatten() {
            if let Some(launch) = &mut held.launch
                && launch.asker.is_some_and(|asker| asker.conn == index)
            {
                launch.asker = None;
            }
        }
        if self.adopting == Some(index) {
            self.resume(index);
        }
        self.engine_left(index);
        self.idle_since_ms = now_ms();
        self.want_timer();
    }

    pub(super) fn send(&mut self, index: usize, message: &ToClient) {
        match encode(message) {
            Ok(bytes) => self.queue(index, Out::Bytes(bytes)),
            Err(error) => complain!("keeper: {error}"),
        }
    }

    pub(super) fn queue(&mut self, index: usize, out: Out) {
        let Some(conn) = self.conns.get_mut(index).and_then(Option::as_mut) else { return };
        conn.outbox.push_back(out);
        if conn.outbox.len() > OUTBOX_MAX {
            return self.drop_conn(index);
        }
        if !conn.stuck {
            self.flush(index);
        }
    }

    pub(super) fn flush(&mut self, index: usize) {
        loop {
            let Some(conn) = self.conns.get(index).and_then(Option::as_ref) else { return };
            let sent = match conn.outbox.front() {
                None => break,
                Some(Out::Bytes(bytes)) => conn.send(bytes, &[]),
                Some(Out::Common) => {
                    let Ok(bytes) = encode(&ToClient::Common) else { return };
                    let Plumbing { journal, aux, .. } = &self.plumbing;
                    conn.send(&bytes, &[journal.as_fd(), aux.0.as_fd(), aux.1.as_fd()])
                }
                Some(Out::Held(slot)) => match self.slots.get(*slot).and_then(Option::as_ref) {
                    None => Sent::Yes,
                    Some(held) => {
                        let (message, fds) = held.message(*slot, conn.protocol);
                        let Ok(bytes) = encode(&ToClient::Held(message)) else { return };
                        conn.send(&bytes, &fds)
                    }
                },
            };
            let Some(conn) = self.conns[index].as_mut() else { return };
            match sent {
                Sent::Yes => {
                    conn.outbox.pop_front();
                }
                Sent::Later => {
                    conn.stuck = true;
                    let both = Interest::IN | Interest::OUT;
                    let _ = self.epoll.modify(&conn.fd, token::new(token::CONN, index), both);
                    return;
                }
                Sent::Broken => return self.drop_conn(index),
            }
        }
        if let Some(conn) = self.conns[index].as_mut()
            && std::mem::replace(&mut conn.stuck, false)
        {
            let _ = self.epoll.modify(&conn.fd, token::new(token::CONN, index), Interest::IN);
        }
    }

    pub(super) fn tell_all(&mut self, message: &ToClient) {
        for index in 0..self.conns.len() {
            if self.conns[index].as_ref().is_some_and(Conn::greeted) {
                self.send(index, message);
            }
        }
    }

    pub(super) fn tell_held(&mut self, slot: usize) {
        for index in 0..self.conns.len() {
            if self.conns[index].as_ref().is_some_and(Conn::greeted) {
                self.queue(index, Out::Held(slot));
            }
        }
    }

    pub(super) fn message(&mut self, index: usize, bytes: &[u8], fds: Vec<OwnedFd>) {
        let greeted = self.conns[index].as_ref().is_some_and(Conn::greeted);
        if !greeted {
            return match Hello::decode(bytes) {
                Some(hello) if hello.protocol >= 1 => self.greet(index, hello.protocol),
                _ => self.drop_conn(index),
            };
        }
        match postcard::from_bytes::<FromClient>(bytes) {
            Ok(FromClient::Inherit) => self.inherit(index, fds),
            Ok(FromClient::Adopt(message)) => self.adopt(index, message, fds),
            Ok(FromClient::Resume) => self.resume(index),
            Ok(FromClient::Request { seq, request }) => {
                let asker = Asker { conn: index, seq };
                match self.request(asker, request, fds) {
                    Ok(Some(warnings)) => self.send(index, &ToClient::Reply { seq, result: Ok(warnings) }),
                    // Answered later.
                    Ok(None) => {}
                    Err(fault) => self.send(index, &ToClient::Reply { seq, result: Err(fault) }),
                }
            }
            Err(_) => self.drop_conn(index),
        }
    }

    pub(super) fn greet(&mut self, index: usize, protocol: u32) {
        let hello = Hello { protocol: PROTOCOL, build: self.args.build, pid: std::process::id() as i32 };
        if let Some(conn) = self.conns[index].as_mut() {
            conn.protocol = protocol;
        }
        self.queue(index, Out::Bytes(hello.encode()));
        self.queue(index, Out::Common);
        for slot in 0..self.slots.len() {
            if self.slots[slot].is_some() {
                self.queue(index, Out::Held(slot));
            }
        }
        self.send(index, &ToClient::Listed);
    }

    pub(super) fn request(
        &mut self,
        asker: Asker,
        request: Request,
        fds: Vec<OwnedFd>,
    ) -> Result<Option<Vec<String>>, Fault> {
        match request {
            Request::Start { id, kind, stdio, log, gated, sinks } => {
                self.start(asker, id, kind, stdio, log, gated, &sinks, fds)?;
                Ok(None)
            }
            Request::Release { id } => {
                let slot = self.slot(&id)?;
                let held = self.slots[slot].as_mut().ok_or(Fault::NotHeld)?;
                let Some(launch) = held.launch.as_mut().filter(|_| held.phase == Phase::Gated) else {
                    return Err(refuse(RefusedKind::Invalid, "it does not wait at a gate"));
                };
                launch.asker = Some(asker);
                open_gate(launch);
                Ok(None)
            }
            Request::Subscribe { id, sinks } => {
                let slot = self.slot(&id)?;
                self.subscribe(slot, &sinks, fds);
                Ok(Some(Vec::new()))
            }
            Request::CloseStdin { id } => {
                let slot = self.slot(&id)?;
                if let Some(held) = self.slots[slot].as_mut() {
                    held.stdin = None;
                }
                Ok(Some(Vec::new()))
            }
            Request::Forget { id } => {
                let slot = self.slot(&id)?;
                let ended = self.slots[slot].as_ref().is_some_and(|held| matches!(held.phase, Phase::Ended(_)));
                if !ended {
                    return Err(Fault::StillRunning);
                }
                self.leave(slot);
                let _ = std::fs::remove_file(exit_path(&self.args.run, &id));
                Ok(Some(Vec::new()))
            }
            Request::Names { id } => {
                let slot = self.slot(&id)?;
                self.take_names(slot, asker.conn, fds)?;
                Ok(Some(Vec::new()))
            }
            Request::Quit => {
                if !self.by_id.is_empty() {
                    return Err(Fault::StillRunning);
                }
                self.ended = true;
                Ok(Some(Vec::new()))
            }
        }
    }

    pub(super) fn slot(&self, id: &str) -> Result<usize, Fault> {
        self.by_id.get(id).copied().ok_or(Fault::NotHeld)
    }
}
