//! What Kubernetes' clients ask of a running pod over connections that they upgrade: exec and attach, port-forward.
//!
//! * `upgrade` — which protocol both sides speak, and the answer that switches to it
//! * `session` — exec and attach over WebSocket; `remote` — the same over SPDY
//! * `port_forward` — connections to ports of a pod, over either
//! * `client` — the other side of both over SPDY, for a runtime that gives addresses away
//! * `websocket` — the WebSocket codec
//!
//! It knows neither pods nor requests: who serves them has found the process or the way to the pod before.

pub mod client;
pub mod port_forward;
mod remote;
pub mod session;
mod upgrade;
pub mod websocket;

pub use upgrade::{Refusal, Wire, negotiate, switch};
