//! What goes over the socket: messages of a SEQPACKET unix socket, each one postcard value, descriptors beside it.
//!
//! An engine has to adopt what an older keeper holds. The first message in both directions is therefore [`Hello`] in a form that never
//! changes; afterwards both speak the older of their protocol versions. Within a version enums and structs only grow at the end. Plans are
//! opaque here: the engine sends new work only to a keeper made from its own program ([`Hello::build`]) and starts one if there is none.

use serde::{Deserialize, Serialize};

use crate::model::{Exited, Kind, LogSpec, Phase, Stdio};

/// The newest version that this program speaks; it understands all from 1 on.
pub(crate) const PROTOCOL: u32 = 2;
/// From here on a keeper takes containers' resolvers, and engines understand their sockets among what is held.
pub(crate) const WITH_NAMES: u32 = 2;
/// Larger messages are refused; what is large (a plan) travels as a sealed memory file.
pub(crate) const MESSAGE_MAX: usize = 60 * 1024;

const MAGIC: [u8; 4] = *b"knrk";

/// The first message in each direction: magic, then three little-endian numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hello {
    pub protocol: u32,
    /// Fingerprint of the program: the same build understands the same plans.
    pub build: u64,
    pub pid: i32,
}

impl Hello {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.protocol.to_le_bytes());
        bytes.extend(self.build.to_le_bytes());
        bytes.extend(self.pid.to_le_bytes());
        bytes
    }

    /// `None` if this is no hello. Later versions may append to it.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&MAGIC)?;
        Some(Self {
            protocol: u32::from_le_bytes(rest.get(0..4)?.try_into().ok()?),
            build: u64::from_le_bytes(rest.get(4..12)?.try_into().ok()?),
            pid: i32::from_le_bytes(rest.get(12..16)?.try_into().ok()?),
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FromClient {
    /// Of a keeper that died: journal, read and write end of the auxiliary pipe. Before anything else, to a new keeper only.
    Inherit,
    /// One thing that the dead keeper held, with its descriptors.
    Adopt(HeldMessage),
    /// All is handed over: finish the interrupted batch and go on.
    Resume,
    Request {
        seq: u64,
        request: Request,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Descriptors: the plan in sealed memory, the target's pidfd (exec), the sinks.
    Start {
        id: String,
        kind: Kind,
        stdio: Stdio,
        log: Option<LogSpec>,
        gated: bool,
        sinks: Vec<SinkRole>,
    },
    Release {
        id: String,
    },
    /// Descriptors: the sinks.
    Subscribe {
        id: String,
        sinks: Vec<SinkRole>,
    },
    CloseStdin {
        id: String,
    },
    Forget {
        id: String,
    },
    /// End if nothing is held.
    Quit,
    /// This engine answers what a container asks of its resolver, until it is gone. Descriptors, unless the keeper has them:
    /// the resolver's UDP socket and its TCP listener. Since [`WITH_NAMES`].
    Names {
        id: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ToClient {
    /// Descriptors: journal, read and write end of the auxiliary pipe.
    Common,
    /// Something held, new or changed, with all its descriptors but the sinks.
    Held(HeldMessage),
    /// Everything held was told.
    Listed,
    Reply {
        seq: u64,
        result: Result<Vec<String>, Fault>,
    },
    Exited {
        id: String,
        exited: Exited,
    },
    /// The keeper is through with a subscription.
    SinkClosed {
        id: String,
        key: u64,
    },
    /// Descriptor: the root of a container that is about to run. Told to the engine that started it alone, and kept by it alone.
    Root {
        id: String,
    },
}

/// One end of a subscription, under the client's number for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SinkRole {
    pub key: u64,
    pub stderr: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HeldMessage {
    pub record: Record,
    /// What each descriptor of the message is.
    pub roles: Vec<Role>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub id: String,
    pub kind: Kind,
    pub pid: i32,
    pub start_time: u64,
    pub stdio: Stdio,
    pub log: Option<LogSpec>,
    pub phase: Phase,
    /// Its place in the journal.
    pub slot: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Role {
    Pidfd,
    /// Read end of the pipe that holds output not yet logged (with a terminal: of the pipe behind the master).
    Stdout,
    Stderr,
    Stdin,
    /// The terminal's master.
    Tty,
    /// Write end of the pipe behind the master.
    TtyPipe,
    Sink(SinkRole),
    /// The container's resolver: its UDP socket, its TCP listener. Since [`WITH_NAMES`].
    NamesUdp,
    NamesTcp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Fault {
    Launch(runtime::Failure),
    NotHeld,
    AlreadyHeld,
    StillRunning,
    Refused { kind: runtime::RefusedKind, message: String },
}

pub(crate) fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, String> {
    let bytes = postcard::to_allocvec(message).map_err(|error| error.to_string())?;
    if bytes.len() > MESSAGE_MAX {
        return Err(format!("a message of {} bytes, at most {MESSAGE_MAX} are sent", bytes.len()));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hello_is_the_same_for_ever() {
        let hello = Hello { protocol: 1, build: 0x0102_0304_0506_0708, pid: 9 };
        let bytes = hello.encode();
        assert_eq!(bytes, b"knrk\x01\0\0\0\x08\x07\x06\x05\x04\x03\x02\x01\x09\0\0\0");
        assert_eq!(Hello::decode(&[bytes.as_slice(), b"later"].concat()), Some(hello));
        assert_eq!(Hello::decode(b"knrk\x01"), None);
        assert_eq!(Hello::decode(b"http"), None);
    }

    /// A keeper of version 1 that is out in the world writes these bytes.
    #[test]
    fn what_version_1_says_is_understood_for_ever() {
        let record = Record {
            id: "c1".into(),
            kind: Kind::Container,
            pid: 7,
            start_time: 300,
            stdio: Stdio::Pipes { stdin: true },
            log: Some(LogSpec::json_file("/l")),
            phase: Phase::Ended(Exited { exit: Some(linux::process::Exit::Signal(9)), at: (1, 2) }),
            slot: 3,
        };
        let roles = vec![Role::Pidfd, Role::Stdout, Role::Sink(SinkRole { key: 5, stderr: true })];
        let message = ToClient::Held(HeldMessage { record, roles });
        let bytes = encode(&message).unwrap();
        let golden: &[u8] = &[
            1, 2, b'c', b'1', 0, 14, 172, 2, 1, 1, 1, 0, 0, 2, b'/', b'l', 1, 128, 128, 128, 10, 5, 3, 1, 1, 9, 2, 2,
            3, 3, 0, 1, 6, 5, 1,
        ];
        assert_eq!(bytes, golden);
        assert_eq!(postcard::from_bytes::<ToClient>(golden).unwrap(), message);
    }
}
