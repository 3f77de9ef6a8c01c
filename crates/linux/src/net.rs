//! The one piece of network configuration that every new network namespace needs: its loopback up. Everything else about networks is the
//! network crate's.

use std::os::fd::AsRawFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::{Attempt, Result};

const RTM_NEWLINK: u16 = 16;
const NLM_F_REQUEST_ACK: u16 = 1 | 4;
const IFF_UP: u32 = 1;

/// Brings `lo` of the calling thread's network namespace up (one rtnetlink request). It is interface 1 in every namespace.
pub fn loopback_up() -> Result<()> {
    // Protocol 0 is NETLINK_ROUTE.
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)
        .attempt("socket", format_args!("NETLINK, ROUTE"))?;
    let mut request = [0u8; 32];
    request[0..4].copy_from_slice(&32u32.to_ne_bytes());
    request[4..6].copy_from_slice(&RTM_NEWLINK.to_ne_bytes());
    request[6..8].copy_from_slice(&NLM_F_REQUEST_ACK.to_ne_bytes());
    request[8..12].copy_from_slice(&1u32.to_ne_bytes());
    // ifinfomsg: family, padding, type, index, flags, change mask.
    request[20..24].copy_from_slice(&1i32.to_ne_bytes());
    request[24..28].copy_from_slice(&IFF_UP.to_ne_bytes());
    request[28..32].copy_from_slice(&IFF_UP.to_ne_bytes());
    rustix::net::send(&socket, &request, SendFlags::empty()).attempt("send", format_args!("RTM_NEWLINK, lo, UP"))?;
    let mut answer = [0u8; 256];
    let (len, _) = rustix::net::recv(&socket, &mut answer, RecvFlags::empty())
        .attempt("recv", format_args!("netlink fd {}", socket.as_raw_fd()))?;
    let code = match answer.get(16..20) {
        Some(code) if len >= 20 => i32::from_ne_bytes([code[0], code[1], code[2], code[3]]),
        _ => return Err(Errno::PROTO).attempt("netlink", format_args!("answer of {len} bytes")),
    };
    if code != 0 {
        return Err(Errno::from_raw_os_error(-code)).attempt("netlink", format_args!("RTM_NEWLINK, lo, UP"));
    }
    Ok(())
}
