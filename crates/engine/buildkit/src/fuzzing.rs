//! For tests: what a client sends, read without a connection.

use prost::Message;

use crate::files::tree::{Telling, Tree};
use crate::wire::control::{SolveRequest, StatusResponse};
use crate::wire::fsutil::{Packet, Stat, mode};
use crate::wire::gateway::ReturnRequest;

/// The paths of a tree told by packets, each with its length before it, if that tree is let through.
pub fn tree(mut bytes: &[u8]) -> Result<Vec<String>, String> {
    let mut telling = Telling::default();
    while !bytes.is_empty() {
        let packet = Packet::decode_length_delimited(&mut bytes).map_err(|error| error.to_string())?;
        let Some(stat) = packet.stat else { break };
        telling.add(&stat).map_err(|error| error.to_string())?;
    }
    let tree = telling.finish();
    let again = Tree::of_bytes(tree.as_bytes());
    assert_eq!(again.as_ref(), Some(&tree), "a tree that was let through can be remembered");
    assert!(tree.changes(&tree).is_empty(), "a tree does not differ from itself");
    Ok((0..tree.len()).map(|at| tree.path(at).to_owned()).collect())
}

/// A tree with an entry of most kinds.
pub fn a_tree() -> Vec<u8> {
    let stat = |path: &str, mode: u32, link: &str| Stat {
        path: path.into(),
        mode,
        linkname: link.into(),
        size: 3,
        ..Stat::default()
    };
    let entries = [
        stat("a", 0o644, ""),
        stat("b", 0o644, "a"),
        stat("d", mode::DIR | 0o755, ""),
        stat("d/l", mode::SYMLINK | 0o777, "../a"),
        stat("p", mode::PIPE | 0o600, ""),
    ];
    let packets = entries.into_iter().map(|stat| Packet { stat: Some(stat), ..Packet::default() });
    packets.flat_map(|packet| packet.encode_length_delimited_to_vec()).collect()
}

/// Whether bytes are a message, by the number of its kind, and how long it is when it is written again.
pub fn message(kind: u8, bytes: &[u8]) -> Option<usize> {
    match kind % 3 {
        0 => SolveRequest::decode(bytes).ok().map(|message| message.encoded_len()),
        1 => ReturnRequest::decode(bytes).ok().map(|message| message.encoded_len()),
        _ => StatusResponse::decode(bytes).ok().map(|message| message.encoded_len()),
    }
}
