//! BuildKit's messages: only what is used, by the field numbers of its public API (control.proto, gateway.proto, ops.proto,
//! worker.proto, caps.proto, errdefs.proto; the session's filesync, auth, secrets, ssh, upload; fsutil's wire.proto and
//! stat.proto; containerd's content.proto; google.rpc.Status).

pub(crate) mod content;
pub(crate) mod control;
pub(crate) mod fsutil;
pub(crate) mod gateway;
pub(crate) mod pb;
pub(crate) mod rpc;
pub(crate) mod session;

use jiff::Timestamp;

/// google.protobuf.Timestamp
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct Time {
    #[prost(int64, tag = "1")]
    pub(crate) seconds: i64,
    #[prost(int32, tag = "2")]
    pub(crate) nanos: i32,
}

impl From<Timestamp> for Time {
    fn from(at: Timestamp) -> Self {
        Self { seconds: at.as_second(), nanos: at.subsec_nanosecond() }
    }
}

impl Time {
    pub(crate) fn timestamp(self) -> Option<Timestamp> {
        Timestamp::new(self.seconds, self.nanos).ok()
    }
}
