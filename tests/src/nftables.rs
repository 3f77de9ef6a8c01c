//! Other people's hands in nftables: whether a table is there, and taking one away, without a program that does it.

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, bind, recv, send, socket};

const GET_TABLE: u16 = 10 << 8 | 1;
const DELETE_TABLE: u16 = 10 << 8 | 2;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const ERROR: u16 = 2;

fn message(kind: u16, flags: u16, sequence: u32, family: u8, resource: u16, name: &str) -> Vec<u8> {
    let mut out = vec![0; 16];
    out.extend([family, 0]);
    out.extend(resource.to_be_bytes());
    if !name.is_empty() {
        out.extend((name.len() as u16 + 5).to_ne_bytes());
        out.extend(1u16.to_ne_bytes());
        out.extend(name.as_bytes());
        out.push(0);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    let length = out.len() as u32;
    out[..4].copy_from_slice(&length.to_ne_bytes());
    out[4..6].copy_from_slice(&kind.to_ne_bytes());
    out[6..8].copy_from_slice(&flags.to_ne_bytes());
    out[8..12].copy_from_slice(&sequence.to_ne_bytes());
    out
}

/// The first answer's error: 0 where all is well.
fn ask(request: &[u8]) -> i32 {
    let fd = socket(AddressFamily::NETLINK, SocketType::RAW, Some(netlink::NETFILTER)).expect("a netlink socket");
    bind(&fd, &SocketAddrNetlink::new(0, 0)).expect("bind it");
    send(&fd, request, SendFlags::empty()).expect("ask");
    let mut buffer = vec![0; 8192];
    let (length, _) = recv(&fd, &mut buffer[..], RecvFlags::empty()).expect("an answer");
    let answer = &buffer[..length];
    match u16::from_ne_bytes([answer[4], answer[5]]) {
        ERROR => i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]),
        _ => 0,
    }
}

/// Whether the host has the table of the `inet` family.
pub fn has_table(name: &str) -> bool {
    ask(&message(GET_TABLE, REQUEST | ACKNOWLEDGE, 1, 1, 0, name)) == 0
}

/// Takes a table away with all that is in it, as `nft delete table` and `nft flush ruleset` do.
pub fn remove_table(name: &str) {
    let batch = [
        message(BATCH_BEGIN, REQUEST, 1, 0, 10, ""),
        message(DELETE_TABLE, REQUEST | ACKNOWLEDGE, 2, 1, 0, name),
        message(BATCH_END, REQUEST, 3, 0, 10, ""),
    ];
    assert_eq!(ask(&batch.concat()), 0, "delete table {name}");
}
